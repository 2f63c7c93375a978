// SID-Tier histogram from the byte table: out[b, k, n] = #{events of b : table[item, k] == n}.
//
// A thread owns four codes of a history: one 32-bit load of a table row is four increments, and no
// other thread ever touches its counters. The threads of a block are `lanes` groups, each of which
// takes every lanes-th event; they are summed at the end.
//
// Up to 4 tiers the counters are bytes in registers, four codes a word: 6 instructions an (event,
// code), so 21 of them a cycle and multiprocessor. More tiers are counted in shared memory, in 16
// bits; a row of counters has one word a thread, so that any mix of tiers in a warp is free of bank
// conflicts. That takes 9 instructions, a shared load and a shared store among them: 14 a cycle,
// about what DRAM delivers. docs/gpu.md says why not bit-sliced counters.
//
// Work is cut without reading an offset on the host: block b takes user b, or, if the history is
// longer than `part`, its events up to the next multiple of `part` in the flat axis; another block
// for each such multiple takes the `part` events that follow it. Counts are integers and each block
// writes its own, so the result is the same in every run.
#include "sid_tier.h"

#include "device.h"

namespace glass {
namespace {

constexpr int kMaxThreads = 256;
constexpr int kBlocks = 4;                     // of a multiprocessor: 64 registers a thread
constexpr int kSharedBytes = 64 << 10;         // what every architecture gives a block
constexpr int kDefaultSharedBytes = 48 << 10;  // more must be asked for
constexpr int kCodes = 4;                      // codes of a thread
constexpr int kUnroll = 4;                     // rows in flight of a thread
constexpr int kFewTiers = 4;
constexpr int64_t kMaxPart = 65535;  // counters of a block have 16 bits
constexpr uint32_t kNoItem = 0xFFFFFFFFu;
constexpr uint32_t kNoTiers = 0xFFFFFFFFu;  // N <= 255: a byte of 255 counts nowhere

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How a block's threads are laid over codes and events.
struct Shape {
  int code_threads;  // a multiple of kUnroll, since a lane has as many events in a tile
  int lanes;
  int stride;  // threads, up to a whole warp: bank of a counter = its thread
  int64_t tiles;
  int shared_bytes;

