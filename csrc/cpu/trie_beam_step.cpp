// One step of beam search, over the children of a trie's nodes or over all codes; the work is in
// beam_request.h. A request is one thread's, so results do not depend on the number of threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <optional>
#include <tuple>
#include <type_traits>
#include <vector>

#include "../common/checks.h"
#include "beam_request.h"

namespace glass {
namespace {

using torch::stable::new_empty;

// The same loops, compiled for each processor level.
template <typename L, typename T>
GLASS_INLINE BeamFault run_requests(const BeamStep<typename L::Real>& step, const Logits<T>& logits,
                                    int64_t begin, int64_t end) {
  BeamWorker<L, T> worker(step, logits);
  BeamFault fault;
  for (int64_t request = begin; request < end; ++request) {
    fault = worker.run(request);
    if (fault.mistake != BeamMistake::kNone) break;
  }
  return fault;
}

#define GLASS_BEAM_KERNEL(NAME, TARGET, BYTES)                                              \
  template <typename Real, typename T>                                                      \
  TARGET BeamFault NAME(const BeamStep<Real>& step, const Logits<T>& logits, int64_t begin, \
                        int64_t end) {                                                      \
    return run_requests<RowLanes<Real, BYTES>, T>(step, logits, begin, end);                \
  }

GLASS_BEAM_KERNEL(run_base, , 16)
#ifdef GLASS_X86
GLASS_BEAM_KERNEL(run_avx2, GLASS_TARGET_FMA, 32)
GLASS_BEAM_KERNEL(run_avx512, GLASS_TARGET_FMA512, 64)
#endif
#undef GLASS_BEAM_KERNEL

template <typename Real, typename T>
auto beam_kernel(Simd simd) {
#ifdef GLASS_X86
  if (simd == Simd::kAvx512) return &run_avx512<Real, T>;
  if (simd == Simd::kAvx2 && __builtin_cpu_supports("fma")) return &run_avx2<Real, T>;
#endif
  return &run_base<Real, T>;
}

constexpr int64_t kThreadLogits = 1 << 14;  // that are worth a thread

// Of the largest number of logits that one request may have to read.
template <typename Real, typename T>
BeamFault run_parallel(const BeamStep<Real>& step, const Logits<T>& logits, int64_t requests,
                       int64_t logits_each) {
  const auto run = beam_kernel<Real, T>(best_simd());
  const int64_t grain = std::max<int64_t>(kThreadLogits / std::max<int64_t>(logits_each, 1), 1);
  if (requests <= grain) return run(step, logits, 0, requests);
  std::atomic<BeamMistake> mistake{BeamMistake::kNone};
  std::atomic<int64_t> node{0};
  torch::stable::parallel_for(0, requests, grain, [&](int64_t begin, int64_t end) {
    const BeamFault fault = run(step, logits, begin, end);
    if (fault.mistake == BeamMistake::kNone) return;
    node = fault.node;
    mistake = fault.mistake;
  });
  return {mistake, node};
}

// f(zero of the tensor's dtype)
template <typename F>
auto with_float(const Tensor& tensor, const char* name, const F& f) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return f(float{});
    case ScalarType::Double:
      return f(double{});
    case ScalarType::Half:
      return f(Half{});
    case ScalarType::BFloat16:
      return f(BFloat16{});
    default:
      STD_TORCH_CHECK(false, name, " must be float32, bfloat16, float16 or float64");
  }
}

template <typename Real>
std::vector<Real> scores_as(const Tensor& scores) {
  const Tensor close = packed(scores);
  std::vector<Real> found(close.numel());
  with_float(close, "scores", [&](auto zero) {
    const auto* from = static_cast<const decltype(zero)*>(close.const_data_ptr());
    for (size_t i = 0; i < found.size(); ++i) found[i] = real<Real>(from[i]);
  });
  return found;
}

struct Shape {
  int64_t requests, num_beams, num_codes;
};

Shape check_beams(const Tensor& logits, const Tensor& scores, int64_t beam_width) {
  check_cpu(logits, "logits", 3);
  check_cpu(scores, "scores", 2);
  const Shape shape{logits.size(0), logits.size(1), logits.size(2)};
  STD_TORCH_CHECK(shape.num_beams >= 1 && shape.num_codes >= 1,
                  "logits must have at least one beam and one code");
  STD_TORCH_CHECK(
      shape.num_codes < INT32_MAX && shape.num_beams <= UINT32_MAX / (shape.num_codes + 1),
      "logits must have fewer than 2^32 candidates a request");
  STD_TORCH_CHECK(scores.size(0) == shape.requests && scores.size(1) == shape.num_beams,
                  "scores must have one entry a beam");
  STD_TORCH_CHECK(beam_width >= 1 && beam_width <= INT32_MAX, "beam_width must be in [1, 2^31)");
  return shape;
}

struct Result {
  Tensor scores, parents, codes, nodes;
};

