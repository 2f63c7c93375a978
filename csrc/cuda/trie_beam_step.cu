// One step of beam search over the trie of a catalogue, or over all codes.
//
// A block has the beams of a request, or some of them. First groups of lanes take a beam each: its
// children, which are a range of nodes, and the softmax of their logits. Then the children of all
// beams, end to end, are the places of BestEntries, so a node with one child costs one place and no
// candidate is written anywhere unless it beats the floor. Places are in (parent, code) order,
// which is the order of ties. If several blocks share a request, each leaves its best, and a second
// kernel picks the best of them in the same way.
#include "trie_beam_step.h"

#include "beam_softmax.h"
#include "best_entries.h"

namespace glass {
namespace {

constexpr int kThreads = 512, kFewestThreads = 64;
constexpr int kEntries = 4096;       // of a block, at most: two rounds
constexpr int kBeams = 256;          // of a block, at most
constexpr int64_t kCodes = 16384;    // of a block that are worth another block
constexpr int64_t kMostSplits = 32;  // unless kBeams asks for more: what is left to the merge
constexpr int kDefaultSharedBytes = 48 << 10;
constexpr int kWidest = kEntries - kThreads * kEach;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

__device__ __forceinline__ int64_t clamp(int64_t value, int64_t low, int64_t high) {
  return value < low ? low : value > high ? high : value;
}

// A beam in shared memory.
template <typename T>
struct Beam {
  T score;
  T largest;  // of the logits in its softmax
  T log_sum;
  int32_t first;  // child
};

template <typename Image, int kKind>
struct Beams {
  using T = typename Image::Float;
  const BeamStepCall& call;
  int64_t request;
  int64_t first_row;  // [request, first beam] of the block
  int count;          // beams of the block
  Beam<T>* beams;     // [count], shared
  uint32_t* starts;   // [count + 1], shared: where the places of a beam start

  // NaN as -inf, +inf as the largest finite number.
  __device__ __forceinline__ T logit(int beam, int64_t code) const {
    const T x = read_as<T, kKind>(call.logits, (first_row + beam) * call.num_codes + code);
    return x > kLargest<T> ? kLargest<T> : x == x ? x : kNever<T>;
  }
  __device__ __forceinline__ int32_t code(int32_t child) const {
    return call.child_codes ? call.child_codes[child] : child;
  }

  // Number of children of a beam, whatever is stored, and which the first is.
  __device__ int children(int beam, int32_t& first) const {
    first = 0;
    if (!call.child_offsets) return static_cast<int>(call.num_codes);
    const int64_t row = first_row + beam;
    const int64_t node = call.wide_nodes ? static_cast<const int64_t*>(call.nodes)[row]
                                         : static_cast<const int32_t*>(call.nodes)[row];
    if (node < 0 || node >= call.num_parents) return 0;
    const int64_t begin = clamp(call.child_offsets[node], 0, call.num_children);
    const int64_t end = clamp(call.child_offsets[node + 1], begin, call.num_children);
    first = static_cast<int32_t>(begin);
    return static_cast<int>(clamp(end - begin, 0, call.max_children));
  }

  // Looks at every beam with `width` lanes: its children and their softmax.
  __device__ void open(int width) const {
    const int lane = threadIdx.x % width, at_once = blockDim.x / width;
    for (int from = 0; from < count; from += at_once) {
      const int beam = from + threadIdx.x / width;
      const bool inside = beam < count;
      const T score = inside ? read<T>(call.scores, call.scores_kind, first_row + beam) : kNever<T>;
      int32_t first = 0;
      const int number = score > kNever<T> ? children(beam, first) : 0;
      Softmax<T> softmax;
      if (call.mask_before_softmax) {
        for (int i = lane; i < number; i += width) {
          const int32_t legal = code(first + i);
          if (legal >= 0 && legal < call.num_codes) softmax.add(logit(beam, legal));
        }
      } else if (number > 0) {
        for (int64_t i = lane; i < call.num_codes; i += width) softmax.add(logit(beam, i));
      }
      softmax.combine(width);
      if (inside && lane == 0) {
        beams[beam] = {score, softmax.largest, log_of(softmax.sum), first};
        starts[beam + 1] = number;
      }
    }
  }

