// The best of many scored places, kept by a block in shared memory.
//
// Places arrive in rising order, a round of all threads at a time. What beats the floor is
// appended; when the next round might not fit, the entries are sorted, all but the best are dropped
// and the worst of those becomes the floor. Places are distinct, so (score, place) orders them
// strictly: the result does not depend on which thread appended first.
#pragma once

#include <cstdint>

#include "device.h"

namespace glass {

constexpr unsigned kAll = 0xFFFFFFFFu;
constexpr int kWarp = 32;
constexpr int kEach = 4;  // places of a thread in a round: their loads overlap

// Whole numbers in the order of floats: 0 is below all of them, -0 is 0, NaN must not come.
struct Image32 {
  using Float = float;
  using Bits = uint32_t;
  static __device__ __forceinline__ Bits of(float score) {
    const Bits bits = __float_as_uint(score == 0 ? 0.0f : score);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
  }
  static __device__ __forceinline__ float score(Bits image) {
    return __uint_as_float(image >> 31 ? image & 0x7FFFFFFFu : ~image);
  }
};
struct Image64 {
  using Float = double;
  using Bits = uint64_t;
  static constexpr Bits kSign = Bits{1} << 63;
  static __device__ __forceinline__ Bits of(double score) {
    const Bits bits = static_cast<Bits>(__double_as_longlong(score == 0 ? 0.0 : score));
    return bits & kSign ? ~bits : bits | kSign;
  }
  static __device__ __forceinline__ double score(Bits image) {
    return __longlong_as_double(static_cast<long long>(image & kSign ? image & ~kSign : ~image));
  }
};

template <typename Bits>
struct BestEntries {
  Bits* images;      // [capacity], shared
  uint32_t* places;  // [capacity], shared
  unsigned* count;   // shared
  Bits* floor;       // shared
  unsigned capacity;
  unsigned keep;

  static constexpr int kBytes = sizeof(Bits) + sizeof(uint32_t);  // an entry

  __device__ __forceinline__ bool better(unsigned a, unsigned b) const {
    return images[a] > images[b] || (images[a] == images[b] && places[a] < places[b]);
  }

  __device__ __forceinline__ void push(bool take, Bits image, uint32_t place) const {
    const unsigned votes = __ballot_sync(kAll, take);
    if (votes == 0) return;
    const unsigned lane = threadIdx.x % kWarp;
    unsigned at = 0;
    if (lane == 0) at = atomicAdd(count, static_cast<unsigned>(__popc(votes)));
    at = __shfl_sync(kAll, at, 0) + __popc(votes & ((1u << lane) - 1));
    if (take) {
      images[at] = image;
      places[at] = place;
    }
  }

  // Bitonic, best first. All threads have passed a barrier since the last push.
  __device__ void sort(unsigned held) const {
    unsigned size = 1;
    while (size < held && size < capacity) size *= 2;
    for (unsigned at = held + threadIdx.x; at < size; at += blockDim.x) {
      images[at] = 0;
      places[at] = UINT32_MAX;
    }
    __syncthreads();
    for (unsigned run = 2; run <= size; run *= 2) {
      for (unsigned stride = run / 2; stride > 0; stride /= 2) {
        for (unsigned pair = threadIdx.x; pair < size / 2; pair += blockDim.x) {
          const unsigned low = 2 * pair - (pair & (stride - 1)), high = low + stride;
          if (better(high, low) != ((low & run) == 0)) continue;
          const Bits image = images[low];
          const uint32_t place = places[low];
          images[low] = images[high];
          places[low] = places[high];
          images[high] = image;
          places[high] = place;
        }
        __syncthreads();
      }
    }
  }

  // Fills the entries with the best `keep` of `total` places of a source, best first; returns how
  // many there are. A source has image(place), 0 for none, and allowed(place), which is asked only
  // of places that would be kept. total <= capacity, or keep and a round fit the capacity.
  template <class Source>
  __device__ unsigned fill(const Source& source, uint32_t total) const {
    if (threadIdx.x == 0) {
      *count = 0;
      *floor = 0;
    }
    __syncthreads();
    const unsigned round = blockDim.x * kEach;
    for (uint32_t first = 0; first < total; first += round) {
      Bits found[kEach];
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const uint32_t place = first + i * blockDim.x + threadIdx.x;
        found[i] = place < total ? source.image(place) : 0;
      }
      const Bits least = *floor;
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const uint32_t place = first + i * blockDim.x + threadIdx.x;
        push(found[i] > least && source.allowed(place), found[i], place);
      }
      __syncthreads();
      const unsigned held = *count;
      __syncthreads();  // who has passed this has read the count, which the next round changes
      if (first + round < total && held + round > capacity) {
        sort(held);
        if (threadIdx.x == 0) {
          *count = keep;
          *floor = images[keep - 1];
        }
        __syncthreads();
      }
    }
    const unsigned held = *count;
    sort(held);
    return held < keep ? held : keep;
  }
};

}  // namespace glass
