// glass::trie_beam_step and glass::beam_step for CUDA tensors: checks, buffers and stream. Their
// schemas are in _cpp.abi3.so.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <optional>

#include "../common/checks.h"
#include "sid_tier.h"
#include "stream.h"
#include "trie_beam_step.h"

namespace glass {
namespace {

using torch::stable::accelerator::DeviceGuard;

BeamFloat kind_of(const Tensor& tensor, const char* name) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return kBeamFloat32;
    case ScalarType::Half:
      return kBeamFloat16;
    case ScalarType::BFloat16:
      return kBeamBFloat16;
    default:
      STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Double, name,
                      " must be float32, float16, bfloat16 or float64");
      return kBeamFloat64;
  }
}

struct Step {
  Tensor scores;
  std::optional<Tensor> nodes;  // of a trie
  Tensor parents, codes;
};

void check_beams(const Tensor& logits, const Tensor& scores, int64_t beam_width) {
  const int32_t device = logits.get_device_index();
  check_cuda(logits, "logits", 3, device);
  check_cuda(scores, "scores", 2, device);
  STD_TORCH_CHECK(logits.size(1) >= 1 && logits.size(2) >= 1 && logits.size(2) < INT32_MAX,
                  "logits must be [B, W, K] with W and K at least 1");
  STD_TORCH_CHECK(scores.size(0) == logits.size(0) && scores.size(1) == logits.size(1),
                  "scores must be [B, W] like logits");
  STD_TORCH_CHECK(beam_width >= 1 && beam_width <= glass_beam_step_widest(),
                  "beam_width must be in [1, ", glass_beam_step_widest(), "], was ", beam_width);
}

