// What an encoder does with rows beside matrix products, compiled for each processor level. Rows
// reach to whole vectors.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "relu_product.h"

namespace glass {

constexpr float kEncoderEpsilon = 1e-6f;  // of RMSNorm, a mean of squares

// out = x / sqrt(mean(x^2) + epsilon), row by row; x holds zeros past its width.
template <typename V>
GLASS_INLINE void norm_rows(PanelRows x, int64_t width, float* out) {
  using Vec = typename V::type;
  const int64_t end = round_up(width, V::kWidth);
  for (int64_t row = 0; row < x.count; ++row) {
    const float* from = x.data + row * x.step;
    float* to = out + row * x.step;
    Vec squares = {};
    for (int64_t at = 0; at < end; at += V::kWidth) {
      Vec value;
      V::load(value, from + at);
      squares += value * value;
    }
    float sum = 0;
    for (int lane = 0; lane < V::kWidth; ++lane) sum += squares[lane];
    const float factor = 1 / std::sqrt(sum / static_cast<float>(width) + kEncoderEpsilon);
    for (int64_t at = 0; at < end; at += V::kWidth) {
      Vec value;
      V::load(value, from + at);
      value *= factor;
      V::store(to + at, value);
    }
  }
}

// Biases of a block of queries: those of query `row` for every key start at data + row * step.
struct BiasRows {
  const float* data;
  int64_t step;
};

// scores [rows, keys] -> exp(scores + bias - their largest), and what makes each row sum to 1.
template <typename V>
GLASS_INLINE void weigh_rows(float* scores, int64_t rows, int64_t step, int64_t keys, BiasRows bias,
                             float* inverse) {
  using Vec = typename V::type;
  const int64_t whole = keys / V::kWidth * V::kWidth;
  Vec lane_number;
  for (int lane = 0; lane < V::kWidth; ++lane) lane_number[lane] = static_cast<float>(lane);
  const Vec left = Vec{} + static_cast<float>(keys - whole);
  const Vec lowest = Vec{} + std::numeric_limits<float>::lowest();
  for (int64_t row = 0; row < rows; ++row) {
    float* at_row = scores + row * step;
    const float* add = bias.data + row * bias.step;
    Vec most = lowest;
    for (int64_t at = 0; at < keys; at += V::kWidth) {
      Vec score, more;
      V::load(score, at_row + at);
      V::load(more, add + at);
      score += more;
      if (at == whole) score = lane_number < left ? score : lowest;  // past the keys
      V::store(at_row + at, score);
      most = most < score ? score : most;
    }
    float largest = most[0];
    for (int lane = 1; lane < V::kWidth; ++lane) largest = std::max(largest, most[lane]);
    Vec sums = {};
    for (int64_t at = 0; at < keys; at += V::kWidth) {
      Vec weight;
      V::load(weight, at_row + at);
      weight -= largest;
      V::exp(weight);
      sums += weight;
      V::store(at_row + at, weight);
    }
    float sum = 0;
    for (int lane = 0; lane < V::kWidth; ++lane) sum += sums[lane];
    inverse[row] = 1 / sum;
  }
}

template <typename V>
GLASS_INLINE void scale_rows(float* rows, int64_t count, int64_t step, int64_t width,
                             const float* factors) {
  for (int64_t row = 0; row < count; ++row) {
    float* at_row = rows + row * step;
    int64_t at = 0;
    for (; at + V::kWidth <= width; at += V::kWidth) {
      typename V::type value;
      V::load(value, at_row + at);
      value *= factors[row];
      V::store(at_row + at, value);
    }
    for (; at < width; ++at) at_row[at] *= factors[row];
  }
}

struct EncoderKernels {
  int64_t columns;  // of a tile: matrices are read and scores written in multiples of it
  MultiplyPanels multiply;
  AddReluProduct add_relu;
  void (*norm)(PanelRows, int64_t, float*);
  void (*weigh)(float*, int64_t, int64_t, int64_t, BiasRows, float*);
  void (*scale)(float*, int64_t, int64_t, int64_t, const float*);
};

#define GLASS_ENCODER_KERNELS(NAME, TARGET, TILE, MULTIPLY, ADD_RELU)                 \
  struct NAME {                                                                       \
    using V = TILE<float>::Lanes;                                                     \
    TARGET static void norm(PanelRows x, int64_t width, float* out) {                 \
      norm_rows<V>(x, width, out);                                                    \
    }                                                                                 \
    TARGET static void weigh(float* scores, int64_t rows, int64_t step, int64_t keys, \
                             BiasRows bias, float* inverse) {                         \
      weigh_rows<V>(scores, rows, step, keys, bias, inverse);                         \
    }                                                                                 \
    TARGET static void scale(float* rows, int64_t count, int64_t step, int64_t width, \
                             const float* factors) {                                  \
      scale_rows<V>(rows, count, step, width, factors);                               \
    }                                                                                 \
    static EncoderKernels kernels() {                                                 \
      return {TILE<float>::kColumns, MULTIPLY, ADD_RELU, norm, weigh, scale};         \
    }                                                                                 \
  }

GLASS_ENCODER_KERNELS(EncoderBase, , TileBase, multiply_panels_base, add_relu_product_base);
#ifdef GLASS_X86
GLASS_ENCODER_KERNELS(EncoderAvx2, GLASS_TARGET_FMA, TileAvx2, multiply_panels_avx2,
                      add_relu_product_avx2);
GLASS_ENCODER_KERNELS(EncoderAvx512, GLASS_TARGET_FMA512, TileAvx512, multiply_panels_avx512,
                      add_relu_product_avx512);
#endif
#undef GLASS_ENCODER_KERNELS

inline EncoderKernels encoder_kernels(Simd simd) {
#ifdef GLASS_X86
  if (simd == Simd::kAvx512) return EncoderAvx512::kernels();
  if (simd == Simd::kAvx2 && __builtin_cpu_supports("fma")) return EncoderAvx2::kernels();
#endif
  return EncoderBase::kernels();
}

}  // namespace glass
