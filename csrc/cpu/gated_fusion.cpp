// Gated fusion: out = short + g * (retrieved - short), g = sigmoid([first ; retrieved] W^T + b),
// and its gradients; the work is in gated_fusion_rows.h. Rows without retrieval are copied.
//
// A thread's rows follow from their number and the number of threads alone, and sums over threads
// are added in order: the same input gives the same bits.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <optional>
#include <tuple>
#include <vector>

#include "../common/float_tensors.h"
#include "gated_fusion_rows.h"
#include "panels.h"

namespace glass {
namespace {

using torch::stable::new_empty;
using Maybe = std::optional<Tensor>;

// Row numbers, and their parts by thread.
struct Rows {
  std::vector<int64_t> present, absent;
  int64_t parts;

  static std::pair<int64_t, int64_t> part(int64_t count, int64_t index, int64_t parts) {
    return {count * index / parts, count * (index + 1) / parts};
  }
  // body(part, first present, count, first absent, count)
  template <typename F>
  void parallel(const F& body) const {
    torch::stable::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
      for (int64_t index = begin; index < end; ++index) {
        const auto [p, p_end] = part(present.size(), index, parts);
        const auto [a, a_end] = part(absent.size(), index, parts);
        body(index, present.data() + p, p_end - p, absent.data() + a, a_end - a);
      }
    });
  }
};

struct Shape {
  std::vector<int64_t> sizes;
  int64_t width, rows;
};

void check_like(const Tensor& tensor, const Tensor& short_, const char* name) {
  check_cpu(tensor, name, short_.dim());
  for (int64_t i = 0; i < short_.dim(); ++i) {
    STD_TORCH_CHECK(tensor.size(i) == short_.size(i), name, " must have the shape of short");
  }
  STD_TORCH_CHECK(tensor.scalar_type() == short_.scalar_type(), name,
                  " must have the dtype of short");
}

Shape check(const Tensor& short_, const Tensor& retrieved, const Tensor& weight,
            const Maybe& gate_input) {
  STD_TORCH_CHECK(short_.dim() >= 1, "short must have at least one dimension");
  check_cpu(short_, "short", short_.dim());
  Shape shape{{}, short_.size(short_.dim() - 1), 1};
  for (int64_t i = 0; i < short_.dim(); ++i) shape.sizes.push_back(short_.size(i));
  STD_TORCH_CHECK(shape.width >= 1, "short must have at least one column");
  shape.rows = short_.numel() / shape.width;
  check_like(retrieved, short_, "retrieved");
  if (gate_input) check_like(*gate_input, short_, "gate_input");
  check_cpu(weight, "weight", 2);
  STD_TORCH_CHECK(weight.size(0) == shape.width && weight.size(1) == 2 * shape.width,
                  "weight must have shape [d, 2d]");
  STD_TORCH_CHECK(weight.scalar_type() == short_.scalar_type(),
                  "weight must have the dtype of short");
  return shape;
}

Rows list_rows(const Maybe& has_retrieval, const Shape& shape) {
  Rows listed;
  const int64_t rows = shape.rows;
  if (has_retrieval) {
    check_cpu(*has_retrieval, "has_retrieval", shape.sizes.size() - 1);
    bool fits = has_retrieval->scalar_type() == ScalarType::Bool;
    for (int64_t i = 0; i < has_retrieval->dim(); ++i) {
      fits &= has_retrieval->size(i) == shape.sizes[i];
    }
    STD_TORCH_CHECK(fits, "has_retrieval must be bool with one entry a row");
    const Tensor flags = packed(*has_retrieval);
    const auto* has = static_cast<const uint8_t*>(flags.const_data_ptr());
    for (int64_t row = 0; row < rows; ++row)
      (has[row] ? listed.present : listed.absent).push_back(row);
  } else {
    listed.present.resize(rows);
    for (int64_t row = 0; row < rows; ++row) listed.present[row] = row;
  }
  constexpr int64_t kWorthAThread = 2 * kRowsOfAnyTile;
  const int64_t most = (rows + kWorthAThread - 1) / kWorthAThread;
  listed.parts = std::clamp<int64_t>(most, 1, torch::stable::get_num_threads());
  return listed;
}

