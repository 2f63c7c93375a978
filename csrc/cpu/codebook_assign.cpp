// Assignment to a codebook and its straight-through gradient; the work is in codebook_rows.h and
// codebook_gradient.h.
//
// A thread's rows follow from their number and the number of threads alone, and sums over threads
// are added in order: the same input gives the same bits.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cmath>
#include <optional>
#include <tuple>
#include <vector>

#include "../common/float_tensors.h"
#include "codebook_gradient.h"
#include "codebook_rows.h"
#include "panels.h"

namespace glass {
namespace {

using Maybe = std::optional<Tensor>;

template <typename T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <typename T>
T* mutable_data(Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// The same loops, compiled for each processor level.
template <typename T>
struct CodebookKernel {
  using Sums = CodebookSums<typename Computed<T>::type>;
  int64_t columns;  // of a panel
  void (*assign)(const AssignCall<T>&, int64_t, int64_t);
  void (*differentiate)(const GradientCall<T>&, int64_t, int64_t, Sums*);
};

#define GLASS_CODEBOOK_KERNEL(NAME, TARGET, TILE)                                             \
  template <typename T>                                                                       \
  struct NAME {                                                                               \
    using S = TILE<typename Computed<T>::type>;                                               \
    TARGET static void assign(const AssignCall<T>& call, int64_t begin, int64_t end) {        \
      assign_rows<S>(call, begin, end);                                                       \
    }                                                                                         \
    TARGET static void differentiate(const GradientCall<T>& call, int64_t begin, int64_t end, \
                                     CodebookSums<typename S::Number>* sums) {                \
      differentiate_rows<S>(call, begin, end, sums);                                          \
    }                                                                                         \
    static CodebookKernel<T> kernel() { return {S::kColumns, assign, differentiate}; }        \
  }

GLASS_CODEBOOK_KERNEL(CodebookBase, , TileBase);
#ifdef GLASS_X86
GLASS_CODEBOOK_KERNEL(CodebookAvx2, GLASS_TARGET_FMA, TileAvx2);
GLASS_CODEBOOK_KERNEL(CodebookAvx512, GLASS_TARGET_FMA512, TileAvx512);
#endif
#undef GLASS_CODEBOOK_KERNEL

template <typename T>
CodebookKernel<T> codebook_kernel(Simd simd) {
#ifdef GLASS_X86
  if (simd == Simd::kAvx512) return CodebookAvx512<T>::kernel();
  if (simd == Simd::kAvx2 && __builtin_cpu_supports("fma")) return CodebookAvx2<T>::kernel();
#endif
  return CodebookBase<T>::kernel();
}

ScalarType accumulated(ScalarType dtype) {
  return dtype == ScalarType::Double ? dtype : ScalarType::Float;
}

void check_rows(const Tensor& tensor, const char* name, int64_t rows, ScalarType dtype) {
  check_cpu(tensor, name, 1);
  STD_TORCH_CHECK(tensor.size(0) == rows && tensor.scalar_type() == dtype, name,
                  " must have one entry a row, in the accumulating dtype");
}

void check(const Tensor& query, const Tensor& codebook, double temperature) {
  check_cpu(query, "query", 2);
  check_cpu(codebook, "codebook", 2);
  STD_TORCH_CHECK(codebook.size(1) == query.size(1), "codebook must have ", query.size(1),
                  " columns");
  STD_TORCH_CHECK(codebook.scalar_type() == query.scalar_type(),
                  "codebook must have the dtype of query");
  STD_TORCH_CHECK(codebook.size(0) >= 1, "codebook must have at least one code");
  STD_TORCH_CHECK(codebook.size(0) < (int64_t{1} << 31), "codebook must be below 2^31 codes");
  STD_TORCH_CHECK(std::isfinite(temperature) && temperature > 0,
                  "temperature must be positive and finite, was ", temperature);
}

template <typename Id>
std::vector<int32_t> read_targets(const Id* from, int64_t rows, int64_t codes) {
  constexpr Id kIgnored = -100;
  std::vector<int32_t> targets(rows);
  bool fits = true;
  for (int64_t row = 0; row < rows; ++row) {
    const Id target = from[row];
    fits &= (target >= 0 && target < codes) || target == kIgnored;
    targets[row] = target == kIgnored ? kNoCode : static_cast<int32_t>(target);
  }
  STD_TORCH_CHECK(fits, "target must be a code of the codebook, or -100");
  return targets;
}

std::vector<int32_t> read_targets(const Maybe& target, int64_t rows, int64_t codes) {
  if (!target) return {};
  check_cpu(*target, "target", 1);
  STD_TORCH_CHECK(target->size(0) == rows, "target must have one entry a row");
  const Tensor ids = packed(*target);
  if (ids.scalar_type() == ScalarType::Int) return read_targets(data<int32_t>(ids), rows, codes);
  STD_TORCH_CHECK(ids.scalar_type() == ScalarType::Long, "target must be int32 or int64");
  return read_targets(data<int64_t>(ids), rows, codes);
}

// Parts of the rows, one a thread where that is worth it.
int64_t parts_of(int64_t rows) {
  constexpr int64_t kWorthAThread = 2 * kRowsOfAnyTile;
  const int64_t most = (rows + kWorthAThread - 1) / kWorthAThread;
  return std::clamp<int64_t>(most, 1, torch::stable::get_num_threads());
}

// body(part, first row, the row after the last)
template <typename F>
void in_parts(int64_t parts, int64_t rows, const F& body) {
  torch::stable::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      body(part, rows * part / parts, rows * (part + 1) / parts);
    }
  });
}

