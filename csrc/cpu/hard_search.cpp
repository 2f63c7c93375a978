// Newest events of each query code's bucket, filled from neighbour codes up to a minimum.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <vector>

#include "../common/checks.h"
#include "../common/simd.h"

namespace glass {
namespace {

// int32 or int64, told apart at every read: there are few.
struct Codes {
  const int32_t* narrow;
  const int64_t* wide;

  explicit Codes(const Tensor& of, const char* name) {
    const bool is_int = of.scalar_type() == ScalarType::Int;
    STD_TORCH_CHECK(is_int || of.scalar_type() == ScalarType::Long, name,
                    " must be int32 or int64");
    narrow = is_int ? of.const_data_ptr<int32_t>() : nullptr;
    wide = is_int ? nullptr : of.const_data_ptr<int64_t>();
  }
  int64_t at(int64_t i) const { return narrow ? narrow[i] : wide[i]; }
};

enum class Fault { kNone, kQuery, kIndex };

struct Search {
  const int32_t* order;  // [total]
  int64_t total;
  int64_t num_users;
  const int32_t* bucket_offsets;  // [B, K + 1]
  int64_t num_codes;
  Codes query;  // [B, S]
  int64_t num_queries;
  Codes neighbours;  // [K, near]
  int64_t near;      // 0: no augmentation
  int64_t max_items, min_items;
  int32_t* positions;  // [B, S, M]
  int32_t* lengths;    // [B, S]
};

// What a thread remembers of each code: the last query, numbered from 1, that ...
struct Memory {
  std::vector<int64_t> asked;  // ... asked for it
  std::vector<int64_t> taken;  // ... took its bucket

