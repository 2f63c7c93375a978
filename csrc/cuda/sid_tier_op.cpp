// glass::sid_tier for CUDA tensors: checks, buffers and stream. Its schema is in _cpp.abi3.so.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "../common/checks.h"
#include "sid_tier.h"
#include "stream.h"

namespace glass {
namespace {

using torch::stable::accelerator::DeviceGuard;

Tensor sid_tier_cuda(const Tensor& item_ids, const Tensor& offsets, const Tensor& table,
                     int64_t num_tiers, bool normalize) {
  const int32_t device = table.get_device_index();
  for (const Tensor* tensor : {&item_ids, &offsets, &table}) {
    STD_TORCH_CHECK(tensor->is_cuda() && tensor->get_device_index() == device,
                    "item_ids, offsets and table must be on one CUDA device");
  }
  STD_TORCH_CHECK(item_ids.dim() == 1, "item_ids must have 1 dimension");
  STD_TORCH_CHECK(offsets.dim() == 1 && offsets.numel() >= 1, "offsets must have B + 1 entries");
  STD_TORCH_CHECK(table.dim() == 2, "table must have 2 dimensions");
  STD_TORCH_CHECK(table.scalar_type() == ScalarType::Byte, "table must be uint8");
  STD_TORCH_CHECK(offsets.scalar_type() == ScalarType::Long, "offsets must be int64");
  STD_TORCH_CHECK(
      item_ids.scalar_type() == ScalarType::Int || item_ids.scalar_type() == ScalarType::Long,
      "item_ids must be int32 or int64");
  STD_TORCH_CHECK(num_tiers >= 1 && num_tiers <= 255, "num_tiers must be in [1, 255]");

  const DeviceGuard guard(device);
  const Tensor ids = torch::stable::contiguous(item_ids);
  const Tensor bounds = torch::stable::contiguous(offsets);
  const Tensor rows = torch::stable::contiguous(table);
  const int64_t num_users = bounds.numel() - 1, total = ids.numel(), num_codes = rows.size(1);

  const int processors = glass_cuda_processors();
  STD_TORCH_CHECK(processors > 0, "no CUDA device: ", glass_cuda_error(-processors));
  const int64_t part =
      glass_sid_tier_part(total, num_codes, static_cast<int>(num_tiers), processors);
  const int64_t cuts = std::max<int64_t>(total - 1, 0) / part;
  Tensor partial = torch::stable::new_empty(rows, {cuts, num_codes, num_tiers}, ScalarType::Int);
  Tensor out = torch::stable::new_empty(rows, {num_users, num_codes, num_tiers}, ScalarType::Float);

  const SidTierCall call{.item_ids = ids.const_data_ptr(),
                         .wide_ids = ids.scalar_type() == ScalarType::Long,
                         .offsets = bounds.const_data_ptr<int64_t>(),
                         .num_users = num_users,
                         .total = total,
                         .table = rows.const_data_ptr<uint8_t>(),
                         .num_items = rows.size(0),
                         .num_codes = num_codes,
                         .num_tiers = num_tiers,
                         .normalize = normalize,
                         .part = part,
                         .partial = static_cast<uint32_t*>(partial.mutable_data_ptr()),
                         .out = out.mutable_data_ptr<float>()};
  const int error = glass_sid_tier(&call, current_cuda_stream(device));
  STD_TORCH_CHECK(error == 0, "sid_tier: ", glass_cuda_error(error));
  return out;
}

}  // namespace
}  // namespace glass

STABLE_TORCH_LIBRARY_IMPL(glass, CUDA, m) { m.impl("sid_tier", TORCH_BOX(&glass::sid_tier_cuda)); }
