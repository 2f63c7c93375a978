// glass::bucket_history and glass::hard_search for CUDA tensors: checks, buffers and stream.
// Their schemas are in _cpp.abi3.so.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <optional>

#include "../common/checks.h"
#include "hard_search.h"
#include "sid_tier.h"
#include "stream.h"

namespace glass {
namespace {

using torch::stable::accelerator::DeviceGuard;

bool is_wide(const Tensor& tensor, const char* name) {
  const bool wide = tensor.scalar_type() == ScalarType::Long;
  STD_TORCH_CHECK(wide || tensor.scalar_type() == ScalarType::Int, name, " must be int32 or int64");
  return wide;
}

std::tuple<Tensor, Tensor> bucket_history_cuda(const Tensor& sid1, const Tensor& offsets,
                                               int64_t num_codes) {
  const int32_t device = sid1.get_device_index();
  check_cuda(sid1, "sid1", 1, device);
  check_cuda(offsets, "offsets", 1, device);
  STD_TORCH_CHECK(num_codes >= 1 && num_codes < INT32_MAX, "num_codes must be in [1, 2^31 - 1)");
  STD_TORCH_CHECK(offsets.scalar_type() == ScalarType::Long, "offsets must be int64");
  STD_TORCH_CHECK(offsets.numel() >= 1, "offsets must not be empty");
  STD_TORCH_CHECK(sid1.numel() <= INT32_MAX, "sid1 must hold fewer than 2^31 events");

  const DeviceGuard guard(device);
  const Tensor codes = packed(sid1), bounds = packed(offsets);
  const int64_t num_users = bounds.numel() - 1;
  Tensor order = torch::stable::new_empty(codes, {codes.numel()}, ScalarType::Int);
  Tensor starts = torch::stable::new_empty(codes, {num_users, num_codes + 1}, ScalarType::Int);
  const BucketHistoryCall call{.sid1 = codes.const_data_ptr(),
                               .wide_codes = is_wide(codes, "sid1"),
                               .offsets = bounds.const_data_ptr<int64_t>(),
                               .num_users = num_users,
                               .total = codes.numel(),
                               .num_codes = num_codes,
                               .order = order.mutable_data_ptr<int32_t>(),
                               .bucket_offsets = starts.mutable_data_ptr<int32_t>()};
  const int error = glass_bucket_history(&call, current_cuda_stream(device));
  STD_TORCH_CHECK(error == 0, "bucket_history: ", glass_cuda_error(error));
  return {order, starts};
}

std::tuple<Tensor, Tensor> hard_search_cuda(const Tensor& order, const Tensor& bucket_offsets,
                                            const Tensor& query_sid1,
                                            std::optional<Tensor> neighbours, int64_t max_items,
                                            int64_t min_items) {
  const int32_t device = order.get_device_index();
  check_cuda(order, "order", 1, device);
  check_cuda(bucket_offsets, "bucket_offsets", 2, device);
  check_cuda(query_sid1, "query_sid1", 2, device);
  STD_TORCH_CHECK(order.scalar_type() == ScalarType::Int, "order must be int32");
  STD_TORCH_CHECK(bucket_offsets.scalar_type() == ScalarType::Int, "bucket_offsets must be int32");
  STD_TORCH_CHECK(bucket_offsets.size(1) >= 2, "bucket_offsets must have K + 1 >= 2 columns");
  STD_TORCH_CHECK(max_items >= 1 && max_items <= INT32_MAX, "max_items must be in [1, 2^31)");
  STD_TORCH_CHECK(min_items >= 0, "min_items must be at least 0");
  const int64_t num_users = bucket_offsets.size(0), num_codes = bucket_offsets.size(1) - 1;
  STD_TORCH_CHECK(query_sid1.size(0) == num_users, "query_sid1 must have a row a user");
  if (neighbours) {
    check_cuda(*neighbours, "neighbours", 2, device);
    STD_TORCH_CHECK(neighbours->size(0) == num_codes, "neighbours must have a row a code");
  }

  const DeviceGuard guard(device);
  const Tensor events = packed(order), starts = packed(bucket_offsets);
  const Tensor query = packed(query_sid1), near = neighbours ? packed(*neighbours) : query;
  const int64_t num_queries = query.size(1);
  Tensor positions =
      torch::stable::new_empty(starts, {num_users, num_queries, max_items}, ScalarType::Int);
  Tensor lengths = torch::stable::new_empty(starts, {num_users, num_queries}, ScalarType::Int);
  const HardSearchCall call{.order = events.const_data_ptr<int32_t>(),
                            .total = events.numel(),
                            .bucket_offsets = starts.const_data_ptr<int32_t>(),
                            .num_users = num_users,
                            .num_codes = num_codes,
                            .query_sid1 = query.const_data_ptr(),
                            .wide_queries = is_wide(query, "query_sid1"),
                            .num_queries = num_queries,
                            .neighbours = near.const_data_ptr(),
                            .wide_neighbours = is_wide(near, "neighbours"),
                            .num_neighbours = neighbours ? near.size(1) : 0,
                            .max_items = max_items,
                            .min_items = std::min(min_items, max_items),
                            .positions = positions.mutable_data_ptr<int32_t>(),
                            .lengths = lengths.mutable_data_ptr<int32_t>()};
  const int error = glass_hard_search(&call, current_cuda_stream(device));
  STD_TORCH_CHECK(error == 0, "hard_search: ", glass_cuda_error(error));
  return {positions, lengths};
}

}  // namespace
}  // namespace glass

STABLE_TORCH_LIBRARY_IMPL(glass, CUDA, m) {
  m.impl("bucket_history", TORCH_BOX(&glass::bucket_history_cuda));
  m.impl("hard_search", TORCH_BOX(&glass::hard_search_cuda));
}
