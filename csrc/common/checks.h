// Checks of what reaches a kernel. Python has already raised a ValueError for a caller's mistake;
// these guard calls that bypass it (torch.ops, compiled graphs), so that memory stays safe.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/shim_utils.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>

namespace glass {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline void check_cpu(const Tensor& tensor, const char* name, int64_t dims) {
  STD_TORCH_CHECK(tensor.is_cpu(), name, " must be on the CPU");
  STD_TORCH_CHECK(tensor.dim() == dims, name, " must have ", dims, " dimensions");
}

inline void check_cuda(const Tensor& tensor, const char* name, int64_t dims, int32_t device) {
  STD_TORCH_CHECK(tensor.is_cuda() && tensor.get_device_index() == device, name,
                  " must be on the CUDA device of the other tensors");
  STD_TORCH_CHECK(tensor.dim() == dims, name, " must have ", dims, " dimensions");
}

// Contiguous, without a call into torch where nothing is to be done: that takes a microsecond.
inline Tensor packed(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

// An uninitialised one on the CPU, without the lookup of an operator that new_empty makes.
inline Tensor empty(std::initializer_list<int64_t> sizes, ScalarType dtype) {
  constexpr size_t kMostDims = 8;
  STD_TORCH_CHECK(sizes.size() <= kMostDims, "at most ", kMostDims, " dimensions");
  int64_t strides[kMostDims], stride = 1;
  for (size_t dim = sizes.size(); dim-- > 0;) {
    strides[dim] = stride;
    stride *= std::max<int64_t>(sizes.begin()[dim], 1);
  }
  AtenTensorHandle made;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      static_cast<int64_t>(sizes.size()), sizes.begin(), strides,
      torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)),
      aoti_torch_device_type_cpu(), 0, &made));
  return Tensor(made);
}

// offsets [B + 1] starts at 0, never falls and ends at total.
inline void check_offsets(const int64_t* offsets, int64_t rows, int64_t total) {
  STD_TORCH_CHECK(offsets[0] == 0 && offsets[rows] == total, "offsets must start at 0 and end at ",
                  total);
  for (int64_t row = 0; row < rows; ++row) {
    STD_TORCH_CHECK(offsets[row] <= offsets[row + 1], "offsets must not fall, did at row ", row);
  }
}

}  // namespace glass
