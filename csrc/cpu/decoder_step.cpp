// One position of every beam through all decoder layers of GLASS: self-attention to the positions
// before, attention to the encoder's output and to what was searched, mixed by a gate,
// feed-forward. For inference: weights come packed (glass_kernels/panels.py), norms' weights within
// them.
//
// The work is in decoder_block.h. A row's result depends on no other row.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <optional>
#include <tuple>
#include <vector>

#include "decoder_block.h"
#include "retrieved_sets.h"

namespace glass {
namespace {

using Maybe = std::optional<Tensor>;

constexpr int64_t kRowsAtOnce = 48;  // of a block
constexpr int64_t kFewestRows = 8;   // for which a thread's pass over the weights is worth it

const float* floats(const Tensor& tensor, const char* name, std::initializer_list<int64_t> sizes) {
  check_cpu(tensor, name, static_cast<int64_t>(sizes.size()));
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Float, name, " must be float32");
  STD_TORCH_CHECK(tensor.is_contiguous(), name, " must be contiguous");
  for (size_t dim = 0; dim < sizes.size(); ++dim) {
    STD_TORCH_CHECK(tensor.size(dim) == sizes.begin()[dim], name, " must have size ",
                    sizes.begin()[dim], " in dimension ", dim, ", had ", tensor.size(dim));
  }
  return tensor.const_data_ptr<float>();
}

Panels packed_weight(const Tensor& weight, const char* name, int64_t inputs, int64_t outputs) {
  const float* data =
      floats(weight, name, {round_up(outputs, kWholePanels) / kPanel, inputs, kPanel});
  return Panels::packed(data, inputs, outputs);
}

// The processor level whose vectors have `width` floats.
TileLoop<float> bag_loop_of_width(int64_t width) {
  for (const Simd simd : {Simd::kBase, Simd::kAvx2, Simd::kAvx512}) {
    if (simd > detected_simd()) break;
    const BagKernel<float> kernel = bag_kernel<float>(simd);
    if (kernel.width == width) return kernel.attend;
  }
  STD_TORCH_CHECK(false, "weights must have tables that were packed on this machine");
}

Tensor pack_token_rows(const Tensor& keys, const Tensor& values) {
  check_cpu(keys, "keys", 3);
  const int64_t tokens = keys.size(0);
  const int64_t plain = keys.size(1) * keys.size(2);
  const float* from[] = {floats(keys, "keys", {tokens, keys.size(1), keys.size(2)}),
                         floats(values, "values", {tokens, keys.size(1), keys.size(2)})};
  const HeadLanes lanes(keys.size(1), keys.size(2), bag_kernel<float>(best_simd()).width);
  Tensor packed = empty({2, tokens, lanes.row / lanes.width, lanes.width}, ScalarType::Float);
  float* to = packed.mutable_data_ptr<float>();
  RowPacker<float> packer(lanes);
  for (const float* rows : from) {
    for (int64_t token = 0; token < tokens; ++token, to += lanes.row) {
      packer.pack(rows + token * plain, 1, to);
    }
  }
  return packed;
}

// What keeps the memory that a call reads.
struct Inputs {
  Tensor x;
  Maybe mask, ancestors, tokens, positions, lengths;
  std::optional<Retrieved> retrieved;
  std::optional<HeadLanes> lanes;
};

constexpr size_t kPlain = 6, kFixed = 8, kLearned = 11;  // weights of a layer

MemoryView memory_view(const Tensor& tensor, const char* name, const DecoderCall& call) {
  check_cpu(tensor, name, 4);
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Float, name, " must be float32");
  STD_TORCH_CHECK(tensor.size(0) == call.users && tensor.size(1) == call.heads &&
                      tensor.size(2) == call.positions && tensor.size(3) == call.dim,
                  name, " must have shape [", call.users, ", ", call.heads, ", ", call.positions,
                  ", ", call.dim, "]");
  return {tensor.const_data_ptr<float>(), tensor.stride(0), tensor.stride(1), tensor.stride(2),
          tensor.stride(3)};
}

