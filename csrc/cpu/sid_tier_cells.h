// Counts tiers one event and code at a time, in memory: for so many tiers that slices cost more.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../common/simd.h"
#include "sid_tier_planes.h"

namespace glass {

constexpr int64_t kCellRows = 512;         // events whose rows are known at once
constexpr int64_t kCellBytes = 24 * 1024;  // cells that stay in the nearest cache

// cells [K][N] of the events `ids`.
inline Fault count_cells(const uint8_t* table, int64_t num_items, int64_t num_codes,
                         int64_t num_tiers, const ItemIds& ids, int64_t events, uint32_t* cells) {
  std::fill_n(cells, num_codes * num_tiers, 0);
  const int64_t tile = std::max<int64_t>(1, kCellBytes / 4 / num_tiers);
  const uint8_t* rows[kCellRows];
  for (int64_t start = 0; start < events; start += kCellRows) {
    const int64_t now = std::min(events - start, kCellRows);
    for (int64_t event = 0; event < now; ++event) {
      const int64_t id = ids.at(start + event);
      if (id < 0 || id >= num_items) return Fault::kItem;
      rows[event] = table + id * num_codes;
      prefetch(rows[event], num_codes);
    }
    for (int64_t event = 0; event < now; ++event) {
      uint8_t largest = 0;
      for (int64_t code = 0; code < num_codes; ++code) {
        largest = std::max(largest, rows[event][code]);
      }
      if (largest >= num_tiers) return Fault::kTier;
    }
    for (int64_t first = 0; first < num_codes; first += tile) {
      const int64_t end = std::min(first + tile, num_codes);
      for (int64_t event = 0; event < now; ++event) {
        for (int64_t code = first; code < end; ++code) {
          ++cells[code * num_tiers + rows[event][code]];
        }
      }
    }
  }
  return Fault::kNone;
}

}  // namespace glass