// Raises what a request found wrong; `nodes` and `children` null: over all codes.
Result run_step(const Tensor& logits, const Tensor& scores, const Tensor* nodes,
                const Children* children, int64_t max_children, int64_t beam_width,
                bool mask_before_softmax) {
  const Shape shape = check_beams(logits, scores, beam_width);
  const bool is_wide =
      logits.scalar_type() == ScalarType::Double || scores.scalar_type() == ScalarType::Double;
  const std::vector<int64_t> sizes{shape.requests, beam_width};
  Result result{new_empty(scores, sizes, is_wide ? ScalarType::Double : ScalarType::Float),
                new_empty(scores, sizes, ScalarType::Int),
                new_empty(scores, sizes, ScalarType::Int),
                children ? new_empty(scores, sizes, ScalarType::Int) : Tensor()};
  const Tensor close = shape.num_codes == 1 || logits.stride(2) == 1 ? logits : packed(logits);
  Whole at{nullptr, nullptr};
  if (nodes) {
    const bool is_int = nodes->scalar_type() == ScalarType::Int;
    at.narrow = is_int ? nodes->const_data_ptr<int32_t>() : nullptr;
    at.wide = is_int ? nullptr : nodes->const_data_ptr<int64_t>();
  }
  const auto run = [&](auto real_zero, auto zero) {
    using Real = decltype(real_zero);
    using T = decltype(zero);
    const std::vector<Real> converted = scores_as<Real>(scores);
    const BeamStep<Real> step{
        .num_beams = shape.num_beams,
        .num_codes = shape.num_codes,
        .beam_width = beam_width,
        .mask_before_softmax = mask_before_softmax,
        .scores = converted.data(),
        .nodes = at,
        .children = children,
        .best_scores = static_cast<Real*>(result.scores.mutable_data_ptr()),
        .parents = result.parents.mutable_data_ptr<int32_t>(),
        .codes = result.codes.mutable_data_ptr<int32_t>(),
        .best_nodes = children ? result.nodes.mutable_data_ptr<int32_t>() : nullptr};
    const Logits<T> rows{static_cast<const T*>(close.const_data_ptr()), close.stride(0),
                         close.stride(1)};
    const int64_t each =
        mask_before_softmax ? std::min(max_children, shape.num_codes) : shape.num_codes;
    return run_parallel<Real, T>(step, rows, shape.requests, shape.num_beams * each);
  };
  const BeamFault fault = with_float(close, "logits", [&](auto zero) {
    if constexpr (std::is_same_v<decltype(zero), double>) {
      return run(double{}, zero);
    } else {
      return is_wide ? run(double{}, zero) : run(float{}, zero);
    }
  });
  STD_TORCH_CHECK(fault.mistake != BeamMistake::kNode, "nodes must be in [-1, ",
                  children ? children->parents : 0, "), held ", fault.node);
  STD_TORCH_CHECK(fault.mistake != BeamMistake::kTrie,
                  "child_offsets must not fall, and lie inside child_codes, and these below ",
                  shape.num_codes, " and be -1 only for a node's first child");
  return result;
}

void check_int(const Tensor& tensor, const char* name) {
  check_cpu(tensor, name, 1);
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Int, name, " must be int32");
}

// scores, nodes, parents, codes
std::tuple<Tensor, Tensor, Tensor, Tensor> trie_beam_step(
    const Tensor& logits, const Tensor& scores, const Tensor& nodes, const Tensor& child_offsets,
    const Tensor& child_codes, int64_t max_children, int64_t beam_width, bool mask_before_softmax,
    std::optional<Tensor> filter_offsets, std::optional<Tensor> filter_nodes, bool filter_keeps) {
  check_cpu(logits, "logits", 3);
  check_cpu(nodes, "nodes", 2);
  STD_TORCH_CHECK(nodes.size(0) == logits.size(0) && nodes.size(1) == logits.size(1),
                  "nodes must have one entry a beam");
  STD_TORCH_CHECK(nodes.scalar_type() == ScalarType::Int || nodes.scalar_type() == ScalarType::Long,
                  "nodes must be int32 or int64");
  check_int(child_offsets, "child_offsets");
  check_int(child_codes, "child_codes");
  STD_TORCH_CHECK(child_offsets.size(0) >= 1, "child_offsets must not be empty");
  STD_TORCH_CHECK(filter_offsets.has_value() == filter_nodes.has_value(),
                  "filter_offsets and filter_nodes must be given together");
  const Tensor beams = packed(nodes), offsets = packed(child_offsets), codes = packed(child_codes);
  Children children{.offsets = offsets.const_data_ptr<int32_t>(),
                    .codes = codes.const_data_ptr<int32_t>(),
                    .parents = offsets.size(0) - 1,
                    .count = codes.size(0),
                    .filter_offsets = nullptr,
                    .filter_nodes = nullptr,
                    .filter_keeps = filter_keeps};
  Tensor starts, listed;
  if (filter_offsets) {
    check_cpu(*filter_offsets, "filter_offsets", 1);
    STD_TORCH_CHECK(filter_offsets->scalar_type() == ScalarType::Long &&
                        filter_offsets->size(0) == logits.size(0) + 1,
                    "filter_offsets must be int64 with B + 1 entries");
    check_int(*filter_nodes, "filter_nodes");
    starts = packed(*filter_offsets);
    listed = packed(*filter_nodes);
    check_offsets(starts.const_data_ptr<int64_t>(), logits.size(0), listed.size(0));
    children.filter_offsets = starts.const_data_ptr<int64_t>();
    children.filter_nodes = listed.const_data_ptr<int32_t>();
  }
  const Result found =
      run_step(logits, scores, &beams, &children, max_children, beam_width, mask_before_softmax);
  return {found.scores, found.nodes, found.parents, found.codes};
}

// scores, parents, codes
std::tuple<Tensor, Tensor, Tensor> beam_step(const Tensor& logits, const Tensor& scores,
                                             int64_t beam_width) {
  const Result found = run_step(logits, scores, nullptr, nullptr, INT32_MAX, beam_width,
                                /*mask_before_softmax=*/true);
  return {found.scores, found.parents, found.codes};
}

}  // namespace
}  // namespace glass

STABLE_TORCH_LIBRARY_IMPL(glass, CPU, m) {
  m.impl("trie_beam_step", TORCH_BOX(&glass::trie_beam_step));
  m.impl("beam_step", TORCH_BOX(&glass::beam_step));
}