void read_layers(const std::vector<Tensor>& weights, const std::vector<Tensor>& keys,
                 const std::vector<Tensor>& values, Inputs& in, DecoderCall& call) {
  STD_TORCH_CHECK(!keys.empty() && values.size() == keys.size(),
                  "keys and values must be of every layer");
  const size_t each = weights.size() / keys.size();
  STD_TORCH_CHECK((each == kPlain || each == kFixed || each == kLearned) &&
                      weights.size() == each * keys.size(),
                  "weights must be 6, 8 or 11 of every layer");
  check_cpu(keys[0], "keys", 4);
  call.heads = keys[0].size(1);
  call.positions = keys[0].size(2);
  call.dim = keys[0].size(3);
  check_cpu(weights[5], "weights", 2);
  call.feed = weights[5].size(0);
  const int64_t width = call.width, inner = call.inner();
  STD_TORCH_CHECK(inner >= 1, "keys must have at least one head and column");
  for (size_t l = 0; l < keys.size(); ++l) {
    const Tensor* weight = &weights[l * each];
    const int64_t queries = each == kPlain ? 1 : 2;
    DecoderLayer layer{packed_weight(weight[0], "weights", width, 3 * inner),
                       packed_weight(weight[1], "weights", inner, width),
                       packed_weight(weight[2], "weights", width, queries * inner),
                       packed_weight(weight[3], "weights", inner, width),
                       packed_weight(weight[4], "weights", width, call.feed),
                       floats(weight[5], "weights", {call.feed, round_up(width, kWholePanels)}),
                       memory_view(keys[l], "keys", call),
                       memory_view(values[l], "values", call),
                       {},
                       {},
                       {},
                       nullptr,
                       {}};
    if (in.retrieved) {
      STD_TORCH_CHECK(each > kPlain, "weights must be 8 or 11 of every layer with positions");
      check_cpu(weight[7], "weights", 4);
      if (!in.lanes) {
        in.retrieved->num_tokens = weight[7].size(1);
        in.lanes.emplace(call.heads, call.dim, weight[7].size(3));
        call.attend_bag = bag_loop_of_width(in.lanes->width);
      }
      const int64_t tokens = in.retrieved->num_tokens, row = in.lanes->row;
      float* table = const_cast<float*>(
          floats(weight[7], "weights", {2, tokens, row / in.lanes->width, in.lanes->width}));
      layer.found = packed_weight(weight[6], "weights", inner, width);
      layer.table = {table, table + tokens * row};
      call.gate = Gate::kFixed;
      if (each == kLearned) {
        call.gate = Gate::kLearned;
        layer.gate_near = packed_weight(weight[8], "weights", width, width);
        layer.gate_far = packed_weight(weight[9], "weights", width, width);
        layer.gate_bias = floats(weight[10], "weights", {width});
      }
    }
    call.layers.push_back(layer);
  }
}

void read_past(const std::vector<Tensor>& past, Inputs& in, DecoderCall& call) {
  call.level = static_cast<int64_t>(past.size());
  for (const Tensor& level : past) {
    check_cpu(level, "past", 5);
    call.past_beams.push_back(level.size(2));
    call.past.push_back(floats(
        level, "past",
        {static_cast<int64_t>(call.layers.size()), call.users, level.size(2), 2, call.inner()}));
  }
  STD_TORCH_CHECK(past.empty() || in.ancestors, "ancestors must be given with past");
  if (!in.ancestors) return;
  const Tensor& ancestors = *in.ancestors;
  check_cpu(ancestors, "ancestors", 3);
  STD_TORCH_CHECK(ancestors.scalar_type() == ScalarType::Long, "ancestors must be int64");
  STD_TORCH_CHECK(ancestors.size(0) == call.users && ancestors.size(1) == call.beams &&
                      ancestors.size(2) == call.level,
                  "ancestors must have shape [", call.users, ", ", call.beams, ", ", call.level,
                  "]");
  call.ancestors = ancestors.const_data_ptr<int64_t>();
  for (int64_t row = 0; row < call.rows(); ++row) {
    for (int64_t level = 0; level < call.level; ++level) {
      const int64_t beam = call.ancestors[row * call.level + level];
      STD_TORCH_CHECK(beam >= 0 && beam < call.past_beams[level], "ancestors must be in [0, ",
                      call.past_beams[level], ") at level ", level, ", held ", beam);
    }
  }
}

// Ends of the blocks: whole users, or parts of one, whose rows stay in the cache and whose number
// keeps all threads busy.
std::vector<int64_t> block_ends(int64_t users, int64_t beams) {
  std::vector<int64_t> ends;
  if (users * beams == 0) return ends;
  const int64_t threads = std::max<int64_t>(torch::stable::get_num_threads(), 1);
  const int64_t together = std::clamp<int64_t>((users + threads - 1) / threads, 1,
                                               std::max<int64_t>(kRowsAtOnce / beams, 1));
  int64_t parts = (beams + kRowsAtOnce - 1) / kRowsAtOnce;
  if (users < threads) {
    parts = std::max(parts, std::min((threads + users - 1) / users, beams / kFewestRows));
  }
  for (int64_t user = 0; user < users; user += together) {
    const int64_t end = std::min(users, user + together);
    for (int64_t part = 1; part <= parts; ++part) {
      ends.push_back(user * beams + (end - user) * beams * part / parts);
    }
  }
  return ends;
}

