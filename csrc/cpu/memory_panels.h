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

// Of one user, layer and head at a time.
class MemoryPanels {
 public:
  MemoryPanels(int64_t positions, int64_t dim)
      : dim_(dim),
        keys_(round_up(positions, kWholePanels), dim),
        values_(positions, round_up(dim, kWholePanels)) {
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

  // Values that lie row by row are read where they are, others laid out like the keys. The
  // positions to come are asked for: what is fetched from there takes longer than the rest.
  void pack(const MemoryView& keys, const MemoryView& values, int64_t user, int64_t head) {
    constexpr int64_t kAhead = 8;
    const float *from = keys.at(user, head), *rows = values.at(user, head);
    const bool in_place = count() > 0 && listed_.back() - listed_[0] == count() - 1 &&
                          values.column == 1 && dim_ % kWholePanels == 0;
    values_at_ = Panels::packed(values_.get(), count(), dim_);
    if (in_place) {
      values_at_ = {rows + listed_[0] * values.position, count(), dim_, values.position, kPanel};
    }
    for (int64_t n = 0; n < round_up(count(), kWholePanels); n += 4) {
      for (int64_t i = n + kAhead; i < std::min(n + kAhead + 4, count()); ++i) {
        prefetch(from + listed_[i] * keys.position, dim_ * sizeof(float));
        prefetch(rows + listed_[i] * values.position, dim_ * sizeof(float));
      }
      pack_keys(from, keys, n);
      if (in_place) continue;
      for (int64_t i = n; i < std::min(n + 4, count()); ++i) pack_values(rows, values, i);
    }
  }
  Panels keys() const { return Panels::packed(keys_.get(), dim_, count()); }  // [dim, count]
  Panels values() const { return values_at_; }                                // [count, dim]

 private:
  // Four, transposed; zeros past the last.
  void pack_keys(const float* from, const MemoryView& view, int64_t n) {
    float* to = keys_.get() + n / kPanel * dim_ * kPanel + n % kPanel;
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

  void pack_values(const float* rows, const MemoryView& view, int64_t n) {
    const float* from = rows + listed_[n] * view.position;
    float* to = values_.get() + n * kPanel;
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

  int64_t dim_;
  AlignedRows<float> keys_, values_;
  Panels values_at_{};
  std::vector<int64_t> listed_;
};

}  // namespace glass
