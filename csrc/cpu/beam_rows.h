// Logits of one beam: cleaned, their softmax's normaliser, and those that may be among the best.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "../common/floats.h"
#include "../common/vectors.h"

namespace glass {

template <typename Real, int kBytes>
struct RowLanes : Vector<Real, kBytes / static_cast<int>(sizeof(Real))> {
  static constexpr int kBlock = 4 * kBytes / static_cast<int>(sizeof(Real));  // elements of a scan
};

template <typename Real>
constexpr Real kNever = -std::numeric_limits<Real>::infinity();

// Rows are padded by -inf to whole blocks of the widest register.
constexpr int64_t kRowPadding = 64;

template <typename Real, typename T>
GLASS_INLINE Real real(T value) {
  if constexpr (std::is_same_v<Real, double>) {
    return to_double(value);
  } else {
    return to_float(value);
  }
}

// NaN as -inf, +inf as the largest finite number.
template <typename Real>
GLASS_INLINE Real clean(Real x) {
  constexpr Real kMost = std::numeric_limits<Real>::max();
  const Real known = x == x ? x : kNever<Real>;
  return known > kMost ? kMost : known;
}

// Cleans `row` in place and returns its largest; row[n ...] becomes -inf up to a whole block.
template <typename L>
GLASS_INLINE typename L::Real clean_row(typename L::Real* row, int64_t n) {
  using Real = typename L::Real;
  typename L::type x, most;
  const typename L::type never = typename L::type{} + kNever<Real>;
  const typename L::type limit = typename L::type{} + std::numeric_limits<Real>::max();
  std::fill_n(row + n, kRowPadding, kNever<Real>);
  most = never;
  for (int64_t i = 0; i < n; i += L::kWidth) {
    L::load(x, row + i);
    x = x == x ? x : never;
    x = x > limit ? limit : x;
    most = x > most ? x : most;
    L::store(row + i, x);
  }
  Real largest = most[0];
  for (int lane = 1; lane < L::kWidth; ++lane) largest = std::max<Real>(largest, most[lane]);
  return largest;
}

// log of the sum of exp(x - largest) over a clean row whose largest is finite.
template <typename L>
GLASS_INLINE typename L::Real log_sum(const typename L::Real* row, int64_t n,
                                      typename L::Real largest) {
  using Real = typename L::Real;
  constexpr int64_t kAtOnce = 32 * L::kWidth;  // longer sums in parts, which is more exact
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kAtOnce) {
    const int64_t end = std::min(begin + kAtOnce, n);
    typename L::type x, sum{};
    for (int64_t i = begin; i < end; i += L::kWidth) {
      L::load(x, row + i);
      x -= largest;
      L::exp(x);
      sum += x;
    }
    Real part = 0;
    for (int lane = 0; lane < L::kWidth; ++lane) part += sum[lane];
    total += part;
  }
  return std::log(static_cast<Real>(total));
}

// What a candidate's score is made of.
template <typename Real>
struct Scores {
  Real largest, log_sum, beam;

  Real of(Real x) const { return ((x - largest) - log_sum) + beam; }
};

// Cleans a row, see there. If it has no finite logit, no candidate's score is above -inf.
template <typename L>
GLASS_INLINE Scores<typename L::Real> scores_of_row(typename L::Real* row, int64_t n,
                                                    typename L::Real beam) {
  const typename L::Real largest = clean_row<L>(row, n);
  return {largest, log_sum<L>(row, n, largest), beam};
}

// Calls found(i, score) for those of a clean row that exceed threshold(), which may rise.
template <typename L, typename Threshold, typename Found>
GLASS_INLINE void scan_row(const typename L::Real* row, int64_t n,
                           const Scores<typename L::Real>& scores, const Threshold& threshold,
                           const Found& found) {
  using Real = typename L::Real;
  for (int64_t begin = 0; begin < n; begin += L::kBlock) {
    const Real least = threshold();
    typename L::bits any{};
    for (int v = 0; v < L::kBlock; v += L::kWidth) {
      typename L::type x;
      L::load(x, row + begin + v);
      x = ((x - scores.largest) - scores.log_sum) + scores.beam;  // as in Scores::of
      any |= (typename L::bits)(x > least);
    }
    uint64_t parts[sizeof any / 8], some = 0;
    std::memcpy(parts, &any, sizeof any);
    for (const uint64_t part : parts) some |= part;
    if (some == 0) continue;
    const int64_t end = std::min<int64_t>(begin + L::kBlock, n);
    for (int64_t i = begin; i < end; ++i) {
      const Real score = scores.of(row[i]);
      if (score > threshold()) found(i, score);
    }
  }
}

}  // namespace glass
