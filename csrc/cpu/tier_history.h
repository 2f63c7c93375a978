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

// Part of a user's history that lies in one block.
struct Piece {
  int64_t user, begin, end;
};

// counts [num_codes, num_tiers] of codes [first, last) += the tiers of `events` slots.
inline void add_counts(const uint8_t* tiers, int64_t num_codes, const int32_t* slots,
                       int64_t events, int64_t first, int64_t last, int64_t num_tiers,
                       int32_t* counts) {
  for (int64_t event = 0; event < events; ++event) {
    const uint8_t* row = tiers + slots[event] * num_codes;
    for (int64_t code = first; code < last; ++code) ++counts[code * num_tiers + row[code]];
  }
}

struct HistoryCounts {
  const TierPlan& plan;
  TierBlock tier_block;
  const void* items;
  int64_t num_items;
  int32_t* counts;  // [users, num_codes, num_tiers], zeros at first

  // Adds all events; false for an id outside [0, num_items). `parallel(count, body)` calls
  // body(begin, end) on parts of [0, count).
  template <typename Id, typename Parallel>
  bool add(const Id* ids, const int64_t* offsets, int64_t num_users, const Parallel& parallel) {
    const int64_t total = offsets[num_users];
    const int64_t row_bytes = std::max<int64_t>(plan.num_codes, 1);
    const int64_t block_events = std::min(total, kBlockEvents);
    const int64_t capacity = std::min(
        block_events, std::max(kBlockBytes / row_bytes, TierScratch::rows_at_once(plan.dim)));
    DistinctItems distinct(capacity);
    std::vector<int32_t> slots(block_events);
    std::vector<uint8_t> tiers(capacity * plan.num_codes);
    std::vector<Piece> pieces;
    int64_t user = 0;
    for (int64_t begin = 0; begin < total;) {
      distinct.clear();
      int64_t end = begin;
      for (; end < total && end - begin < block_events; ++end) {
        const int64_t id = ids[end];
        if (id < 0 || id >= num_items) return false;
        const int32_t slot = distinct.add(id);
        if (slot < 0) break;
        slots[end - begin] = slot;
      }
      fill_tiers(distinct.ids(), tiers.data(), parallel);
      pieces.clear();
      for (; user < num_users && offsets[user] < end; ++user) {
        pieces.push_back({user, std::max(offsets[user], begin), std::min(offsets[user + 1], end)});
        if (offsets[user + 1] > end) break;  // goes on in the next block
      }
      count_pieces(pieces, slots.data() - begin, tiers.data(), parallel);
      begin = end;
    }
    return true;
  }

 private:
  template <typename Parallel>
  void fill_tiers(const std::vector<int64_t>& ids, uint8_t* tiers, const Parallel& parallel) {
    const int64_t step = TierScratch::rows_at_once(plan.dim);
    const int64_t rows = static_cast<int64_t>(ids.size());
    parallel((rows + step - 1) / step, [&](int64_t first, int64_t last) {
      TierScratch scratch(plan.dim);
      for (int64_t row = first * step; row < std::min(last * step, rows); row += step) {
        tier_block(plan, items, ids.data() + row, std::min(step, rows - row),
                   tiers + row * plan.num_codes, scratch);
      }
    });
  }

  // Parts are codes times pieces, codes outermost: one long history is shared by the threads, and
  // no two of them write to the same count.
  template <typename Parallel>
  void count_pieces(const std::vector<Piece>& pieces, const int32_t* slots, const uint8_t* tiers,
                    const Parallel& parallel) {
    constexpr int64_t kCodes = 64;
    const int64_t num_codes = plan.num_codes, size = static_cast<int64_t>(pieces.size());
    const int64_t num_tiers = static_cast<int64_t>(plan.inner.size()) + 1;
    parallel((num_codes + kCodes - 1) / kCodes * size, [&](int64_t first, int64_t last) {
      for (int64_t part = first; part < last; ++part) {
        const Piece& piece = pieces[part % size];
        const int64_t code = part / size * kCodes;
        add_counts(tiers, num_codes, slots + piece.begin, piece.end - piece.begin, code,
                   std::min(code + kCodes, num_codes), num_tiers,
                   counts + piece.user * num_codes * num_tiers);
      }
    });
  }
};

// Counts [users, cells] become the result in place: float32, of length `events` of each user.
inline void finish_counts(int32_t* counts, const int64_t* offsets, int64_t num_users, int64_t cells,
                          bool normalize) {
  for (int64_t user = 0; user < num_users; ++user) {
    const double events =
        static_cast<double>(std::max<int64_t>(offsets[user + 1] - offsets[user], 1));
    for (int32_t* at = counts + user * cells; at < counts + (user + 1) * cells; ++at) {
      // in double: the same bits as the reference
      const float value = static_cast<float>(normalize ? *at / events : *at);
      std::memcpy(at, &value, sizeof value);
    }
  }
}

}  // namespace glass
