// Attention of a few queries to the tokens of one bag, forward and backward, on rows in HeadLanes.
//
// With c the count of a token: weight = c exp(s - max) / sum, s = query . key. Three loops do all
// the products: `dot` (scores), `mix` (weighted sums of rows), `spread` (into the tables' rows).
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "../common/vectors.h"
#include "head_lanes.h"
#include "token_bags.h"

namespace glass {

constexpr int kMostQueries = 4;  // of a tile

// A tile of queries, and room for what is made of them.
template <typename Real>
struct QueryTile {
  int64_t count = 0;
  int64_t row;                      // of the layout
  std::vector<Real> queries;        // [kMostQueries, row], scaled
  std::vector<Real> out;            // [kMostQueries, row], the result or the queries' gradient
  std::vector<Real> grads;          // [kMostQueries, row], of the result; backward only
  std::vector<Real> weights, dots;  // [tokens, count, width]

  explicit QueryTile(const HeadLanes& lanes)
      : row(lanes.row),
        queries(kMostQueries * row),
        out(kMostQueries * row),
        grads(kMostQueries * row) {}

  void make_room(const HeadLanes& lanes, int64_t tokens, bool backward) {
    const size_t needed = (tokens + Bag<Real>::kSlack) * kMostQueries * lanes.width;
    if (weights.size() < needed) weights.resize(needed);
    if (backward && dots.size() < needed) dots.resize(needed);
  }
};

// Rows [num_tokens, row] of keys and values, and in the backward of their gradients.
template <typename Real>
struct TokenRows {
  Real *keys, *values;
  Real *key_grads = nullptr, *value_grads = nullptr;
};

// Tokens whose rows meet Queries queries in registers: about twelve sums.
constexpr int tile_tokens(int queries) {
  return queries == 4 ? 3 : queries == 3 ? 4 : 12 / queries - 4 * (queries == 1);
}

// out[u, q] = queries[q] . table[token u], every lane of a head holding the sum.
template <typename V, int Queries>
GLASS_INLINE void dot(const HeadLanes& lanes, const Bag<typename V::Real>& bag,
                      const typename V::Real* queries, const typename V::Real* table,
                      typename V::Real* out) {
  using Real = typename V::Real;
  using Vec = typename V::type;
  constexpr int kTokens = tile_tokens(Queries), kWidth = V::kWidth;
  const int64_t steps = lanes.steps, parts = lanes.parts, row = lanes.row;
  for (int64_t u = 0; u < bag.size; u += kTokens) {
    const Real* rows[kTokens];
    for (int t = 0; t < kTokens; ++t) rows[t] = table + bag.tokens[u + t] * row;
    Vec sum[kTokens][Queries] = {};
    for (int64_t at = 0; at < steps * kWidth; at += kWidth) {
      Vec query[Queries];
#pragma GCC unroll 16
      for (int q = 0; q < Queries; ++q) V::load(query[q], queries + q * row + at);
#pragma GCC unroll 16
      for (int t = 0; t < kTokens; ++t) {
        Vec value;
        V::load(value, rows[t] + at);
#pragma GCC unroll 16
        for (int q = 0; q < Queries; ++q) sum[t][q] += value * query[q];
      }
    }
#pragma GCC unroll 16
    for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 16
      for (int q = 0; q < Queries; ++q) {
        V::add_groups(sum[t][q], parts);
        V::store(out + ((u + t) * Queries + q) * kWidth, sum[t][q]);
      }
    }
  }
}

// Steps [at, at + Steps) of out[q] = sum over u of weights[u, q] * table[token u].
template <typename V, int Queries, int Steps>
GLASS_INLINE void mix_steps(const Bag<typename V::Real>& bag, int64_t row,
                            const typename V::Real* weights, const typename V::Real* table,
                            typename V::Real* out) {
  using Vec = typename V::type;
  constexpr int kWidth = V::kWidth;
  Vec sum[Queries][Steps] = {};
  for (int64_t u = 0; u < bag.size; ++u) {
    const typename V::Real* from = table + bag.tokens[u] * row;
    Vec value[Steps];
#pragma GCC unroll 16
    for (int step = 0; step < Steps; ++step) V::load(value[step], from + step * kWidth);
#pragma GCC unroll 16
    for (int q = 0; q < Queries; ++q) {
      Vec weight;
      V::load(weight, weights + (u * Queries + q) * kWidth);
#pragma GCC unroll 16
      for (int step = 0; step < Steps; ++step) sum[q][step] += weight * value[step];
    }
  }
#pragma GCC unroll 16
  for (int q = 0; q < Queries; ++q) {
#pragma GCC unroll 16
    for (int step = 0; step < Steps; ++step) V::store(out + q * row + step * kWidth, sum[q][step]);
  }
}

