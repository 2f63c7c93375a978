// Stable counting sort of each user's events by first-level code: check, count, sum up, place.
//
// Events are counted and placed in parts with counters of their own. A code's events of a part
// start where those of the part before it end, so the order of time is kept. A long history's parts
// are for threads; any other that is worth it has two parts in turn, since two events of one code
// have to wait for each other.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <type_traits>
#include <vector>

#include "../common/checks.h"
#include "../common/simd.h"
#include "sid_tier_tasks.h"

namespace glass {
namespace {

constexpr size_t kFetched = 1 << 14;  // bytes of a user's order to ask for ahead
constexpr int64_t kHalvedEvents = 2;  // for each code, from which on a second set of counters pays

template <typename Id>
struct Histories {
  const Id* codes;         // [T]
  const int64_t* offsets;  // [B + 1]
  int64_t num_users, num_codes;
  int32_t* order;           // [T]
  int32_t* bucket_offsets;  // [B, K + 1]

  // Without a branch, so that vectors do it: a user's events arrive in the cache meanwhile, and to
  // count them needs no second look.
  bool in_range(int64_t begin, int64_t end) const {
    using Unsigned = std::make_unsigned_t<Id>;  // in which a negative code is huge
    const auto limit = static_cast<Unsigned>(num_codes);
    Unsigned wrong = 0;
    for (int64_t i = begin; i < end; ++i) wrong |= static_cast<Unsigned>(codes[i]) >= limit;
    return wrong == 0;
  }

  // Adds events to counts [K]; false at a code out of range.
  bool count(int64_t begin, int64_t end, int32_t* counts) const {
    if (!in_range(begin, end)) return false;
    for (int64_t event = begin; event < end; ++event) ++counts[codes[event]];
    return true;
  }

  // Writes a user's bucket offsets. counts [parts, K] become where each part's events go.
  void start_buckets(int64_t user, int64_t parts, int32_t* counts) const {
    int32_t* row = bucket_offsets + user * (num_codes + 1);
    int32_t at = static_cast<int32_t>(offsets[user]);
    for (int64_t code = 0; code < num_codes; ++code) {
      row[code] = at;
      for (int64_t part = 0; part < parts; ++part) {
        int32_t& cell = counts[part * num_codes + code];
        const int32_t count = cell;
        cell = at;
        at += count;
      }
    }
    row[num_codes] = at;
  }

  void place(int64_t begin, int64_t end, int32_t* next) const {
    for (int64_t event = begin; event < end; ++event) {
      order[next[codes[event]]++] = static_cast<int32_t>(event);
    }
  }

  // counts [2, K]
  bool sort_user(int64_t user, int32_t* counts) const {
    const int64_t begin = offsets[user], end = offsets[user + 1];
    if (!in_range(begin, end)) return false;
    prefetch_to_write(order + begin, std::min(sizeof(*order) * (end - begin), kFetched));
    const bool halved = end - begin >= kHalvedEvents * num_codes;
    std::fill_n(counts, (halved ? 2 : 1) * num_codes, 0);
    if (halved) {
      sort_halves(user, begin, end, counts);
      return true;
    }
    for (int64_t event = begin; event < end; ++event) ++counts[codes[event]];
    start_buckets(user, 1, counts);
    place(begin, end, counts);
    return true;
  }

