// An encoder for inference: all layers, and what a decoder's layers read of the result, in one
// call. The work is in encoder_layers.h.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <optional>

#include "../common/checks.h"
#include "encoder_layers.h"

namespace glass {
namespace {

// A packed weight [count, (heads,) panels, depth, kPanel] of `columns` columns.
const float* packed_weight(const Tensor& weight, const char* name, int64_t dims, int64_t depth,
                           int64_t columns) {
  check_cpu(weight, name, dims);
  STD_TORCH_CHECK(weight.scalar_type() == ScalarType::Float && weight.is_contiguous(), name,
                  " must be float32 and contiguous");
  STD_TORCH_CHECK(weight.size(dims - 3) == round_up(columns, kWholePanels) / kPanel &&
                      weight.size(dims - 2) == depth && weight.size(dims - 1) == kPanel,
                  name, " must hold panels of [", depth, ", ", columns, "]");
  return weight.const_data_ptr<float>();
}

// Users side by side, or the work of each, whichever occupies more threads.
void encode_all(const EncoderCall& call) {
  const int64_t threads = std::max<int64_t>(torch::stable::get_num_threads(), 1);
  if (call.users < threads) {
    EncoderTeam team(call, threads);
    EncoderUser rows(call);
    for (int64_t user = 0; user < call.users; ++user) rows.run(user, team);
    return;
  }
  torch::stable::parallel_for(0, threads, 1, [&](int64_t first, int64_t last) {
    EncoderTeam team(call, 1);
    EncoderUser rows(call);
    for (int64_t thread = first; thread < last; ++thread) {
      for (int64_t user = thread; user < call.users; user += threads) rows.run(user, team);
    }
  });
}

Tensor encoder_stack(const Tensor& x, const std::optional<Tensor>& valid, const Tensor& bias,
                     const Tensor& qkv, const Tensor& output, const Tensor& up, const Tensor& down,
                     const Tensor& memory) {
  check_cpu(x, "x", 3);
  check_cpu(bias, "bias", 2);
  check_cpu(output, "output", 4);
  check_cpu(down, "down", 3);
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float && bias.scalar_type() == ScalarType::Float,
                  "x and bias must be float32");
  EncoderCall call{};
  call.users = x.size(0), call.positions = x.size(1), call.width = x.size(2);
  call.heads = bias.size(0), call.layers = output.size(0), call.hidden = down.size(1);
  STD_TORCH_CHECK(call.width >= 1 && call.heads >= 1, "x must have columns, bias heads");
  const int64_t distances = std::max<int64_t>(2 * call.positions - 1, 0);
  STD_TORCH_CHECK(bias.size(1) == distances, "bias must have ", distances, " columns");
  call.head_dim = output.size(2) / call.heads;
  STD_TORCH_CHECK(call.head_dim >= 1 && call.inner() == output.size(2),
                  "output must have a multiple of ", call.heads, " rows");
  call.output = packed_weight(output, "output", 4, call.inner(), call.width);
  call.qkv = packed_weight(qkv, "qkv", 5, call.width, 3 * call.head_dim);
  call.up = packed_weight(up, "up", 4, call.width, call.hidden);
  STD_TORCH_CHECK(down.scalar_type() == ScalarType::Float && down.is_contiguous() &&
                      down.size(2) == round_up(call.width, kWholePanels),
                  "down must be float32, contiguous and of rows up to a multiple of ",
                  kWholePanels);
  call.down = down.const_data_ptr<float>();
  call.memory = packed_weight(memory, "memory", 5, call.width, call.head_dim);
  call.memories = memory.size(0);
  STD_TORCH_CHECK(qkv.size(0) == call.layers && qkv.size(1) == call.heads &&
                      up.size(0) == call.layers && down.size(0) == call.layers,
                  "qkv, up and down must have ", call.layers, " layers, qkv ", call.heads,
                  " heads");
  STD_TORCH_CHECK(memory.size(1) == 2 * call.heads, "memory must have keys and values of ",
                  call.heads, " heads");
  const Tensor rows = packed(x), biases = packed(bias);
  call.x = rows.const_data_ptr<float>();
  call.bias = biases.const_data_ptr<float>();
  std::optional<Tensor> kept;
  if (valid.has_value()) {
    check_cpu(*valid, "valid", 2);
    STD_TORCH_CHECK(valid->scalar_type() == ScalarType::Bool && valid->size(0) == call.users &&
                        valid->size(1) == call.positions,
                    "valid must be bool of the first dimensions of x");
    kept = packed(*valid);
    call.valid = kept->const_data_ptr<bool>();
  }
  Tensor out = empty({call.memories, call.users, 2, call.heads, call.positions, call.head_dim},
                     ScalarType::Float);
  call.out = out.mutable_data_ptr<float>();
  call.kernels = encoder_kernels(best_simd());
  if (call.users > 0 && call.positions > 0) encode_all(call);
  return out;
}

}  // namespace
}  // namespace glass

STABLE_TORCH_LIBRARY_IMPL(glass, CPU, m) {
  m.impl("encoder_stack", TORCH_BOX(&glass::encoder_stack));
}
