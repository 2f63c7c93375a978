// Residual quantisation: codes of the nearest centroids, level by level, each the nearest by its
// distance rounded to the dtype, the lowest on ties. Distances of nearly all are never computed:
// matrix products tell most centroids apart, and bound their own error (residual_level.h,
// residual_rows.h). Products around the centroids' mean, not of all levels at once with tables of
// centroid products: that saves no multiplication, and errors would be those of the longest
// residual.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "../common/float_tensors.h"
#include "residual_rows.h"

namespace glass {
namespace {

template <typename T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

std::vector<Tensor> check(const Tensor& x, const std::vector<Tensor>& codebooks) {
  check_cpu(x, "x", 2);
  STD_TORCH_CHECK(!codebooks.empty(), "codebooks must have at least one level");
  std::vector<Tensor> kept;
  for (const Tensor& codebook : codebooks) {
    check_cpu(codebook, "codebooks", 2);
    STD_TORCH_CHECK(codebook.size(1) == x.size(1), "codebooks must have ", x.size(1), " columns");
    STD_TORCH_CHECK(codebook.scalar_type() == x.scalar_type(),
                    "codebooks must have the dtype of x");
    STD_TORCH_CHECK(codebook.size(0) >= 1, "codebooks must have at least one centroid a level");
    STD_TORCH_CHECK(codebook.size(0) < (int64_t{1} << 31), "codebooks must be below 2^31 codes");
    kept.push_back(packed(codebook));
  }
  return kept;
}

// With fewer rows, packing the centroids takes longer than all distances.
constexpr int64_t kWorthPacking = 8;

template <typename T, typename Number>
ResidualCall<Number> prepare(const std::vector<Tensor>& codebooks, int64_t dim, bool normalize,
                             bool pack, int64_t columns) {
  ResidualCall<Number> call{std::vector<ResidualLevel<Number>>(codebooks.size()), dim, normalize,
                            pack};
  for (size_t l = 0; l < codebooks.size(); ++l) {
    ResidualLevel<Number>& level = call.levels[l];
    level.codes = codebooks[l].size(0);
    level.dim = dim;
    const T* from = data<T>(codebooks[l]);
    if constexpr (std::is_same_v<T, Number>) {
      level.rows = from;
    } else {
      level.converted.resize(level.codes * dim);
      for (int64_t i = 0; i < level.codes * dim; ++i) load(from[i], level.converted[i]);
      level.rows = level.converted.data();
    }
    const int64_t row = first_not_finite(level.rows, level.codes, dim, dim);
    STD_TORCH_CHECK(row == kAllFinite, "codebooks[", l,
                    "] must be finite, held NaN or infinity in row ", row);
    level.mean.resize(dim);
    if (pack) level.pack(columns);
  }
  return call;
}

// The first row of x that is not finite.
template <typename T, typename Number>
int64_t quantize_all(const ResidualCall<Number>& call, const ResidualKernel<Number>& kernel,
                     const T* x, int64_t rows, int32_t* codes) {
  const int64_t step = ResidualBlock<Number>::rows_at_once(call.dim);
  const auto num_levels = static_cast<int64_t>(call.levels.size());
  std::atomic<int64_t> wrong{rows};
  torch::stable::parallel_for(0, (rows + step - 1) / step, 1, [&](int64_t first, int64_t last) {
    ResidualBlock<Number> block(call.dim, std::min(last * step, rows) - first * step);
    for (int64_t row = first * step; row < std::min(last * step, rows); row += step) {
      const int64_t count = std::min(step, rows - row);
      load_block(x + row * call.dim, count, block, call.dim);
      const int64_t found = kernel.quantize(call, block, count, codes + row * num_levels);
      if (found == kAllFinite) continue;
      int64_t before = wrong.load();
      while (row + found < before && !wrong.compare_exchange_weak(before, row + found)) {
      }
      return;
    }
  });
  return wrong.load();
}

Tensor residual_quantize(const Tensor& x, std::vector<Tensor> codebooks, bool normalize_residual) {
  const std::vector<Tensor> kept = check(x, codebooks);
  const Tensor values = packed(x);
  const int64_t rows = x.size(0), dim = x.size(1);
  Tensor codes =
      torch::stable::new_empty(values, {rows, static_cast<int64_t>(kept.size())}, ScalarType::Int);
  with_float(x, "x", [&](auto zero) {
    using T = decltype(zero);
    using Number = typename Computed<T>::type;
    const auto kernel = residual_kernel<Number>(best_simd());
    const auto call =
        prepare<T, Number>(kept, dim, normalize_residual, rows >= kWorthPacking, kernel.columns);
    const int64_t wrong =
        quantize_all<T>(call, kernel, data<T>(values), rows, codes.mutable_data_ptr<int32_t>());
    STD_TORCH_CHECK(wrong == rows, "x must be finite, held NaN or infinity in row ", wrong);
  });
  return codes;
}

}  // namespace
}  // namespace glass

STABLE_TORCH_LIBRARY_IMPL(glass, CPU, m) {
  m.impl("residual_quantize", TORCH_BOX(&glass::residual_quantize));
}