template <typename V, int Queries>
GLASS_INLINE void mix(const HeadLanes& lanes, const Bag<typename V::Real>& bag,
                      const typename V::Real* weights, const typename V::Real* table,
                      typename V::Real* out) {
  constexpr int kSteps = Queries == 1 ? 8 : Queries == 4 ? 2 : 4, kWidth = V::kWidth;
  int64_t step = 0;
  for (; step + kSteps <= lanes.steps; step += kSteps) {
    mix_steps<V, Queries, kSteps>(bag, lanes.row, weights, table + step * kWidth,
                                  out + step * kWidth);
  }
  for (; step < lanes.steps; ++step) {
    mix_steps<V, Queries, 1>(bag, lanes.row, weights, table + step * kWidth, out + step * kWidth);
  }
}

// table[token t] += sum over q of weights[t, q] * rows[q], for Tokens tokens.
template <typename V, int Queries, int Tokens>
GLASS_INLINE void spread_tokens(const HeadLanes& lanes, const int32_t* tokens,
                                const typename V::Real* weights, const typename V::Real* rows,
                                typename V::Real* table) {
  using Real = typename V::Real;
  using Vec = typename V::type;
  constexpr int kWidth = V::kWidth;
  Real* to[Tokens];
  Vec weight[Tokens][Queries];
#pragma GCC unroll 16
  for (int t = 0; t < Tokens; ++t) {
    to[t] = table + tokens[t] * lanes.row;
#pragma GCC unroll 16
    for (int q = 0; q < Queries; ++q) {
      V::load(weight[t][q], weights + (t * Queries + q) * kWidth);
    }
  }
  for (int64_t at = 0; at < lanes.steps * kWidth; at += kWidth) {
    Vec value[Queries];
#pragma GCC unroll 16
    for (int q = 0; q < Queries; ++q) V::load(value[q], rows + q * lanes.row + at);
#pragma GCC unroll 16
    for (int t = 0; t < Tokens; ++t) {
      Vec sum;
      V::load(sum, to[t] + at);
#pragma GCC unroll 16
      for (int q = 0; q < Queries; ++q) sum += weight[t][q] * value[q];
      V::store(to[t] + at, sum);
    }
  }
}

template <typename V, int Queries>
GLASS_INLINE void spread(const HeadLanes& lanes, const Bag<typename V::Real>& bag,
                         const typename V::Real* weights, const typename V::Real* rows,
                         typename V::Real* table) {
  constexpr int kTokens = Queries == 1 ? 4 : Queries == 2 ? 3 : 2;
  constexpr int64_t kStride = Queries * V::kWidth;
  int64_t u = 0;
  for (; u + kTokens <= bag.size; u += kTokens) {
    spread_tokens<V, Queries, kTokens>(lanes, bag.tokens.data() + u, weights + u * kStride, rows,
                                       table);
  }
  for (; u < bag.size; ++u) {
    spread_tokens<V, Queries, 1>(lanes, bag.tokens.data() + u, weights + u * kStride, rows, table);
  }
}

// The largest score of each query; of the bag alone, not of the entries past its end.
template <typename V, int Queries>
GLASS_INLINE void find_largest(const Bag<typename V::Real>& bag, const typename V::Real* scores,
                               typename V::type (&largest)[Queries]) {
  for (int q = 0; q < Queries; ++q) V::load(largest[q], scores + q * V::kWidth);
  for (int64_t u = 1; u < bag.size; ++u) {
#pragma GCC unroll 16
    for (int q = 0; q < Queries; ++q) {
      typename V::type score;
      V::load(score, scores + (u * Queries + q) * V::kWidth);
      V::larger(largest[q], score);
    }
  }
}

// scores -> counts * exp(scores - largest), not yet divided by their sum.
template <typename V, int Queries>
GLASS_INLINE void to_weights(const Bag<typename V::Real>& bag, typename V::Real* scores,
                             typename V::type (&sum)[Queries]) {
  using Vec = typename V::type;
  Vec largest[Queries];
  find_largest<V, Queries>(bag, scores, largest);
  for (int q = 0; q < Queries; ++q) sum[q] = Vec{};
  for (int64_t u = 0; u < bag.size; ++u) {
#pragma GCC unroll 16
    for (int q = 0; q < Queries; ++q) {
      typename V::Real* at = scores + (u * Queries + q) * V::kWidth;
      Vec weight;
      V::load(weight, at);
      weight -= largest[q];
      V::exp(weight);
      weight *= bag.counts[u];
      sum[q] += weight;
      V::store(at, weight);
    }
  }
}

template <typename V, int Queries>
GLASS_INLINE void attend_tile(const HeadLanes& lanes, const Bag<typename V::Real>& bag,
                              const TokenRows<typename V::Real>& table,
                              QueryTile<typename V::Real>& tile) {
  using Vec = typename V::type;
  const int64_t block_size = lanes.steps * V::kWidth;
  for (int64_t begin = 0; begin < lanes.row; begin += block_size) {
    Vec sum[Queries];
    dot<V, Queries>(lanes, bag, tile.queries.data() + begin, table.keys + begin,
                    tile.weights.data());
    to_weights<V, Queries>(bag, tile.weights.data(), sum);
    mix<V, Queries>(lanes, bag, tile.weights.data(), table.values + begin, tile.out.data() + begin);
    for (int q = 0; q < Queries; ++q) {
      for (int64_t at = 0; at < block_size; at += V::kWidth) {
        typename V::Real* to = tile.out.data() + q * lanes.row + begin + at;
        Vec value;
        V::load(value, to);
        value /= sum[q];
        V::store(to, value);
      }
    }
  }
}

