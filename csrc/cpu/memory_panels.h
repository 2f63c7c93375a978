// The encoder's keys and values of one user and head as panels for products. Positions that are
// padding are left out.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "bag_worker.h"
#include "panel_products.h"
#include "row_packer.h"

namespace glass {

// Entries [users, heads, positions, dim] at these strides.
struct MemoryView {
  const float* data;
  int64_t user, head, position, column;

  const float* at(int64_t of_user, int64_t of_head) const {
    return data + of_user * user + of_head * head;
  }
};

// Of one user and layer at a time.
class MemoryPanels {
 public:
  MemoryPanels(int64_t positions, int64_t heads, int64_t dim)
      : heads_(heads),
        dim_(dim),
        keys_step_((round_up(positions, kWholePanels) + kPanel) * dim),  // heads apart in a cache
        values_step_(positions * round_up(dim, kWholePanels)),
        keys_(1, heads * keys_step_),
        values_(1, heads * values_step_) {
    listed_.reserve(positions);
  }

  // `valid` [positions]: which may be attended to; null: all.
  void attend_to(const bool* valid, int64_t positions) {
    listed_.clear();
    for (int64_t n = 0; n < positions; ++n) {
      if (valid == nullptr || valid[n]) listed_.push_back(n);
    }
  }
  int64_t count() const { return static_cast<int64_t>(listed_.size()); }

  // All heads of a position before the next one, as they usually lie in memory, and the positions
  // to come are asked for: what is fetched from there takes longer than the rest.
  void pack(const MemoryView& keys, const MemoryView& values, int64_t user) {
    constexpr int64_t kAhead = 8;
    for (int64_t n = 0; n < round_up(count(), kWholePanels); n += 4) {
      for (int64_t i = n + kAhead; i < std::min(n + kAhead + 4, count()); ++i) {
        ask_for(keys, user, i);
        ask_for(values, user, i);
      }
      for (int64_t head = 0; head < heads_; ++head) pack_keys(keys, user, head, n);
      for (int64_t i = n; i < std::min(n + 4, count()); ++i) {
        for (int64_t head = 0; head < heads_; ++head) pack_values(values, user, head, i);
      }
    }
  }
  Panels keys(int64_t head) const {  // [dim, count]
    return Panels::packed(keys_.get() + head * keys_step_, dim_, count());
  }
  Panels values(int64_t head) const {  // [count, dim]
    return Panels::packed(values_.get() + head * values_step_, count(), dim_);
  }

 private:
  void ask_for(const MemoryView& view, int64_t user, int64_t n) const {
    for (int64_t head = 0; head < heads_; ++head) {
      prefetch(view.at(user, head) + listed_[n] * view.position, dim_ * sizeof(float));
    }
  }

  // Four, transposed; zeros past the last.
  void pack_keys(const MemoryView& view, int64_t user, int64_t head, int64_t n) {
    const float* from = view.at(user, head);
    float* to = keys_.get() + head * keys_step_ + n / kPanel * dim_ * kPanel + n % kPanel;
    int64_t d = 0;
    if (view.column == 1 && n + 4 <= count()) {
      using Four = Vector<float, 4>;
      const float* rows[4];
      for (int i = 0; i < 4; ++i) rows[i] = from + listed_[n + i] * view.position;
      for (; d + 4 <= dim_; d += 4) {
        Four::type block[4];
        for (int i = 0; i < 4; ++i) Four::load(block[i], rows[i] + d);
        transpose(block);
        for (int i = 0; i < 4; ++i) Four::store(to + (d + i) * kPanel, block[i]);
      }
    }
    for (; d < dim_; ++d) {
      for (int64_t i = 0; i < 4; ++i) {
        to[d * kPanel + i] =
            n + i < count() ? from[listed_[n + i] * view.position + d * view.column] : 0;
      }
    }
  }

  void pack_values(const MemoryView& view, int64_t user, int64_t head, int64_t n) {
    const float* from = view.at(user, head) + listed_[n] * view.position;
    float* to = values_.get() + head * values_step_ + n * kPanel;
    for (int64_t d = 0; d < round_up(dim_, kWholePanels); d += kPanel, to += count() * kPanel) {
      if (view.column == 1 && d + kPanel <= dim_) {
        std::memcpy(to, from + d, kPanel * sizeof(float));
        continue;
      }
      for (int64_t i = 0; i < kPanel; ++i) {
        to[i] = d + i < dim_ ? from[(d + i) * view.column] : 0.0f;
      }
    }
  }

  int64_t heads_, dim_, keys_step_, values_step_;
  AlignedRows<float> keys_, values_;  // of each head
  std::vector<int64_t> listed_;
};

}  // namespace glass
