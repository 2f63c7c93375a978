// Keeps counts of SID-Tier current: counts[user, k, table[item, k]] += 1 for every code k of an
// event. A thread owns a range of codes, so no two write to the same counts.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>

#include "../common/checks.h"
#include "../common/simd.h"

namespace glass {
namespace {

struct Counts {
  uint32_t* cells;  // [num_users, num_codes, num_tiers]
  int64_t num_users, num_codes, num_tiers;
  const uint8_t* table;  // [num_items, num_codes]
  int64_t num_items;
};

template <typename Id>
struct Events {
  const Id* users;
  const Id* items;
  int64_t count;
};

constexpr int64_t kAhead = 4;              // events by which a row of the table is fetched early
constexpr int64_t kThreadCells = 1 << 16;  // changes that are worth a thread
constexpr int64_t kThreadCodes = 16;       // codes that are worth a thread

struct Codes {
  int64_t begin, end;
};

// Calls work(codes) for ranges of all codes, in parallel if so many events are worth it.
template <typename Work>
void share_codes(int64_t num_codes, int64_t events, const Work& work) {
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t worth = std::min(events * num_codes / kThreadCells, num_codes / kThreadCodes);
  const int64_t parts = std::clamp<int64_t>(worth, 1, threads);
  torch::stable::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      work(Codes{num_codes * part / parts, num_codes * (part + 1) / parts});
    }
  });
}

// Every index of the events is in range; nothing is changed before this is known.
template <typename Id>
void check_events(const Counts& counts, const Events<Id>& events) {
  for (int64_t event = 0; event < events.count; ++event) {
    const int64_t user = events.users[event], item = events.items[event];
    STD_TORCH_CHECK(user >= 0 && user < counts.num_users, "users must be in [0, ", counts.num_users,
                    "), held ", user);
    STD_TORCH_CHECK(item >= 0 && item < counts.num_items, "item_ids must be in [0, ",
                    counts.num_items, "), held ", item);
  }
}

// The largest tier of the events' items, of these codes.
template <typename Id>
uint8_t largest_tier(const Counts& counts, const Events<Id>& events, Codes codes) {
  uint8_t largest = 0;
  for (int64_t event = 0; event < events.count; ++event) {
    const uint8_t* row = counts.table + events.items[event] * counts.num_codes;
    for (int64_t code = codes.begin; code < codes.end; ++code) {
      largest = std::max(largest, row[code]);
    }
  }
  return largest;
}

// Adds `step` (modulo 2^32) to the counts of these codes. Whether a count has the sign bit
// afterwards.
template <typename Id>
bool add(const Counts& counts, const Events<Id>& events, uint32_t step, Codes codes) {
  const int64_t num_codes = counts.num_codes, num_tiers = counts.num_tiers;
  uint32_t seen = 0;
  for (int64_t event = 0; event < events.count; ++event) {
    if (event + kAhead < events.count) {
      const uint8_t* next = counts.table + events.items[event + kAhead] * num_codes;
      prefetch(next + codes.begin, codes.end - codes.begin);
    }
    const uint8_t* row = counts.table + events.items[event] * num_codes;
    uint32_t* cell = counts.cells + (events.users[event] * num_codes + codes.begin) * num_tiers;
    for (int64_t code = codes.begin; code < codes.end; ++code, cell += num_tiers) {
      seen |= cell[row[code]] += step;
    }
  }
  return (seen >> 31) != 0;
}

template <typename Id>
bool add_in_parallel(const Counts& counts, const Events<Id>& events, uint32_t step) {
  std::atomic<bool> negative{false};
  share_codes(counts.num_codes, events.count, [&](Codes codes) {
    if (add(counts, events, step, codes)) negative = true;
  });
  return negative;
}

template <typename Id>
void update(const Counts& counts, const Events<Id>& events, bool remove) {
  constexpr uint32_t kPlus = 1, kMinus = ~uint32_t{0};
  check_events(counts, events);
  std::atomic<int64_t> wrong{-1};
  share_codes(counts.num_codes, events.count, [&](Codes codes) {
    const int64_t largest = largest_tier(counts, events, codes);
    if (codes.begin < codes.end && largest >= counts.num_tiers) wrong = largest;
  });
  STD_TORCH_CHECK(wrong < 0, "table must be in [0, ", counts.num_tiers, "), held ", wrong.load());
  const bool negative = add_in_parallel(counts, events, remove ? kMinus : kPlus);
  if (!remove || !negative) return;
  add_in_parallel(counts, events, kPlus);
  STD_TORCH_CHECK(false,
                  "item_ids: removing these events would make a count negative; they were never "
                  "added for these users. counts is unchanged");
}

void sid_tier_update_(Tensor counts, const Tensor& users, const Tensor& item_ids,
                      const Tensor& table, bool remove) {
  check_cpu(counts, "counts", 3);
  check_cpu(users, "users", 1);
  check_cpu(item_ids, "item_ids", 1);
  check_cpu(table, "table", 2);
  STD_TORCH_CHECK(counts.scalar_type() == ScalarType::Int, "counts must be int32");
  STD_TORCH_CHECK(counts.is_contiguous(), "counts must be contiguous");
  STD_TORCH_CHECK(table.scalar_type() == ScalarType::Byte, "table must be uint8");
  STD_TORCH_CHECK(table.size(1) == counts.size(1), "table must have a column a code of counts");
  STD_TORCH_CHECK(users.numel() == item_ids.numel(), "users and item_ids must have one length");
  STD_TORCH_CHECK(users.scalar_type() == item_ids.scalar_type(),
                  "users and item_ids must have one dtype");
  const Tensor user = torch::stable::contiguous(users);
  const Tensor item = torch::stable::contiguous(item_ids);
  const Tensor bytes = torch::stable::contiguous(table);
  const Counts state{reinterpret_cast<uint32_t*>(counts.mutable_data_ptr<int32_t>()),
                     counts.size(0),
                     counts.size(1),
                     counts.size(2),
                     bytes.const_data_ptr<uint8_t>(),
                     bytes.size(0)};
  if (user.scalar_type() == ScalarType::Int) {
    const Events<int32_t> events{user.const_data_ptr<int32_t>(), item.const_data_ptr<int32_t>(),
                                 user.numel()};
    update(state, events, remove);
  } else {
    STD_TORCH_CHECK(user.scalar_type() == ScalarType::Long, "users must be int32 or int64");
    const Events<int64_t> events{user.const_data_ptr<int64_t>(), item.const_data_ptr<int64_t>(),
                                 user.numel()};
    update(state, events, remove);
  }
}

}  // namespace
}  // namespace glass

STABLE_TORCH_LIBRARY_IMPL(glass, CPU, m) {
  m.impl("sid_tier_update_", TORCH_BOX(&glass::sid_tier_update_));
}
