// The float types of tensors. Kernels compute in float32, or in float64 where a tensor has it.
#pragma once

#include <cstdint>
#include <cstring>

#include "simd.h"

namespace glass {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

GLASS_INLINE float bits_to_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
GLASS_INLINE uint32_t float_to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// Without branches, all of these, so that loops become vectors.
GLASS_INLINE float to_float(float value) { return value; }
GLASS_INLINE float to_float(double value) { return static_cast<float>(value); }
GLASS_INLINE float to_float(BFloat16 value) {
  return bits_to_float(static_cast<uint32_t>(value.bits) << 16);
}
GLASS_INLINE float to_float(Half value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000) << 16;
  const uint32_t exponent = value.bits & 0x7c00, mantissa = value.bits & 0x03ff;
  const uint32_t moved = (exponent | mantissa) << 13;
  const float normal = bits_to_float(sign | (moved + (112u << 23)));
  const float special = bits_to_float(sign | 0x7f800000 | (mantissa << 13));
  const float tiny = static_cast<float>(static_cast<int32_t>(mantissa)) * bits_to_float(0x33800000);
  const float signed_tiny = sign ? -tiny : tiny;
  return exponent == 0 ? signed_tiny : exponent == 0x7c00 ? special : normal;
}
template <typename T>
GLASS_INLINE double to_double(T value) {
  return to_float(value);
}
GLASS_INLINE double to_double(double value) { return value; }

// Rounded to the nearest, ties to even; NaN stays NaN.
GLASS_INLINE void from_float(float value, float& to) { to = value; }
GLASS_INLINE void from_float(float value, BFloat16& to) {
  const uint32_t bits = float_to_bits(value);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  to.bits = static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
}
GLASS_INLINE void from_float(float value, Half& to) {
  const uint32_t bits = float_to_bits(value), size = bits & 0x7fffffff;
  const uint32_t normal = (size + 0xfff + ((size >> 13) & 1) - (112u << 23)) >> 13;
  // 0.5 has the spacing of the smallest halves, so that adding it rounds to them
  const uint32_t tiny = float_to_bits(bits_to_float(size) + 0.5f) - 0x3f000000;
  const uint32_t special = size > 0x7f800000 ? 0x7e00 : 0x7c00;
  const uint32_t half = size >= 0x47800000 ? special : size >= 0x38800000 ? normal : tiny;
  to.bits = static_cast<uint16_t>(half | ((bits >> 16) & 0x8000));
}

// What a kernel computes in for tensors of T, and reading and writing them as that.
template <typename T>
struct Computed {
  using type = float;
};
template <>
struct Computed<double> {
  using type = double;
};

GLASS_INLINE void load(double from, double& to) { to = from; }
template <typename T>
GLASS_INLINE void load(T from, float& to) {
  to = to_float(from);
}
GLASS_INLINE void store(double from, double& to) { to = from; }
template <typename T>
GLASS_INLINE void store(float from, T& to) {
  from_float(from, to);
}

}  // namespace glass
