// Runs CUDA kernels on the CPU: g++ -std=c++20 -include shim.h -x c++ kernel.cu
//
// The threads of a block are fibres; blocks run one after another. A fibre runs until it waits for
// others, then another one is picked, at random after shim_seed(n != 0): first a warp, then a lane.
// After that warps also run ahead of each other, as far as barriers let them.
// Shared memory starts as 0xCD, and is a heap block of exactly the size asked for, so that
// AddressSanitizer knows its end. Found and reported as a failed launch: threads that wait at
// different barriers or for a thread that is gone, a lane outside its own mask, more shared memory
// than allowed. With -fsanitize=thread, accesses that nothing orders: see shim_races.h. Not here:
// the effects of weak memory ordering, warp matrix operations, cp.async, clusters, static
// __shared__ inside templates.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <source_location>
#include <string>
#include <utility>
#include <vector>

#include "shim_races.h"
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __shared__ static __attribute__((section("glass_shared")))

// The linker's names for the section of static shared memory, if the kernel has any.
extern "C" __attribute__((weak)) char __start_glass_shared[], __stop_glass_shared[];

struct uint3 {
  unsigned x, y, z;
};
struct dim3 : uint3 {
  dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : uint3{a, b, c} {}
};

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorLaunchFailure = 719 };
enum { cudaFuncAttributeMaxDynamicSharedMemorySize, cudaDevAttrMultiProcessorCount };

namespace shim {

using Site = std::source_location;
constexpr unsigned kWarp = 32;
constexpr size_t kStack = 64 << 10;
constexpr size_t kShared = 48 << 10, kOptInShared = 64 << 10;

struct Thread {
  enum State { kReady, kAtBarrier, kInWarp, kDone } state;
  uint3 index;
  unsigned number;
  ucontext_t context;
  std::unique_ptr<char[]> stack = std::make_unique_for_overwrite<char[]>(kStack);
  // what it waits for: the line, the lanes, its own value, and then everyone's
  unsigned line, mask;
  uint64_t mine, all[kWarp];
  bool orders;              // what it waits for orders memory
  void* watched = nullptr;  // what ThreadSanitizer calls it
};

struct Machine {
  dim3 grid, block;
  uint3 block_index;
  std::vector<Thread> threads;
  unsigned size = 0;  // threads in use
  Thread* current = nullptr;
  ucontext_t scheduler;
  std::function<void()> body;
  std::unique_ptr<unsigned char[]> shared;
  std::map<const void*, size_t> shared_limit;
  size_t largest_shared = 0;  // of a launch since shim_seed
  std::string error;
  unsigned seed = 0;
  std::mt19937 random;
#ifdef __SANITIZE_ADDRESS__
  const void* scheduler_stack = nullptr;
  size_t scheduler_stack_size = 0;
#endif
};

inline Machine machine;

inline void fail(const std::string& what) {
  if (!machine.error.empty()) return;
  const uint3& b = machine.block_index;
  machine.error = what + " in block (" + std::to_string(b.x) + ", " + std::to_string(b.y) + ")";
}

// Sanitizers must be told of a change of stacks, AddressSanitizer before and after.
inline void change(ucontext_t& from, ucontext_t& to, [[maybe_unused]] Thread* next) {
#ifdef __SANITIZE_ADDRESS__
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, next ? next->stack.get() : machine.scheduler_stack,
                                 next ? kStack : machine.scheduler_stack_size);
  swapcontext(&from, &to);
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#else
  races::become(next ? next->watched : nullptr);
  swapcontext(&from, &to);
#endif
}

inline void leave() { change(machine.current->context, machine.scheduler, nullptr); }

SHIM_UNSEEN inline void start() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &machine.scheduler_stack, &machine.scheduler_stack_size);
#endif
  machine.body();
  machine.current->state = Thread::kDone;
  leave();
}

SHIM_UNSEEN inline void wait(Thread::State state, Site site, bool orders, unsigned mask = 0,
                             uint64_t value = 0) {
  Thread& me = *machine.current;
  me.line = site.line();
  me.mask = mask;
  me.mine = value;
  me.orders = orders;
  me.state = state;
  if (state == Thread::kInWarp && !(mask >> me.number % kWarp & 1)) {
    fail("a lane is not in its own mask at line " + std::to_string(me.line));
  }
  leave();
}

// Lets go on who waits together with `one`, if all of them are there.
inline void meet(const Thread& one) {
  const unsigned first = one.state == Thread::kInWarp ? one.number / kWarp * kWarp : 0;
  const unsigned end =
      one.state == Thread::kInWarp ? std::min(first + kWarp, machine.size) : machine.size;
  std::vector<Thread*> group;
  for (unsigned i = first; i < end; ++i) {
    Thread& other = machine.threads[i];
    if (one.state == Thread::kInWarp && !(one.mask >> (i - first) & 1)) continue;
    if (other.state != one.state || other.line != one.line || other.mask != one.mask) return;
    group.push_back(&other);
  }
  std::vector<void*> watched;
  for (Thread* thread : group) {
    watched.push_back(thread->watched);
    for (Thread* other : group) thread->all[other->number % kWarp] = other->mine;
    thread->state = Thread::kReady;
  }
  if (one.orders) races::order(watched);
}

