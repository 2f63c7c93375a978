// Logits and scores of any float type, and the softmax of some of them.
#pragma once

#include <cmath>
#include <cstdint>

#include "device.h"
#include "trie_beam_step.h"

namespace glass {

__device__ __forceinline__ float bfloat16_to_float(uint16_t bits) {
  return __uint_as_float(static_cast<unsigned>(bits) << 16);
}
__device__ __forceinline__ float half_to_float(uint16_t bits) {
  const unsigned sign = (bits & 0x8000u) << 16, size = (bits & 0x7FFFu) << 13;
  // The exponent of a half is 112 less biased than that of a float; inf and NaN keep theirs full.
  const unsigned moved =
      size < 0x0F800000u ? __float_as_uint(__uint_as_float(size) * 0x1p112f) : size | 0x7F800000u;
  return __uint_as_float(sign | moved);
}

// Values of a BeamFloat, as T.
template <typename T, int kKind>
__device__ __forceinline__ T read_as(const void* values, int64_t at) {
  if constexpr (kKind == kBeamFloat32) return static_cast<const float*>(values)[at];
  if constexpr (kKind == kBeamFloat64)
    return static_cast<T>(static_cast<const double*>(values)[at]);
  const uint16_t bits = static_cast<const uint16_t*>(values)[at];
  return kKind == kBeamFloat16 ? half_to_float(bits) : bfloat16_to_float(bits);
}
template <typename T>
__device__ __forceinline__ T read(const void* values, int64_t kind, int64_t at) {
  if (kind == kBeamFloat32) return read_as<T, kBeamFloat32>(values, at);
  if (kind == kBeamFloat64) return read_as<T, kBeamFloat64>(values, at);
  if (kind == kBeamFloat16) return read_as<T, kBeamFloat16>(values, at);
  return read_as<T, kBeamBFloat16>(values, at);
}

__device__ __forceinline__ float exp_of(float x) { return expf(x); }
__device__ __forceinline__ double exp_of(double x) { return exp(x); }
__device__ __forceinline__ float log_of(float x) { return logf(x); }
__device__ __forceinline__ double log_of(double x) { return log(x); }
template <typename T>
__device__ constexpr T kLargest = sizeof(T) == 4 ? T(0x1.fffffep127) : T(0x1.fffffffffffffp1023);
template <typename T>
__device__ constexpr T kNever = -__builtin_inf();

// Sum of exp(x - largest) over what was added.
template <typename T>
struct Softmax {
  T largest = kNever<T>;
  T sum = 0;

  __device__ __forceinline__ void add(T x, T weight = 1) {
    if (x > largest) {
      sum = sum * exp_of(largest - x) + weight;
      largest = x;
    } else if (x > kNever<T>) {
      sum += weight * exp_of(x - largest);
    }
  }
  // The sum over `width` neighbouring lanes, in each of them. The lower lane's part comes first, so
  // that both compute the same.
  __device__ __forceinline__ void combine(int width) {
    constexpr unsigned all = 0xFFFFFFFFu;
    for (int by = width / 2; by > 0; by /= 2) {
      const Softmax other{__shfl_xor_sync(all, largest, by), __shfl_xor_sync(all, sum, by)};
      const bool lower = (threadIdx.x & by) == 0;
      Softmax both = lower ? *this : other;
      both.add(lower ? other.largest : largest, lower ? other.sum : sum);
      *this = both;
    }
  }
};

}  // namespace glass
