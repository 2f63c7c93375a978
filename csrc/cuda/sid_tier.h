// What sid_tier_op.cpp (torch, no CUDA) calls in sid_tier.cu (CUDA, no torch).
#pragma once

#include <cstdint>

#include "export.h"

// Events that one block counts at most. Histories longer than this are cut at its multiples.
GLASS_EXPORT int64_t glass_sid_tier_part(int64_t total, int64_t num_codes, int num_tiers,
                                         int processors);

// Multiprocessors of the current device, or a negated cudaError_t.
GLASS_EXPORT int glass_cuda_processors();

GLASS_EXPORT const char* glass_cuda_error(int code);

struct SidTierCall {
  const void* item_ids;  // [total] int32, or int64 if wide_ids
  int64_t wide_ids;
  const int64_t* offsets;  // [num_users + 1]
  int64_t num_users;
  int64_t total;
  const uint8_t* table;  // [num_items, num_codes]
  int64_t num_items;
  int64_t num_codes;
  int64_t num_tiers;
  int64_t normalize;
  int64_t part;       // of glass_sid_tier_part, or any number in [1, 65535]
  uint32_t* partial;  // [(total - 1) / part, num_codes, num_tiers], uninitialised
  float* out;         // [num_users, num_codes, num_tiers], uninitialised
};

// All pointers are the device's. Returns a cudaError_t; waits for nothing.
GLASS_EXPORT int glass_sid_tier(const SidTierCall* call, void* stream);
