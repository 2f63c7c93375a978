// Bucketing of histories by first-level code, and search in the buckets.
//
// A block buckets the events of one user that have one of its codes. Each warp owns a stretch of
// the history and counters of its own in shared memory. A prefix sum over (code, warp) turns each
// count into the place of the stretch's first event of that code; then the warps place their
// events. Lanes hold events in order of time, so an event's rank among those of its code in the
// warp follows from lane numbers: no result depends on which thread comes first.
//
// A long history is given more warps, not more blocks: 10^5 events are a hundred rounds of 32
// warps, and cutting it over blocks would take a second launch and counters in global memory.
#include "hard_search.h"

#include "device.h"

namespace glass {
namespace {

constexpr unsigned kAll = 0xFFFFFFFFu;
constexpr int kWarp = 32;
constexpr int kMaxWarps = 32;
constexpr int kCounters = 8192;   // of a block: 32 KiB
constexpr int kWarpEvents = 128;  // of an average history, that are worth a warp
constexpr int kSearchWarps = 4;   // of a block; each answers a query

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

__device__ __forceinline__ int64_t read(const void* values, bool wide, int64_t at) {
  return wide ? static_cast<const int64_t*>(values)[at] : static_cast<const int32_t*>(values)[at];
}

// Inside [low, high]: values are unchecked on a GPU and must not lead out of bounds.
__device__ __forceinline__ int64_t clamp(int64_t value, int64_t low, int64_t high) {
  return value < low ? low : value > high ? high : value;
}

template <typename T>
__device__ __forceinline__ T inclusive_sum(T value, int lane) {
#pragma unroll
  for (int by = 1; by < kWarp; by *= 2) {
    const T other = __shfl_up_sync(kAll, value, by);
    if (lane >= by) value += other;
  }
  return value;
}

struct BucketJob {
  BucketHistoryCall call;
  int codes;  // of a block
};

// The codes of a block, the events of a warp, and where they are counted.
struct Stretch {
  const BucketHistoryCall& call;
  int64_t first_code;
  int codes;
  int64_t begin;
  int64_t end;
  uint32_t* counters;  // [codes], of this warp

  // Code of an event less the first of the block; kNone past the end.
  static constexpr int64_t kNone = INT64_MAX;
  __device__ __forceinline__ int64_t code(int64_t event) const {
    if (event >= end) return kNone;
    return clamp(read(call.sid1, call.wide_codes, event), 0, call.num_codes - 1) - first_code;
  }
  __device__ __forceinline__ bool mine(int64_t code) const { return code >= 0 && code < codes; }

  // Counts the events; returns how many, of the whole warp, have a code below the block's.
  __device__ uint32_t count(int lane) const {
    uint32_t below = 0;
    int64_t next = code(begin + lane);
    for (int64_t first = begin; first < end; first += kWarp) {
      const int64_t now = next;
      next = code(first + kWarp + lane);
      if (mine(now)) atomicAdd(&counters[now], 1u);  // a sum: any order
      if (first_code > 0) below += __popc(__ballot_sync(kAll, now < 0));
    }
    return below;
  }

