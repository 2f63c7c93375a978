// Codes of a block of rows, level by level: the block's residuals stay in the cache, and of the
// distances only keys of a block of centroids are there at a time.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "../common/floats.h"
#include "residual_level.h"

namespace glass {

template <typename Number>
struct ResidualCall {
  std::vector<ResidualLevel<Number>> levels;
  int64_t dim;
  bool normalize;
  bool packed;  // else all distances are computed as they are
};

constexpr int64_t kCodesAtOnce = 256;  // whose keys are held; a multiple of every tile's columns

// Buffers of a thread.
template <typename Number>
struct ResidualBlock {
  struct Rival {
    int32_t row, code;
    Number key;
  };
  // what is known of a row while a level's centroids pass by
  struct Row {
    Number least, slack;  // of the keys
    Number distance;
    int32_t code, rivals;

    // Keys up to here may be of the nearest centroid; none is up to NaN, where numbers are too
    // large to tell.
    Number limit() const {
      const Number sum = least + slack;
      return std::isfinite(sum) ? sum : std::numeric_limits<Number>::quiet_NaN();
    }
  };
  static constexpr int64_t kApart = 64 / sizeof(Number);  // steps of a page's size share cache sets
  static constexpr int64_t kKeyStep = kCodesAtOnce + kApart;

  int64_t rows, step;
  std::vector<Number> residual, centred;  // [rows, step], zeros past the last column
  std::vector<Number> keys;               // [rows, kKeyStep]
  std::vector<Row> state;
  std::vector<Rival> rivals;

