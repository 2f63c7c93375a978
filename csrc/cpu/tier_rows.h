// Tiers of items against all codes, without a stored cosine: float32 products in registers, and
// float64 for the few pairs whose float32 cosine is too near an edge to tell.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "tier_plan.h"

namespace glass {

// A tile: kRows items times kVectors registers of kWidth codes.
template <int kWidth_, int kRows_>
struct Registers {
  static constexpr int kWidth = kWidth_, kRows = kRows_, kVectors = 2;
  static constexpr int kStrip = kWidth * kVectors;
  typedef float Floats __attribute__((vector_size(kWidth * 4)));
  typedef double Doubles __attribute__((vector_size(kWidth * 4)));
  typedef int32_t Ints __attribute__((vector_size(kWidth * 4)));
};
using RegistersBase = Registers<4, 6>;      // 12 sums, 2 codes and 1 item in 16 registers
using RegistersAvx2 = Registers<8, 6>;      // the same
using RegistersAvx512 = Registers<16, 12>;  // 24 + 2 + 1 in 32

struct TierScratch {
  struct Pair {
    int32_t row, code;
  };
  int64_t stride;            // of rows: no multiple of a page, or they would share cache sets
  std::vector<float> rows;   // [rows_at_once, stride] unit rows
  std::vector<double> unit;  // [dim]
  std::vector<Pair> unsure;

  // Items at once: what stays in the second-level cache while all codes pass by.
  static int64_t rows_at_once(int64_t dim) {
    constexpr int64_t kFloats = 1 << 14, kMultiple = 12;
    return std::clamp<int64_t>(kFloats / dim / kMultiple, 1, 20) * kMultiple;
  }

