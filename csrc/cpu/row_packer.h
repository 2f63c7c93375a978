// Plain rows [heads * head_dim] of a tensor to and from HeadLanes. Each query and each row of the
// tables passes here once, so it must cost little beside the attention itself.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "../common/floats.h"
#include "../common/vectors.h"
#include "head_lanes.h"

namespace glass {

template <typename T>
using Accumulated = std::conditional_t<std::is_same_v<T, double>, double, float>;

// [4, 4] of vectors of 4, in place; the baseline of every processor has them.
GLASS_INLINE void transpose(Vector<float, 4>::type (&rows)[4]) {
  using Vec = Vector<float, 4>::type;
  const Vec a = rows[0], b = rows[1], c = rows[2], d = rows[3];
  rows[0] = Vec{a[0], b[0], c[0], d[0]};
  rows[1] = Vec{a[1], b[1], c[1], d[1]};
  rows[2] = Vec{a[2], b[2], c[2], d[2]};
  rows[3] = Vec{a[3], b[3], c[3], d[3]};
}

template <typename T>
class RowPacker {
 public:
  using Real = Accumulated<T>;

  explicit RowPacker(const HeadLanes& lanes)
      : lanes_(lanes), size_(lanes.heads * lanes.head_dim), plain_(size_ + 3 * lanes.head_dim) {}

  void pack(const T* from, Real factor, Real* to) {
    Real* __restrict plain = plain_.data();  // else the compiler makes no vectors of the loop
    const int64_t size = size_;
    for (int64_t i = 0; i < size; ++i) plain[i] = widen(from[i]) * factor;
    if constexpr (std::is_same_v<Real, float>) {
      if (transposes()) return pack_transposed(to);
    }
    const int64_t dim = lanes_.head_dim, parts = lanes_.parts, width = lanes_.width;
    std::fill_n(to, lanes_.row, Real{0});
    for (int64_t head = 0; head < lanes_.heads; ++head) {
      Real* step = to + lanes_.first(head);
      const Real* numbers = plain + head * dim;
      for (int64_t d = 0; d < dim; d += parts, step += width) {
        const int64_t most = std::min(parts, dim - d);
        for (int64_t part = 0; part < most; ++part) step[part] = numbers[d + part];
      }
    }
  }

  void unpack(const Real* from, Real factor, T* to) {
    Real* __restrict plain = plain_.data();
    const int64_t size = size_, dim = lanes_.head_dim, parts = lanes_.parts, width = lanes_.width;
    for (int64_t head = 0; head < lanes_.heads; ++head) {
      const Real* step = from + lanes_.first(head);
      Real* numbers = plain + head * dim;
      for (int64_t d = 0; d < dim; d += parts, step += width) {
        const int64_t most = std::min(parts, dim - d);
        for (int64_t part = 0; part < most; ++part) numbers[d + part] = step[part];
      }
    }
    for (int64_t i = 0; i < size; ++i) narrow(plain[i] * factor, to[i]);
  }

 private:
  // Each head has one lane, and four heads are four lanes of one block.
  bool transposes() const {
    return lanes_.parts == 1 && lanes_.head_dim % 4 == 0 && lanes_.width % 4 == 0;
  }

  void pack_transposed(float* to) {
    using Four = Vector<float, 4>;
    const int64_t dim = lanes_.head_dim, width = lanes_.width;
    for (int64_t lane = 0; lane < lanes_.blocks * width; lane += 4) {
      float* step = to + lane / width * lanes_.steps * width + lane % width;
      // past the last head: the zeros at the end of plain_, or nothing
      const bool used = lane < lanes_.heads;
      const float* numbers = plain_.data() + (used ? lane * dim : 0);
      for (int64_t d = 0; d < dim; d += 4, step += 4 * width) {
        Four::type rows[4] = {};
        if (used) {
          for (int i = 0; i < 4; ++i) Four::load(rows[i], numbers + i * dim + d);
          transpose(rows);
        }
        for (int i = 0; i < 4; ++i) Four::store(step + i * width, rows[i]);
      }
    }
  }

  static Real widen(T value) {
    if constexpr (std::is_same_v<T, double>) {
      return value;
    } else {
      return to_float(value);
    }
  }
  static void narrow(Real value, T& to) {
    if constexpr (std::is_same_v<T, double>) {
      to = value;
    } else {
      from_float(value, to);
    }
  }

  const HeadLanes& lanes_;
  int64_t size_;
  std::vector<Real> plain_;  // a row in the accumulating type, and three heads of zeros
};

}  // namespace glass
