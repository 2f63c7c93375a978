// Byte vectors of any width, and the choice of a function by the processor at run time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#define GLASS_INLINE inline __attribute__((always_inline))

#if defined(__x86_64__)
#define GLASS_X86 1
#define GLASS_TARGET_AVX2 __attribute__((target("avx2")))
#define GLASS_TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl")))
#endif

namespace glass {

// A GCC/clang vector of W bytes; the compiler splits it where the registers are narrower.
template <int W>
struct Bytes {
  typedef uint8_t type __attribute__((vector_size(W)));

  // by reference: a vector wider than the baseline's registers has no ABI to be returned with
  static GLASS_INLINE void load(type& to, const uint8_t* from) { std::memcpy(&to, from, W); }
};

enum class Simd { kBase, kAvx2, kAvx512 };

inline Simd detected_simd() {
#ifdef GLASS_X86
  static const Simd best = [] {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl")) {
      return Simd::kAvx512;
    }
    return __builtin_cpu_supports("avx2") ? Simd::kAvx2 : Simd::kBase;
  }();
  return best;
#else
  return Simd::kBase;
#endif
}

// What the processor has, or less: GLASS_CPU_SIMD=base or avx2 lowers it, so that tests reach every
// path on one machine. Ask once a call: it reads the environment.
inline Simd best_simd() {
  const char* most = std::getenv("GLASS_CPU_SIMD");
  if (most == nullptr) return detected_simd();
  if (std::strcmp(most, "base") == 0) return Simd::kBase;
  if (std::strcmp(most, "avx2") == 0) return std::min(Simd::kAvx2, detected_simd());
  return detected_simd();
}

}  // namespace glass