// assigned, index, loss, log of the sum of exp(logits); the last two are empty without a target.
std::tuple<Tensor, Tensor, Tensor, Tensor> codebook_assign(const Tensor& query,
                                                           const Tensor& codebook,
                                                           const Maybe& target,
                                                           double temperature) {
  check(query, codebook, temperature);
  const int64_t rows = query.size(0), width = query.size(1), codes = codebook.size(0);
  const Tensor queries = packed(query), centres = packed(codebook);
  const std::vector<int32_t> targets = read_targets(target, rows, codes);
  const ScalarType sums = accumulated(query.scalar_type());
  Tensor assigned = empty({rows, width}, query.scalar_type());
  Tensor index = empty({rows}, ScalarType::Long);
  Tensor loss = empty({target ? rows : 0}, sums), log_sum_exp = empty({target ? rows : 0}, sums);
  if (rows == 0) return {assigned, index, loss, log_sum_exp};
  with_float(query, "query", [&](auto zero) {
    using T = decltype(zero);
    using Number = typename Computed<T>::type;
    const CodebookKernel<T> kernel = codebook_kernel<T>(best_simd());
    const auto columns =
        panels<T, Number>(data<T>(centres), 1, width, width, codes, kernel.columns);
    const AssignCall<T> call{width,
                             codes,
                             data<T>(queries),
                             data<T>(centres),
                             columns.data(),
                             target ? targets.data() : nullptr,
                             mutable_data<T>(assigned),
                             mutable_data<int64_t>(index),
                             mutable_data<Number>(loss),
                             mutable_data<Number>(log_sum_exp)};
    in_parts(parts_of(rows), rows,
             [&](int64_t, int64_t begin, int64_t end) { kernel.assign(call, begin, end); });
  });
  return {assigned, index, loss, log_sum_exp};
}