  // Writes the events to where the counters, now cursors, say.
  __device__ void place(int lane) const {
    const unsigned lower_lanes = (1u << lane) - 1;
    int64_t next = code(begin + lane);
    for (int64_t first = begin; first < end; first += kWarp) {
      const int64_t now = next;
      next = code(first + kWarp + lane);
      const int key = mine(now) ? static_cast<int>(now) : -1;
      const unsigned peers = __match_any_sync(kAll, key);
      const int leader = __ffs(static_cast<int>(peers)) - 1;
      uint32_t at = 0;
      if (lane == leader && key >= 0) {
        at = atomicAdd(&counters[key], static_cast<uint32_t>(__popc(peers)));
      }
      at = __shfl_sync(kAll, at, leader);
      at += __popc(peers & lower_lanes);
      // always, unless the codes were changed between counting and placing
      if (key >= 0 && at < call.total) call.order[at] = static_cast<int32_t>(first + lane);
    }
  }
};

// Turns counters [warps, codes] into cursors that start at `at`, and writes bucket offsets `row`.
__device__ void start_buckets(uint32_t* counters, uint32_t* totals, int codes, uint32_t at,
                              int32_t* row) {
  const int thread = threadIdx.x, threads = blockDim.x;
  const int lane = thread % kWarp, warp = thread / kWarp, warps = threads / kWarp;
  for (int first = 0; first < codes; first += threads) {
    const int code = first + thread;
    uint32_t sum = 0;
    if (code < codes) {
      for (int other = 0; other < warps; ++other) sum += counters[other * codes + code];
    }
    const uint32_t inclusive = inclusive_sum(sum, lane);
    if (lane == kWarp - 1) totals[warp] = inclusive;
    __syncthreads();  // who has passed this has read the other totals, which are written next
    uint32_t start = at + inclusive - sum;
    for (int other = 0; other < warps; ++other) {
      if (other < warp) start += totals[other];
      at += totals[other];
    }
    if (code < codes) {
      row[code] = static_cast<int32_t>(start);
      for (int other = 0; other < warps; ++other) {
        uint32_t& cell = counters[other * codes + code];
        const uint32_t count = cell;
        cell = start;
        start += count;
      }
    }
    totals += first / threads % 2 ? -warps : warps;
  }
}

__global__ void __launch_bounds__(kMaxWarps* kWarp, 1) bucket_history(BucketJob job) {
  const BucketHistoryCall& call = job.call;
  const int64_t user = blockIdx.x, first_code = static_cast<int64_t>(blockIdx.y) * job.codes;
  const int codes = static_cast<int>(clamp(call.num_codes - first_code, 0, job.codes));
  const int64_t begin = clamp(call.offsets[user], 0, call.total);
  const int64_t end = clamp(call.offsets[user + 1], begin, call.total);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;

  GLASS_DYNAMIC_SHARED(shared);
  uint32_t* const counters = reinterpret_cast<uint32_t*>(shared);  // [warps, codes]
  uint32_t* const below = counters + warps * codes;                // [warps]
  uint32_t* const totals = below + warps;                          // [2, warps]

  const int64_t share = ((end - begin + warps - 1) / warps + kWarp - 1) / kWarp * kWarp;
  const int64_t start = clamp(begin + warp * share, begin, end);
  const Stretch stretch{
      call, first_code, codes, start, clamp(start + share, start, end), counters + warp * codes};
  for (int code = lane; code < codes; code += kWarp) stretch.counters[code] = 0;
  __syncwarp();
  const uint32_t lower = stretch.count(lane);
  if (lane == 0) below[warp] = lower;
  __syncthreads();

  uint32_t at = static_cast<uint32_t>(begin);
  for (int other = 0; other < warps; ++other) at += below[other];
  int32_t* row = call.bucket_offsets + user * (call.num_codes + 1);
  start_buckets(counters, totals, codes, at, row + first_code);
  if (threadIdx.x == 0 && first_code + codes == call.num_codes) {
    row[call.num_codes] = static_cast<int32_t>(end);
  }
  __syncthreads();
  stretch.place(lane);
}

// The events of one code of one user, as places in `order`.
struct Bucket {
  int64_t size;
  int64_t end;

