// Gradients of a thread's rows and, summed over them, of the codebook, block by block of rows.
//
// With logits s, p = softmax(s / temperature) and, for the cotangent g of the assigned vector,
// h = g codebook^T, that of a logit is p (h - p.h) / temperature, and the loss adds its
// (softmax(s) - hot) times its cotangent. The soft code p codebook itself is never needed.
#pragma once

#include "codebook_rows.h"

namespace glass {

template <typename T>
struct GradientCall {
  using Number = typename Computed<T>::type;
  int64_t width, codes;
  Number temperature;
  const T* query;
  const T* grad_assigned;     // null: none
  const Number* grad_loss;    // null: none
  const Number* log_sum_exp;  // with grad_loss
  const int32_t* target;      // with grad_loss
  const Number* codes_as_columns;
  const Number* codes_as_rows;  // panels over the width; with grad_query
  T* grad_query;                // null: not wanted
};

// Sums of a thread over its rows; none where `step` is 0.
template <typename Number>
struct CodebookSums {
  int64_t step = 0;
  std::vector<Number> numbers;  // [codes up to whole tiles, step]

  template <typename S>
  void reserve(int64_t codes, int64_t width) {
    step = round_up(width, S::kColumns) + kLineApart<Number>;
    numbers.assign(round_up(codes, S::kRows) * step, Number(0));
  }
};

// logits become weights exp(scale * (logit - the largest)); of these, the sum and the sum with
// `with` as factors.
template <typename S>
GLASS_INLINE void weigh(const typename S::Number* logits, const typename S::Number* with,
                        int64_t width, typename S::Number scale, typename S::Number* weights,
                        typename S::Number& sum, typename S::Number& product) {
  using Lanes = typename S::Lanes;
  typename Lanes::type most, sums = {}, products = {};
  Lanes::load(most, logits);
  for (int64_t c = S::kLanes; c < width; c += S::kLanes) {
    typename Lanes::type logit;
    Lanes::load(logit, logits + c);
    most = logit > most ? logit : most;
  }
  const typename S::Number largest = Lanes::largest(most);
  for (int64_t c = 0; c < width; c += S::kLanes) {
    typename Lanes::type weight, factor;
    Lanes::load(weight, logits + c);
    Lanes::load(factor, with + c);
    weight = (weight - largest) * scale;
    Lanes::exp(weight);
    Lanes::store(weights + c, weight);
    sums += weight;
    products += weight * factor;
  }
  sum = Lanes::sum(sums);
  product = Lanes::sum(products);
}

// Of a row's logits and of h: the logits' gradient in place of the logits, p in place of h.
template <typename S, bool kLossApart>
GLASS_INLINE void differentiate_row(typename S::Number* logits, typename S::Number* h,
                                    const typename S::Number* weights, int64_t width,
                                    typename S::Number sum, typename S::Number product,
                                    typename S::Number scale, typename S::Number of_loss,
                                    typename S::Number log_sum_exp) {
  using Lanes = typename S::Lanes;
  const typename S::Number share = 1 / sum, mean = product / sum;
  for (int64_t c = 0; c < width; c += S::kLanes) {
    typename Lanes::type p, grad;
    Lanes::load(p, weights + c);
    Lanes::load(grad, h + c);
    p *= share;
    Lanes::store(h + c, p);
    grad = (grad - mean) * scale;
    if constexpr (kLossApart) {
      typename Lanes::type chance;
      Lanes::load(chance, logits + c);
      chance -= log_sum_exp;
      Lanes::exp(chance);
      grad = grad * p + chance * of_loss;
    } else {
      grad = (grad + of_loss) * p;
    }
    Lanes::store(logits + c, grad);
  }
}

// The same of the loss alone.
template <typename S>
GLASS_INLINE void differentiate_loss(typename S::Number* logits, int64_t width,
                                     typename S::Number of_loss, typename S::Number log_sum_exp) {
  using Lanes = typename S::Lanes;
  for (int64_t c = 0; c < width; c += S::kLanes) {
    typename Lanes::type chance;
    Lanes::load(chance, logits + c);
    chance -= log_sum_exp;
    Lanes::exp(chance);
    Lanes::store(logits + c, chance * of_loss);
  }
}

template <typename S, typename T>
struct GradientRows {
  using Number = typename S::Number;
  const GradientCall<T>& call;
  const int64_t rows_at_once;
  const int64_t parts = call.grad_assigned ? 2 : 1;
  const int64_t padded = round_up(call.codes, S::kColumns);
  const int64_t step = std::max(padded, round_up(call.codes, S::kRows)) + kLineApart<Number>;
  LoadedRows<S> inputs{parts * rows_at_once, call.width};  // queries, then cotangents
  std::vector<Number> logits =                             // of the inputs
      std::vector<Number>(round_up(parts * rows_at_once, S::kRows) * step);
  std::vector<Number> weights = std::vector<Number>(padded);  // of one row
  std::vector<Number> grads =
      std::vector<Number>(call.grad_query ? round_up(rows_at_once, S::kRows) * inputs.step : 0);