  // Turns numbers of children into `starts`; by one warp.
  __device__ void lay_out() const {
    uint32_t before = 0;
    for (int from = 0; from < count; from += kWarp) {
      const int lane = threadIdx.x, beam = from + lane;
      uint32_t sum = beam < count ? starts[beam + 1] : 0;
#pragma unroll
      for (int by = 1; by < kWarp; by *= 2) {
        const uint32_t other = __shfl_up_sync(kAll, sum, by);
        if (lane >= by) sum += other;
      }
      if (beam < count) starts[beam + 1] = before + sum;
      before += __shfl_sync(kAll, sum, kWarp - 1);
    }
    if (threadIdx.x == 0) starts[0] = 0;
  }

  __device__ __forceinline__ int beam_of(uint32_t place) const {
    int low = 0, high = count - 1;  // the last beam that starts at `place` or before
    while (low < high) {
      const int middle = (low + high + 1) / 2;
      if (starts[middle] <= place) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    return low;
  }
  __device__ __forceinline__ int32_t child_of(int beam, uint32_t place) const {
    return beams[beam].first + static_cast<int32_t>(place - starts[beam]);
  }

  __device__ __forceinline__ typename Image::Bits image(uint32_t place) const {
    const int at = beam_of(place);
    const Beam<T> beam = beams[at];
    const int32_t next = code(child_of(at, place));
    if (next < 0) return Image::of(beam.score);  // the SID has ended: nothing is added
    if (next >= call.num_codes) return 0;
    const T total = logit(at, next) - beam.largest - beam.log_sum + beam.score;
    return total > kNever<T> ? Image::of(total) : 0;
  }

  // Whether the filter lets a candidate pass: its node is listed, or is not.
  __device__ bool allowed(uint32_t place) const {
    if (!call.filter_offsets) return true;
    const int64_t begin = clamp(call.filter_offsets[request], 0, call.num_filtered);
    const int64_t end = clamp(call.filter_offsets[request + 1], begin, call.num_filtered);
    const int32_t child = child_of(beam_of(place), place);
    int64_t low = begin, high = end;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (call.filter_nodes[middle] < child) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    const bool listed = low < end && call.filter_nodes[low] == child;
    return listed == (call.filter_keeps != 0);
  }
};

// What the blocks of a request left, one after another; kept children of a block in their order.
template <typename Image>
struct Partial {
  const typename Image::Float* scores;

  __device__ __forceinline__ typename Image::Bits image(uint32_t place) const {
    const auto score = scores[place];
    return score > kNever<typename Image::Float> ? Image::of(score) : 0;
  }
  __device__ __forceinline__ bool allowed(uint32_t) const { return true; }
};

// Slot of the result [request, beam_width]; no candidate: score -inf, node -1, parent 0, code -1.
template <typename T>
__device__ __forceinline__ void write(const BeamStepCall& call, int64_t slot, T score,
                                      int32_t child, int32_t parent) {
  const bool alive = score > kNever<T>;
  int32_t code = call.child_codes && alive ? call.child_codes[child] : child;
  if (code < 0) code = -1;
  static_cast<T*>(call.out_scores)[slot] = score;
  if (call.out_nodes) call.out_nodes[slot] = alive ? child : -1;
  call.out_parents[slot] = alive ? parent : 0;
  call.out_codes[slot] = alive ? code : -1;
}

struct Shape {
  int threads;
  int entries;  // a power of two
  int beams;    // of a block

