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
using RowLanes = Vector<Real, kBytes / static_cast<int>(sizeof(Real))>;

template <typename Real>
constexpr Real kNever = -std::numeric_limits<Real>::infinity();

// Rows are padded by -inf to whole registers, the widest of them.
constexpr int64_t kRowPadding = 16;

// NaN as -inf, +inf as the largest finite number.
template <typename Real>
GLASS_INLINE Real clean(Real x) {
  constexpr Real kMost = std::numeric_limits<Real>::max();
  const Real known = x == x ? x : kNever<Real>;
  return known > kMost ? kMost : known;
}

// row[n ...] becomes -inf up to a whole register.
template <typename L>
GLASS_INLINE void pad_row(typename L::Real* row, int64_t n) {
  const int64_t end = (n + L::kWidth - 1) / L::kWidth * L::kWidth;
  for (int64_t i = n; i < end; ++i) row[i] = kNever<typename L::Real>;
}

// What is known of a clean row before anything is exponentiated.
template <typename Real>
struct RowFacts {
  Real largest, sum;
};

// Clean `from` [n] into `row`, which may be the same; row[n ...] becomes -inf up to a whole
// register.
template <typename L>
GLASS_INLINE RowFacts<typename L::Real> clean_row(const typename L::Real* from, int64_t n,
                                                  typename L::Real* row) {
  using Real = typename L::Real;
  typename L::type x, most, sum{};
  const typename L::type never = typename L::type{} + kNever<Real>;
  const typename L::type limit = typename L::type{} + std::numeric_limits<Real>::max();
  const int64_t whole = n - n % L::kWidth;
  most = never;
  for (int64_t i = 0; i < whole; i += L::kWidth) {
    L::load(x, from + i);
    x = x == x ? x : never;
    x = x > limit ? limit : x;
    most = x > most ? x : most;
    sum += x;
    L::store(row + i, x);
  }
  RowFacts<Real> facts{most[0], sum[0]};
  for (int lane = 1; lane < L::kWidth; ++lane) {
    facts.largest = std::max<Real>(facts.largest, most[lane]);
    facts.sum += sum[lane];
  }
  for (int64_t i = whole; i < n; ++i) {
    row[i] = clean(from[i]);
    facts.largest = std::max<Real>(facts.largest, row[i]);
    facts.sum += row[i];
  }
  pad_row<L>(row, n);
  return facts;
}

enum class LogitType { kReal, kHalf, kBFloat16 };

// Logits in the type that is computed in, or in half precision.
template <typename Real>
struct Logits {
  const void* values;
  LogitType type;
  int64_t request, beam;  // strides; codes lie side by side

  template <typename T>
  GLASS_INLINE const T* as(int64_t at) const {
    return static_cast<const T*>(values) + at;
  }
};

// The clean logit `at`.
template <typename Real>
GLASS_INLINE Real one_logit(const Logits<Real>& logits, int64_t at) {
  if (logits.type == LogitType::kHalf) return clean<Real>(to_float(*logits.template as<Half>(at)));
  if (logits.type == LogitType::kBFloat16) {
    return clean<Real>(to_float(*logits.template as<BFloat16>(at)));
  }
  return clean(*logits.template as<Real>(at));
}

template <typename Real, typename T>
GLASS_INLINE void convert_row(const T* from, int64_t n, Real* row) {
  for (int64_t i = 0; i < n; ++i) row[i] = to_float(from[i]);
}

// The n logits from `at` on, clean.
template <typename L>
GLASS_INLINE RowFacts<typename L::Real> load_row(const Logits<typename L::Real>& logits, int64_t at,
                                                 int64_t n, typename L::Real* row) {
  using Real = typename L::Real;
  if (logits.type == LogitType::kReal) return clean_row<L>(logits.template as<Real>(at), n, row);
  if (logits.type == LogitType::kHalf) {
    convert_row(logits.template as<Half>(at), n, row);
  } else {
    convert_row(logits.template as<BFloat16>(at), n, row);
  }
  return clean_row<L>(row, n, row);
}

template <typename Real, typename T>
GLASS_INLINE void pick(const T* from, const int32_t* codes, int64_t n, Real* row) {
  for (int64_t i = 0; i < n; ++i) row[i] = static_cast<Real>(to_float(from[codes[i]]));
}

// The logits of `codes` [n], clean.
template <typename L>
GLASS_INLINE RowFacts<typename L::Real> gather_row(const Logits<typename L::Real>& logits,
                                                   int64_t at, const int32_t* codes, int64_t n,
                                                   typename L::Real* row) {
  using Real = typename L::Real;
  if (logits.type == LogitType::kReal) {
    const Real* from = logits.template as<Real>(at);
    for (int64_t i = 0; i < n; ++i) row[i] = from[codes[i]];
  } else if (logits.type == LogitType::kHalf) {
    pick(logits.template as<Half>(at), codes, n, row);
  } else {
    pick(logits.template as<BFloat16>(at), codes, n, row);
  }
  return clean_row<L>(row, n, row);
}

// No less than the score of any candidate whose logit in a row of n is at most `best`. It tells
// apart rows that need no exponentials: the logarithm of a mean of exponentials is at least the
// mean, so that log_sum >= log(n) + sum / n.
template <typename Real>
GLASS_INLINE Real most_score(const RowFacts<Real>& facts, int64_t n, Real best, Real beam) {
  constexpr Real kSlack = 2e-4;  // rounding does less to sums of 8,192
  const Real mean = facts.sum / static_cast<Real>(n);
  // the bits of a float are a chord of its logarithm, so below it
  const Real log_n = Real(0.6931471) * (float_to_bits(static_cast<float>(n)) * Real(0x1p-23) - 127);
  const Real slack = kSlack * (1 + std::abs(facts.largest) + std::abs(mean) + std::abs(beam));
  return best - mean - log_n + beam + slack;
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
    typename L::type x{}, sum{};
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

// Calls found(i, score) for those of a clean row that exceed threshold(), which may rise.
template <typename L, typename Threshold, typename Found>
GLASS_INLINE void scan_row(const typename L::Real* row, int64_t n,
                           const Scores<typename L::Real>& scores, const Threshold& threshold,
                           const Found& found) {
  for (int64_t begin = 0; begin < n; begin += L::kWidth) {
    typename L::type x;
    L::load(x, row + begin);
    x = ((x - scores.largest) - scores.log_sum) + scores.beam;
    const typename L::bits hits = (typename L::bits)(x > threshold());
    uint64_t parts[sizeof hits / 8], some = 0;
    std::memcpy(parts, &hits, sizeof hits);
    for (const uint64_t part : parts) some |= part;
    if (some == 0) continue;
    for (int i = 0; i < L::kWidth; ++i) {
      if (hits[i] && x[i] > threshold()) found(begin + i, x[i]);
    }
  }
}

}  // namespace glass
