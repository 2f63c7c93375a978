// Assignment of a thread's rows to a codebook, block by block: of the logits, only those of a block
// of rows with a block of codes are there at a time.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "../common/floats.h"
#include "tile_products.h"

namespace glass {

constexpr int32_t kNoCode = -1;  // a target that is ignored

template <typename T>
struct AssignCall {
  using Number = typename Computed<T>::type;
  int64_t width, codes;
  const T *query, *codebook;
  const Number* panels;   // codes as columns
  const int32_t* target;  // null: no loss
  T* assigned;
  int64_t* index;
  Number *loss, *log_sum_exp;  // with a target
};

template <typename Number>
constexpr int64_t kLineApart = 64 / sizeof(Number);  // steps of a page's size share cache sets

// Rows in the dtype computed in, filled up with anything to whole tiles.
template <typename S>
struct LoadedRows {
  using Number = typename S::Number;
  int64_t width, step;
  std::vector<Number> numbers;

  LoadedRows(int64_t rows, int64_t columns)
      : width(columns),
        step(round_up(columns, S::kColumns) + kLineApart<Number>),
        numbers(round_up(rows, S::kRows) * step) {}

  template <typename T>
  GLASS_INLINE void put(const T* from, int64_t first, int64_t count) {
    for (int64_t row = 0; row < count; ++row) {
      Number* __restrict to = numbers.data() + (first + row) * step;
      for (int64_t c = 0; c < width; ++c) load(from[row * width + c], to[c]);
    }
  }
};

// What is known of a row while the codes pass by.
template <typename Number>
struct RowSoFar {
  Number largest = -std::numeric_limits<Number>::infinity();
  Number sum = 0;  // of exp(logit - largest)
  Number of_target = 0;
  int64_t index = 0;
};

// The largest of logits [up to whole registers] and where it is first; false, and nothing, where a
// logit is not finite.
template <typename S>
GLASS_INLINE bool find_largest(const typename S::Number* logits, int64_t width,
                               typename S::Number& largest, int64_t& place) {
  using Lanes = typename S::Lanes;
  typename Lanes::type most, total;
  typename Lanes::bits at, where;
  for (int lane = 0; lane < S::kLanes; ++lane) at[lane] = lane;
  where = at;
  Lanes::load(most, logits);
  total = most;
  for (int64_t c = S::kLanes; c < width; c += S::kLanes) {
    typename Lanes::type logit;
    Lanes::load(logit, logits + c);
    at += S::kLanes;
    const auto larger = logit > most;
    most = larger ? logit : most;
    where = larger ? at : where;
    total += logit;
  }
  largest = Lanes::largest(most);
  place = Lanes::least_where(most, largest, where);
  return std::isfinite(Lanes::sum(total));
}

// The same for any logits, as torch's argmax decides it: NaN is larger than all.
template <typename Number>
GLASS_INLINE void find_largest_of_any(const Number* logits, int64_t width, Number& largest,
                                      int64_t& place) {
  largest = logits[0];
  place = 0;
  for (int64_t at = 1; at < width && !std::isnan(largest); ++at) {
    if (std::isnan(logits[at]) || logits[at] > largest) {
      largest = logits[at];
      place = at;
    }
  }
}

// Sum of exp(logit - largest), logits up to whole registers.
template <typename S>
GLASS_INLINE typename S::Number sum_of_exp(const typename S::Number* logits, int64_t width,
                                           typename S::Number largest) {
  using Lanes = typename S::Lanes;
  typename Lanes::type sums = {};
  for (int64_t c = 0; c < width; c += S::kLanes) {
    typename Lanes::type power;
    Lanes::load(power, logits + c);
    power -= largest;
    Lanes::exp(power);
    sums += power;
  }
  return Lanes::sum(sums);
}

// A row's logits of the codes from `first` on; they reach to whole registers.
template <typename S>
GLASS_INLINE void note_codes(typename S::Number* logits, int64_t first, int64_t count,
                             const int32_t* target, RowSoFar<typename S::Number>& row) {
  using Number = typename S::Number;
  const int64_t padded = round_up(count, S::kLanes);
  std::fill(logits + count, logits + padded, logits[0]);  // never the first of the largest
  Number largest;
  int64_t place;
  if (!find_largest<S>(logits, padded, largest, place)) {
    find_largest_of_any(logits, count, largest, place);
  }
  const bool larger = largest > row.largest || (std::isnan(largest) && !std::isnan(row.largest));
  const Number before = row.largest;
  if (larger) {
    row.largest = largest;
    row.index = first + place;
  }
  if (target == nullptr) return;
  std::fill(logits + count, logits + padded, -std::numeric_limits<Number>::infinity());
  if (larger && row.sum > 0) row.sum *= std::exp(before - largest);
  row.sum += sum_of_exp<S>(logits, padded, row.largest);
  if (*target >= first && *target < first + count) row.of_target = logits[*target - first];
}

template <typename S, typename T>
struct AssignRows {
  using Number = typename S::Number;
  static constexpr int64_t kCodesAtOnce = 256;  // a multiple of every tile's columns
  static constexpr int64_t kRowsAtOnce = 8 * kRowsOfAnyTile;

