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

// The same loops, compiled for each processor level.
template <typename L>
GLASS_INLINE BeamFault run_requests(const BeamStep<typename L::Real>& step,
                                    const Logits<typename L::Real>& logits, int64_t begin,
                                    int64_t end) {
  BeamWorker<L> worker(step, logits);
  for (int64_t request = begin; request < end; ++request) {
    const BeamFault fault = worker.run(request);
    if (fault.mistake != BeamMistake::kNone) return fault;
  }
  return {};
}

#define GLASS_BEAM_KERNEL(NAME, TARGET, BYTES)                                                 \
  template <typename Real>                                                                     \
  TARGET BeamFault NAME(const BeamStep<Real>& step, const Logits<Real>& logits, int64_t begin, \
                        int64_t end) {                                                         \
    return run_requests<RowLanes<Real, BYTES>>(step, logits, begin, end);                      \
  }

GLASS_BEAM_KERNEL(run_base, , 16)
#ifdef GLASS_X86
GLASS_BEAM_KERNEL(run_avx2, GLASS_TARGET_FMA, 32)
GLASS_BEAM_KERNEL(run_avx512, GLASS_TARGET_FMA512, 64)
#endif
#undef GLASS_BEAM_KERNEL

template <typename Real>
auto beam_kernel(Simd simd) {
#ifdef GLASS_X86
  if (simd == Simd::kAvx512) return &run_avx512<Real>;
  if (simd == Simd::kAvx2 && __builtin_cpu_supports("fma")) return &run_avx2<Real>;
#endif
  return &run_base<Real>;
}

constexpr int64_t kThreadLogits = 1 << 14;  // that are worth a thread

// `logits_each`: the most logits that a request may have to read.
template <typename Real>
BeamFault run_parallel(const BeamStep<Real>& step, const Logits<Real>& logits, int64_t requests,
                       int64_t logits_each) {
  const auto run = beam_kernel<Real>(best_simd());
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

template <typename Real>
void convert(const Tensor& from, Real* to) {
  const auto run = [&](const auto* values) {
    for (int64_t i = 0; i < from.numel(); ++i) {
      if constexpr (std::is_same_v<Real, double>) {
        to[i] = to_double(values[i]);
      } else {
        to[i] = to_float(values[i]);
      }
    }
  };
  const void* values = from.const_data_ptr();
  switch (from.scalar_type()) {
    case ScalarType::Float:
      return run(static_cast<const float*>(values));
    case ScalarType::Double:
      return run(static_cast<const double*>(values));
    case ScalarType::Half:
      return run(static_cast<const Half*>(values));
    default:
      return run(static_cast<const BFloat16*>(values));
  }
}

bool is_float(ScalarType dtype) {
  return dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::Half ||
         dtype == ScalarType::BFloat16;
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
  STD_TORCH_CHECK(is_float(logits.scalar_type()) && is_float(scores.scalar_type()),
                  "logits and scores must be float32, bfloat16, float16 or float64");
  STD_TORCH_CHECK(beam_width >= 1 && beam_width <= INT32_MAX, "beam_width must be in [1, 2^31)");
  return shape;
}

struct Result {
  Tensor scores, parents, codes, nodes;
};

// What comes from the tensors of a call.
struct Call {
  Shape shape;
  Tensor logits;        // codes side by side, in the type that is computed in or half precision
  Tensor scores;        // contiguous
  const Tensor* nodes;  // contiguous; null: over all codes
  const Children* children;  // null: over all codes
  int64_t max_children, beam_width;
  bool mask_before_softmax;
};

template <typename Real>
BeamFault run_call(const Call& call, Result& result) {
  std::vector<Real> scores(call.scores.numel());
  convert(call.scores, scores.data());
  BeamStep<Real> step{.num_beams = call.shape.num_beams,
                      .num_codes = call.shape.num_codes,
                      .beam_width = call.beam_width,
                      .mask_before_softmax = call.mask_before_softmax,
                      .scores = scores.data(),
                      .nodes = {nullptr, nullptr},
                      .children = call.children,
                      .best_scores = static_cast<Real*>(result.scores.mutable_data_ptr()),
                      .parents = result.parents.mutable_data_ptr<int32_t>(),
                      .codes = result.codes.mutable_data_ptr<int32_t>(),
                      .best_nodes = nullptr};
  if (call.nodes) {
    const bool is_int = call.nodes->scalar_type() == ScalarType::Int;
    step.nodes.narrow = is_int ? call.nodes->const_data_ptr<int32_t>() : nullptr;
    step.nodes.wide = is_int ? nullptr : call.nodes->const_data_ptr<int64_t>();
    step.best_nodes = result.nodes.mutable_data_ptr<int32_t>();
  }
  const ScalarType dtype = call.logits.scalar_type();
  const Logits<Real> logits{call.logits.const_data_ptr(),
                            dtype == ScalarType::Half       ? LogitType::kHalf
                            : dtype == ScalarType::BFloat16 ? LogitType::kBFloat16
                                                            : LogitType::kReal,
                            call.logits.stride(0), call.logits.stride(1)};
  const int64_t each = call.mask_before_softmax ? std::min(call.max_children, call.shape.num_codes)
                                                : call.shape.num_codes;
  return run_parallel(step, logits, call.shape.requests, call.shape.num_beams * each);
}

// Raises what a request found wrong.
Result run_step(const Tensor& logits, const Tensor& scores, const Tensor* nodes,
                const Children* children, int64_t max_children, int64_t beam_width,
                bool mask_before_softmax) {
  const Shape shape = check_beams(logits, scores, beam_width);
  const bool is_wide =
      logits.scalar_type() == ScalarType::Double || scores.scalar_type() == ScalarType::Double;
  const bool side_by_side = shape.num_codes == 1 || logits.stride(2) == 1;
  Tensor close = side_by_side ? logits : packed(logits);
  if (is_wide && logits.scalar_type() == ScalarType::Float) {
    close = packed(torch::stable::to(close, ScalarType::Double));
  }
  const Call call{shape,    close,        packed(scores), nodes,
                  children, max_children, beam_width,     mask_before_softmax};
  const std::vector<int64_t> sizes{shape.requests, beam_width};
  Result result{torch::stable::empty(sizes, is_wide ? ScalarType::Double : ScalarType::Float),
                torch::stable::empty(sizes, ScalarType::Int),
                torch::stable::empty(sizes, ScalarType::Int),
                children ? torch::stable::empty(sizes, ScalarType::Int) : Tensor()};
  const BeamFault fault = is_wide ? run_call<double>(call, result) : run_call<float>(call, result);
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
