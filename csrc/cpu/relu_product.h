// Rows after a ReLU, times a matrix. Half of their numbers or more are zero, and a row of the
// matrix that meets one is not read: nearly half of the multiplications are saved, more of a
// trained model.
#pragma once

#include <algorithm>
#include <cstdint>

#include "panel_products.h"

namespace glass {

// Numbers of a row at once: a word of bits, and so many rows of the matrix stay in the L1 cache.
constexpr int64_t kReluDepth = 64;

// One bit a number that is positive or NaN.
struct PositiveBase {
  static GLASS_INLINE uint64_t bits(const float* values) {
    uint64_t bits = 0;
    for (int64_t at = 0; at < kReluDepth; ++at) {
      bits |= static_cast<uint64_t>(!(values[at] <= 0)) << at;
    }
    return bits;
  }
};

#ifdef GLASS_X86
struct PositiveAvx2 {
  // not GLASS_INLINE: GCC would refuse it inside templates, which have no target of their own
  static inline GLASS_TARGET_AVX2 uint64_t bits(const float* values) {
    using V = Vector<float, 8>;
    uint64_t none = 0;
    for (int64_t at = 0; at < kReluDepth; at += V::kWidth) {
      V::type value;
      V::load(value, values + at);
      const auto zero = (V::type)(value <= 0.0f);
      none |= static_cast<uint64_t>(__builtin_ia32_movmskps256(zero)) << at;
    }
    return ~none;
  }
};
#endif

// sums [kVectors] of one row += the numbers of `bits` times their rows of b.
template <typename V, int Vectors>
GLASS_INLINE void add_positive(const float* values, uint64_t bits, const float* b, int64_t b_step,
                               float* out) {
  typename V::type sum[Vectors] = {};
  for (; bits != 0; bits &= bits - 1) {
    const int at = __builtin_ctzll(bits);
    const float value = values[at];
    const float* row = b + at * b_step;
    asm("" : "+r"(row));  // one address: GCC would keep one of every column
#pragma GCC unroll 16
    for (int v = 0; v < Vectors; ++v) {
      typename V::type column;
      V::load(column, row + v * V::kWidth);
      sum[v] += column * value;
    }
  }
#pragma GCC unroll 16
  for (int v = 0; v < Vectors; ++v) V::add_to(out + v * V::kWidth, sum[v]);
}

template <typename V, typename Positive, int Vectors>
GLASS_INLINE void add_relu_columns(PanelRows a, int64_t depth, const float* b, int64_t b_step,
                                   float* out, int64_t out_step) {
  for (int64_t begin = 0; begin < depth; begin += kReluDepth) {
    const int64_t left = depth - begin;
    const uint64_t inside = left < kReluDepth ? (uint64_t{1} << left) - 1 : ~uint64_t{0};
    const float* next = b + (begin + kReluDepth) * b_step;
    for (int64_t row = 0; row < a.count; ++row) {
      prefetch_part(next, kReluDepth * b_step * 4, row, a.count);
      const float* values = a.data + row * a.step + begin;
      add_positive<V, Vectors>(values, Positive::bits(values) & inside, b + begin * b_step, b_step,
                               out + row * out_step);
    }
  }
}

template <typename V, typename Positive, int Vectors = 12, typename... Rest>
GLASS_INLINE void add_relu_columns_of(int64_t vectors, Rest... rest) {
  if (vectors == Vectors) return add_relu_columns<V, Positive, Vectors>(rest...);
  if constexpr (Vectors > 1) add_relu_columns_of<V, Positive, Vectors - 1>(vectors, rest...);
}

// out [rows, columns] += max(a, 0) [rows, depth] * b [depth, columns]. Rows of a reach to a
// multiple of kReluDepth, rows of b and out to one of kWholePanels columns, and b has zeros there.
template <typename V, typename Positive>
GLASS_INLINE void add_relu_product(PanelRows a, int64_t depth, const float* b, int64_t b_step,
                                   int64_t columns, float* out, int64_t out_step) {
  constexpr int64_t kMost = 12;  // sums, beside a number and what is read
  const int64_t vectors = (columns + V::kWidth - 1) / V::kWidth;
  const int64_t parts = (vectors + kMost - 1) / kMost;
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t first = part * vectors / parts, last = (part + 1) * vectors / parts;
    add_relu_columns_of<V, Positive>(last - first, a, depth, b + first * V::kWidth, b_step,
                                     out + first * V::kWidth, out_step);
  }
}

// The same loops, compiled for each processor level.
using AddReluProduct = void (*)(PanelRows, int64_t, const float*, int64_t, int64_t, float*,
                                int64_t);

#define GLASS_ADD_RELU_PRODUCT(NAME, TARGET, WIDTH, POSITIVE)                                      \
  TARGET inline void NAME(PanelRows a, int64_t depth, const float* b, int64_t b_step,              \
                          int64_t columns, float* out, int64_t out_step) {                         \
    add_relu_product<Vector<float, WIDTH>, POSITIVE>(a, depth, b, b_step, columns, out, out_step); \
  }

GLASS_ADD_RELU_PRODUCT(add_relu_product_base, , 4, PositiveBase)
#ifdef GLASS_X86
GLASS_ADD_RELU_PRODUCT(add_relu_product_avx2, GLASS_TARGET_FMA, 8, PositiveAvx2)
GLASS_ADD_RELU_PRODUCT(add_relu_product_avx512, GLASS_TARGET_FMA512, 16, PositiveAvx2)
#endif
#undef GLASS_ADD_RELU_PRODUCT

inline AddReluProduct add_relu_product_kernel(Simd simd) {
#ifdef GLASS_X86
  if (simd == Simd::kAvx512) return add_relu_product_avx512;
  if (simd == Simd::kAvx2 && __builtin_cpu_supports("fma")) return add_relu_product_avx2;
#endif
  return add_relu_product_base;
}

}  // namespace glass