  __device__ Bucket(const HardSearchCall& call, int64_t user, int64_t code, bool usable)
      : size(0), end(0) {
    if (!usable) return;
    const int32_t* place = call.bucket_offsets + user * (call.num_codes + 1) + code;
    const int64_t begin = clamp(place[0], 0, call.total);
    end = clamp(place[1], begin, call.total);
    size = end - begin;
  }
};

// Newest first, by the whole warp.
__device__ __forceinline__ void copy(const int32_t* order, int64_t end, int64_t count, int lane,
                                     int32_t* out) {
  for (int64_t i = lane; i < count; i += kWarp) out[i] = order[end - 1 - i];
}

// Adds events of the neighbours of `code` until there are min_items. Each lane looks at one.
__device__ int64_t augment(const HardSearchCall& call, int64_t user, int64_t code, int lane,
                           int64_t found, int32_t* out) {
  const int64_t row = code * call.num_neighbours;
  for (int64_t first = 0; first < call.num_neighbours && found < call.min_items; first += kWarp) {
    int64_t near = -1;
    if (first + lane < call.num_neighbours) {
      near = read(call.neighbours, call.wide_neighbours, row + first + lane);
    }
    bool usable = near >= 0 && near < call.num_codes && near != code;
    const unsigned peers = __match_any_sync(kAll, static_cast<long long>(near));
    usable = usable && (peers & ((1u << lane) - 1)) == 0;
    for (int64_t earlier = 0; usable && earlier < first; ++earlier) {
      usable = read(call.neighbours, call.wide_neighbours, row + earlier) != near;
    }
    const Bucket bucket(call, user, near, usable);
    const int64_t inclusive = inclusive_sum(static_cast<long long>(bucket.size), lane);
    const int64_t before = found + inclusive - bucket.size;
    const int64_t taken = clamp(call.min_items - before, 0, bucket.size);
    for (unsigned left = __ballot_sync(kAll, taken > 0); left; left &= left - 1) {
      const int source = __ffs(static_cast<int>(left)) - 1;
      const int64_t end = __shfl_sync(kAll, static_cast<long long>(bucket.end), source);
      const int64_t count = __shfl_sync(kAll, static_cast<long long>(taken), source);
      const int64_t at = __shfl_sync(kAll, static_cast<long long>(before), source);
      copy(call.order, end, count, lane, out + at);
    }
    const int64_t all = __shfl_sync(kAll, static_cast<long long>(inclusive), kWarp - 1);
    found = clamp(found + all, 0, call.min_items);
  }
  return found;
}

// A warp answers a query. Queries of a user that repeat a code do not share: what they read is a
// few words, which are in a cache.
__global__ void __launch_bounds__(kSearchWarps* kWarp) hard_search(HardSearchCall call) {
  const int lane = threadIdx.x % kWarp;
  const int64_t query = static_cast<int64_t>(blockIdx.x) * kSearchWarps + threadIdx.x / kWarp;
  if (query >= call.num_users * call.num_queries) return;  // the whole warp
  const int64_t user = query / call.num_queries;
  const int64_t code = read(call.query_sid1, call.wide_queries, query);
  int32_t* const out = call.positions + query * call.max_items;
  int64_t found = 0;
  if (code >= 0 && code < call.num_codes) {
    const Bucket bucket(call, user, code, true);
    found = clamp(bucket.size, 0, call.max_items);
    copy(call.order, bucket.end, found, lane, out);
    found = augment(call, user, code, lane, found, out);
  }
  for (int64_t i = found + lane; i < call.max_items; i += kWarp) out[i] = -1;
  if (lane == 0) call.lengths[query] = static_cast<int32_t>(found);
}

}  // namespace
}  // namespace glass

int glass_bucket_history(const BucketHistoryCall* call, void* stream) {
  using namespace glass;
  if (call->num_users == 0) return cudaSuccess;
  if (call->num_users > INT32_MAX || call->total > INT32_MAX || call->num_codes < 1) {
    return cudaErrorInvalidValue;
  }
  const int64_t wanted = ceil_div(call->total / call->num_users, kWarpEvents);
  int warps = 1;
  while (warps < wanted && warps < kMaxWarps) warps *= 2;
  const int64_t most = kCounters / warps;
  const int codes = static_cast<int>(call->num_codes < most ? call->num_codes : most);
  const int64_t ranges = ceil_div(call->num_codes, codes);
  if (ranges > 65535) return cudaErrorInvalidValue;
  const dim3 grid(static_cast<unsigned>(call->num_users), static_cast<unsigned>(ranges));
  const int shared_bytes = (warps * codes + 3 * warps) * static_cast<int>(sizeof(uint32_t));
  auto kernel = &bucket_history;
  const BucketJob job{*call, codes};
  GLASS_LAUNCH(kernel, grid, dim3(warps * kWarp), shared_bytes, stream, job);
  return cudaGetLastError();
}

int glass_hard_search(const HardSearchCall* call, void* stream) {
  using namespace glass;
  const int64_t queries = call->num_users * call->num_queries;
  if (queries == 0) return cudaSuccess;
  const int64_t blocks = ceil_div(queries, kSearchWarps);
  if (blocks > INT32_MAX || call->max_items < 1 || call->min_items > call->max_items) {
    return cudaErrorInvalidValue;
  }
  auto kernel = &hard_search;
  GLASS_LAUNCH(kernel, dim3(static_cast<unsigned>(blocks)), dim3(kSearchWarps * kWarp), 0, stream,
               *call);
  return cudaGetLastError();
}