  explicit Memory(const Search& search)
      : asked(search.num_queries > 1 ? search.num_codes : 0),
        taken(search.near > 0 ? search.num_codes : 0) {}
};

typedef int32_t Four __attribute__((vector_size(16), aligned(4), may_alias));

// from[-1], from[-2] .. to[0], to[1] ..: whole vectors, so up to 3 too many on both sides.
GLASS_INLINE void copy_reversed(const int32_t* from, int64_t count, int32_t* to) {
  for (int64_t i = 0; i < count; i += 4) {
    const Four events = *reinterpret_cast<const Four*>(from - i - 4);
    *reinterpret_cast<Four*>(to + i) = Four{events[3], events[2], events[1], events[0]};
  }
}

// Newest events of a bucket first, into `row` from `found` on, until there are `most`. What a
// vector writes beyond them is still to be filled.
bool take(const Search& search, const int32_t* buckets, int64_t code, int64_t most, int32_t* row,
          int64_t& found) {
  const int64_t begin = buckets[code], end = buckets[code + 1];
  if (begin < 0 || begin > end || end > search.total) return false;
  const int64_t count = std::min(end - begin, most - found), whole = (count + 3) / 4 * 4;
  const int32_t* newest = search.order + end;
  if (whole <= end && found + whole <= search.max_items) {
    copy_reversed(newest, count, row + found);
  } else {
    for (int64_t i = 0; i < count; ++i) row[found + i] = newest[-1 - i];
  }
  found += count;
  return true;
}

// Asks for what the queries of a user read first, and the next user's buckets.
void fetch(const Search& search, const int32_t* buckets, int64_t first, bool last) {
  if (!last) prefetch(buckets + search.num_codes + 1, sizeof(int32_t) * (search.num_codes + 1));
  for (int64_t query = first; query < first + search.num_queries; ++query) {
    const int64_t code = search.query.at(query);
    if (code < 0 || code >= search.num_codes) continue;
    const int64_t end = buckets[code + 1];
    if (end > 0 && end <= search.total) __builtin_prefetch(search.order + end - 1);
  }
}

Fault find(const Search& search, const int32_t* buckets, int64_t code, int64_t number,
           Memory& memory, int32_t* row, int64_t& found) {
  if (!take(search, buckets, code, search.max_items, row, found)) return Fault::kIndex;
  if (search.near == 0 || found >= search.min_items) return Fault::kNone;
  memory.taken[code] = number;
  for (int64_t i = 0; i < search.near && found < search.min_items; ++i) {
    const int64_t neighbour = search.neighbours.at(code * search.near + i);
    if (neighbour < 0 || memory.taken[neighbour] == number) continue;
    memory.taken[neighbour] = number;
    if (!take(search, buckets, neighbour, search.min_items, row, found)) return Fault::kIndex;
  }
  return Fault::kNone;
}

Fault search_user(const Search& search, int64_t user, Memory& memory) {
  const int32_t* buckets = search.bucket_offsets + user * (search.num_codes + 1);
  const int64_t first = user * search.num_queries;
  fetch(search, buckets, first, user + 1 == search.num_users);
  for (int64_t query = first; query < first + search.num_queries; ++query) {
    int32_t* row = search.positions + query * search.max_items;
    const int64_t code = search.query.at(query);
    if (code >= search.num_codes) return Fault::kQuery;
    int64_t found = 0;
    if (code >= 0) {
      if (search.num_queries > 1) {
        const int64_t same = memory.asked[code] - 1;
        if (same >= first) {
          std::copy_n(search.positions + same * search.max_items, search.max_items, row);
          search.lengths[query] = search.lengths[same];
          continue;
        }
        memory.asked[code] = query + 1;
      }
      const Fault fault = find(search, buckets, code, query + 1, memory, row, found);
      if (fault != Fault::kNone) return fault;
    }
    std::fill(row + found, row + search.max_items, -1);
    search.lengths[query] = static_cast<int32_t>(found);
  }
  return Fault::kNone;
}

constexpr int64_t kThreadSlots = 1 << 15;  // of positions, that are worth a thread

Fault search_all(const Search& search) {
  const int64_t slots = std::max<int64_t>(search.num_queries * (search.max_items + 8), 1);
  std::atomic<Fault> fault{Fault::kNone};
  torch::stable::parallel_for(0, search.num_users, std::max<int64_t>(kThreadSlots / slots, 1),
                              [&](int64_t begin, int64_t end) {
                                Memory memory(search);
                                for (int64_t user = begin; user < end; ++user) {
                                  const Fault found = search_user(search, user, memory);
                                  if (found == Fault::kNone) continue;
                                  fault = found;
                                  return;
                                }
                              });
  return fault;
}

template <typename Id>
bool all_below(const Id* values, int64_t count, int64_t limit) {
  Id largest = -1;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, values[i]);
  return largest < limit;
}

std::tuple<Tensor, Tensor> hard_search(const Tensor& order, const Tensor& bucket_offsets,
                                       const Tensor& query_sid1, std::optional<Tensor> neighbours,
                                       int64_t max_items, int64_t min_items) {
  check_cpu(order, "order", 1);
  check_cpu(bucket_offsets, "bucket_offsets", 2);
  check_cpu(query_sid1, "query_sid1", 2);
  STD_TORCH_CHECK(order.scalar_type() == ScalarType::Int, "order must be int32");
  STD_TORCH_CHECK(bucket_offsets.scalar_type() == ScalarType::Int, "bucket_offsets must be int32");
  STD_TORCH_CHECK(bucket_offsets.size(1) >= 2, "bucket_offsets must have K + 1 >= 2 columns");
  STD_TORCH_CHECK(max_items >= 1 && max_items <= INT32_MAX, "max_items must be in [1, 2^31)");
  STD_TORCH_CHECK(min_items >= 0, "min_items must be at least 0");
  const int64_t num_users = bucket_offsets.size(0), num_codes = bucket_offsets.size(1) - 1;
  STD_TORCH_CHECK(query_sid1.size(0) == num_users, "query_sid1 must have a row a user");
  const int64_t num_queries = query_sid1.size(1);
  const Tensor events = packed(order), starts = packed(bucket_offsets);
  const Tensor query = packed(query_sid1);
  const Tensor near = neighbours ? packed(*neighbours) : query;
  const Codes asked(query, "query_sid1");
  const Codes codes(near, neighbours ? "neighbours" : "query_sid1");
  if (neighbours) {
    check_cpu(near, "neighbours", 2);
    STD_TORCH_CHECK(near.size(0) == num_codes, "neighbours must have a row a code");
    const bool valid = codes.narrow ? all_below(codes.narrow, near.numel(), num_codes)
                                    : all_below(codes.wide, near.numel(), num_codes);
    STD_TORCH_CHECK(valid, "neighbours must be below ", num_codes);
  }

  Tensor positions = empty({num_users, num_queries, max_items}, ScalarType::Int);
  Tensor lengths = empty({num_users, num_queries}, ScalarType::Int);
  const Search search{.order = events.const_data_ptr<int32_t>(),
                      .total = events.numel(),
                      .num_users = num_users,
                      .bucket_offsets = starts.const_data_ptr<int32_t>(),
                      .num_codes = num_codes,
                      .query = asked,
                      .num_queries = num_queries,
                      .neighbours = codes,
                      .near = neighbours && min_items > 0 ? near.size(1) : 0,
                      .max_items = max_items,
                      .min_items = std::min(min_items, max_items),
                      .positions = positions.mutable_data_ptr<int32_t>(),
                      .lengths = lengths.mutable_data_ptr<int32_t>()};
  const Fault fault = search_all(search);
  STD_TORCH_CHECK(fault != Fault::kQuery, "query_sid1 must be below ", num_codes);
  STD_TORCH_CHECK(fault != Fault::kIndex, "bucket_offsets must not fall, and lie inside order");
  return {positions, lengths};
}

}  // namespace
}  // namespace glass

STABLE_TORCH_LIBRARY_IMPL(glass, CPU, m) { m.impl("hard_search", TORCH_BOX(&glass::hard_search)); }
