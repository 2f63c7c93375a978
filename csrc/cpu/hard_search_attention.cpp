// Attention to retrieved items, forward and backward: out = sum softmax(scale * query . key) value.
//
// Keys and values are rows of small tables, laid out once a call (head_lanes.h); a set becomes the
// bag of its tokens, shared by all queries of all equal sets of its user (token_bags.h). The
// backward makes the weights again: nothing is kept of the forward. Each part of the sets has its
// own gradients of the tables, summed in their order: the same threads give the same numbers.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <optional>
#include <tuple>

#include "../common/float_tensors.h"
#include "../common/simd.h"
#include "bag_worker.h"
#include "retrieved_sets.h"

namespace glass {
namespace {

constexpr int64_t kPartWork = 1 << 20;  // multiply-adds of a score that are worth a thread

struct Inputs {
  Tensor query, key_table, value_table, tokens, positions, lengths;

  Inputs(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& t, const Tensor& p,
         const Tensor& l)
      : query(packed(q)),
        key_table(packed(k)),
        value_table(packed(v)),
        tokens(packed(t)),
        positions(packed(p)),
        lengths(packed(l)) {
    check_cpu(query, "query", 5);
    check_table(key_table, "key_table");
    check_table(value_table, "value_table");
    STD_TORCH_CHECK(key_table.size(0) == value_table.size(0) && key_table.size(0) >= 1 &&
                        key_table.size(0) < INT32_MAX,
                    "key_table and value_table must have the same rows, at least one");
    check_sets(tokens, positions, lengths, query.size(0), query.size(1));
  }

  Retrieved retrieved() const {
    return read_retrieved(tokens, positions, lengths, key_table.size(0));
  }

 private:
  void check_table(const Tensor& table, const char* name) const {
    check_cpu(table, name, 3);
    STD_TORCH_CHECK(table.scalar_type() == query.scalar_type(), name,
                    " must have the dtype of query");
    STD_TORCH_CHECK(table.size(1) == query.size(3) && table.size(2) == query.size(4), name,
                    " must have the heads of query");
  }
};

template <typename F>
void for_parts(int64_t parts, const F& body) {
  if (parts == 1) return body(0);
  torch::stable::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) body(part);
  });
}

// First set of each part, and the end: about equal numbers of scores. At most one part a thread.
std::vector<int64_t> cut_sets(const Retrieved& retrieved, int64_t queries_per_set, int64_t row) {
  const int64_t sets = static_cast<int64_t>(retrieved.lengths.size());
  const auto cost = [&](int64_t set) {
    return 1 + std::min(retrieved.lengths[set] * retrieved.per_event, retrieved.num_tokens);
  };
  int64_t total = 0, done = 0;
  for (int64_t set = 0; set < sets; ++set) total += cost(set);
  const int64_t worth = total * queries_per_set * row / kPartWork;
  const int64_t parts =
      std::clamp<int64_t>(worth, 1, std::max<int64_t>(torch::stable::get_num_threads(), 1));
  std::vector<int64_t> cuts{0};
  for (int64_t set = 0; set < sets; ++set) {
    const int64_t part = static_cast<int64_t>(cuts.size());
    if (part < parts && done >= total * part / parts) cuts.push_back(set);
    done += cost(set);
  }
  cuts.push_back(sets);
  return cuts;
}

// The tables in the layout, and a worker for each part that has run.
template <typename T>
class Attention {
 public:
  using Real = Accumulated<T>;

  Attention(const BagProblem<T>& problem, const std::vector<int64_t>& cuts)
      : problem_(problem),
        tokens_(problem.retrieved.num_tokens),
        keys_(tokens_, problem.lanes.row),
        values_(tokens_, problem.lanes.row),
        parts_(static_cast<int64_t>(cuts.size()) - 1),
        workers_(parts_) {
    const TokenRows<Real> table{keys_.get(), values_.get()};
    if (parts_ > 1) pack_all(table);
    std::vector<BagFault> faults(parts_);
    for_parts(parts_, [&](int64_t part) {
      workers_[part].emplace(problem_, table, parts_ == 1);
      faults[part] = workers_[part]->run(cuts[part], cuts[part + 1]);
    });
    for (const BagFault& fault : faults) raise_fault(fault, problem_.retrieved);
  }