inline void run_thread(Thread& thread) {
  machine.current = &thread;
  change(machine.scheduler, thread.context, &thread);
  if (thread.state == Thread::kAtBarrier || thread.state == Thread::kInWarp) meet(thread);
}

inline std::vector<unsigned> order(unsigned begin, unsigned end) {
  std::vector<unsigned> numbers;
  for (unsigned i = begin; i < end; ++i) numbers.push_back(i);
  if (machine.seed) std::shuffle(numbers.begin(), numbers.end(), machine.random);
  return numbers;
}

// Runs each thread of a warp that can, once; whether there was one.
inline bool run_warp(unsigned warp) {
  bool ran = false;
  for (unsigned i : order(warp * kWarp, std::min((warp + 1) * kWarp, machine.size))) {
    if (machine.threads[i].state != Thread::kReady) continue;
    run_thread(machine.threads[i]);
    ran = true;
    if (!machine.error.empty()) return false;
  }
  return ran;
}

// A warp that has met may run ahead of the others, mostly.
inline bool run_warps() {
  bool ran = false;
  for (unsigned warp : order(0, (machine.size + kWarp - 1) / kWarp)) {
    while (run_warp(warp)) {
      ran = true;
      if (machine.seed == 0 || machine.random() % 8 == 0) break;
    }
    if (!machine.error.empty()) return false;
  }
  return ran;
}

inline void run_block(size_t shared_bytes) {
  for (char* at = __start_glass_shared; at != __stop_glass_shared; ++at) *at = char(0xCD);
  machine.shared = std::make_unique_for_overwrite<unsigned char[]>(shared_bytes);
  std::memset(machine.shared.get(), 0xCD, shared_bytes);
  const dim3& b = machine.block;
  for (unsigned i = 0; i < machine.size; ++i) {
    Thread& thread = machine.threads[i];
    thread.state = Thread::kReady;
    thread.number = i;
    thread.watched = races::thread();
    // what the last block left there is not of this one
    if (races::kWatched) thread.stack = std::make_unique_for_overwrite<char[]>(kStack);
    thread.index = {i % b.x, i / b.x % b.y, i / (b.x * b.y)};
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.get();
    thread.context.uc_stack.ss_size = kStack;
    makecontext(&thread.context, start, 0);
  }
  while (run_warps()) {
  }
  for (unsigned i = 0; i < machine.size && machine.error.empty(); ++i) {
    const Thread& thread = machine.threads[i];
    if (thread.state == Thread::kDone) continue;
    fail("deadlock: thread " + std::to_string(i) + " waits at line " + std::to_string(thread.line));
  }
  if (__start_glass_shared != __stop_glass_shared) races::order_blocks();
}

template <class Kernel, class... Arguments>
void launch(Kernel* kernel, dim3 grid, dim3 block, size_t shared_bytes, const Arguments&... given) {
  [[maybe_unused]] const races::Launch watched;
  machine.grid = grid;
  machine.block = block;
  machine.size = block.x * block.y * block.z;
  machine.random.seed(machine.seed);
  const auto known = machine.shared_limit.find(reinterpret_cast<const void*>(kernel));
  const size_t limit = known == machine.shared_limit.end() ? kShared : known->second;
  if (machine.size < 1 || machine.size > 1024) return fail("a block cannot have so many threads");
  if (grid.x < 1 || grid.y < 1 || grid.y > 65535 || grid.z > 65535) return fail("no such grid");
  if (shared_bytes > limit) return fail("more shared memory than allowed");
  if (machine.threads.size() < machine.size) machine.threads.resize(machine.size);
  machine.largest_shared = std::max(machine.largest_shared, shared_bytes);
  machine.body = [&] { kernel(given...); };
  for (uint64_t i = 0; i < uint64_t{grid.x} * grid.y * grid.z && machine.error.empty(); ++i) {
    machine.block_index = {static_cast<unsigned>(i % grid.x),
                           static_cast<unsigned>(i / grid.x % grid.y),
                           static_cast<unsigned>(i / grid.x / grid.y)};
    run_block(shared_bytes);
  }
}

template <class T>
uint64_t pack(T value) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}

template <class To, class From>
To bits(From from) {
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

// Whether the kernel keeps a barrier that shimmed.numbered has given a number.
inline int left_out = -1;
inline bool keeps(int barrier) { return barrier != left_out; }

inline unsigned lane() { return machine.current->number % kWarp; }

// The value of lane `from`; the caller's own if that is outside its group of `width` lanes.
template <class T>
T shuffle(unsigned mask, T value, int from, int width, Site site) {
  wait(Thread::kInWarp, site, false, mask, pack(value));
  const int group = static_cast<int>(lane()) / width * width;
  if (from < group || from >= group + width || !(mask >> from & 1)) return value;
  return bits<T>(machine.current->all[from]);
}

}  // namespace shim