  const AssignCall<T>& call;
  LoadedRows<S> query;
  std::vector<Number> logits;  // [rows, kStep]
  std::vector<RowSoFar<Number>> state;
  static constexpr int64_t kStep = kCodesAtOnce + kLineApart<Number>;

  AssignRows(const AssignCall<T>& of, int64_t count)
      : call(of),
        query(std::min(count, kRowsAtOnce), of.width),
        logits(round_up(std::min(count, kRowsAtOnce), S::kRows) * kStep),
        state(std::min(count, kRowsAtOnce)) {}

  GLASS_INLINE void finish(int64_t row, const RowSoFar<Number>& found) {
    const int64_t width = call.width;
    call.index[row] = found.index;
    T* to = call.assigned + row * width;
    if (std::isfinite(found.largest)) {
      std::copy_n(call.codebook + found.index * width, width, to);
    } else {  // as softmax has it
      for (int64_t c = 0; c < width; ++c) store(std::numeric_limits<Number>::quiet_NaN(), to[c]);
    }
    if (call.target == nullptr) return;
    const Number log_of_sum = std::log(found.sum);
    call.log_sum_exp[row] = found.largest + log_of_sum;
    call.loss[row] =
        call.target[row] == kNoCode ? 0 : log_of_sum + (found.largest - found.of_target);
  }

  GLASS_INLINE void block(int64_t begin, int64_t rows) {
    query.put(call.query + begin * call.width, 0, rows);
    std::fill_n(state.begin(), rows, RowSoFar<Number>{});
    for (int64_t first = 0; first < call.codes; first += kCodesAtOnce) {
      const int64_t count = std::min(kCodesAtOnce, call.codes - first);
      add_product<S, true>({query.numbers.data(), query.step, 1}, call.panels + first * call.width,
                           S::kColumns, call.width * S::kColumns, rows, count, call.width,
                           logits.data(), kStep);
      for (int64_t row = 0; row < rows; ++row) {
        note_codes<S>(logits.data() + row * kStep, first, count,
                      call.target ? call.target + begin + row : nullptr, state[row]);
      }
    }
    for (int64_t row = 0; row < rows; ++row) finish(begin + row, state[row]);
  }
};

template <typename S, typename T>
GLASS_INLINE void assign_rows(const AssignCall<T>& call, int64_t begin, int64_t end) {
  AssignRows<S, T> work(call, end - begin);
  for (int64_t row = begin; row < end; row += work.kRowsAtOnce) {
    work.block(row, std::min(work.kRowsAtOnce, end - row));
  }
}

}  // namespace glass
