// Byte vectors of any width, and the choice of a function by the processor at run time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#define GLASS_INLINE inline __attribute__((always_inline))

#if defined(__x86_64__)
#define GLASS_X86 1
#define GLASS_TARGET_AVX2 __attribute__((target("avx2")))
#define GLASS_TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl")))
#define GLASS_TARGET_FMA __attribute__((target("avx2,fma")))
#define GLASS_TARGET_FMA512 __attribute__((target("avx512f,avx512bw,avx512vl,avx2,fma")))
#endif

namespace glass {

// A GCC/clang vector of W bytes; the compiler splits it where the registers are narrower.
template <int W>
struct Bytes {
  typedef uint8_t type __attribute__((vector_size(W)));
  typedef uint8_t anywhere __attribute__((vector_size(W), aligned(1), may_alias));

  // by reference: a vector wider than the baseline's registers has no ABI to be returned with
  // not memcpy: GCC makes two moves of half a register of it
  static GLASS_INLINE void load(type& to, const uint8_t* from) {
    to = *reinterpret_cast<const anywhere*>(from);
  }
  static GLASS_INLINE void store(uint8_t* to, const type& from) {
    *reinterpret_cast<anywhere*>(to) = from;
  }
};

// Asks for the cache lines of [from, from + bytes).
GLASS_INLINE void prefetch(const void* from, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += 64) {
    __builtin_prefetch(static_cast<const uint8_t*>(from) + at);
  }
}

GLASS_INLINE void prefetch_to_write(void* to, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(static_cast<uint8_t*>(to) + at, 1);
}

// Zeroed memory that starts on a cache line, so that no aligned vector crosses one.
struct CacheLines {
  static constexpr std::align_val_t kLine{64};
  struct Free {
    void operator()(uint8_t* bytes) const { ::operator delete(bytes, kLine); }
  };
  std::unique_ptr<uint8_t[], Free> bytes;

  explicit CacheLines(size_t size) : bytes(static_cast<uint8_t*>(::operator new(size, kLine))) {
    std::memset(bytes.get(), 0, size);
  }
  uint8_t* get() const { return bytes.get(); }
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