#define threadIdx (shim::machine.current->index)
#define blockIdx (shim::machine.block_index)
#define blockDim (shim::machine.block)
#define gridDim (shim::machine.grid)

#define GLASS_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  static_cast<void>(stream), shim::launch(kernel, grid, block, shared_bytes, __VA_ARGS__)
#define GLASS_DYNAMIC_SHARED(name) unsigned char* const name = shim::machine.shared.get()

inline void __syncthreads(shim::Site site = shim::Site::current()) {
  shim::wait(shim::Thread::kAtBarrier, site, true);
}
inline void __syncwarp(unsigned mask = ~0u, shim::Site site = shim::Site::current()) {
  shim::wait(shim::Thread::kInWarp, site, true, mask);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32,
              shim::Site site = shim::Site::current()) {
  const int group = static_cast<int>(shim::lane()) / width * width;
  return shim::shuffle(mask, value, group + from % width, width, site);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int with, int width = 32,
                  shim::Site site = shim::Site::current()) {
  return shim::shuffle(mask, value, static_cast<int>(shim::lane()) ^ with, width, site);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, int by, int width = 32,
                   shim::Site site = shim::Site::current()) {
  return shim::shuffle(mask, value, static_cast<int>(shim::lane()) + by, width, site);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, int by, int width = 32,
                 shim::Site site = shim::Site::current()) {
  return shim::shuffle(mask, value, static_cast<int>(shim::lane()) - by, width, site);
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value, shim::Site site = shim::Site::current()) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  shim::wait(shim::Thread::kInWarp, site, false, mask, shim::pack(value));
  unsigned result = 0;
  for (unsigned i = 0; i < 32; ++i) {
    const bool same = shim::machine.current->all[i] == shim::pack(value);
    if (mask >> i & 1) result |= static_cast<unsigned>(same) << i;
  }
  return result;
}
inline unsigned __ballot_sync(unsigned mask, int vote, shim::Site site = shim::Site::current()) {
  shim::wait(shim::Thread::kInWarp, site, false, mask, vote != 0);
  unsigned result = 0;
  for (unsigned i = 0; i < 32; ++i) {
    if (mask >> i & 1) result |= static_cast<unsigned>(shim::machine.current->all[i]) << i;
  }
  return result;
}
template <class T>
T atomicAdd(T* at, T value) {
  return std::atomic_ref<T>(*at).fetch_add(value, std::memory_order_relaxed);
}

inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __uint_as_float(unsigned value) { return shim::bits<float>(value); }
inline unsigned __float_as_uint(float value) { return shim::bits<unsigned>(value); }
inline double __longlong_as_double(long long value) { return shim::bits<double>(value); }
inline long long __double_as_longlong(double value) { return shim::bits<long long>(value); }
inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline int __ffs(int value) { return __builtin_ffs(value); }
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const uint64_t pool = a | static_cast<uint64_t>(b) << 32;
  unsigned result = 0;
  for (unsigned i = 0; i < 4; ++i) {
    result |= static_cast<unsigned>(pool >> 8 * (selector >> 4 * i & 7) & 0xFF) << 8 * i;
  }
  return result;
}

inline cudaError_t cudaGetLastError() {
  if (shim::machine.error.empty()) return cudaSuccess;
  std::fprintf(stderr, "shim: %s\n", shim::machine.error.c_str());
  return cudaErrorLaunchFailure;
}
inline const char* cudaGetErrorString(cudaError_t) { return shim::machine.error.c_str(); }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, int, int) { return *value = 4, cudaSuccess; }
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, int, int bytes) {
  if (static_cast<size_t>(bytes) > shim::kOptInShared) return cudaErrorInvalidValue;
  shim::machine.shared_limit[reinterpret_cast<const void*>(kernel)] = bytes;
  return cudaSuccess;
}

// Order of threads from now on (0: as they are numbered), and a clean slate. A barrier whose number
// is in SHIM_LEAVE_OUT is not waited for.
extern "C" __attribute__((used, visibility("default"))) inline void shim_seed(unsigned seed) {
  shim::machine.seed = seed;
  shim::machine.error.clear();
  shim::machine.largest_shared = 0;
  const char* left_out = std::getenv("SHIM_LEAVE_OUT");
  shim::left_out = left_out ? std::atoi(left_out) : -1;
}
extern "C" __attribute__((used, visibility("default"))) inline const char* shim_error() {
  return shim::machine.error.c_str();
}
extern "C" __attribute__((used, visibility("default"))) inline int shim_shared_bytes() {
  return static_cast<int>(shim::machine.largest_shared);
}