template <typename T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <typename T>
T* mutable_data(Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

template <typename T>
void copy_rows(const T* from, const int64_t* row, int64_t count, int64_t width, T* to) {
  for (int64_t i = 0; i < count; ++i)
    std::copy_n(from + row[i] * width, width, to + row[i] * width);
}
template <typename T>
void clear_rows(const int64_t* row, int64_t count, int64_t width, T* to) {
  for (int64_t i = 0; i < count; ++i) std::memset(to + row[i] * width, 0, width * sizeof(T));
}

std::tuple<Tensor, Tensor> gated_fusion(const Tensor& short_, const Tensor& retrieved,
                                        const Tensor& weight, const Tensor& bias,
                                        const Maybe& has_retrieval, const Maybe& gate_input) {
  const Shape shape = check(short_, retrieved, weight, gate_input);
  check_cpu(bias, "bias", 1);
  STD_TORCH_CHECK(bias.size(0) == shape.width && bias.scalar_type() == short_.scalar_type(),
                  "bias must have shape [d] and the dtype of short");
  const Rows rows = list_rows(has_retrieval, shape);
  const Tensor near = packed(short_), far = packed(retrieved);
  const Tensor first = gate_input ? packed(*gate_input) : near;
  const Tensor matrix = packed(weight), shift = packed(bias);
  Tensor out = new_empty(near, shape.sizes), gate = new_empty(near, shape.sizes);
  with_float(short_, "short", [&](auto zero) {
    using T = decltype(zero);
    using Number = typename Computed<T>::type;
    const int64_t width = shape.width;
    const FusionKernel<T> kernel = fusion_kernel<T>(best_simd());
    const auto packed =
        panels<T, Number>(data<T>(matrix), 1, 2 * width, 2 * width, width, kernel.columns);
    const auto filled = panels<T, Number>(data<T>(shift), 0, 1, 1, width, kernel.columns);
    const ForwardCall<T> call{{width, data<T>(near), data<T>(far), data<T>(first)},
                              packed.data(),
                              filled.data(),
                              mutable_data<T>(out),
                              mutable_data<T>(gate)};
    rows.parallel([&](int64_t, const int64_t* present, int64_t count, const int64_t* absent,
                      int64_t without) {
      copy_rows(call.input.near, absent, without, width, call.out);
      clear_rows(absent, without, width, call.gate);
      kernel.forward(call, present, count);
    });
  });
  return {out, gate};
}

// Adds the parts up in order.
template <typename T, typename Number>
void add_parts(const std::vector<WeightSums<Number>>& parts, int64_t width, T* weight, T* bias) {
  std::vector<Number> sum(2 * width);
  for (int64_t row = 0; row < width; ++row) {
    std::fill(sum.begin(), sum.end(), Number(0));
    Number of_bias = 0;
    for (const WeightSums<Number>& part : parts) {
      const Number* from = &part.weight[row * part.step];
      for (int64_t c = 0; c < 2 * width; ++c) sum[c] += from[c];
      of_bias += part.bias[row];
    }
    for (int64_t c = 0; c < 2 * width; ++c) store(sum[c], weight[row * 2 * width + c]);
    store(of_bias, bias[row]);
  }
}

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

// Those that are not wanted are empty.
Gradients gated_fusion_backward(const Maybe& grad_out, const Maybe& grad_gate, const Tensor& short_,
                                const Tensor& retrieved, const Tensor& weight, const Tensor& gate,
                                const Maybe& has_retrieval, const Maybe& gate_input, bool of_inputs,
                                bool of_weights) {
  const Shape shape = check(short_, retrieved, weight, gate_input);
  check_like(gate, short_, "gate");
  if (grad_out) check_like(*grad_out, short_, "grad_out");
  if (grad_gate) check_like(*grad_gate, short_, "grad_gate");
  const Rows rows = list_rows(has_retrieval, shape);
  const Tensor near = packed(short_), far = packed(retrieved);
  const Tensor first = gate_input ? packed(*gate_input) : near;
  const Tensor matrix = packed(weight), gates = packed(gate);
  const Maybe of_out = grad_out ? Maybe(packed(*grad_out)) : Maybe();
  const Maybe of_gate = grad_gate ? Maybe(packed(*grad_gate)) : Maybe();
  const int64_t width = shape.width;
  const auto make = [&](bool wanted, const std::vector<int64_t>& sizes) {
    return wanted ? new_empty(near, sizes) : new_empty(near, {0});
  };
  Tensor grad_near = make(of_inputs, shape.sizes), grad_far = make(of_inputs, shape.sizes);
  Tensor grad_first = make(of_inputs && gate_input, shape.sizes);
  Tensor grad_weight = make(of_weights, {width, 2 * width});
  Tensor grad_bias = make(of_weights, {width});
  with_float(short_, "short", [&](auto zero) {
    using T = decltype(zero);
    using Number = typename Computed<T>::type;
    const FusionKernel<T> kernel = fusion_kernel<T>(best_simd());
    std::vector<Number> packed;
    if (of_inputs) {
      packed = panels<T, Number>(data<T>(matrix), 2 * width, 1, width, 2 * width, kernel.columns);
    }
    const BackwardCall<T> call{{width, data<T>(near), data<T>(far), data<T>(first)},
                               of_inputs ? packed.data() : nullptr,
                               data<T>(gates),
                               of_out ? data<T>(*of_out) : nullptr,
                               of_gate ? data<T>(*of_gate) : nullptr,
                               mutable_data<T>(grad_near),
                               mutable_data<T>(grad_far),
                               gate_input ? mutable_data<T>(grad_first) : nullptr};
    std::vector<WeightSums<Number>> sums(rows.parts);
    rows.parallel([&](int64_t part, const int64_t* present, int64_t count, const int64_t* absent,
                      int64_t without) {
      if (of_inputs) {
        if (of_out) {
          copy_rows(call.grad_out, absent, without, width, call.grad_near);
        } else {
          clear_rows(absent, without, width, call.grad_near);
        }
        clear_rows(absent, without, width, call.grad_far);
        if (gate_input) clear_rows(absent, without, width, call.grad_first);
      }
      kernel.backward(call, present, count, of_weights ? &sums[part] : nullptr);
    });
    if (of_weights) {
      add_parts(sums, width, mutable_data<T>(grad_weight), mutable_data<T>(grad_bias));
    }
  });
  return {grad_near, grad_far, grad_weight, grad_bias, grad_first};
}

}  // namespace
}  // namespace glass

STABLE_TORCH_LIBRARY_IMPL(glass, CPU, m) {
  m.impl("gated_fusion", TORCH_BOX(&glass::gated_fusion));
  m.impl("gated_fusion_backward", TORCH_BOX(&glass::gated_fusion_backward));
}