  Shape(int64_t num_codes, int num_tiers) {
    // an event in each of two tiles, and the counters
    const int thread_bytes = 2 * sizeof(uint32_t) + kCodes * num_tiers * sizeof(uint16_t);
    int threads = kSharedBytes / thread_bytes / 32 * 32;
    if (threads > kMaxThreads) threads = kMaxThreads;
    const int64_t slots = ceil_div(num_codes, kCodes);
    tiles = ceil_div(slots, threads);
    code_threads = static_cast<int>(ceil_div(ceil_div(slots, tiles), kUnroll) * kUnroll);
    lanes = threads / code_threads;
    stride = static_cast<int>(ceil_div(code_threads * lanes, 32) * 32);
    shared_bytes = stride * thread_bytes;
  }
};

struct Job {
  SidTierCall call;
  int code_threads;
  int lanes;
  int stride;
};

// A stretch of a user's history.
struct Part {
  int64_t user;
  int64_t begin;
  int64_t end;
  int64_t length;  // of the whole history
  int64_t cut;     // which multiple of `part` it follows; 0: it starts the history
  bool whole;
};

__device__ __forceinline__ int64_t offset_at(const SidTierCall& call, int64_t row) {
  const int64_t offset = call.offsets[row];  // unchecked on a GPU: must not lead out of bounds
  return offset < 0 ? 0 : offset > call.total ? call.total : offset;
}

// The user of an event: the last one that starts at or before it.
__device__ int64_t user_at(const SidTierCall& call, int64_t event) {
  int64_t low = 0, high = call.num_users;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    if (call.offsets[middle] <= event) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

// False if there is nothing to do after this multiple of `part`.
__device__ bool find_part(const SidTierCall& call, int64_t block, Part& part) {
  part.cut = block < call.num_users ? 0 : block - call.num_users + 1;
  const int64_t position = part.cut * call.part;
  part.user = part.cut ? user_at(call, position) : block;
  const int64_t start = offset_at(call, part.user), stop = offset_at(call, part.user + 1);
  part.length = stop - start;
  part.whole = part.length <= call.part;
  if (part.cut) {
    part.begin = position;
    part.end = stop < position + call.part ? stop : position + call.part;
    return !part.whole && start < position && position < stop;
  }
  part.begin = start;
  part.end = part.whole ? stop : (start / call.part + 1) * call.part;
  return true;
}

// Row of the table of an event; kNoItem past `end` and for an id out of range.
__device__ __forceinline__ uint32_t item_at(const SidTierCall& call, int64_t event, int64_t end) {
  if (event >= end) return kNoItem;
  const int64_t id = call.wide_ids ? static_cast<const int64_t*>(call.item_ids)[event]
                                   : static_cast<const int32_t*>(call.item_ids)[event];
  return id >= 0 && id < call.num_items ? static_cast<uint32_t>(id) : kNoItem;
}

// The codes of a thread: four neighbours, read as a word, or, where rows are not aligned, every
// code_threads-th byte, so that neighbouring threads still read neighbouring bytes.
template <bool kWords>
class Codes {
 public:
  __device__ Codes(const Job& job, int64_t tile, int slot)
      : first_(tile * job.code_threads * kCodes + (kWords ? slot * kCodes : slot)),
        step_(kWords ? 1 : job.code_threads),
        row_bytes_(static_cast<uint32_t>(job.call.num_codes)),
        column_(job.call.table + first_),
        num_items_(first_ < row_bytes_ ? static_cast<uint32_t>(job.call.num_items) : 0) {}

  __device__ __forceinline__ int64_t at(int c) const { return first_ + c * step_; }

  __device__ __forceinline__ uint32_t load(uint32_t item) const {
    uint32_t tiers = kNoTiers;
    if (item < num_items_) {  // kNoItem is not
      const uint8_t* row = column_ + static_cast<uint64_t>(item) * row_bytes_;
      if constexpr (kWords) {
        tiers = *reinterpret_cast<const uint32_t*>(row);
      } else {
#pragma unroll
        for (int c = 0; c < kCodes; ++c) {
          if (at(c) < row_bytes_) tiers ^= (row[c * step_] ^ 0xFFu) << (8 * c);
        }
      }
    }
    return tiers;
  }

 private:
  int64_t first_;
  int step_;
  uint32_t row_bytes_;
  const uint8_t* __restrict__ column_;
  uint32_t num_items_;  // 0 for a thread that is left over
};

// The counters of a thread in shared memory: a column of 32-bit words `stride` apart, row
// (c / 2) * num_tiers + tier for codes c and c + 1.
class Cells {
 public:
  __device__ Cells(unsigned char* shared, int stride, int num_tiers, int thread)
      : row_bytes_(4 * stride), half_(row_bytes_ * num_tiers), column_(shared + 4 * thread) {}

  __device__ __forceinline__ uint16_t& at(int c, uint32_t tier) const {
    unsigned char* word = (c < 2 ? column_ : column_ + half_) + tier * row_bytes_;
    return reinterpret_cast<uint16_t*>(word)[c & 1];
  }

 private:
  uint32_t row_bytes_;
  uint32_t half_;
  unsigned char* column_;
};

// Tiers below 4, in registers: byte counters, emptied into 16-bit ones before they are full.
class FewTiers {
 public:
  __device__ FewTiers(const Cells& cells, int num_tiers) : cells_(cells), num_tiers_(num_tiers) {}

  __device__ __forceinline__ void add(const uint32_t (&tiers)[kUnroll]) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const uint32_t low = tiers[u], high = low >> 1;
      // 1 in each byte below 4: 0x83 less its low seven bits keeps the top bit up to 3
      const uint32_t present = ((0x83838383u - (low & 0x7F7F7F7Fu)) & ~low & 0x80808080u) >> 7;
      bytes_[0] += ~low & ~high & present;
      bytes_[1] += low & ~high & present;
      bytes_[2] += ~low & high & present;
      bytes_[3] += low & high & present;
    }
    held_ += kUnroll;
    if (held_ > 255 - kUnroll) empty();
  }

  __device__ void store() {
    empty();
#pragma unroll
    for (int tier = 0; tier < kFewTiers; ++tier) {
      if (tier >= num_tiers_) break;
      cells_.at(0, tier) = static_cast<uint16_t>(even_[tier]);
      cells_.at(1, tier) = static_cast<uint16_t>(odd_[tier]);
      cells_.at(2, tier) = static_cast<uint16_t>(even_[tier] >> 16);
      cells_.at(3, tier) = static_cast<uint16_t>(odd_[tier] >> 16);
    }
  }

 private:
  __device__ __forceinline__ void empty() {
#pragma unroll
    for (int tier = 0; tier < kFewTiers; ++tier) {
      even_[tier] += bytes_[tier] & 0x00FF00FFu;
      odd_[tier] += bytes_[tier] >> 8 & 0x00FF00FFu;
      bytes_[tier] = 0;
    }
    held_ = 0;
  }