void run(const DecoderCall& call) {
  const std::vector<int64_t> ends = block_ends(call.users, call.beams);
  const auto blocks = static_cast<int64_t>(ends.size());
  const auto begin_of = [&](int64_t block) { return block > 0 ? ends[block - 1] : 0; };
  int64_t most = 0;
  for (int64_t block = 0; block < blocks; ++block) {
    most = std::max(most, ends[block] - begin_of(block));
  }
  std::vector<BagFault> faults(blocks);
  const auto some = [&](int64_t first, int64_t last) {
    DecoderBlock work(call, most);
    for (int64_t block = first; block < last; ++block) {
      faults[block] = work.run(begin_of(block), ends[block]);
    }
  };
  if (blocks == 1) {
    some(0, 1);
  } else {
    torch::stable::parallel_for(0, blocks, 1, some);
  }
  for (const BagFault& fault : faults) {
    if (call.retrieved) raise_fault(fault, *call.retrieved);
  }
}

std::tuple<Tensor, Tensor> decoder_step(
    const Tensor& x, std::vector<Tensor> weights, const Tensor& scale, const Tensor& bias,
    std::vector<Tensor> keys, std::vector<Tensor> values, const Maybe& mask,
    std::vector<Tensor> past, const Maybe& ancestors, const Maybe& tokens, const Maybe& positions,
    const Maybe& lengths, double fixed_gate, bool gate_reads_state, bool empty_is_short) {
  check_cpu(x, "x", 3);
  const auto kept = [](const Maybe& tensor) -> Maybe {
    return tensor ? Maybe(packed(*tensor)) : Maybe();
  };
  Inputs in{packed(x), kept(mask), kept(ancestors), kept(tokens), kept(positions), kept(lengths),
            {},        {}};
  DecoderCall call{};
  call.users = x.size(0);
  call.beams = x.size(1);
  call.width = x.size(2);
  call.x = floats(in.x, "x", {call.users, call.beams, call.width});
  STD_TORCH_CHECK(call.width >= 1, "x must have at least one column");
  if (in.positions) {
    STD_TORCH_CHECK(in.tokens && in.lengths, "tokens and lengths must be given with positions");
    check_sets(*in.tokens, *in.positions, *in.lengths, call.users, call.beams);
    in.retrieved = read_retrieved(*in.tokens, *in.positions, *in.lengths, 0);
    call.retrieved = &*in.retrieved;
  }
  read_layers(weights, keys, values, in, call);
  if (in.lanes) call.lanes = &*in.lanes;
  read_past(past, in, call);
  call.scale = floats(scale, "scale", {call.width});
  call.bias = floats(bias, "bias", {call.level + 1, call.heads});
  if (in.mask) {
    check_cpu(*in.mask, "mask", 4);
    STD_TORCH_CHECK(in.mask->scalar_type() == ScalarType::Bool, "mask must be bool");
    STD_TORCH_CHECK(in.mask->size(0) == call.users && in.mask->size(1) == 1 &&
                        in.mask->size(2) == 1 && in.mask->size(3) == call.positions,
                    "mask must have shape [", call.users, ", 1, 1, ", call.positions, "]");
    call.valid = in.mask->const_data_ptr<bool>();
  }
  call.fixed_gate = static_cast<float>(fixed_gate);
  call.gate_reads_state = gate_reads_state;
  call.empty_is_short = empty_is_short;
  call.kernel = decoder_kernel(best_simd());
  call.add_relu = add_relu_product_kernel(best_simd());
  Tensor hidden = empty({call.users, call.beams, call.width}, ScalarType::Float);
  Tensor present =
      empty({static_cast<int64_t>(call.layers.size()), call.users, call.beams, 2, call.inner()},
            ScalarType::Float);
  call.hidden = hidden.mutable_data_ptr<float>();
  call.present = present.mutable_data_ptr<float>();
  run(call);
  return {hidden, present};
}

}  // namespace
}  // namespace glass

STABLE_TORCH_LIBRARY_IMPL(glass, CPU, m) {
  m.impl("pack_token_rows", TORCH_BOX(&glass::pack_token_rows));
  m.impl("decoder_step", TORCH_BOX(&glass::decoder_step));
}
