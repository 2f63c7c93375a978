// A matrix in panels of as many columns as a tile has, as add_product reads it.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../common/floats.h"
#include "tile_products.h"

namespace glass {

// Panels of `columns` columns of a matrix [depth, width] with entries from[i * row + j * step]; a
// panel is [depth, columns], the last one filled up with zeros.
template <typename T, typename Number>
std::vector<Number> panels(const T* from, int64_t row, int64_t step, int64_t depth, int64_t width,
                           int64_t columns) {
  constexpr int64_t kPanelsAThread = 4;
  const int64_t count = (width + columns - 1) / columns;
  std::vector<Number> packed(count * depth * columns);
  torch::stable::parallel_for(0, count, kPanelsAThread, [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) {
      Number* to = packed.data() + panel * depth * columns;
      const int64_t first = panel * columns, filled = std::min(columns, width - first);
      for (int64_t i = 0; i < depth; ++i) {
        for (int64_t j = 0; j < filled; ++j) {
          load(from[i * row + (first + j) * step], to[i * columns + j]);
        }
      }
    }
  });
  return packed;
}

}  // namespace glass