  void sort_halves(int64_t user, int64_t begin, int64_t end, int32_t* counts) const {
    const int64_t half = (end - begin) / 2, last = begin + 2 * half;
    const Id *first = codes + begin, *second = first + half;
    int32_t* others = counts + num_codes;
    for (int64_t i = 0; i < half; ++i) {
      ++counts[first[i]];
      ++others[second[i]];
    }
    if (last < end) ++others[codes[last]];
    start_buckets(user, 2, counts);
    for (int64_t i = 0; i < half; ++i) {
      order[counts[first[i]]++] = static_cast<int32_t>(begin + i);
      order[others[second[i]]++] = static_cast<int32_t>(begin + half + i);
    }
    place(last, end, others);
  }
};

// Runs work(index) for every index below count, each taken by the next idle thread.
template <typename Start>
void take_turns(int64_t count, int64_t threads, const Start& start) {
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, std::min(threads, count), 1, [&](int64_t, int64_t) {
    auto work = start();
    for (int64_t index = next++; index < count; index = next++) work(index);
  });
}

// False if a code is out of range.
template <typename Id>
bool sort(const Histories<Id>& histories) {
  const int64_t threads = torch::stable::get_num_threads(), num_codes = histories.num_codes;
  const Plan plan = plan_tasks(histories.offsets, histories.num_users, threads, num_codes);
  const auto tasks = static_cast<int64_t>(plan.tasks.size());
  std::vector<int32_t> parts(plan.parts * num_codes);
  std::atomic<bool> broken{false};

  take_turns(tasks, threads, [&] {
    return [&, counts = std::vector<int32_t>(2 * num_codes)](int64_t index) mutable {
      const Task& task = plan.tasks[index];
      if (task.part >= 0) {
        int32_t* mine = parts.data() + task.part * num_codes;
        if (!histories.count(task.event, task.event_end, mine)) broken = true;
        return;
      }
      for (int64_t user = task.user; user < task.user_end && !broken; ++user) {
        if (!histories.sort_user(user, counts.data())) broken = true;
      }
    };
  });
  if (broken) return false;
  if (plan.long_users.empty()) return true;

  take_turns(static_cast<int64_t>(plan.long_users.size()), threads, [&] {
    return [&](int64_t index) {
      const LongUser& user = plan.long_users[index];
      histories.start_buckets(user.user, user.part_end - user.part,
                              parts.data() + user.part * num_codes);
    };
  });
  take_turns(tasks, threads, [&] {
    return [&](int64_t index) {
      const Task& task = plan.tasks[index];
      if (task.part < 0) return;
      histories.place(task.event, task.event_end, parts.data() + task.part * num_codes);
    };
  });
  return true;
}

std::tuple<Tensor, Tensor> bucket_history(const Tensor& sid1, const Tensor& offsets,
                                          int64_t num_codes) {
  check_cpu(sid1, "sid1", 1);
  check_cpu(offsets, "offsets", 1);
  STD_TORCH_CHECK(num_codes >= 1 && num_codes < INT32_MAX, "num_codes must be in [1, 2^31 - 1)");
  STD_TORCH_CHECK(offsets.scalar_type() == ScalarType::Long, "offsets must be int64");
  STD_TORCH_CHECK(offsets.numel() >= 1, "offsets must not be empty");
  STD_TORCH_CHECK(sid1.numel() <= INT32_MAX, "sid1 must hold fewer than 2^31 events");
  const Tensor codes = packed(sid1), bounds = packed(offsets);
  const int64_t* offset = bounds.const_data_ptr<int64_t>();
  const int64_t num_users = bounds.numel() - 1;
  check_offsets(offset, num_users, codes.numel());

  Tensor order = empty({codes.numel()}, ScalarType::Int);
  Tensor starts = empty({num_users, num_codes + 1}, ScalarType::Int);
  const auto run = [&]<typename Id>(const Id* ids) {
    return sort(Histories<Id>{ids, offset, num_users, num_codes, order.mutable_data_ptr<int32_t>(),
                              starts.mutable_data_ptr<int32_t>()});
  };
  const bool is_int = codes.scalar_type() == ScalarType::Int;
  STD_TORCH_CHECK(is_int || codes.scalar_type() == ScalarType::Long, "sid1 must be int32 or int64");
  const bool valid =
      is_int ? run(codes.const_data_ptr<int32_t>()) : run(codes.const_data_ptr<int64_t>());
  STD_TORCH_CHECK(valid, "sid1 must be in [0, ", num_codes, ")");
  return {order, starts};
}

}  // namespace
}  // namespace glass

STABLE_TORCH_LIBRARY_IMPL(glass, CPU, m) {
  m.impl("bucket_history", TORCH_BOX(&glass::bucket_history));
}