  // As many rows as leave the logits in the cache.
  static int64_t most_rows(int64_t codes) {
    constexpr int64_t kNumbers = 1 << 14;
    return std::clamp<int64_t>(kNumbers / codes / kRowsOfAnyTile, 2, 8) * kRowsOfAnyTile;
  }
  GradientRows(const GradientCall<T>& of, int64_t count)
      : call(of), rows_at_once(std::min(most_rows(of.codes), count)) {}

  GLASS_INLINE void differentiate(int64_t row, Number* s, Number* h) {
    const int32_t target = call.grad_loss ? call.target[row] : kNoCode;
    const Number of_loss = target == kNoCode ? 0 : call.grad_loss[row];
    const Number log_sum_exp = of_loss != 0 ? call.log_sum_exp[row] : 0;
    std::fill(s + call.codes, s + padded, -std::numeric_limits<Number>::infinity());
    if (call.grad_assigned) {
      const Number scale = 1 / call.temperature;
      Number sum, product;
      weigh<S>(s, h, padded, scale, weights.data(), sum, product);
      if (of_loss != 0 && scale != 1) {
        differentiate_row<S, true>(s, h, weights.data(), padded, sum, product, scale, of_loss,
                                   log_sum_exp);
      } else {
        differentiate_row<S, false>(s, h, weights.data(), padded, sum, product, scale, of_loss,
                                    log_sum_exp);
      }
    } else if (of_loss != 0) {
      differentiate_loss<S>(s, padded, of_loss, log_sum_exp);
    } else {
      std::fill_n(s, padded, Number(0));
    }
    if (target != kNoCode) s[target] -= of_loss;
  }

  GLASS_INLINE void block(int64_t begin, int64_t rows, CodebookSums<Number>* sums) {
    const int64_t width = call.width, codes = call.codes, all = parts * rows;
    inputs.put(call.query + begin * width, 0, rows);
    if (call.grad_assigned) inputs.put(call.grad_assigned + begin * width, rows, rows);
    add_product<S, true>({inputs.numbers.data(), inputs.step, 1}, call.codes_as_columns,
                         S::kColumns, width * S::kColumns, all, codes, width, logits.data(), step);
    for (int64_t row = 0; row < rows; ++row) {
      Number* s = logits.data() + row * step;
      differentiate(begin + row, s, s + rows * step);
    }
    if (call.grad_query) {
      add_product<S, true>({logits.data(), step, 1}, call.codes_as_rows, S::kColumns,
                           codes * S::kColumns, rows, width, codes, grads.data(), inputs.step);
      for (int64_t row = 0; row < rows; ++row) {
        const Number* __restrict from = grads.data() + row * inputs.step;
        T* __restrict to = call.grad_query + (begin + row) * width;
        for (int64_t c = 0; c < width; ++c) store(from[c], to[c]);
      }
    }
    if (sums) {
      add_product<S>({logits.data(), 1, step}, inputs.numbers.data(), inputs.step, S::kColumns,
                     codes, width, all, sums->numbers.data(), sums->step);
    }
  }
};

// `sums` null: no gradient of the codebook.
template <typename S, typename T>
GLASS_INLINE void differentiate_rows(const GradientCall<T>& call, int64_t begin, int64_t end,
                                     CodebookSums<typename S::Number>* sums) {
  GradientRows<S, T> work(call, end - begin);
  if (sums) sums->template reserve<S>(call.codes, call.width);
  for (int64_t row = begin; row < end; row += work.rows_at_once) {
    work.block(row, std::min(work.rows_at_once, end - row), sums);
  }
}

}  // namespace glass
