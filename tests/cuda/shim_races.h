// What ThreadSanitizer is told of a launch, in a build with -fsanitize=thread.
//
// Each thread of each block is a fibre of ThreadSanitizer, which to it is a thread. To go from one
// to another orders nothing, so a race is found in whatever order they happen to run. What orders
// them is what CUDA says: the start and the end of a launch, __syncthreads and __syncwarp. Atomics
// are relaxed, and shuffles and votes order no memory (CUDA C++ Programming Guide, "Warp Vote
// Functions"). Blocks are ordered only if there is static shared memory, which is one for all here.
//
// The scheduler is not watched: it touches what is the shim's, and what it allocates has no past.
#pragma once
#include <algorithm>
#include <cstddef>
#include <memory>
#include <vector>

#ifndef __SANITIZE_THREAD__
#define SHIM_UNSEEN

namespace shim::races {
inline constexpr bool kWatched = false;
struct Launch {};
inline void* thread() { return nullptr; }
inline void become(void*) {}
inline void order(const std::vector<void*>&) {}
inline void order_blocks() {}
}  // namespace shim::races

#else
#include <sanitizer/tsan_interface.h>
// of a function that the scheduler shares with threads, or one thread with another
#define SHIM_UNSEEN __attribute__((noinline, no_sanitize("thread")))

extern "C" {
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
}

namespace shim::races {

inline constexpr bool kWatched = true;
// 0.8 MB each. Threads of a launch that are so far apart are one to ThreadSanitizer.
constexpr size_t kFibres = 2048;

struct Fibres {
  std::vector<void*> all;
  size_t used = 0;  // of the launch
  void* scheduler = nullptr;
};
inline Fibres fibres;

// nullptr: the scheduler
inline void become(void* fibre) {
  __tsan_switch_to_fiber(fibre ? fibre : fibres.scheduler, __tsan_switch_to_fiber_no_sync);
}

// What each of `before` has done comes before what each of `after` does next.
SHIM_UNSEEN inline void order(void* const* before, size_t num_before, void* const* after,
                              size_t num_after) {
  const auto token = std::make_unique<char>();  // another one each time: it remembers
  for (size_t i = 0; i < num_before; ++i) {
    become(before[i]);
    __tsan_release(token.get());
  }
  for (size_t i = 0; i < num_after; ++i) {
    become(after[i]);
    __tsan_acquire(token.get());
  }
  become(nullptr);
}
inline void order(const std::vector<void*>& group) {
  order(group.data(), group.size(), group.data(), group.size());
}
// What the threads of the launch have done comes before what it starts next.
inline void order_blocks() {
  order(fibres.all.data(), std::min(fibres.used, fibres.all.size()), &fibres.scheduler, 1);
}

// Fibre of one more thread of the launch.
inline void* thread() {
  const size_t at = fibres.used++ % kFibres;
  if (at == fibres.all.size()) return fibres.all.emplace_back(__tsan_create_fiber(0));
  order(&fibres.scheduler, 1, &fibres.all[at], 1);
  return fibres.all[at];
}

struct Launch {
  Launch() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
    fibres.scheduler = __tsan_get_current_fiber();
    fibres.used = 0;
  }
  ~Launch() {
    order_blocks();
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
};

}  // namespace shim::races
#endif