  template <typename Image>
  int shared_bytes() const {
    const int per_beam = sizeof(Beam<typename Image::Float>) + sizeof(uint32_t);
    return 16 + entries * BestEntries<typename Image::Bits>::kBytes + beams * per_beam + 4;
  }
};

struct Job {
  BeamStepCall call;
  Shape shape;
  int lanes;  // of a beam
};

// The block's floor and count, its entries, and what is left behind them.
template <typename Bits>
__device__ BestEntries<Bits> entries_in(unsigned char* shared, const Job& job,
                                        unsigned char*& rest) {
  Bits* const images = reinterpret_cast<Bits*>(shared + 16);
  uint32_t* const places = reinterpret_cast<uint32_t*>(images + job.shape.entries);
  rest = reinterpret_cast<unsigned char*>(places + job.shape.entries);
  return {images,
          places,
          reinterpret_cast<unsigned*>(shared + 8),
          reinterpret_cast<Bits*>(shared),
          static_cast<unsigned>(job.shape.entries),
          static_cast<unsigned>(job.call.beam_width)};
}

template <typename Image, int kKind>
__global__ void __launch_bounds__(kThreads) beam_step(Job job) {
  using T = typename Image::Float;
  const BeamStepCall& call = job.call;
  const int64_t request = blockIdx.x / call.splits, split = blockIdx.x % call.splits;
  const int first = static_cast<int>(split) * job.shape.beams;
  const int count = static_cast<int>(clamp(call.num_beams - first, 0, job.shape.beams));

  GLASS_DYNAMIC_SHARED(shared);
  unsigned char* rest;
  const auto best = entries_in<typename Image::Bits>(shared, job, rest);
  Beam<T>* const own = reinterpret_cast<Beam<T>*>(rest);
  uint32_t* const starts = reinterpret_cast<uint32_t*>(own + job.shape.beams);
  const Beams<Image, kKind> beams{call,  request, request * call.num_beams + first,
                                  count, own,     starts};
  beams.open(job.lanes);
  __syncthreads();
  if (threadIdx.x < kWarp) beams.lay_out();
  __syncthreads();
  const unsigned found = best.fill(beams, starts[count]);

  for (unsigned i = threadIdx.x; i < best.keep; i += blockDim.x) {
    const bool alive = i < found;
    const int beam = alive ? beams.beam_of(best.places[i]) : 0;
    const int32_t child = alive ? beams.child_of(beam, best.places[i]) : -1;
    const T score = alive ? Image::score(best.images[i]) : kNever<T>;
    if (call.splits == 1) {
      write(call, request * call.beam_width + i, score, child, beam);
    } else {
      const int64_t slot = static_cast<int64_t>(blockIdx.x) * call.beam_width + i;
      static_cast<T*>(call.partial_scores)[slot] = score;
      call.partial_children[slot] = child;
      call.partial_parents[slot] = first + beam;
    }
  }
}

template <typename Image>
__global__ void __launch_bounds__(kThreads) beam_step_merge(Job job) {
  using T = typename Image::Float;
  const BeamStepCall& call = job.call;
  GLASS_DYNAMIC_SHARED(shared);
  unsigned char* rest;
  const auto best = entries_in<typename Image::Bits>(shared, job, rest);
  const int64_t total = call.splits * call.beam_width, from = blockIdx.x * total;
  const T* const scores = static_cast<const T*>(call.partial_scores) + from;
  const unsigned found = best.fill(Partial<Image>{scores}, static_cast<uint32_t>(total));
  for (unsigned i = threadIdx.x; i < best.keep; i += blockDim.x) {
    const bool alive = i < found;
    const int64_t at = from + (alive ? best.places[i] : 0);
    write(call, blockIdx.x * call.beam_width + i, alive ? scores[at - from] : kNever<T>,
          alive ? call.partial_children[at] : -1, alive ? call.partial_parents[at] : 0);
  }
}

// For `places` that a block looks at, with room for `beams`.
Shape shape_of(int64_t places, int beams) {
  Shape shape{kFewestThreads, kWarp, beams};
  while (shape.threads < kThreads && shape.threads * kEach < places) shape.threads *= 2;
  while (shape.entries < kEntries && shape.entries < places) shape.entries *= 2;
  return shape;
}

template <typename Image, class Kernel>
int launch(Kernel* kernel, int64_t blocks, const Job& job, void* stream) {
  const int shared_bytes = job.shape.shared_bytes<Image>();
  if (shared_bytes > kDefaultSharedBytes) {
    const auto error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
    if (error != cudaSuccess) return error;
  }
  const dim3 grid(static_cast<unsigned>(blocks)), block(job.shape.threads);
  GLASS_LAUNCH(kernel, grid, block, shared_bytes, stream, job);
  return cudaGetLastError();
}

template <typename Image, int kKind>
int run(const Job& job, void* stream) {
  const BeamStepCall& call = job.call;
  auto kernel = &beam_step<Image, kKind>;
  const int error = launch<Image>(kernel, call.num_requests * call.splits, job, stream);
  if (error != cudaSuccess || call.splits == 1) return error;
  auto merge = &beam_step_merge<Image>;
  const Job rest{call, shape_of(call.splits * call.beam_width, 0), 1};
  return launch<Image>(merge, call.num_requests, rest, stream);
}

}  // namespace
}  // namespace glass

int64_t glass_beam_step_widest() { return glass::kWidest; }

int64_t glass_beam_step_splits(int64_t num_requests, int64_t num_beams, int64_t codes,
                               int processors) {
  using namespace glass;
  if (num_requests < 1 || num_beams < 1) return 1;
  const int64_t room = ceil_div(2 * static_cast<int64_t>(processors), num_requests);
  int64_t splits = ceil_div(num_beams * codes, kCodes);
  for (const int64_t most : {room, kMostSplits, num_beams}) splits = splits < most ? splits : most;
  const int64_t fewest = ceil_div(num_beams, kBeams);
  if (splits < fewest) splits = fewest;
  return ceil_div(num_beams, ceil_div(num_beams, splits));  // no block without a beam
}

int glass_beam_step(const BeamStepCall* call, void* stream) {
  using namespace glass;
  if (call->num_requests == 0) return cudaSuccess;
  const int64_t beams = call->splits < 1 ? 0 : ceil_div(call->num_beams, call->splits);
  if (beams < 1 || beams > kBeams || call->beam_width < 1 || call->beam_width > kWidest ||
      call->num_requests * call->splits > INT32_MAX || call->max_children < 0 ||
      beams * call->max_children > INT32_MAX - kThreads * kEach ||
      call->splits * call->beam_width > INT32_MAX - kThreads * kEach) {
    return cudaErrorInvalidValue;
  }
  Job job{*call, shape_of(beams * call->max_children, static_cast<int>(beams)), 1};
  const int64_t width = call->mask_before_softmax ? call->max_children : call->num_codes;
  while (job.lanes < kWarp && job.lanes < width) job.lanes *= 2;
  if (call->logits_kind == kBeamFloat64 || call->scores_kind == kBeamFloat64) {
    switch (call->logits_kind) {
      case kBeamFloat32:
        return run<Image64, kBeamFloat32>(job, stream);
      case kBeamFloat16:
        return run<Image64, kBeamFloat16>(job, stream);
      case kBeamBFloat16:
        return run<Image64, kBeamBFloat16>(job, stream);
      case kBeamFloat64:
        return run<Image64, kBeamFloat64>(job, stream);
      default:
        return cudaErrorInvalidValue;
    }
  }
  switch (call->logits_kind) {
    case kBeamFloat32:
      return run<Image32, kBeamFloat32>(job, stream);
    case kBeamFloat16:
      return run<Image32, kBeamFloat16>(job, stream);
    case kBeamBFloat16:
      return run<Image32, kBeamBFloat16>(job, stream);
    default:
      return cudaErrorInvalidValue;
  }
}