  Cells cells_;
  int num_tiers_;
  int held_ = 0;
  uint32_t bytes_[kFewTiers] = {};
  uint32_t even_[kFewTiers] = {};  // codes 0 and 2
  uint32_t odd_[kFewTiers] = {};   // codes 1 and 3
};

class ManyTiers {
 public:
  __device__ ManyTiers(const Cells& cells, int num_tiers)
      : cells_(cells), num_tiers_(static_cast<uint32_t>(num_tiers)) {
    for (uint32_t tier = 0; tier < num_tiers_; ++tier) {
      for (int c = 0; c < kCodes; ++c) cells.at(c, tier) = 0;
    }
  }

  __device__ __forceinline__ void add(const uint32_t (&tiers)[kUnroll]) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      uint32_t tier[kCodes], count[kCodes];
      // all loads before any store: four codes never share a cell, which the compiler cannot know
#pragma unroll
      for (int c = 0; c < kCodes; ++c) {
        tier[c] = __byte_perm(tiers[u], 0, 0x4440 + c);
        if (tier[c] < num_tiers_) count[c] = cells_.at(c, tier[c]);
      }
#pragma unroll
      for (int c = 0; c < kCodes; ++c) {
        if (tier[c] < num_tiers_) cells_.at(c, tier[c]) = static_cast<uint16_t>(count[c] + 1);
      }
    }
  }

  __device__ void store() {}

 private:
  Cells cells_;
  uint32_t num_tiers_;
};

template <bool kFew>
struct CountersOf {
  using type = ManyTiers;
};
template <>
struct CountersOf<true> {
  using type = FewTiers;
};

__device__ float finish(uint64_t count, int64_t length, bool normalize) {
  constexpr uint64_t kExact = 1 << 24;
  if (!normalize) return static_cast<float>(count);
  if (length < 1) return 0.0f;
  // rounding a quotient of 24-bit integers to double first, as the reference does, changes nothing
  // (53 >= 2 * 24 + 2), and double division is slow on most cards
  if (static_cast<uint64_t>(length) <= kExact) {
    return __fdiv_rn(static_cast<float>(count), static_cast<float>(length));
  }
  return static_cast<float>(static_cast<double>(count) / static_cast<double>(length));
}

template <bool kWords, bool kFew>
__global__ void __launch_bounds__(kMaxThreads, kBlocks) sid_tier_count(Job job) {
  const SidTierCall& call = job.call;
  Part part;
  if (!find_part(call, blockIdx.x, part)) return;  // the whole block

  const int threads = job.code_threads * job.lanes;
  const int thread = threadIdx.x;
  const int lane = thread / job.code_threads;
  const Codes<kWords> codes(job, blockIdx.y, thread - lane * job.code_threads);
  const int num_tiers = static_cast<int>(call.num_tiers);

  GLASS_DYNAMIC_SHARED(shared);
  uint32_t* const items = reinterpret_cast<uint32_t*>(shared);  // [2, stride]
  unsigned char* const counts = shared + 2 * sizeof(uint32_t) * job.stride;
  typename CountersOf<kFew>::type counters(Cells(counts, job.stride, num_tiers, thread), num_tiers);

  // a thread fetches event `thread` of a tile; those of a lane come to lie side by side
  const int place = thread % job.lanes * job.code_threads + thread / job.lanes;
  uint32_t next = item_at(call, part.begin + thread, part.end);
  int tile = 0;
  for (int64_t first = part.begin; first < part.end; first += threads) {
    items[tile + place] = next;
    __syncthreads();  // who has passed this has read the other tile, which is written next
    next = item_at(call, first + threads + thread, part.end);
    const uint32_t* mine = items + tile + lane * job.code_threads;
    const int events = static_cast<int>(part.end - first < threads ? part.end - first : threads);
    for (int event = lane; event < events; event += kUnroll * job.lanes) {
      uint32_t tiers[kUnroll];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) tiers[u] = codes.load(mine[u]);
      counters.add(tiers);
      mine += kUnroll;
    }
    tile ^= job.stride;
  }
  counters.store();
  __syncthreads();

  const int64_t size = call.num_codes * num_tiers;
  for (int c = 0; c < kCodes; ++c) {
    if (codes.at(c) >= call.num_codes) continue;
    for (int tier = lane; tier < num_tiers; tier += job.lanes) {
      uint32_t count = 0;
      for (int other = thread - lane * job.code_threads; other < threads;
           other += job.code_threads) {
        count += Cells(counts, job.stride, num_tiers, other).at(c, tier);
      }
      const int64_t cell = codes.at(c) * num_tiers + tier;
      if (part.cut) {
        call.partial[(part.cut - 1) * size + cell] = count;
      } else {
        // the first part of a cut history waits here, as bits, for sid_tier_combine
        call.out[part.user * size + cell] =
            part.whole ? finish(count, part.length, call.normalize) : __uint_as_float(count);
      }
    }
  }
}

