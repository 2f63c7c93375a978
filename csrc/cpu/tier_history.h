// Histories without a table: per block of events, the tiers of each distinct item are computed once
// (histories repeat popular items), into a scratch of a few MiB, and then counted.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "tier_rows.h"

namespace glass {

constexpr int64_t kBlockBytes = 1 << 21;  // tiers of a block's distinct items
constexpr int64_t kBlockEvents = 1 << 18;

// Numbers the distinct items of a block in order of appearance.
class DistinctItems {
 public:
  explicit DistinctItems(int64_t capacity) : capacity_(capacity) {
    shift_ = 64;
    for (uint64_t size = 1; size < 2 * static_cast<uint64_t>(capacity); size *= 2) --shift_;
    places_.resize(int64_t{1} << (64 - shift_));
    ids_.reserve(capacity);
  }

  void clear() {
    std::fill(places_.begin(), places_.end(), kFree);
    ids_.clear();
  }

  // Number of the item, or -1: it would be one too many.
  int32_t add(int64_t id) {
    // Fibonacci hashing; places_ is at most half full, so a free place is near
    uint64_t place = shift_ == 64 ? 0 : static_cast<uint64_t>(id) * 0x9e3779b97f4a7c15u >> shift_;
    for (;; place = (place + 1) & (places_.size() - 1)) {
      const int32_t slot = places_[place];
      if (slot == kFree) break;
      if (ids_[slot] == id) return slot;
    }
    if (static_cast<int64_t>(ids_.size()) == capacity_) return -1;
    places_[place] = static_cast<int32_t>(ids_.size());
    ids_.push_back(id);
    return places_[place];
  }

  const std::vector<int64_t>& ids() const { return ids_; }

 private:
  static constexpr int32_t kFree = -1;
  int64_t capacity_;
  int shift_;
  std::vector<int32_t> places_;
  std::vector<int64_t> ids_;
};

// One call. `parallel(count, body)` runs body(begin, end) on parts of [0, count).
// `count_users(tiers, rows, slots, offsets, users, normalize, out)` counts histories of slots, the
// numbers of rows of tiers [rows, num_codes], into out [users, num_codes, num_tiers].
template <typename Parallel, typename CountUsers>
class HistoryJob {
 public:
  HistoryJob(const TierPlan& plan, TierBlock tier_block, const void* items, int64_t num_items,
             const Parallel& parallel, const CountUsers& count_users)
      : plan_(plan),
        tier_block_(tier_block),
        items_(items),
        num_items_(num_items),
        parallel_(parallel),
        count_users_(count_users),
        cells_(plan.num_codes * (static_cast<int64_t>(plan.inner.size()) + 1)) {}

  // Writes out [num_users, num_codes, num_tiers]; false for an id outside [0, num_items).
  template <typename Id>
  bool run(const Id* ids, const int64_t* offsets, int64_t num_users, bool normalize, float* out) {
    const int64_t total = offsets[num_users];
    if (total == 0) std::fill_n(out, num_users * cells_, 0.0f);
    const int64_t block_events = std::min(total, kBlockEvents);
    const int64_t most_rows = std::max(kBlockBytes / std::max<int64_t>(plan_.num_codes, 1),
                                       TierScratch::rows_at_once(plan_.dim));
    DistinctItems distinct(std::min(block_events, most_rows));
    slots_.resize(block_events);
    tiers_.resize(std::min(block_events, most_rows) * plan_.num_codes);
    int64_t user = 0;  // the first that is not finished
    for (int64_t begin = 0; begin < total;) {
      const int64_t end = number_items(ids, begin, begin + block_events, total, distinct);
      if (end < 0) return false;
      fill_tiers(distinct.ids());
      if (offsets[user] < begin) {  // goes on from the block before
        carry(0, std::min(end, offsets[user + 1]) - begin);
        if (offsets[user + 1] <= end) {
          finish(normalize ? offsets[user + 1] - offsets[user] : 1, out + user * cells_);
          ++user;
        }
      }
      const int64_t first = user;
      while (user < num_users && offsets[user + 1] <= end) ++user;
      if (user > first) {
        bounds_.assign(offsets + first, offsets + user + 1);
        for (int64_t& bound : bounds_) bound -= offsets[first];
        count_users_(tiers_.data(), rows_, slots_.data() + (offsets[first] - begin), bounds_.data(),
                     user - first, normalize, out + first * cells_);
      }
      if (user < num_users && begin <= offsets[user] && offsets[user] < end) {
        carried_.assign(cells_, 0);
        carry(offsets[user] - begin, end - offsets[user]);
      }
      begin = end;
    }
    return true;
  }

 private:
  // Slots of the events from `begin` on; the end of the block, or -1.
  template <typename Id>
  int64_t number_items(const Id* ids, int64_t begin, int64_t limit, int64_t total,
                       DistinctItems& distinct) {
    distinct.clear();
    const int64_t last = std::min(limit, total);
    for (int64_t event = begin; event < last; ++event) {
      const int64_t id = ids[event];
      if (id < 0 || id >= num_items_) return -1;
      const int32_t slot = distinct.add(id);
      if (slot < 0) return event;
      slots_[event - begin] = slot;
    }
    return last;
  }

  void fill_tiers(const std::vector<int64_t>& ids) {
    const int64_t step = TierScratch::rows_at_once(plan_.dim);
    rows_ = static_cast<int64_t>(ids.size());
    parallel_((rows_ + step - 1) / step, [&](int64_t first, int64_t last) {
      TierScratch scratch(plan_.dim);
      const int64_t end = std::min(last * step, rows_);
      for (int64_t row = first * step; row < end; row += step) {
        const int64_t now = std::min(step, end - row);
        tier_block_(plan_, items_, ids.data() + row, now, std::min(step, end - row - now),
                    tiers_.data() + row * plan_.num_codes, scratch);
      }
    });
  }

  // Adds part of the history that does not fit in a block. A block has less than 2^24 events, so
  // its counts are exact in float32.
  void carry(int64_t slot, int64_t events) {
    part_.resize(cells_);
    const int64_t bounds[] = {0, events};
    count_users_(tiers_.data(), rows_, slots_.data() + slot, bounds, 1, false, part_.data());
    for (int64_t cell = 0; cell < cells_; ++cell) {
      carried_[cell] += static_cast<uint32_t>(part_[cell]);
    }
  }

  void finish(int64_t divisor, float* out) const {
    for (int64_t cell = 0; cell < cells_; ++cell) {  // in double: the same bits as the reference
      out[cell] = static_cast<float>(static_cast<double>(carried_[cell]) / divisor);
    }
  }

  const TierPlan& plan_;
  TierBlock tier_block_;
  const void* items_;
  int64_t num_items_;
  const Parallel& parallel_;
  const CountUsers& count_users_;
  int64_t cells_;
  int64_t rows_ = 0;            // distinct items of the block
  std::vector<int32_t> slots_;  // of its events
  std::vector<uint8_t> tiers_;  // [rows, num_codes]
  std::vector<int64_t> bounds_;
  std::vector<float> part_;
  std::vector<uint32_t> carried_;  // counts of a history that began in an earlier block
};

}  // namespace glass