// `call` says what to do; sizes, buffers and results are filled in here.
Step run(const Tensor& logits_view, const Tensor& scores_view, BeamStepCall call) {
  const Tensor logits = packed(logits_view), scores = packed(scores_view);
  const int64_t requests = logits.size(0), width = call.beam_width;
  call.logits = logits.const_data_ptr();
  call.logits_kind = kind_of(logits, "logits");
  call.scores = scores.const_data_ptr();
  call.scores_kind = kind_of(scores, "scores");
  call.num_requests = requests;
  call.num_beams = logits.size(1);
  call.num_codes = logits.size(2);
  const bool wide = call.logits_kind == kBeamFloat64 || call.scores_kind == kBeamFloat64;

  const int processors = glass_cuda_processors();
  STD_TORCH_CHECK(processors > 0, "no CUDA device: ", glass_cuda_error(-processors));
  const int64_t codes = call.mask_before_softmax ? call.max_children : call.num_codes;
  call.splits = glass_beam_step_splits(requests, call.num_beams, codes, processors);
  const auto float_type = wide ? ScalarType::Double : ScalarType::Float;
  const auto buffer = [&](bool is_float, int64_t rows) {
    return torch::stable::new_empty(logits, {rows, width}, is_float ? float_type : ScalarType::Int);
  };
  std::optional<Tensor> partial[3];
  if (call.splits > 1) {
    for (int i = 0; i < 3; ++i) partial[i] = buffer(i == 0, requests * call.splits);
    call.partial_scores = partial[0]->mutable_data_ptr();
    call.partial_children = partial[1]->mutable_data_ptr<int32_t>();
    call.partial_parents = partial[2]->mutable_data_ptr<int32_t>();
  }
  Step out{buffer(true, requests), std::nullopt, buffer(false, requests), buffer(false, requests)};
  if (call.child_offsets) {
    out.nodes = buffer(false, requests);
    call.out_nodes = out.nodes->mutable_data_ptr<int32_t>();
  }
  call.out_scores = out.scores.mutable_data_ptr();
  call.out_parents = out.parents.mutable_data_ptr<int32_t>();
  call.out_codes = out.codes.mutable_data_ptr<int32_t>();
  const int error = glass_beam_step(&call, current_cuda_stream(logits.get_device_index()));
  STD_TORCH_CHECK(error == 0, "beam step: ", glass_cuda_error(error));
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> trie_beam_step_cuda(
    const Tensor& logits, const Tensor& scores, const Tensor& nodes, const Tensor& child_offsets,
    const Tensor& child_codes, int64_t max_children, int64_t beam_width, bool mask_before_softmax,
    std::optional<Tensor> filter_offsets, std::optional<Tensor> filter_nodes, bool filter_keeps) {
  const int32_t device = logits.get_device_index();
  check_beams(logits, scores, beam_width);
  check_cuda(nodes, "nodes", 2, device);
  STD_TORCH_CHECK(nodes.size(0) == logits.size(0) && nodes.size(1) == logits.size(1),
                  "nodes must be [B, W] like logits");
  const bool wide_nodes = nodes.scalar_type() == ScalarType::Long;
  STD_TORCH_CHECK(wide_nodes || nodes.scalar_type() == ScalarType::Int,
                  "nodes must be int32 or int64");
  check_cuda(child_offsets, "child_offsets", 1, device);
  check_cuda(child_codes, "child_codes", 1, device);
  STD_TORCH_CHECK(child_offsets.scalar_type() == ScalarType::Int &&
                      child_codes.scalar_type() == ScalarType::Int,
                  "child_offsets and child_codes must be int32");
  STD_TORCH_CHECK(child_offsets.numel() >= 1, "child_offsets must not be empty");
  STD_TORCH_CHECK(child_codes.numel() <= INT32_MAX, "child_codes must hold fewer than 2^31");
  STD_TORCH_CHECK(max_children >= 0, "max_children must be at least 0");
  STD_TORCH_CHECK(filter_offsets.has_value() == filter_nodes.has_value(),
                  "filter_offsets and filter_nodes go together");
  if (filter_offsets) {
    check_cuda(*filter_offsets, "filter_offsets", 1, device);
    check_cuda(*filter_nodes, "filter_nodes", 1, device);
    STD_TORCH_CHECK(filter_offsets->scalar_type() == ScalarType::Long &&
                        filter_nodes->scalar_type() == ScalarType::Int,
                    "filter_offsets must be int64 and filter_nodes int32");
    STD_TORCH_CHECK(filter_offsets->numel() == logits.size(0) + 1,
                    "filter_offsets must have B + 1 entries");
  }

  const DeviceGuard guard(device);
  const Tensor own = packed(nodes), starts = packed(child_offsets), codes = packed(child_codes);
  BeamStepCall call{};
  call.nodes = own.const_data_ptr();
  call.wide_nodes = wide_nodes;
  call.child_offsets = starts.const_data_ptr<int32_t>();
  call.child_codes = codes.const_data_ptr<int32_t>();
  call.num_parents = starts.numel() - 1;
  call.num_children = codes.numel();
  // a node has no two children of one code, and at most one that is the end
  call.max_children = std::min({max_children, codes.numel(), logits.size(2) + 1});
  call.mask_before_softmax = mask_before_softmax;
  call.beam_width = beam_width;
  const std::optional<Tensor> bounds =
      filter_offsets ? std::optional(packed(*filter_offsets)) : std::nullopt;
  const std::optional<Tensor> listed =
      filter_nodes ? std::optional(packed(*filter_nodes)) : std::nullopt;
  if (bounds) {
    call.filter_offsets = bounds->const_data_ptr<int64_t>();
    call.filter_nodes = listed->const_data_ptr<int32_t>();
    call.num_filtered = listed->numel();
    call.filter_keeps = filter_keeps;
  }
  const Step out = run(logits, scores, call);
  return {out.scores, *out.nodes, out.parents, out.codes};
}

std::tuple<Tensor, Tensor, Tensor> beam_step_cuda(const Tensor& logits, const Tensor& scores,
                                                  int64_t beam_width) {
  check_beams(logits, scores, beam_width);
  const DeviceGuard guard(logits.get_device_index());
  BeamStepCall call{};
  call.max_children = logits.size(2);
  call.mask_before_softmax = true;
  call.beam_width = beam_width;
  const Step out = run(logits, scores, call);
  return {out.scores, out.parents, out.codes};
}

}  // namespace
}  // namespace glass

STABLE_TORCH_LIBRARY_IMPL(glass, CUDA, m) {
  m.impl("trie_beam_step", TORCH_BOX(&glass::trie_beam_step_cuda));
  m.impl("beam_step", TORCH_BOX(&glass::beam_step_cuda));
}