  static int64_t rows_at_once(int64_t dim) {
    constexpr int64_t kNumbers = 1 << 14;
    return std::clamp<int64_t>(kNumbers / std::max<int64_t>(dim, 1) / kRowsOfAnyTile, 4, 16) *
           kRowsOfAnyTile;
  }
  ResidualBlock(int64_t dim, int64_t count)
      : rows(std::min(rows_at_once(dim), round_up(count, kRowsOfAnyTile))),
        step(round_up(dim, 64) + kApart),
        residual(rows * step),
        centred(rows * step),
        keys(rows * kKeyStep),
        state(rows) {}
};

// |row - centre|^2, differences rounded as the reference rounds them.
template <typename Number>
GLASS_INLINE Number squared_distance(const Number* row, const Number* centre, int64_t dim) {
  constexpr int kChains = 8;
  double sums[kChains] = {};
  int64_t d = 0;
  for (; d + kChains <= dim; d += kChains) {
    for (int i = 0; i < kChains; ++i) {
      const Number gap = row[d + i] - centre[d + i];
      sums[i] += static_cast<double>(gap) * gap;
    }
  }
  for (; d < dim; ++d) {
    const Number gap = row[d] - centre[d];
    sums[0] += static_cast<double>(gap) * gap;
  }
  for (int i = 1; i < kChains; ++i) sums[0] += sums[i];
  return static_cast<Number>(sums[0]);
}

template <typename Number>
GLASS_INLINE int32_t nearest_of_all(const ResidualLevel<Number>& level, const Number* row) {
  Number least = std::numeric_limits<Number>::infinity();
  int32_t nearest = 0;
  for (int64_t code = 0; code < level.codes; ++code) {
    const Number distance = squared_distance(row, level.rows + code * level.dim, level.dim);
    if (distance < least) {
      least = distance;
      nearest = static_cast<int32_t>(code);
    }
  }
  return nearest;
}

template <typename Number>
GLASS_INLINE void to_unit_length(Number* __restrict row, int64_t dim) {
  double squares = 0;
  for (int64_t d = 0; d < dim; ++d) squares += static_cast<double>(row[d]) * row[d];
  const Number norm = std::sqrt(static_cast<Number>(squares));
  if (norm > 0) {
    for (int64_t d = 0; d < dim; ++d) row[d] /= norm;
  }
}

// out = row - mean; returns |out|.
template <typename S>
GLASS_INLINE double centre_row(const typename S::Number* __restrict row,
                               const typename S::Number* __restrict mean, int64_t dim,
                               typename S::Number* __restrict out) {
  using Lanes = typename S::Lanes;
  for (int64_t d = 0; d < dim; ++d) out[d] = row[d] - mean[d];
  typename Lanes::type sums[4] = {};
  for (int64_t d = 0; d < dim; d += 4 * S::kLanes) {
    for (int part = 0; part < 4; ++part) {
      typename Lanes::type value;
      Lanes::load(value, out + d + part * S::kLanes);
      sums[part] += value * value;
    }
  }
  sums[0] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  double squares = 0;
  for (int lane = 0; lane < S::kLanes; ++lane) squares += sums[0][lane];
  return std::sqrt(squares);
}

// Notes the codes from `first` on whose keys [width, up to whole tiles] may be the least of all.
template <typename S>
GLASS_INLINE void note_rivals(ResidualBlock<typename S::Number>& block, int64_t row, int64_t first,
                              int64_t width) {
  using Number = typename S::Number;
  using Lanes = typename S::Lanes;
  const Number* keys = block.keys.data() + row * block.kKeyStep;
  auto& state = block.state[row];
  typename Lanes::type least;
  Lanes::load(least, keys);
  for (int64_t at = S::kLanes; at < width; at += S::kLanes) {
    typename Lanes::type key;
    Lanes::load(key, keys + at);
    least = key < least ? key : least;
  }
  for (int lane = 0; lane < S::kLanes; ++lane) state.least = std::min(state.least, least[lane]);

  const Number limit = state.limit();
  const typename Lanes::type limits = typename Lanes::type{} + limit;
  using Index = std::conditional_t<sizeof(Number) == 4, uint32_t, uint64_t>;
  typename Lanes::bits count = {}, place = {};
  for (int64_t at = 0; at < width; at += S::kLanes) {
    typename Lanes::type key;
    Lanes::load(key, keys + at);
    const typename Lanes::bits near = (typename Lanes::bits)(key <= limits);
    count -= near;
    place |= near & static_cast<Index>(at);
  }
  int64_t found = 0, only = 0;
  for (int lane = 0; lane < S::kLanes; ++lane) {
    found += static_cast<int64_t>(count[lane]);
    if (count[lane] > 0) only = static_cast<int64_t>(place[lane]) + lane;
  }
  const auto note = [&](int64_t at) {
    block.rivals.push_back({static_cast<int32_t>(row), static_cast<int32_t>(first + at), keys[at]});
  };
  if (found == 1) {
    note(only);
  } else if (found > 1) {
    for (int64_t at = 0; at < width; ++at) {
      if (keys[at] <= limit) note(at);
    }
  }
}

// Keys of all centroids, block after block, and who may be nearest by them.
template <typename S>
GLASS_INLINE void find_rivals(const ResidualLevel<typename S::Number>& level,
                              ResidualBlock<typename S::Number>& block, int64_t count) {
  const int64_t padded = round_up(level.codes, S::kColumns), dim = level.dim;
  for (int64_t first = 0; first < padded; first += kCodesAtOnce) {
    const int64_t width = std::min(kCodesAtOnce, padded - first);
    for (int64_t row = 0; row < round_up(count, S::kRows); ++row) {
      std::copy_n(level.halves.data() + first, width, block.keys.data() + row * block.kKeyStep);
    }
    add_product<S>({block.centred.data(), block.step, 1}, level.panels.data() + first * dim,
                   S::kColumns, dim * S::kColumns, count, width, dim, block.keys.data(),
                   block.kKeyStep);
    for (int64_t row = 0; row < count; ++row) note_rivals<S>(block, row, first, width);
  }
}

// The nearest centroid of each row: the only rival, else the one at the least distance, the lowest
// code on ties. Rivals of a row come by rising code.
template <typename Number>
GLASS_INLINE void settle(const ResidualLevel<Number>& level, ResidualBlock<Number>& block,
                         int64_t count) {
  for (const auto& rival : block.rivals) {
    auto& row = block.state[rival.row];
    if (!(rival.key <= row.limit())) continue;  // a later key was less
    if (row.rivals++ == 0) row.code = rival.code;
  }
  for (const auto& rival : block.rivals) {
    auto& row = block.state[rival.row];
    if (row.rivals < 2 || !(rival.key <= row.limit())) continue;
    const Number* residual = block.residual.data() + rival.row * block.step;
    const Number* centroid = level.rows + rival.code * level.dim;
    const Number distance = squared_distance(residual, centroid, level.dim);
    if (distance < row.distance) {
      row.distance = distance;
      row.code = rival.code;
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    auto& row = block.state[i];
    if (row.rivals == 0) row.code = nearest_of_all(level, block.residual.data() + i * block.step);
  }
}

constexpr int64_t kAllFinite = -1;

template <typename Number>
GLASS_INLINE int64_t first_not_finite(const Number* values, int64_t rows, int64_t step,
                                      int64_t dim) {
  for (int64_t row = 0; row < rows; ++row) {
    bool finite = true;
    for (int64_t d = 0; d < dim; ++d) finite &= std::isfinite(values[row * step + d]);
    if (!finite) return row;
  }
  return kAllFinite;
}

// codes [count, levels] of the block's residuals; or the first row that is not finite.
template <typename S>
GLASS_INLINE int64_t quantize_block(const ResidualCall<typename S::Number>& call,
                                    ResidualBlock<typename S::Number>& block, int64_t count,
                                    int32_t* codes) {
  using Number = typename S::Number;
  constexpr Number kInfinity = std::numeric_limits<Number>::infinity();
  const int64_t dim = call.dim, num_levels = static_cast<int64_t>(call.levels.size());
  for (int64_t l = 0; l < num_levels; ++l) {
    const ResidualLevel<Number>& level = call.levels[l];
    bool usual = true;
    for (int64_t row = 0; row < count; ++row) {
      Number* residual = block.residual.data() + row * block.step;
      if (call.normalize) to_unit_length(residual, dim);
      const double length =
          centre_row<S>(residual, level.mean.data(), dim, block.centred.data() + row * block.step);
      usual &= length < kInfinity;
      block.state[row] = {kInfinity, static_cast<Number>(level.slack(length)), kInfinity, 0, 0};
    }
    if (l == 0 && !usual) {  // NaN, infinite, or only too large to be squared
      const int64_t row = first_not_finite(block.residual.data(), count, block.step, dim);
      if (row != kAllFinite) return row;
    }
    block.rivals.clear();
    if (call.packed) find_rivals<S>(level, block, count);
    settle(level, block, count);
    for (int64_t row = 0; row < count; ++row) {
      const int32_t code = block.state[row].code;
      const Number* __restrict centroid = level.rows + code * dim;
      Number* __restrict residual = block.residual.data() + row * block.step;
      for (int64_t d = 0; d < dim; ++d) residual[d] -= centroid[d];
      codes[row * num_levels + l] = code;
    }
  }
  return kAllFinite;
}

template <typename T, typename Number>
GLASS_INLINE void load_block(const T* from, int64_t count, ResidualBlock<Number>& block,
                             int64_t dim) {
  for (int64_t row = 0; row < count; ++row) {
    Number* __restrict to = block.residual.data() + row * block.step;
    for (int64_t d = 0; d < dim; ++d) load(from[row * dim + d], to[d]);
  }
}

// The same loops, compiled for each processor level.
template <typename Number>
struct ResidualKernel {
  int64_t columns;  // of a panel
  int64_t (*quantize)(const ResidualCall<Number>&, ResidualBlock<Number>&, int64_t, int32_t*);
};

#define GLASS_RESIDUAL_KERNEL(NAME, TARGET, TILE)                                                  \
  template <typename Number>                                                                       \
  struct NAME {                                                                                    \
    using S = TILE<Number>;                                                                        \
    TARGET static int64_t quantize(const ResidualCall<Number>& call, ResidualBlock<Number>& block, \
                                   int64_t count, int32_t* codes) {                                \
      return quantize_block<S>(call, block, count, codes);                                         \
    }                                                                                              \
    static ResidualKernel<Number> kernel() { return {S::kColumns, quantize}; }                     \
  }

GLASS_RESIDUAL_KERNEL(ResidualBase, , TileBase);
#ifdef GLASS_X86
GLASS_RESIDUAL_KERNEL(ResidualAvx2, GLASS_TARGET_FMA, TileAvx2);
GLASS_RESIDUAL_KERNEL(ResidualAvx512, GLASS_TARGET_FMA512, TileAvx512);
#endif
#undef GLASS_RESIDUAL_KERNEL

template <typename Number>
ResidualKernel<Number> residual_kernel(Simd simd) {
#ifdef GLASS_X86
  if (simd == Simd::kAvx512) return ResidualAvx512<Number>::kernel();
  if (simd == Simd::kAvx2 && __builtin_cpu_supports("fma")) return ResidualAvx2<Number>::kernel();
#endif
  return ResidualBase<Number>::kernel();
}

}  // namespace glass