// weights -> softmax weights w; dots, the gradients of w -> the gradients of the scores,
// w * (dots - sum over tokens of w * dots).
template <typename V, int Queries>
GLASS_INLINE void through_softmax(const Bag<typename V::Real>& bag, typename V::Real* weights,
                                  typename V::Real* dots) {
  using Vec = typename V::type;
  Vec sum[Queries], mean[Queries] = {};
  to_weights<V, Queries>(bag, weights, sum);
  for (int64_t u = 0; u < bag.size; ++u) {
#pragma GCC unroll 16
    for (int q = 0; q < Queries; ++q) {
      Vec weight, grad;
      V::load(weight, weights + (u * Queries + q) * V::kWidth);
      V::load(grad, dots + (u * Queries + q) * V::kWidth);
      mean[q] += weight * grad;
    }
  }
  for (int q = 0; q < Queries; ++q) {
    sum[q] = 1 / sum[q];
    mean[q] *= sum[q];
  }
  for (int64_t u = 0; u < bag.size; ++u) {
#pragma GCC unroll 16
    for (int q = 0; q < Queries; ++q) {
      const int64_t at = (u * Queries + q) * V::kWidth;
      Vec weight, grad;
      V::load(weight, weights + at);
      V::load(grad, dots + at);
      weight *= sum[q];
      grad = (grad - mean[q]) * weight;
      V::store(weights + at, weight);
      V::store(dots + at, grad);
    }
  }
}

template <typename V, int Queries>
GLASS_INLINE void attend_back_tile(const HeadLanes& lanes, const Bag<typename V::Real>& bag,
                                   const TokenRows<typename V::Real>& table,
                                   QueryTile<typename V::Real>& tile) {
  for (int64_t begin = 0; begin < lanes.row; begin += lanes.steps * V::kWidth) {
    const auto *queries = tile.queries.data() + begin, *grads = tile.grads.data() + begin;
    auto *weights = tile.weights.data(), *dots = tile.dots.data();
    dot<V, Queries>(lanes, bag, queries, table.keys + begin, weights);
    dot<V, Queries>(lanes, bag, grads, table.values + begin, dots);
    through_softmax<V, Queries>(bag, weights, dots);
    mix<V, Queries>(lanes, bag, dots, table.keys + begin, tile.out.data() + begin);
    spread<V, Queries>(lanes, bag, dots, queries, table.key_grads + begin);
    spread<V, Queries>(lanes, bag, weights, grads, table.value_grads + begin);
  }
}

// The same loops, compiled for each processor level.
template <typename Real>
using TileLoop = void (*)(const HeadLanes&, const Bag<Real>&, const TokenRows<Real>&,
                          QueryTile<Real>&);

#define GLASS_TILE_LOOP(NAME, TARGET, BYTES, TILE)                                             \
  template <typename Real>                                                                     \
  TARGET void NAME(const HeadLanes& lanes, const Bag<Real>& bag, const TokenRows<Real>& table, \
                   QueryTile<Real>& tile) {                                                    \
    using V = Vector<Real, BYTES / sizeof(Real)>;                                              \
    switch (tile.count) {                                                                      \
      case 1:                                                                                  \
        return TILE<V, 1>(lanes, bag, table, tile);                                            \
      case 2:                                                                                  \
        return TILE<V, 2>(lanes, bag, table, tile);                                            \
      case 3:                                                                                  \
        return TILE<V, 3>(lanes, bag, table, tile);                                            \
      default:                                                                                 \
        return TILE<V, 4>(lanes, bag, table, tile);                                            \
    }                                                                                          \
  }

GLASS_TILE_LOOP(attend_base, , 16, attend_tile)
GLASS_TILE_LOOP(attend_back_base, , 16, attend_back_tile)
#ifdef GLASS_X86
GLASS_TILE_LOOP(attend_avx2, GLASS_TARGET_FMA, 32, attend_tile)
GLASS_TILE_LOOP(attend_back_avx2, GLASS_TARGET_FMA, 32, attend_back_tile)
GLASS_TILE_LOOP(attend_avx512, GLASS_TARGET_FMA512, 64, attend_tile)
GLASS_TILE_LOOP(attend_back_avx512, GLASS_TARGET_FMA512, 64, attend_back_tile)
#endif
#undef GLASS_TILE_LOOP

template <typename Real>
struct BagKernel {
  int64_t width;
  TileLoop<Real> attend, attend_back;
};

template <typename Real>
BagKernel<Real> bag_kernel(Simd simd) {
#ifdef GLASS_X86
  if (simd == Simd::kAvx512) {
    return {64 / sizeof(Real), attend_avx512<Real>, attend_back_avx512<Real>};
  }
  if (simd == Simd::kAvx2 && __builtin_cpu_supports("fma")) {
    return {32 / sizeof(Real), attend_avx2<Real>, attend_back_avx2<Real>};
  }
#endif
  return {16 / sizeof(Real), attend_base<Real>, attend_back_base<Real>};
}

}  // namespace glass
