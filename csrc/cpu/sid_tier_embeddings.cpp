// SID-Tier without a table, and the table itself; the work is in tier_rows.h and tier_history.h.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <numeric>

#include "../common/checks.h"
#include "sid_tier_count.h"
#include "tier_history.h"

namespace glass {
namespace {

struct TorchThreads {
  template <typename F>
  void operator()(int64_t count, const F& body) const {
    if (count > 0) torch::stable::parallel_for(0, count, 1, body);
  }
};

struct Setting {
  TierPlan plan;
  TierBlock tier_block;
  Tensor items;  // contiguous
};

TierBlock block_of(const TierKernel& kernel, ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float:
      return kernel.single;
    case ScalarType::Double:
      return kernel.wide;
    case ScalarType::Half:
      return kernel.half;
    case ScalarType::BFloat16:
      return kernel.bfloat16;
    default:
      STD_TORCH_CHECK(false, "item_embeddings must be float32, bfloat16, float16 or float64");
  }
}

void pack(TierPlan& plan, const Tensor& prototypes) {
  const void* data = prototypes.const_data_ptr();
  switch (prototypes.scalar_type()) {
    case ScalarType::Float:
      return plan.pack(static_cast<const float*>(data));
    case ScalarType::Double:
      return plan.pack(static_cast<const double*>(data));
    case ScalarType::Half:
      return plan.pack(static_cast<const Half*>(data));
    case ScalarType::BFloat16:
      return plan.pack(static_cast<const BFloat16*>(data));
    default:
      STD_TORCH_CHECK(false, "prototypes must be float32, bfloat16, float16 or float64");
  }
}

std::vector<double> inner_edges(const Tensor& edges) {
  const Tensor bounds = torch::stable::contiguous(edges);
  const int64_t count = bounds.numel();
  STD_TORCH_CHECK(count >= 2 && count <= 256, "edges must hold N + 1 numbers with 1 <= N <= 255");
  std::vector<double> all(count);
  if (bounds.scalar_type() == ScalarType::Double) {
    std::copy_n(bounds.const_data_ptr<double>(), count, all.begin());
  } else {
    STD_TORCH_CHECK(bounds.scalar_type() == ScalarType::Float, "edges must be float32 or float64");
    std::copy_n(bounds.const_data_ptr<float>(), count, all.begin());
  }
  for (int64_t i = 1; i < count; ++i) {
    STD_TORCH_CHECK(all[i - 1] < all[i], "edges must be strictly increasing");
  }
  return {all.begin() + 1, all.end() - 1};
}

Setting prepare(const Tensor& item_embeddings, const Tensor& prototypes, const Tensor& edges) {
  check_cpu(item_embeddings, "item_embeddings", 2);
  check_cpu(prototypes, "prototypes", 2);
  check_cpu(edges, "edges", 1);
  const int64_t dim = item_embeddings.size(1);
  STD_TORCH_CHECK(dim >= 1, "item_embeddings must have at least one column");
  STD_TORCH_CHECK(prototypes.size(1) == dim, "prototypes must have ", dim, " columns");
  const TierKernel kernel = tier_kernel(best_simd());
  Setting setting{{},
                  block_of(kernel, item_embeddings.scalar_type()),
                  torch::stable::contiguous(item_embeddings)};
  TierPlan& plan = setting.plan;
  plan.num_codes = prototypes.size(0);
  plan.dim = dim;
  plan.strip = kernel.strip;
  plan.compare_double = item_embeddings.scalar_type() == ScalarType::Double;
  plan.inner = inner_edges(edges);
  pack(plan, torch::stable::contiguous(prototypes));
  plan.make_cells();
  return setting;
}

Tensor sid_tier_from_embeddings(const Tensor& item_ids, const Tensor& offsets,
                                const Tensor& item_embeddings, const Tensor& prototypes,
                                const Tensor& edges, bool normalize) {
  check_cpu(item_ids, "item_ids", 1);
  check_cpu(offsets, "offsets", 1);
  STD_TORCH_CHECK(offsets.scalar_type() == ScalarType::Long, "offsets must be int64");
  STD_TORCH_CHECK(offsets.numel() >= 1, "offsets must not be empty");
  const Tensor ids = torch::stable::contiguous(item_ids);
  const Tensor bounds = torch::stable::contiguous(offsets);
  const int64_t users = bounds.numel() - 1;
  const int64_t* offset = bounds.const_data_ptr<int64_t>();
  check_offsets(offset, users, ids.numel());
  STD_TORCH_CHECK(ids.numel() < (int64_t{1} << 31), "item_ids must hold fewer than 2^31 events");
  const Setting setting = prepare(item_embeddings, prototypes, edges);

  const int64_t num_codes = setting.plan.num_codes, num_tiers = edges.numel() - 1;
  Tensor out =
      torch::stable::new_empty(setting.items, {users, num_codes, num_tiers}, ScalarType::Float);
  const TorchThreads threads;
  const auto count_users = [&](const uint8_t* tiers, int64_t rows, const int32_t* slots,
                               const int64_t* bounds, int64_t count, bool share, float* to) {
    count_tiers(tiers, rows, num_codes, num_tiers, slots, bounds, count, share, to);
  };
  HistoryJob job(setting.plan, setting.tier_block, setting.items.const_data_ptr(),
                 setting.items.size(0), threads, count_users);
  const bool is_int = ids.scalar_type() == ScalarType::Int;
  STD_TORCH_CHECK(is_int || ids.scalar_type() == ScalarType::Long,
                  "item_ids must be int32 or int64");
  const auto run = [&](const auto* item) {
    return job.run(item, offset, users, normalize, out.mutable_data_ptr<float>());
  };
  const bool known =
      is_int ? run(ids.const_data_ptr<int32_t>()) : run(ids.const_data_ptr<int64_t>());
  STD_TORCH_CHECK(known, "item_ids must be in [0, ", setting.items.size(0), ")");
  return out;
}

Tensor tier_table(const Tensor& item_embeddings, const Tensor& prototypes, const Tensor& edges) {
  const Setting setting = prepare(item_embeddings, prototypes, edges);
  const int64_t rows = setting.items.size(0), num_codes = setting.plan.num_codes;
  Tensor out = torch::stable::new_empty(setting.items, {rows, num_codes}, ScalarType::Byte);
  uint8_t* tiers = out.mutable_data_ptr<uint8_t>();
  const void* items = setting.items.const_data_ptr();
  const int64_t step = TierScratch::rows_at_once(setting.plan.dim);
  TorchThreads()((rows + step - 1) / step, [&](int64_t first, int64_t last) {
    TierScratch scratch(setting.plan.dim);
    std::vector<int64_t> ids(step);
    for (int64_t row = first * step; row < std::min(last * step, rows); row += step) {
      std::iota(ids.begin(), ids.end(), row);
      setting.tier_block(setting.plan, items, ids.data(), std::min(step, rows - row), 0,
                         tiers + row * num_codes, scratch);
    }
  });
  return out;
}

}  // namespace
}  // namespace glass

STABLE_TORCH_LIBRARY_IMPL(glass, CPU, m) {
  m.impl("sid_tier_from_embeddings", TORCH_BOX(&glass::sid_tier_from_embeddings));
  m.impl("tier_table", TORCH_BOX(&glass::tier_table));
}