// Adds the parts up in order.
template <typename T, typename Number>
void add_parts(std::vector<CodebookSums<Number>>& parts, int64_t codes, int64_t width, T* out) {
  torch::stable::parallel_for(0, codes, 64, [&](int64_t begin, int64_t end) {
    for (int64_t code = begin; code < end; ++code) {
      Number* __restrict sum = &parts[0].numbers[code * parts[0].step];
      for (size_t part = 1; part < parts.size(); ++part) {
        const Number* __restrict more = &parts[part].numbers[code * parts[part].step];
        for (int64_t c = 0; c < width; ++c) sum[c] += more[c];
      }
      for (int64_t c = 0; c < width; ++c) store(sum[c], out[code * width + c]);
    }
  });
}

// Gradients of query and codebook; one that is not wanted is empty.
std::tuple<Tensor, Tensor> codebook_assign_backward(const Maybe& grad_assigned,
                                                    const Maybe& grad_loss, const Tensor& query,
                                                    const Tensor& codebook, const Maybe& target,
                                                    const Tensor& log_sum_exp, double temperature,
                                                    bool of_query, bool of_codebook) {
  check(query, codebook, temperature);
  const int64_t rows = query.size(0), width = query.size(1), codes = codebook.size(0);
  const ScalarType dtype = query.scalar_type(), sums = accumulated(dtype);
  if (grad_assigned) {
    check_cpu(*grad_assigned, "grad_assigned", 2);
    STD_TORCH_CHECK(grad_assigned->size(0) == rows && grad_assigned->size(1) == width &&
                        grad_assigned->scalar_type() == dtype,
                    "grad_assigned must have the shape and dtype of query");
  }
  if (grad_loss) {
    STD_TORCH_CHECK(target, "grad_loss must come with a target");
    check_rows(*grad_loss, "grad_loss", rows, sums);
    check_rows(log_sum_exp, "log_sum_exp", rows, sums);
  }
  const std::vector<int32_t> targets = read_targets(target, rows, codes);
  const Tensor queries = packed(query), centres = packed(codebook), logs = packed(log_sum_exp);
  const Maybe of_assigned = grad_assigned ? Maybe(packed(*grad_assigned)) : Maybe();
  const Maybe of_loss = grad_loss ? Maybe(packed(*grad_loss)) : Maybe();
  Tensor grad_query = of_query ? empty({rows, width}, dtype) : empty({0}, dtype);
  Tensor grad_codebook = of_codebook ? empty({codes, width}, dtype) : empty({0}, dtype);
  with_float(query, "query", [&](auto zero) {
    using T = decltype(zero);
    using Number = typename Computed<T>::type;
    const CodebookKernel<T> kernel = codebook_kernel<T>(best_simd());
    const auto columns =
        panels<T, Number>(data<T>(centres), 1, width, width, codes, kernel.columns);
    std::vector<Number> lines;
    if (of_query) {
      lines = panels<T, Number>(data<T>(centres), width, 1, codes, width, kernel.columns);
    }
    const GradientCall<T> call{width,
                               codes,
                               static_cast<Number>(temperature),
                               data<T>(queries),
                               of_assigned ? data<T>(*of_assigned) : nullptr,
                               of_loss ? data<Number>(*of_loss) : nullptr,
                               data<Number>(logs),
                               targets.data(),
                               columns.data(),
                               lines.data(),
                               of_query ? mutable_data<T>(grad_query) : nullptr};
    const int64_t parts = parts_of(rows);
    std::vector<CodebookSums<Number>> partial(parts);
    in_parts(parts, rows, [&](int64_t part, int64_t begin, int64_t end) {
      kernel.differentiate(call, begin, end, of_codebook ? &partial[part] : nullptr);
    });
    if (of_codebook) add_parts(partial, codes, width, mutable_data<T>(grad_codebook));
  });
  return {grad_query, grad_codebook};
}

}  // namespace
}  // namespace glass

STABLE_TORCH_LIBRARY_IMPL(glass, CPU, m) {
  m.impl("codebook_assign", TORCH_BOX(&glass::codebook_assign));
  m.impl("codebook_assign_backward", TORCH_BOX(&glass::codebook_assign_backward));
}