  explicit TierScratch(int64_t dim)
      : stride((dim + 63) / 64 * 64 + 16), rows(rows_at_once(dim) * stride, 0.0f), unit(dim) {}
};

// Item as float32 of length 1, padded with zeros.
template <typename S, typename T>
GLASS_INLINE void load_unit(const T* row, int64_t dim, TierScratch& scratch, float* out) {
  using Floats = typename S::Floats;
  for (int64_t d = 0; d < dim; ++d) out[d] = to_float(row[d]);
  Floats sums[4] = {};
  for (int64_t d = 0; d < dim; d += 4 * S::kWidth) {
    for (int part = 0; part < 4; ++part) {
      Floats value;
      std::memcpy(&value, out + d + part * S::kWidth, sizeof value);
      sums[part] += value * value;
    }
  }
  sums[0] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  float squares = 0;
  for (int lane = 0; lane < S::kWidth; ++lane) squares += sums[0][lane];
  if (squares > 0x1p-60f && squares < 0x1p60f) {
    const float inverse = 1.0f / std::sqrt(squares);
    for (int64_t d = 0; d < dim; ++d) out[d] *= inverse;
    return;
  }
  unit_row(row, dim, scratch.unit.data());  // squares overflow, vanish or are not finite
  for (int64_t d = 0; d < dim; ++d) out[d] = static_cast<float>(scratch.unit[d]);
}

// Cosines [kRows, kStrip] of unit rows with one strip.
template <typename S>
GLASS_INLINE void multiply(const float* rows, int64_t stride, const float* strip, int64_t dim,
                           float* out) {
  using Floats = typename S::Floats;
  for (int64_t begin = 0; begin < dim; begin += kFoldEvery) {
    const int64_t end = std::min(begin + kFoldEvery, dim);
    Floats sum[S::kRows][S::kVectors] = {};
    for (int64_t d = begin; d < end; ++d) {
      Floats code[S::kVectors];
      for (int v = 0; v < S::kVectors; ++v) {  // one by one: as a block they go through memory
        std::memcpy(&code[v], strip + d * S::kStrip + v * S::kWidth, sizeof code[v]);
      }
#pragma GCC unroll 16
      for (int row = 0; row < S::kRows; ++row) {
        const float item = rows[row * stride + d];
        for (int v = 0; v < S::kVectors; ++v) sum[row][v] += code[v] * item;
      }
    }
#pragma GCC unroll 16
    for (int row = 0; row < S::kRows; ++row) {
      for (int v = 0; v < S::kVectors; ++v) {
        float* at = out + row * S::kStrip + v * S::kWidth;
        Floats before = {};
        if (begin > 0) std::memcpy(&before, at, sizeof before);
        before += sum[row][v];
        std::memcpy(at, &before, sizeof before);
      }
    }
  }
}

GLASS_INLINE bool any_unsure(const uint8_t* tiers, int64_t count) {
  for (int64_t at = 0; at < count; at += 8) {
    uint64_t word;
    std::memcpy(&word, tiers + at, sizeof word);
    const uint64_t flipped = ~word;  // a byte of 255 becomes 0
    if ((flipped - 0x0101010101010101u) & word & 0x8080808080808080u) return true;
  }
  return false;
}

// A second look at cells with an edge: most cosines are still clear of it.
inline void look_again(const TierPlan& plan, const float* cosines, const int32_t* cells,
                       int64_t count, int64_t row, int64_t code, uint8_t* tiers,
                       std::vector<TierScratch::Pair>& unsure) {
  const int64_t edges = static_cast<int64_t>(plan.inner.size());
  for (int64_t lane = 0; lane < count; ++lane) {
    if (tiers[lane] != kUnsure) continue;
    int64_t tier = plan.lowest[cells[lane]];
    while (tier < edges && plan.inner[tier] <= cosines[lane] - plan.error) ++tier;
    tiers[lane] = static_cast<uint8_t>(tier);
    if (tier < edges && plan.inner[tier] <= cosines[lane] + plan.error) {
      unsure.push_back({static_cast<int32_t>(row), static_cast<int32_t>(code + lane)});
    }
  }
}

// Tiers of a tile's cosines, written to out [rows, num_codes]; `codes` of the strip exist.
template <typename S>
GLASS_INLINE void to_tiers(const TierPlan& plan, const float* cosines, int64_t rows, int64_t codes,
                           int64_t row, int64_t code, uint8_t* out, TierScratch& scratch) {
  using Floats = typename S::Floats;
  using Ints = typename S::Ints;
  constexpr int kSize = S::kRows * S::kStrip;
  alignas(64) int32_t cells[kSize];
  for (int at = 0; at < kSize; at += S::kWidth) {
    Floats cell;
    std::memcpy(&cell, cosines + at, sizeof cell);
    cell = cell * plan.scale + plan.bias;
    const Floats none = {}, last = none + static_cast<float>(kCells - 1);
    cell = cell > none ? cell : none;  // also what is not a number
    cell = cell < last ? cell : last;
    const Ints index = __builtin_convertvector(cell, Ints);
    std::memcpy(cells + at, &index, sizeof index);
  }
  uint8_t tiers[kSize];
  for (int at = 0; at < kSize; at += 8) {
#pragma GCC unroll 8
    for (int lane = at; lane < at + 8; ++lane) tiers[lane] = plan.cells[cells[lane]];
  }
  // only now: reading bytes just written, as words, would wait for them
  for (int64_t i = 0; i < rows; ++i) {
    uint8_t* from = tiers + i * S::kStrip;
    if (any_unsure(from, S::kStrip)) {
      look_again(plan, cosines + i * S::kStrip, cells + i * S::kStrip, codes, row + i, code, from,
                 scratch.unsure);
    }
    if (codes == S::kStrip) {
      std::memcpy(out + i * plan.num_codes, from, S::kStrip);
    } else {
      std::memcpy(out + i * plan.num_codes, from, codes);
    }
  }
}

// float64 cosines of a unit row with one strip.
template <typename S>
GLASS_INLINE void multiply_exact(const double* row, const double* strip, int64_t dim, double* out) {
  using Doubles = typename S::Doubles;
  constexpr int kParts = 2 * S::kVectors;
  Doubles sum[kParts] = {};
  for (int64_t d = 0; d < dim; ++d) {
    for (int part = 0; part < kParts; ++part) {
      Doubles code;
      std::memcpy(&code, strip + d * S::kStrip + part * (S::kWidth / 2), sizeof code);
      sum[part] += code * row[d];
    }
  }
  std::memcpy(out, sum, sizeof sum);
}

// Settles the pairs in scratch.unsure.
template <typename S, typename T>
GLASS_INLINE void settle(const TierPlan& plan, const T* items, const int64_t* ids, uint8_t* out,
                         TierScratch& scratch) {
  using Pair = TierScratch::Pair;
  std::sort(scratch.unsure.begin(), scratch.unsure.end(), [](const Pair& a, const Pair& b) {
    return a.row != b.row ? a.row < b.row : a.code < b.code;
  });
  double cosines[S::kStrip] = {};
  int64_t row = -1, strip = -1;
  bool usable = false;
  for (const Pair& pair : scratch.unsure) {
    if (pair.row != row) {
      row = pair.row;
      strip = -1;
      usable = unit_row(items + ids[row] * plan.dim, plan.dim, scratch.unit.data());
      std::fill_n(cosines, S::kStrip, 0.0);
    }
    if (usable && pair.code / S::kStrip != strip) {
      strip = pair.code / S::kStrip;
      multiply_exact<S>(scratch.unit.data(), plan.exact.data() + strip * plan.dim * S::kStrip,
                        plan.dim, cosines);
    }
    out[row * plan.num_codes + pair.code] = plan.final_tier(cosines[pair.code % S::kStrip]);
  }
  scratch.unsure.clear();
}

// Asks for a row that is needed soon. A random row of a large catalogue waits for its page's
// address longer than for its data, so one row in sixteen looks up the pages of all.
template <typename T>
GLASS_INLINE void fetch_row(const T* items, const int64_t* ids, int64_t row, int64_t rows,
                            int64_t dim) {
  constexpr int64_t kTogether = 16;
  if (row % kTogether == 0) {
    for (int64_t later = row; later < std::min(row + kTogether, rows); ++later) {
      __builtin_prefetch(items + ids[later] * dim);
    }
  }
  prefetch(items + ids[row] * dim, dim * sizeof(T));
}

// out [count, num_codes]: tiers of items[ids[i]]; count is at most rows_at_once. Fetches the rows
// of the `ahead` ids after these.
template <typename S, typename T>
GLASS_INLINE void tier_block(const TierPlan& plan, const T* items, const int64_t* ids,
                             int64_t count, int64_t ahead, uint8_t* out, TierScratch& scratch) {
  for (int64_t i = 0; i < count; ++i) {
    load_unit<S>(items + ids[i] * plan.dim, plan.dim, scratch,
                 scratch.rows.data() + i * scratch.stride);
  }
  alignas(64) float cosines[S::kRows * S::kStrip];
  const int64_t steps = plan.num_strips() * ((count + S::kRows - 1) / S::kRows);
  const int64_t fetch = steps > 0 ? (ahead + steps - 1) / steps : 0;
  int64_t next = count;
  for (int64_t strip = 0; strip < plan.num_strips(); ++strip) {
    const int64_t code = strip * S::kStrip;
    const int64_t codes = std::min<int64_t>(S::kStrip, plan.num_codes - code);
    const float* packed = plan.packed.data() + strip * plan.dim * S::kStrip;
    for (int64_t i = 0; i < count; i += S::kRows) {  // past count: rows left from before, unused
      for (const int64_t end = std::min(next + fetch, count + ahead); next < end; ++next) {
        fetch_row(items, ids, next, count + ahead, plan.dim);
      }
      multiply<S>(scratch.rows.data() + i * scratch.stride, scratch.stride, packed, plan.dim,
                  cosines);
      to_tiers<S>(plan, cosines, std::min<int64_t>(S::kRows, count - i), codes, i, code,
                  out + i * plan.num_codes + code, scratch);
    }
  }
  if (!scratch.unsure.empty()) settle<S>(plan, items, ids, out, scratch);
}

using TierBlock = void (*)(const TierPlan&, const void*, const int64_t*, int64_t, int64_t, uint8_t*,
                           TierScratch&);

template <typename T>
void tier_block_base(const TierPlan& plan, const void* items, const int64_t* ids, int64_t count,
                     int64_t ahead, uint8_t* out, TierScratch& scratch) {
  tier_block<RegistersBase>(plan, static_cast<const T*>(items), ids, count, ahead, out, scratch);
}

#ifdef GLASS_X86
template <typename T>
GLASS_TARGET_FMA void tier_block_avx2(const TierPlan& plan, const void* items, const int64_t* ids,
                                      int64_t count, int64_t ahead, uint8_t* out,
                                      TierScratch& scratch) {
  tier_block<RegistersAvx2>(plan, static_cast<const T*>(items), ids, count, ahead, out, scratch);
}

template <typename T>
GLASS_TARGET_FMA512 void tier_block_avx512(const TierPlan& plan, const void* items,
                                           const int64_t* ids, int64_t count, int64_t ahead,
                                           uint8_t* out, TierScratch& scratch) {
  tier_block<RegistersAvx512>(plan, static_cast<const T*>(items), ids, count, ahead, out, scratch);
}
#endif

struct TierKernel {
  int64_t strip;
  TierBlock half, bfloat16, single, wide;
};

inline TierKernel tier_kernel(Simd simd) {
#ifdef GLASS_X86
  if (simd == Simd::kAvx512) {
    return {RegistersAvx512::kStrip, tier_block_avx512<Half>, tier_block_avx512<BFloat16>,
            tier_block_avx512<float>, tier_block_avx512<double>};
  }
  if (simd == Simd::kAvx2 && __builtin_cpu_supports("fma")) {
    return {RegistersAvx2::kStrip, tier_block_avx2<Half>, tier_block_avx2<BFloat16>,
            tier_block_avx2<float>, tier_block_avx2<double>};
  }
#endif
  return {RegistersBase::kStrip, tier_block_base<Half>, tier_block_base<BFloat16>,
          tier_block_base<float>, tier_block_base<double>};
}

}  // namespace glass
