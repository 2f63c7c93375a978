// What hard_search_attention does for a range of sets, on one thread: groups of equal sets, their
// bag, tiles of their queries.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "bag_attention.h"
#include "head_lanes.h"
#include "row_packer.h"
#include "token_bags.h"

namespace glass {

template <typename Real>
struct AlignedRows {
  struct Free {
    void operator()(Real* rows) const { ::operator delete(rows, std::align_val_t{64}); }
  };
  std::unique_ptr<Real, Free> rows;  // not initialised

  AlignedRows() = default;
  AlignedRows(int64_t count, int64_t row)
      : rows(static_cast<Real*>(::operator new(sizeof(Real) * std::max<int64_t>(count * row, 1),
                                               std::align_val_t{64}))) {}
  Real* get() const { return rows.get(); }
};

template <typename T>
struct BagProblem {
  using Real = Accumulated<T>;

  const T *query, *keys, *values;
  const T* grad;  // of the result
  bool backward;  // else there is no grad
  T* out;         // the result, or the gradient of the query
  int64_t sets_per_user, positions;
  Real scale;
  const HeadLanes& lanes;
  const Retrieved& retrieved;
  BagKernel<Real> kernel;

  int64_t plain_row() const { return lanes.heads * lanes.head_dim; }
};

template <typename T>
class BagWorker {
 public:
  using Real = Accumulated<T>;

  // `table` holds all keys and values, or where `lazy` gets those that are needed.
  BagWorker(const BagProblem<T>& problem, const TokenRows<Real>& table, bool lazy)
      : problem_(problem),
        table_(table),
        lazy_(lazy),
        met_(lazy || problem.backward ? problem.retrieved.num_tokens : 0, 0),
        packer_(problem.lanes),
        maker_(problem.retrieved.num_tokens),
        tile_(problem.lanes) {
    if (!problem.backward) return;
    key_grads_ = AlignedRows<Real>(problem.retrieved.num_tokens, problem.lanes.row);
    value_grads_ = AlignedRows<Real>(problem.retrieved.num_tokens, problem.lanes.row);
    table_.key_grads = key_grads_.get();
    table_.value_grads = value_grads_.get();
  }

  BagFault run(int64_t begin, int64_t end) {
    const int64_t per_user = problem_.sets_per_user;
    for (int64_t set = begin; set < end;) {
      const int64_t user_end = std::min(end, (set / per_user + 1) * per_user);
      for (int64_t each = set; each < user_end; ++each) {
        const BagFault fault = check_positions(problem_.retrieved, each);
        if (fault.mistake != BagMistake::kNone) return fault;
      }
      groups_.find(problem_.retrieved, set, user_end);
      for (const int64_t first : groups_.first) {
        const BagFault fault = maker_.fill(problem_.retrieved, first, bag_);
        if (fault.mistake != BagMistake::kNone) return fault;
        run_group(first);
      }
      set = user_end;
    }
    return {};
  }

  // Whether a set had this token; its gradients are zero, and not even written, otherwise.
  bool met(int64_t token) const { return met_[token] != 0; }
  const Real* key_grad(int64_t token) const {
    return key_grads_.get() + token * problem_.lanes.row;
  }
  const Real* value_grad(int64_t token) const {
    return value_grads_.get() + token * problem_.lanes.row;
  }

 private:
  void run_group(int64_t first) {
    const int64_t positions = problem_.positions;
    queries_.clear();
    for (int64_t set = first; set >= 0; set = groups_.next(set)) {
      for (int64_t p = 0; p < positions; ++p) queries_.push_back(set * positions + p);
    }
    if (bag_.size == 0) {
      const int64_t row = problem_.plain_row();
      for (const int64_t query : queries_) std::fill_n(problem_.out + query * row, row, T{});
      return;
    }
    if (!met_.empty()) meet_tokens();
    tile_.make_room(problem_.lanes, bag_.size, problem_.backward);
    const int64_t count = static_cast<int64_t>(queries_.size());
    const int64_t tiles = (count + kMostQueries - 1) / kMostQueries;
    for (int64_t tile = 0; tile < tiles; ++tile) {  // of nearly equal size
      const int64_t begin = count * tile / tiles, end = count * (tile + 1) / tiles;
      run_tile(queries_.data() + begin, end - begin);
    }
  }

  void run_tile(const int64_t* queries, int64_t count) {
    const int64_t plain = problem_.plain_row(), row = problem_.lanes.row;
    tile_.count = count;
    for (int64_t q = 0; q < count; ++q) {
      packer_.pack(problem_.query + queries[q] * plain, problem_.scale,
                   tile_.queries.data() + q * row);
      if (!problem_.backward) continue;
      packer_.pack(problem_.grad + queries[q] * plain, 1, tile_.grads.data() + q * row);
    }
    const auto run = problem_.backward ? problem_.kernel.attend_back : problem_.kernel.attend;
    run(problem_.lanes, bag_, table_, tile_);
    const Real factor = problem_.backward ? problem_.scale : 1;
    for (int64_t q = 0; q < count; ++q) {
      packer_.unpack(tile_.out.data() + q * row, factor, problem_.out + queries[q] * plain);
    }
  }

  void meet_tokens() {
    const int64_t plain = problem_.plain_row(), row = problem_.lanes.row;
    for (int64_t u = 0; u < bag_.size; ++u) {
      const int64_t token = bag_.tokens[u];
      if (met_[token]) continue;
      met_[token] = 1;
      if (lazy_) {
        packer_.pack(problem_.keys + token * plain, 1, table_.keys + token * row);
        packer_.pack(problem_.values + token * plain, 1, table_.values + token * row);
      }
      if (!problem_.backward) continue;
      std::fill_n(table_.key_grads + token * row, row, Real{0});
      std::fill_n(table_.value_grads + token * row, row, Real{0});
    }
  }

  const BagProblem<T>& problem_;
  TokenRows<Real> table_;
  AlignedRows<Real> key_grads_, value_grads_;
  bool lazy_;
  std::vector<uint8_t> met_;  // tokens
  RowPacker<T> packer_;
  BagMaker<Real> maker_;
  Bag<Real> bag_;
  SetGroups groups_;
  std::vector<int64_t> queries_;
  QueryTile<Real> tile_;
};

}  // namespace glass
