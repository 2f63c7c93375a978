// Products of any number of rows with a matrix in panels, such as weights packed once
// (glass_kernels/panels.py). A row's result does not depend on how many rows there are, nor on
// where among them it is.
#pragma once

#include <algorithm>
#include <cstdint>

#include "tile_products.h"

namespace glass {

constexpr int64_t kPanel = 16;        // columns of a panel: a cache line of floats
constexpr int64_t kWholePanels = 32;  // what is read of a matrix are multiples of so many columns

// A matrix [depth, columns]: entry (at, column) is
// data[column / kPanel * panel + at * step + column % kPanel].
struct Panels {
  const float* data;
  int64_t depth, columns;
  int64_t step, panel;
  bool far = false;  // read from memory: each panel is asked for while the one before is at work

  static Panels packed(const float* data, int64_t depth, int64_t columns) {
    return {data, depth, columns, kPanel, depth * kPanel};
  }
  Panels columns_from(int64_t first, int64_t count) const {
    return {at(0, first), depth, count, step, panel, far};
  }
  const float* at(int64_t row, int64_t column) const {
    return data + column / kPanel * panel + row * step + column % kPanel;
  }
};

// Asks for part `number` of `parts` of what lies at `from`.
GLASS_INLINE void prefetch_part(const float* from, int64_t bytes, int64_t number, int64_t parts) {
  const int64_t lines = bytes / 64;
  const auto* line = reinterpret_cast<const uint8_t*>(from) + lines * number / parts * 64;
  const auto* end = reinterpret_cast<const uint8_t*>(from) + lines * (number + 1) / parts * 64;
  for (; line < end; line += 64) __builtin_prefetch(line, 0, 2);
}

// Rows of a matrix, `step` apart.
struct PanelRows {
  const float* data;
  int64_t count, step;
};

// What becomes of a product.
enum class Finish { kStore, kAdd, kRelu };  // out = product, out += product, out = max(product, 0)

// Adds to `out` if not `first`, then takes the positive part if `relu`.
struct Store {
  bool first, relu;

  template <typename S, int Rows>
  GLASS_INLINE void run(typename S::Lanes::type (&sum)[Rows][S::kVectors], float* out, int64_t step,
                        int64_t width) const {
    using Lanes = typename S::Lanes;
    if (width < S::kColumns) return run_part<S, Rows>(sum, out, step, width);
    const typename Lanes::type zero = {};
#pragma GCC unroll 16
    for (int row = 0; row < Rows; ++row) {
      for (int v = 0; v < S::kVectors; ++v) {
        float* to = out + row * step + v * S::kLanes;
        if (!first) {
          typename Lanes::type before;
          Lanes::load(before, to);
          sum[row][v] += before;
        }
        if (relu) sum[row][v] = sum[row][v] < zero ? zero : sum[row][v];  // NaN stays
        Lanes::store(to, sum[row][v]);
      }
    }
  }

 private:
  // Of the matrix's last columns: nothing past them is written.
  template <typename S, int Rows>
  GLASS_INLINE void run_part(typename S::Lanes::type (&sum)[Rows][S::kVectors], float* out,
                             int64_t step, int64_t width) const {
    float part[Rows * S::kColumns];
#pragma GCC unroll 16
    for (int row = 0; row < Rows; ++row) {  // constant places: else all sums would go to memory
      for (int v = 0; v < S::kVectors; ++v) {
        S::Lanes::store(part + row * S::kColumns + v * S::kLanes, sum[row][v]);
      }
    }
    for (int row = 0; row < Rows; ++row) {
      for (int64_t column = 0; column < width; ++column) {
        float& to = out[row * step + column];
        const float value = part[row * S::kColumns + column] + (first ? 0 : to);
        to = relu && value < 0 ? 0 : value;
      }
    }
  }
};

// `count` tiles of Rows rows, one below the other.
template <typename S, int Rows>
GLASS_INLINE void multiply_tiles(Factor<float> a, int64_t count, const Panels& b, int64_t begin,
                                 int64_t depth, int64_t column, float* out, int64_t out_step,
                                 Store store) {
  const int64_t next = S::kLanes < kPanel ? S::kLanes : b.panel;
  const int64_t width = b.columns - column;
  const float* from = b.at(begin, column);
  for (int64_t tile = 0; tile < count; ++tile) {
    if (b.far) prefetch_part(from + depth * b.step, depth * S::kColumns * 4, tile, count);
    typename S::Lanes::type sum[Rows][S::kVectors] = {};
    sum_tile<S, Rows>({a.data + tile * Rows * a.row, a.row, a.step}, from, b.step, next, depth,
                      sum);
    store.template run<S, Rows>(sum, out + tile * Rows * out_step, out_step, width);
  }
}

template <typename S, int Rows = S::kRows, typename... Rest>
GLASS_INLINE void multiply_tiles_of(int64_t rows, Rest... rest) {
  if (rows == Rows) return multiply_tiles<S, Rows>(rest...);
  if constexpr (Rows > 1) multiply_tiles_of<S, Rows - 1>(rows, rest...);
}

// out [rows, columns] of a [rows, depth] * b [depth, columns].
template <typename S>
GLASS_INLINE void multiply_panels(PanelRows a, const Panels& b, float* out, int64_t out_step,
                                  Finish finish) {
  // Tiles of nearly equal height, so that none is nearly empty: first the higher ones.
  const int64_t tiles = (a.count + S::kRows - 1) / S::kRows;
  if (tiles == 0) return;
  const int64_t height = a.count / tiles, higher = a.count % tiles;
  const int64_t counts[2] = {higher, tiles - higher};
  for (int64_t begin = 0; begin < b.depth || begin == 0; begin += kDepthAtOnce) {
    const int64_t depth = std::min(kDepthAtOnce, b.depth - begin);
    const Store store{begin == 0 && finish != Finish::kAdd,
                      begin + depth == b.depth && finish == Finish::kRelu};
    for (int64_t column = 0; column < b.columns; column += S::kColumns) {
      int64_t row = 0;
      for (int part = 0; part < 2; ++part) {
        const int64_t rows = height + 1 - part;
        multiply_tiles_of<S>(rows, Factor<float>{a.data + row * a.step + begin, a.step, 1},
                             counts[part], b, begin, depth, column, out + row * out_step + column,
                             out_step, store);
        row += rows * counts[part];
      }
    }
  }
}

// The same loops, compiled for each processor level.
using MultiplyPanels = void (*)(PanelRows, const Panels&, float*, int64_t, Finish);

#define GLASS_MULTIPLY_PANELS(NAME, TARGET, TILE)                                     \
  TARGET inline void NAME(PanelRows a, const Panels& b, float* out, int64_t out_step, \
                          Finish finish) {                                            \
    multiply_panels<TILE<float>>(a, b, out, out_step, finish);                        \
  }

GLASS_MULTIPLY_PANELS(multiply_panels_base, , TileBase)
#ifdef GLASS_X86
GLASS_MULTIPLY_PANELS(multiply_panels_avx2, GLASS_TARGET_FMA, TileAvx2)
GLASS_MULTIPLY_PANELS(multiply_panels_avx512, GLASS_TARGET_FMA512, TileAvx512)
#endif
#undef GLASS_MULTIPLY_PANELS

inline MultiplyPanels multiply_panels_kernel(Simd simd) {
#ifdef GLASS_X86
  if (simd == Simd::kAvx512) return multiply_panels_avx512;
  if (simd == Simd::kAvx2 && __builtin_cpu_supports("fma")) return multiply_panels_avx2;
#endif
  return multiply_panels_base;
}

}  // namespace glass
