// What a call knows of prototypes and edges before it sees an item: packed unit prototypes, the
// error bound of a float32 cosine, and a table from cosine to tier.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../common/floats.h"

namespace glass {

// Row scaled to length 1, in the reference's steps; zero and non-finite rows become zeros (false).
template <typename T>
inline bool unit_row(const T* row, int64_t dim, double* out) {
  double largest = 0;
  bool finite = true;
  for (int64_t d = 0; d < dim; ++d) {
    out[d] = to_double(row[d]);
    finite &= std::isfinite(out[d]);
    largest = std::max(largest, std::fabs(out[d]));
  }
  if (!finite || largest == 0) {
    std::fill_n(out, dim, 0.0);
    return false;
  }
  double squares = 0;
  for (int64_t d = 0; d < dim; ++d) {
    out[d] /= largest;
    squares += out[d] * out[d];
  }
  const double norm = std::max(std::sqrt(squares), 1.0);
  for (int64_t d = 0; d < dim; ++d) out[d] /= norm;
  return true;
}

constexpr int64_t kFoldEvery = 128;  // products in one float32 accumulator
constexpr int kCells = 4096;
constexpr uint8_t kUnsure = 255;         // no tier: there are at most 255 of them
constexpr double kOrthogonal = 0x1p-40;  // smaller cosines are rounding noise around 0

// Bound of |float32 cosine - cosine|. With u = 2^-24 and |x||p| = 1, a sum of n products is off by
// n u at most; accumulators of kFoldEvery products are summed once each. The squares of a row are
// summed in at least 16 chains of dim / 16, and the root halves their error. 24 u cover the rest:
// adding the chains up, rounding of row, prototype, root, quotient and of the reference's result,
// and terms of second order.
inline double cosine_error(int64_t dim) {
  const int64_t folds = (dim + kFoldEvery - 1) / kFoldEvery;
  const double steps = static_cast<double>(std::min(dim, kFoldEvery) + folds) + dim / 32.0 + 24;
  return steps * 0x1p-24 * 1.01;
}

struct TierPlan {
  int64_t num_codes;
  int64_t dim;
  int64_t strip;              // codes computed together; the last strip is padded with zeros
  bool compare_double;        // float64 items: cosines are compared as they are
  std::vector<double> inner;  // the edges between tiers
  double error;
  std::vector<float> packed;  // [strips, dim, strip] unit prototypes
  std::vector<double> exact;  // the same
  float scale, bias;          // cosine -> cell
  uint8_t cells[kCells];      // tier, or kUnsure where an edge is near
  uint8_t lowest[kCells];     // the lowest tier in the cell

  int64_t num_strips() const { return (num_codes + strip - 1) / strip; }

  int64_t tier_of(double cosine) const {
    return std::upper_bound(inner.begin(), inner.end(), cosine) - inner.begin();
  }

  // The reference's tier of a cosine in double.
  uint8_t final_tier(double cosine) const {
    if (std::fabs(cosine) < kOrthogonal) cosine = 0;
    if (!compare_double) cosine = static_cast<float>(cosine);
    return static_cast<uint8_t>(tier_of(cosine));
  }

  template <typename P>
  void pack(const P* prototypes) {
    packed.assign(num_strips() * dim * strip, 0.0f);
    exact.assign(packed.size(), 0.0);
    std::vector<double> row(dim);
    for (int64_t code = 0; code < num_codes; ++code) {
      unit_row(prototypes + code * dim, dim, row.data());
      const int64_t first = code / strip * dim * strip + code % strip;
      for (int64_t d = 0; d < dim; ++d) {
        exact[first + d * strip] = row[d];
        packed[first + d * strip] = static_cast<float>(row[d]);
      }
    }
  }

  // Cells hold the inner edges that a cosine can meet; the first and the last are open.
  void make_cells() {
    error = cosine_error(dim);
    if (inner.empty()) {
      scale = bias = 0;
      std::memset(cells, 0, sizeof cells);
      std::memset(lowest, 0, sizeof lowest);
      return;
    }
    constexpr double kLowest = -1.01, kHighest = 1.01, kNarrowest = 0x1p-6;
    const double low = std::clamp(inner.front(), kLowest, kHighest);
    const double high = std::clamp(inner.back(), kLowest, kHighest);
    const double spare = std::max(kNarrowest - (high - low), 0.01 * (high - low)) / 2;
    scale = static_cast<float>((kCells - 2) / (high - low + 2 * spare));
    bias = static_cast<float>(1 - (low - spare) * scale);
    // rounding of s * scale + bias, as a cosine, is far below 2^-20
    const double margin = error + 0x1p-20;
    for (int cell = 0; cell < kCells; ++cell) {
      const double from = (cell - static_cast<double>(bias)) / scale - margin;
      const double to = (cell + 1 - static_cast<double>(bias)) / scale + margin;
      const int64_t tier = tier_of(cell == 0 ? -2.0 : from);
      cells[cell] = tier == tier_of(cell == kCells - 1 ? 2.0 : to) ? tier : kUnsure;
      lowest[cell] = static_cast<uint8_t>(tier);
    }
  }
};

}  // namespace glass
