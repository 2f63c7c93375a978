// Matrix products of small blocks that stay in the cache, by tiles of sums held in registers.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../common/vectors.h"

namespace glass {

// A tile: kRows rows of kVectors registers of kLanes numbers.
template <typename Number_, int kBytes, int kRows_>
struct Tile {
  using Number = Number_;
  static constexpr int kLanes = kBytes / sizeof(Number), kRows = kRows_, kVectors = 2;
  static constexpr int kColumns = kLanes * kVectors;
  using Lanes = Vector<Number, kLanes>;
};
template <typename Number>
using TileBase = Tile<Number, 16, 6>;  // 12 sums, 2 columns and 1 row in 16 registers
template <typename Number>
using TileAvx2 = Tile<Number, 32, 6>;  // the same
template <typename Number>
using TileAvx512 = Tile<Number, 64, 12>;  // 24 + 2 + 1 in 32

constexpr int64_t kRowsOfAnyTile = 12;
constexpr int64_t kDepthAtOnce = 256;  // products in one sum: a panel of them stays in the L1 cache

inline int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// A matrix read from memory: its entry (row, at) of the reduced dimension `at`.
template <typename Number>
struct Factor {
  const Number* data;
  int64_t row, step;  // strides
};

// sum = a [Rows, depth] * b [depth, kColumns]; b has rows b_step, and of each its vectors `next`
// apart
template <typename S, int Rows>
GLASS_INLINE void sum_tile(Factor<typename S::Number> a, const typename S::Number* b,
                           int64_t b_step, int64_t next, int64_t depth,
                           typename S::Lanes::type (&sum)[Rows][S::kVectors]) {
  using Lanes = typename S::Lanes;
  for (int64_t at = 0; at < depth; ++at) {
    typename Lanes::type column[S::kVectors];
    for (int v = 0; v < S::kVectors; ++v) Lanes::load(column[v], b + at * b_step + v * next);
#pragma GCC unroll 16
    for (int row = 0; row < Rows; ++row) {
      const typename S::Number entry = a.data[row * a.row + at * a.step];
      for (int v = 0; v < S::kVectors; ++v) sum[row][v] += column[v] * entry;
    }
  }
}

// sums [kRows, kColumns] += a [kRows, depth] * b [depth, kColumns], b with rows b_step apart; with
// kSet the sums are replaced
template <typename S, bool kSet = false>
GLASS_INLINE void add_tile(Factor<typename S::Number> a, const typename S::Number* b,
                           int64_t b_step, int64_t depth, typename S::Number* sums,
                           int64_t sums_step) {
  using Lanes = typename S::Lanes;
  typename Lanes::type sum[S::kRows][S::kVectors] = {};
  sum_tile<S, S::kRows>(a, b, b_step, S::kLanes, depth, sum);
#pragma GCC unroll 16
  for (int row = 0; row < S::kRows; ++row) {
    for (int v = 0; v < S::kVectors; ++v) {  // added only now: a long sum in parts is more exact
      typename S::Number* to = sums + row * sums_step + v * S::kLanes;
      if constexpr (kSet) {
        Lanes::store(to, sum[row][v]);
      } else {
        Lanes::add_to(to, sum[row][v]);
      }
    }
  }
}

// add_product of at most kDepthAtOnce products a sum
template <typename S, bool kSet>
GLASS_INLINE void add_part(Factor<typename S::Number> a, const typename S::Number* b,
                           int64_t b_step, int64_t panel, int64_t rows, int64_t columns,
                           int64_t depth, typename S::Number* sums, int64_t sums_step) {
  for (int64_t column = 0; column < columns; column += S::kColumns) {
    for (int64_t row = 0; row < rows; row += S::kRows) {
      add_tile<S, kSet>({a.data + row * a.row, a.row, a.step}, b + column / S::kColumns * panel,
                        b_step, depth, sums + row * sums_step + column, sums_step);
    }
  }
}

// sums [rows, columns] += a [rows, depth] * b, whose panel of columns j * kColumns ... starts at
// b + j * panel; with kSet the sums are replaced. All buffers reach to multiples of kRows and
// kColumns.
template <typename S, bool kSet = false>
GLASS_INLINE void add_product(Factor<typename S::Number> a, const typename S::Number* b,
                              int64_t b_step, int64_t panel, int64_t rows, int64_t columns,
                              int64_t depth, typename S::Number* sums, int64_t sums_step) {
  int64_t begin = 0;
  if constexpr (kSet) {
    begin = std::min(kDepthAtOnce, depth);
    add_part<S, true>(a, b, b_step, panel, rows, columns, begin, sums, sums_step);
  }
  for (; begin < depth; begin += kDepthAtOnce) {
    add_part<S, false>({a.data + begin * a.step, a.row, a.step}, b + begin * b_step, b_step, panel,
                       rows, columns, std::min(kDepthAtOnce, depth - begin), sums, sums_step);
  }
}

}  // namespace glass