  // [tokens, heads, head_dim], sums of all parts.
  void table_grads(T* key_grads, T* value_grads) const {
    const int64_t row = problem_.lanes.row, plain = problem_.plain_row();
    for_parts(parts_, [&](int64_t part) {
      RowPacker<T> packer(problem_.lanes);
      std::vector<Real> sum(row);
      const auto add_up = [&](int64_t token, auto grad, T* to) {
        const auto met = [&](const auto& worker) { return worker->met(token); };
        if (std::none_of(workers_.begin(), workers_.end(), met)) {
          std::fill_n(to + token * plain, plain, T{});
          return;
        }
        std::fill(sum.begin(), sum.end(), Real{0});
        for (const auto& worker : workers_) {
          if (!worker->met(token)) continue;
          const Real* more = ((*worker).*grad)(token);
          for (int64_t i = 0; i < row; ++i) sum[i] += more[i];
        }
        packer.unpack(sum.data(), 1, to + token * plain);
      };
      for (int64_t token = first(part); token < first(part + 1); ++token) {
        add_up(token, &BagWorker<T>::key_grad, key_grads);
        add_up(token, &BagWorker<T>::value_grad, value_grads);
      }
    });
  }

 private:
  int64_t first(int64_t part) const { return tokens_ * part / parts_; }

  void pack_all(const TokenRows<Real>& table) const {
    const int64_t row = problem_.lanes.row, plain = problem_.plain_row();
    for_parts(parts_, [&](int64_t part) {
      RowPacker<T> packer(problem_.lanes);
      for (int64_t token = first(part); token < first(part + 1); ++token) {
        packer.pack(problem_.keys + token * plain, 1, table.keys + token * row);
        packer.pack(problem_.values + token * plain, 1, table.values + token * row);
      }
    });
  }

  const BagProblem<T>& problem_;
  int64_t tokens_;
  AlignedRows<Real> keys_, values_;
  int64_t parts_;
  std::vector<std::optional<BagWorker<T>>> workers_;
};

// Runs `use(problem, cuts)`; grad is null in the forward.
template <typename T, typename Use>
void with_problem(const Inputs& in, const Tensor* grad, Tensor& out, double scale, const Use& use) {
  using Real = Accumulated<T>;
  const Retrieved retrieved = in.retrieved();
  const BagKernel<Real> kernel = bag_kernel<Real>(best_simd());
  const HeadLanes lanes(in.query.size(3), in.query.size(4), kernel.width);
  const auto data = [](const Tensor& tensor) {
    return static_cast<const T*>(tensor.const_data_ptr());
  };
  const BagProblem<T> problem{data(in.query),
                              data(in.key_table),
                              data(in.value_table),
                              grad ? data(*grad) : nullptr,
                              grad != nullptr,
                              static_cast<T*>(out.mutable_data_ptr()),
                              in.query.size(1),
                              in.query.size(2),
                              static_cast<Real>(scale),
                              lanes,
                              retrieved,
                              kernel};
  use(problem, cut_sets(retrieved, problem.positions, lanes.row));
}

Tensor hard_search_attention(const Tensor& query, const Tensor& key_table,
                             const Tensor& value_table, const Tensor& tokens,
                             const Tensor& positions, const Tensor& lengths, double scale) {
  const Inputs in(query, key_table, value_table, tokens, positions, lengths);
  Tensor out = torch::stable::new_empty(in.query, in.query.sizes());
  with_float(in.query, "query", [&](auto element) {
    using T = decltype(element);
    with_problem<T>(in, nullptr, out, scale, [](const auto& problem, const auto& cuts) {
      Attention<T> attention(problem, cuts);
    });
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> hard_search_attention_backward(
    const Tensor& grad, const Tensor& query, const Tensor& key_table, const Tensor& value_table,
    const Tensor& tokens, const Tensor& positions, const Tensor& lengths, double scale) {
  const Inputs in(query, key_table, value_table, tokens, positions, lengths);
  const Tensor given = packed(grad);
  check_cpu(given, "grad", 5);
  STD_TORCH_CHECK(given.scalar_type() == in.query.scalar_type(), "grad must have query's dtype");
  for (int64_t dim = 0; dim < 5; ++dim) {
    STD_TORCH_CHECK(given.size(dim) == in.query.size(dim), "grad must have the shape of query");
  }
  Tensor query_grad = torch::stable::new_empty(in.query, in.query.sizes());
  Tensor key_grad = torch::stable::new_empty(in.key_table, in.key_table.sizes());
  Tensor value_grad = torch::stable::new_empty(in.value_table, in.value_table.sizes());
  with_float(in.query, "query", [&](auto element) {
    using T = decltype(element);
    with_problem<T>(in, &given, query_grad, scale, [&](const auto& problem, const auto& cuts) {
      const Attention<T> attention(problem, cuts);
      attention.table_grads(static_cast<T*>(key_grad.mutable_data_ptr()),
                            static_cast<T*>(value_grad.mutable_data_ptr()));
    });
  });
  return {query_grad, key_grad, value_grad};
}

}  // namespace
}  // namespace glass

STABLE_TORCH_LIBRARY_IMPL(glass, CPU, m) {
  m.impl("hard_search_attention", TORCH_BOX(&glass::hard_search_attention));
  m.impl("hard_search_attention_backward", TORCH_BOX(&glass::hard_search_attention_backward));
}
