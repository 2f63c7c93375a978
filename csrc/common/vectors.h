// Vectors of W floats or doubles, and the exponential of one.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "simd.h"

namespace glass {

// Functions take vectors by reference: one wider than the baseline's registers has no ABI to be
// passed with.
template <typename Real_, int W>
struct Vector {
  using Real = Real_;
  static constexpr int kWidth = W;
  typedef Real type __attribute__((vector_size(W * sizeof(Real))));
  typedef Real anywhere
      __attribute__((vector_size(W * sizeof(Real)), aligned(alignof(Real)), may_alias));
  typedef std::conditional_t<sizeof(Real) == 4, uint32_t, uint64_t> bits
      __attribute__((vector_size(W * sizeof(Real))));

  static GLASS_INLINE void load(type& to, const Real* from) {
    to = *reinterpret_cast<const anywhere*>(from);
  }
  static GLASS_INLINE void store(Real* to, const type& from) {
    *reinterpret_cast<anywhere*>(to) = from;
  }
  static GLASS_INLINE void add_to(Real* to, const type& more) {
    *reinterpret_cast<anywhere*>(to) += more;
  }

  // a > b ? a : b
  static GLASS_INLINE void larger(type& a, const type& b) {
    const bits chosen = (bits)(a > b);
    a = (type)(((bits)a & chosen) | ((bits)b & ~chosen));
  }

  // exp(x) for x <= 88 within 2 units in the last place; 0 below -87, so that nothing is denormal;
  // NaN stays NaN.
  static GLASS_INLINE void exp(type& x) {
    if constexpr (sizeof(Real) == 8) {
      for (int lane = 0; lane < W; ++lane) x[lane] = std::exp(x[lane]);
    } else {
      constexpr float kLog2E = 1.44269504f, kRound = 0x1.8p23f;
      constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;  // the first has 9 bits
      const bits vanishes = (bits)(x < -87.0f);
      const type shifted = x * kLog2E + kRound;  // its low bits are the nearest integer
      const type power = shifted - kRound;
      const type rest = (x - power * kLn2High) - power * kLn2Low;
      // e^r = 1 + r + r^2 p(r) for |r| <= ln 2 / 2, p fitted to a relative error of 3e-9
      type value = rest * 1.381446691e-3f + 8.368780569e-3f;
      value = value * rest + 4.166839422e-2f;
      value = value * rest + 1.666652011e-1f;
      value = value * rest + 4.999999341e-1f;
      value = (value * rest + 1.0f) * rest + 1.0f;
      const bits scale = ((bits)shifted + 127) << 23;
      value *= (type)scale;
      x = (type)((bits)value & ~vanishes);
    }
  }

  // 1 / (1 + exp(-x))
  static GLASS_INLINE void sigmoid(type& x) {
    type size = -x;
    larger(size, x);
    type power = -size;
    exp(power);  // of -|x|: at most 1
    x = (x < 0 ? power : power * 0 + 1) / (power + 1);
  }

  // Every lane becomes the sum of its group of `group` lanes, a power of two.
  static GLASS_INLINE void add_groups(type& x, int64_t group) {
    if (group > 1) add_partner<1>(x);
    if constexpr (W > 2) {
      if (group > 2) add_partner<2>(x);
    }
    if constexpr (W > 4) {
      if (group > 4) add_partner<4>(x);
    }
    if constexpr (W > 8) {
      if (group > 8) add_partner<8>(x);
    }
  }

  static GLASS_INLINE Real sum(const type& x) {
    type sums = x;
    add_groups(sums, W);
    return sums[0];
  }
  // Without NaN among them.
  static GLASS_INLINE Real largest(const type& x) {
    type most = x;
    fold_larger<1>(most);
    return most[0];
  }
  // The least of the numbers of `from` in lanes where x is `value`; at least one is.
  static GLASS_INLINE int64_t least_where(const type& x, Real value, const bits& from) {
    bits kept = x == type{} + value ? from : ~bits{};
    fold_smaller<1>(kept);
    return static_cast<int64_t>(kept[0]);
  }

 private:
  // Adds the lane whose number differs in one bit.
  template <int Bit>
  static GLASS_INLINE void add_partner(type& x) {
    type other;
    swap_lanes<Bit>(x, other);
    x += other;
  }

  // Each lane of `to` is the one of x whose number differs in one bit.
  template <int Bit, typename V>
  static GLASS_INLINE void swap_lanes(const V& x, V& to) {
#if defined(__clang__)
    for (int lane = 0; lane < W; ++lane) to[lane] = x[lane ^ Bit];  // clang makes a shuffle of it
#else
    bits from;
    for (int lane = 0; lane < W; ++lane) from[lane] = lane ^ Bit;
    to = __builtin_shuffle(x, from);
#endif
  }

  template <int Bit>
  static GLASS_INLINE void fold_larger(type& x) {
    if constexpr (Bit < W) {
      type other;
      swap_lanes<Bit>(x, other);
      x = other > x ? other : x;
      fold_larger<2 * Bit>(x);
    }
  }
  template <int Bit>
  static GLASS_INLINE void fold_smaller(bits& x) {
    if constexpr (Bit < W) {
      bits other;
      swap_lanes<Bit>(x, other);
      x = other < x ? other : x;
      fold_smaller<2 * Bit>(x);
    }
  }
};

}  // namespace glass