// Adds up the parts of each history that was cut; the block of its first cut does so.
__global__ void __launch_bounds__(kMaxThreads) sid_tier_combine(SidTierCall call) {
  Part part;
  const int64_t cut = static_cast<int64_t>(blockIdx.x) + 1;
  if (!find_part(call, call.num_users + cut - 1, part)) return;
  const int64_t start = offset_at(call, part.user);
  if (start / call.part + 1 != cut) return;
  const int64_t last = (start + part.length - 1) / call.part;

  const int64_t size = call.num_codes * call.num_tiers;
  float* out = call.out + part.user * size;
  const int64_t first = static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x;
  const int64_t step = static_cast<int64_t>(gridDim.y) * blockDim.x;
  for (int64_t cell = first; cell < size; cell += step) {
    uint64_t count = __float_as_uint(out[cell]);
    for (int64_t other = cut; other <= last; ++other) {
      count += call.partial[(other - 1) * size + cell];
    }
    out[cell] = finish(count, part.length, call.normalize);
  }
}

template <bool kWords, bool kFew>
int count(const Job& job, dim3 grid, const Shape& shape, void* stream) {
  auto kernel = &sid_tier_count<kWords, kFew>;
  if (shape.shared_bytes > kDefaultSharedBytes) {
    const auto error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            shape.shared_bytes);
    if (error != cudaSuccess) return error;
  }
  const dim3 block(shape.code_threads * shape.lanes);
  GLASS_LAUNCH(kernel, grid, block, shape.shared_bytes, stream, job);
  return cudaGetLastError();
}

}  // namespace
}  // namespace glass

int64_t glass_sid_tier_part(int64_t total, int64_t num_codes, int num_tiers, int processors) {
  const int64_t tiles = num_codes > 0 ? glass::Shape(num_codes, num_tiers).tiles : 1;
  // enough blocks for every processor, but parts long enough that writing and adding up their
  // counts (4 N bytes a code) stays small beside reading their rows (a byte an event and code)
  const int64_t even = glass::ceil_div(total * tiles, 16 * static_cast<int64_t>(processors));
  const int64_t least = num_tiers > 16 ? 64 * num_tiers : 1024;
  return even < least ? least : even > glass::kMaxPart ? glass::kMaxPart : even;
}

int glass_cuda_processors() {
  int device = 0, processors = 0;
  auto error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  }
  return error == cudaSuccess ? processors : -static_cast<int>(error);
}

const char* glass_cuda_error(int code) {
  return cudaGetErrorString(static_cast<cudaError_t>(code));
}

int glass_sid_tier(const SidTierCall* call, void* stream) {
  using namespace glass;
  const int64_t size = call->num_codes * call->num_tiers;
  if (call->num_users == 0 || size == 0) return cudaSuccess;
  const Shape shape(call->num_codes, static_cast<int>(call->num_tiers));
  const int64_t cuts = call->total > 0 ? (call->total - 1) / call->part : 0;
  const int64_t blocks = call->num_users + cuts;
  const bool valid = call->part >= 1 && call->part <= kMaxPart && call->num_tiers <= 255 &&
                     call->num_items < kNoItem && call->num_codes <= INT32_MAX &&
                     blocks <= INT32_MAX && shape.tiles <= 65535;
  if (!valid) return cudaErrorInvalidValue;

  const Job job{*call, shape.code_threads, shape.lanes, shape.stride};
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(shape.tiles));
  const bool words =
      call->num_codes % kCodes == 0 && reinterpret_cast<uintptr_t>(call->table) % kCodes == 0;
  const bool few = call->num_tiers <= kFewTiers;
  const int error = words ? few ? count<true, true>(job, grid, shape, stream)
                                : count<true, false>(job, grid, shape, stream)
                    : few ? count<false, true>(job, grid, shape, stream)
                          : count<false, false>(job, grid, shape, stream);
  if (error != cudaSuccess || cuts == 0) return error;

  const int64_t rows = ceil_div(size, kMaxThreads);
  const dim3 combine_grid(static_cast<unsigned>(cuts),
                          static_cast<unsigned>(rows < 65535 ? rows : 65535));
  auto combine = &sid_tier_combine;
  GLASS_LAUNCH(combine, combine_grid, dim3(kMaxThreads), 0, stream, *call);
  return cudaGetLastError();
}
