// Gated fusion of a thread's rows, block by block: what a block needs stays in the cache, and
// nothing of the size of all rows is kept but inputs and results.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "../common/floats.h"
#include "tile_products.h"

namespace glass {

// Of each number, up to whole registers.
template <typename S>
GLASS_INLINE void sigmoid(typename S::Number* row, int64_t width) {
  using Lanes = typename S::Lanes;
  for (int64_t c = 0; c < width; c += S::kLanes) {
    typename Lanes::type x;
    Lanes::load(x, row + c);
    Lanes::sigmoid(x);
    Lanes::store(row + c, x);
  }
}

// Inputs of a call, contiguous rows of `width`. `first` is gate_input, or short again.
template <typename T>
struct FusionInput {
  int64_t width;
  const T *near, *far, *first;
};

template <typename T>
struct ForwardCall {
  using Number = typename Computed<T>::type;
  FusionInput<T> input;
  const Number* weight;  // panels over the outputs
  const Number* bias;    // filled up with zeros to whole panels
  T *out, *gate;
};

template <typename T>
struct BackwardCall {
  using Number = typename Computed<T>::type;
  FusionInput<T> input;
  const Number* weight;  // panels over the inputs; null: no gradients of the inputs
  const T* gate;
  const T *grad_out, *grad_gate;         // null: zeros
  T *grad_near, *grad_far, *grad_first;  // grad_first null: part of grad_near
};

// Sums of a thread over its rows.
template <typename Number>
struct WeightSums {
  int64_t step = 0;
  std::vector<Number> weight, bias;  // [width up to whole tiles, step], [width]

  template <typename S>
  void reserve(int64_t width) {
    step = round_up(2 * width, S::kColumns) + 64 / sizeof(Number);
    weight.assign(round_up(width, S::kRows) * step, Number(0));
    bias.assign(width, Number(0));
  }
};

// Buffers of a thread for one block of rows, filled up to whole tiles.
template <typename S>
struct FusionBlock {
  using Number = typename S::Number;
  static constexpr int64_t kApart = 64 / sizeof(Number);  // steps of a page's size share cache sets
  int64_t rows, joined_step, single_step;
  std::vector<Number> joined;  // [rows, joined_step]: first and far
  std::vector<Number> single;  // [rows, single_step]: logits, or their gradients

  static int64_t rows_at_once(int64_t width) {
    constexpr int64_t kNumbers = 1 << 14;
    return std::clamp<int64_t>(kNumbers / width / kRowsOfAnyTile, 4, 16) * kRowsOfAnyTile;
  }
  FusionBlock(int64_t width, int64_t count)
      : rows(std::min(rows_at_once(width), round_up(count, kRowsOfAnyTile))),
        joined_step(round_up(2 * width, S::kColumns) + kApart),
        single_step(std::max(round_up(width, S::kColumns), round_up(width, S::kRows)) + kApart),
        joined(rows * joined_step),
        single(rows * single_step) {}

  template <typename T>
  GLASS_INLINE void load_rows(const FusionInput<T>& input, const int64_t* row, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      Number* __restrict to = joined.data() + i * joined_step;
      const T *first = input.first + row[i] * input.width, *far = input.far + row[i] * input.width;
      for (int64_t c = 0; c < input.width; ++c) load(first[c], to[c]);
      for (int64_t c = 0; c < input.width; ++c) load(far[c], to[input.width + c]);
    }
  }
};

template <typename T, typename Number>
GLASS_INLINE void mix_row(int64_t width, const T* __restrict near, const Number* __restrict far,
                          const Number* __restrict gates, T* __restrict out, T* __restrict gate) {
  for (int64_t c = 0; c < width; ++c) {
    Number from;
    load(near[c], from);
    store(from + gates[c] * (far[c] - from), out[c]);
    store(gates[c], gate[c]);
  }
}

template <typename S, typename T>
GLASS_INLINE void forward_rows(const ForwardCall<T>& call, const int64_t* row, int64_t count) {
  const int64_t width = call.input.width, depth = 2 * width;
  FusionBlock<S> block(width, count);
  for (int64_t begin = 0; begin < count; begin += block.rows) {
    const int64_t rows = std::min(block.rows, count - begin);
    block.load_rows(call.input, row + begin, rows);
    for (int64_t i = 0; i < rows; ++i) {
      std::copy_n(call.bias, round_up(width, S::kColumns), &block.single[i * block.single_step]);
    }
    add_product<S>({block.joined.data(), block.joined_step, 1}, call.weight, S::kColumns,
                   depth * S::kColumns, rows, width, depth, block.single.data(), block.single_step);
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t at = row[begin + i] * width;
      sigmoid<S>(&block.single[i * block.single_step], width);
      mix_row(width, call.input.near + at, &block.joined[i * block.joined_step + width],
              &block.single[i * block.single_step], call.out + at, call.gate + at);
    }
  }
}

// Gradients of a row's logits, and what reaches near and far other than through the gate.
template <typename T, typename Number>
GLASS_INLINE void mix_row_backward(int64_t width, const T* __restrict near,
                                   const Number* __restrict far, const T* __restrict gate,
                                   const T* __restrict grad_out, const T* __restrict grad_gate,
                                   Number* __restrict logits, Number* __restrict direct) {
  for (int64_t c = 0; c < width; ++c) {
    Number from, g, of_out, of_gate;
    load(near[c], from);
    load(gate[c], g);
    load(grad_out[c], of_out);
    load(grad_gate[c], of_gate);
    logits[c] = (of_out * (far[c] - from) + of_gate) * (g * (1 - g));
    direct[c] = of_out * (1 - g);
    direct[width + c] = of_out * g;
  }
}

