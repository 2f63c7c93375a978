// Counting of histories over rows of a byte table, for whoever makes such rows.
#pragma once

#include <cstdint>

#include "sid_tier_planes.h"

namespace glass {

// out [num_users, num_codes, num_tiers] of the histories `ids`, rows of table [num_items,
// num_codes]; offsets start at 0. Threads share the work.
Fault count_tiers(const uint8_t* table, int64_t num_items, int64_t num_codes, int64_t num_tiers,
                  const int32_t* ids, const int64_t* offsets, int64_t num_users, bool normalize,
                  float* out);

}  // namespace glass
