// What hard_search_op.cpp (torch, no CUDA) calls in hard_search.cu (CUDA, no torch).
#pragma once

#include <cstdint>

#include "export.h"

struct BucketHistoryCall {
  const void* sid1;  // [total] int32, or int64 if wide_codes
  int64_t wide_codes;
  const int64_t* offsets;  // [num_users + 1]
  int64_t num_users;
  int64_t total;
  int64_t num_codes;
  int32_t* order;           // [total], uninitialised
  int32_t* bucket_offsets;  // [num_users, num_codes + 1], uninitialised
};

struct HardSearchCall {
  const int32_t* order;  // [total]
  int64_t total;
  const int32_t* bucket_offsets;  // [num_users, num_codes + 1]
  int64_t num_users;
  int64_t num_codes;
  const void* query_sid1;  // [num_users, num_queries] int32, or int64 if wide_queries
  int64_t wide_queries;
  int64_t num_queries;
  const void* neighbours;  // [num_codes, num_neighbours] int32, or int64 if wide_neighbours
  int64_t wide_neighbours;
  int64_t num_neighbours;
  int64_t max_items;
  int64_t min_items;   // at most max_items
  int32_t* positions;  // [num_users, num_queries, max_items], uninitialised
  int32_t* lengths;    // [num_users, num_queries], uninitialised
};

// All pointers are the device's. Return a cudaError_t; wait for nothing.
GLASS_EXPORT int glass_bucket_history(const BucketHistoryCall* call, void* stream);
GLASS_EXPORT int glass_hard_search(const HardSearchCall* call, void* stream);