template <typename T, typename Number>
GLASS_INLINE void store_row(const Number* __restrict from, int64_t width, T* __restrict to) {
  for (int64_t c = 0; c < width; ++c) store(from[c], to[c]);
}

template <typename S, typename T>
struct BackwardRows {
  using Number = typename S::Number;
  const BackwardCall<T>& call;
  const int64_t count;
  const int64_t width = call.input.width;
  FusionBlock<S> block{width, count};
  std::vector<Number> grads = std::vector<Number>(block.joined.size());  // like joined
  std::vector<T> zeros = std::vector<T>(width);
  std::vector<Number> bias = std::vector<Number>(width);  // sums of one block

  GLASS_INLINE void logits(const int64_t* row, int64_t rows) {
    block.load_rows(call.input, row, rows);
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t at = row[i] * width;
      mix_row_backward(width, call.input.near + at, &block.joined[i * block.joined_step + width],
                       call.gate + at, call.grad_out ? call.grad_out + at : zeros.data(),
                       call.grad_gate ? call.grad_gate + at : zeros.data(),
                       &block.single[i * block.single_step], &grads[i * block.joined_step]);
    }
  }

  GLASS_INLINE void inputs(const int64_t* row, int64_t rows) {
    if (call.grad_first) {
      for (int64_t i = 0; i < rows; ++i) {
        Number* near = &grads[i * block.joined_step];
        store_row(near, width, call.grad_near + row[i] * width);
        std::fill_n(near, width, Number(0));
      }
    }
    add_product<S>({block.single.data(), block.single_step, 1}, call.weight, S::kColumns,
                   width * S::kColumns, rows, 2 * width, width, grads.data(), block.joined_step);
    T* first = call.grad_first ? call.grad_first : call.grad_near;
    for (int64_t i = 0; i < rows; ++i) {
      const Number* from = &grads[i * block.joined_step];
      store_row(from, width, first + row[i] * width);
      store_row(from + width, width, call.grad_far + row[i] * width);
    }
  }

  GLASS_INLINE void weights(int64_t rows, WeightSums<Number>& sums) {
    add_product<S>({block.single.data(), 1, block.single_step}, block.joined.data(),
                   block.joined_step, S::kColumns, width, 2 * width, rows, sums.weight.data(),
                   sums.step);
    std::fill_n(bias.data(), width, Number(0));
    for (int64_t i = 0; i < rows; ++i) {
      const Number* from = &block.single[i * block.single_step];
      for (int64_t c = 0; c < width; ++c) bias[c] += from[c];
    }
    for (int64_t c = 0; c < width; ++c) sums.bias[c] += bias[c];
  }
};

// `sums` null: no gradients of weight and bias.
template <typename S, typename T>
GLASS_INLINE void backward_rows(const BackwardCall<T>& call, const int64_t* row, int64_t count,
                                WeightSums<typename S::Number>* sums) {
  BackwardRows<S, T> work{call, count};
  if (sums) sums->template reserve<S>(call.input.width);
  for (int64_t begin = 0; begin < count; begin += work.block.rows) {
    const int64_t rows = std::min(work.block.rows, count - begin);
    work.logits(row + begin, rows);
    if (sums) work.weights(rows, *sums);
    if (call.weight) work.inputs(row + begin, rows);
  }
}

// The same loops, compiled for each processor level.
template <typename T>
struct FusionKernel {
  using Sums = WeightSums<typename Computed<T>::type>;
  int64_t columns;  // of a panel
  void (*forward)(const ForwardCall<T>&, const int64_t*, int64_t);
  void (*backward)(const BackwardCall<T>&, const int64_t*, int64_t, Sums*);
};

#define GLASS_FUSION_KERNEL(NAME, TARGET, TILE)                                                 \
  template <typename T>                                                                         \
  struct NAME {                                                                                 \
    using S = TILE<typename Computed<T>::type>;                                                 \
    TARGET static void forward(const ForwardCall<T>& call, const int64_t* row, int64_t count) { \
      forward_rows<S>(call, row, count);                                                        \
    }                                                                                           \
    TARGET static void backward(const BackwardCall<T>& call, const int64_t* row, int64_t count, \
                                WeightSums<typename S::Number>* sums) {                         \
      backward_rows<S>(call, row, count, sums);                                                 \
    }                                                                                           \
    static FusionKernel<T> kernel() { return {S::kColumns, forward, backward}; }                \
  }

GLASS_FUSION_KERNEL(FusionBase, , TileBase);
#ifdef GLASS_X86
GLASS_FUSION_KERNEL(FusionAvx2, GLASS_TARGET_FMA, TileAvx2);
GLASS_FUSION_KERNEL(FusionAvx512, GLASS_TARGET_FMA512, TileAvx512);
#endif
#undef GLASS_FUSION_KERNEL

template <typename T>
FusionKernel<T> fusion_kernel(Simd simd) {
#ifdef GLASS_X86
  if (simd == Simd::kAvx512) return FusionAvx512<T>::kernel();
  if (simd == Simd::kAvx2 && __builtin_cpu_supports("fma")) return FusionAvx2<T>::kernel();
#endif
  return FusionBase<T>::kernel();
}

}  // namespace glass
