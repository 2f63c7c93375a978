// The loops of a decoder step over rows of floats, compiled for each processor level.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "panel_products.h"

namespace glass {

// Rows of floats, `step` apart.
struct Rows {
  float* data;
  int64_t step;

  float* row(int64_t number) const { return data + number * step; }
};

// out = x / sqrt(|x|^2 + width * eps). Reads whole registers: zeros past the width.
template <typename S>
GLASS_INLINE void unit_rows(Rows x, int64_t count, int64_t width, Rows out) {
  using Lanes = typename S::Lanes;
  constexpr float kEps = 1e-6f;
  for (int64_t row = 0; row < count; ++row) {
    const float* from = x.row(row);
    typename Lanes::type squares = {};
    for (int64_t c = 0; c < width; c += S::kLanes) {
      typename Lanes::type value;
      Lanes::load(value, from + c);
      squares += value * value;
    }
    float sum = static_cast<float>(width) * kEps;
    for (int lane = 0; lane < S::kLanes; ++lane) sum += squares[lane];
    const float factor = 1 / std::sqrt(sum);
    for (int64_t c = 0; c < width; c += S::kLanes) {
      typename Lanes::type value;
      Lanes::load(value, from + c);
      value *= factor;
      Lanes::store(out.row(row) + c, value);
    }
  }
}

// A row of scores [width] becomes exp(score - largest); returns one over their sum. Writes whole
// registers.
template <typename S>
GLASS_INLINE float softmax_row(float* row, int64_t width) {
  using Lanes = typename S::Lanes;
  constexpr float kNone = -std::numeric_limits<float>::infinity();
  for (int64_t n = width; n < round_up(width, S::kLanes); ++n) row[n] = kNone;
  typename Lanes::type most;
  Lanes::load(most, row);
  for (int64_t n = S::kLanes; n < width; n += S::kLanes) {
    typename Lanes::type score;
    Lanes::load(score, row + n);
    Lanes::larger(score, most);
    most = score;
  }
  float largest = most[0];
  for (int lane = 1; lane < S::kLanes; ++lane) largest = std::max(largest, most[lane]);
  typename Lanes::type sums = {};
  for (int64_t n = 0; n < width; n += S::kLanes) {
    typename Lanes::type weight;
    Lanes::load(weight, row + n);
    weight -= largest;
    Lanes::exp(weight);
    sums += weight;
    Lanes::store(row + n, weight);
  }
  float sum = 0;
  for (int lane = 0; lane < S::kLanes; ++lane) sum += sums[lane];
  return 1 / sum;
}

template <typename S>
GLASS_INLINE void softmax_rows(Rows scores, int64_t count, int64_t width, float* factors) {
  for (int64_t row = 0; row < count; ++row) factors[row] = softmax_row<S>(scores.row(row), width);
}

// One position of a beam that attends to itself and those before it.
struct OwnPast {
  const std::vector<const float*>& keys_values;  // of each position [2, heads, dim]
  const float* bias;                             // [positions, heads]
  int64_t heads, dim;
};

template <typename S>
GLASS_INLINE float dot_row(const float* a, const float* b, int64_t width) {
  using Lanes = typename S::Lanes;
  typename Lanes::type sums = {};
  int64_t c = 0;
  for (; c + S::kLanes <= width; c += S::kLanes) {
    typename Lanes::type left, right;
    Lanes::load(left, a + c);
    Lanes::load(right, b + c);
    sums += left * right;
  }
  float sum = 0;
  for (; c < width; ++c) sum += a[c] * b[c];
  for (int lane = 0; lane < S::kLanes; ++lane) sum += sums[lane];
  return sum;
}

// scores: room for all positions, up to whole registers.
template <typename S>
GLASS_INLINE void attend_past(const OwnPast& past, const float* query, float* scores, float* out) {
  const int64_t inner = past.heads * past.dim, dim = past.dim;
  const auto positions = static_cast<int64_t>(past.keys_values.size());
  for (int64_t head = 0; head < past.heads; ++head) {
    const int64_t at = head * dim;
    for (int64_t p = 0; p < positions; ++p) {
      scores[p] =
          dot_row<S>(query + at, past.keys_values[p] + at, dim) + past.bias[p * past.heads + head];
    }
    const float factor = softmax_row<S>(scores, positions);
    float* __restrict to = out + at;
    for (int64_t d = 0; d < dim; ++d) to[d] = 0;
    for (int64_t p = 0; p < positions; ++p) {
      const float* __restrict value = past.keys_values[p] + inner + at;
      const float weight = scores[p] * factor;
      for (int64_t d = 0; d < dim; ++d) to[d] += weight * value[d];
    }
  }
}

// x += near + sigmoid(logits) * (far - near), up to whole registers.
template <typename S>
GLASS_INLINE void fuse_row(const float* logits, const float* near, const float* far, int64_t width,
                           float* x) {
  using Lanes = typename S::Lanes;
  for (int64_t c = 0; c < width; c += S::kLanes) {
    typename Lanes::type gate, from, to, sum;
    Lanes::load(gate, logits + c);
    Lanes::sigmoid(gate);
    Lanes::load(from, near + c);
    Lanes::load(to, far + c);
    Lanes::load(sum, x + c);
    sum += from + gate * (to - from);
    Lanes::store(x + c, sum);
  }
}

struct DecoderKernel {
  MultiplyPanels multiply;
  void (*unit)(Rows, int64_t, int64_t, Rows);
  void (*softmax)(Rows, int64_t, int64_t, float*);
  void (*attend_past)(const OwnPast&, const float*, float*, float*);
  void (*fuse)(const float*, const float*, const float*, int64_t, float*);
};

#define GLASS_DECODER_KERNEL(NAME, TARGET, TILE)                                                \
  struct NAME {                                                                                 \
    using S = TILE<float>;                                                                      \
    TARGET static void unit(Rows x, int64_t count, int64_t width, Rows out) {                   \
      unit_rows<S>(x, count, width, out);                                                       \
    }                                                                                           \
    TARGET static void softmax(Rows scores, int64_t count, int64_t width, float* factors) {     \
      softmax_rows<S>(scores, count, width, factors);                                           \
    }                                                                                           \
    TARGET static void past(const OwnPast& past, const float* query, float* room, float* out) { \
      attend_past<S>(past, query, room, out);                                                   \
    }                                                                                           \
    TARGET static void fuse(const float* logits, const float* near, const float* far,           \
                            int64_t width, float* x) {                                          \
      fuse_row<S>(logits, near, far, width, x);                                                 \
    }                                                                                           \
    static DecoderKernel kernel(MultiplyPanels multiply) {                                      \
      return {multiply, unit, softmax, past, fuse};                                             \
    }                                                                                           \
  }

GLASS_DECODER_KERNEL(DecoderBase, , TileBase);
#ifdef GLASS_X86
GLASS_DECODER_KERNEL(DecoderAvx2, GLASS_TARGET_FMA, TileAvx2);
GLASS_DECODER_KERNEL(DecoderAvx512, GLASS_TARGET_FMA512, TileAvx512);
#endif
#undef GLASS_DECODER_KERNEL

inline DecoderKernel decoder_kernel(Simd simd) {
  const MultiplyPanels multiply = multiply_panels_kernel(simd);
#ifdef GLASS_X86
  if (simd == Simd::kAvx512) return DecoderAvx512::kernel(multiply);
  if (simd == Simd::kAvx2 && __builtin_cpu_supports("fma")) return DecoderAvx2::kernel(multiply);
#endif
  return DecoderBase::kernel(multiply);
}

}  // namespace glass
