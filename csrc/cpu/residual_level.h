// A level of a residual quantiser as its kernel needs it: centroids around their mean in panels,
// half their squares, and how far a key made of these may be off.
//
// The nearest centroid c of a residual r has the least |r - c|^2 / 2. With p = r - m and q = c - m
// for any m, that is |p|^2 / 2 + key, where key = |q|^2 / 2 - p.q is a matrix product. Around the
// centroids' mean m, p and q are as short as can be, and so are the errors of their products.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "tile_products.h"

namespace glass {

template <typename Number>
struct ResidualLevel {
  int64_t codes, dim;
  const Number* rows;             // centroids [codes, dim]
  std::vector<Number> converted;  // the same, where the tensor's dtype is another

  std::vector<Number> mean;    // [dim], zeros unless packed
  std::vector<Number> halves;  // |q|^2 / 2 [codes up to whole panels], past the last infinite
  std::vector<Number> panels;  // -q [panel, dim, columns]
  double longest;              // largest |q|

  void pack(int64_t columns) {
    std::vector<double> sums(dim);
    for (int64_t code = 0; code < codes; ++code) {
      for (int64_t d = 0; d < dim; ++d) sums[d] += rows[code * dim + d];
    }
    for (int64_t d = 0; d < dim; ++d) {
      mean[d] = static_cast<Number>(sums[d] / static_cast<double>(codes));
    }
    const int64_t padded = round_up(codes, columns);
    halves.assign(padded, std::numeric_limits<Number>::infinity());
    panels.assign(padded * dim, Number(0));
    double most = 0;
    for (int64_t code = 0; code < codes; ++code) {
      Number* to = panels.data() + code / columns * columns * dim + code % columns;
      double square = 0;
      for (int64_t d = 0; d < dim; ++d) {
        const Number centred = rows[code * dim + d] - mean[d];
        to[d * columns] = -centred;
        square += static_cast<double>(centred) * centred;
      }
      halves[code] = static_cast<Number>(square / 2);
      most = std::max(most, square);  // infinite if one is
    }
    longest = std::sqrt(most);
  }

  // Keys within `slack` of the least one may belong to the nearest centroid; all others are of
  // centroids that are farther away, also after their distances are rounded to Number.
  //
  // With u half a unit in the last place: p.q is a sum of `n` products in a chain, `folds` chains
  // are added to |q|^2 / 2, and p and q are rounded once, which makes the key wrong by at most
  // u ((n + 6) |p||q| + (folds + 3) (|q|^2 / 2 + |p||q|)), with the rounding of the limit. A
  // distance, of rounded differences summed in float64 and rounded, is off by 3 u |p - q|^2 at
  // most, and that by 3 u (|p| + |q|)^2. `tiny` is what is lost below the least normal number.
  double slack(double length) const {
    using Limits = std::numeric_limits<Number>;
    constexpr double u = Limits::epsilon() / 2.0, least = Limits::min();
    const double n = static_cast<double>(std::min(dim, kDepthAtOnce));
    const double folds = static_cast<double>((dim + kDepthAtOnce - 1) / kDepthAtOnce);
    const double tiny = 4.0 * static_cast<double>(dim) * least;
    const double p = 1.01 * length + std::sqrt(tiny), q = longest;
    const double key = (n + 6) * p * q + (folds + 3) * (q * q / 2 + p * q);
    return 1.01 * (2 * u * key + 4 * u * (p + q) * (p + q)) + tiny;
  }
};

}  // namespace glass
