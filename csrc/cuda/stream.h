// The stream that torch works on, without a header of CUDA or a link to libtorch_cuda.
#pragma once

#include <dlfcn.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>

namespace glass {

// A torch without CUDA has no such function, and the library must load there too: so it is looked
// up, in a library that is surely loaded when there are CUDA tensors.
inline void* current_cuda_stream(int32_t device) {
  using Function = int32_t (*)(int32_t device, void** stream);
  static const Function function = [] {
    void* torch_cuda = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return torch_cuda
               ? reinterpret_cast<Function>(dlsym(torch_cuda, "aoti_torch_get_current_cuda_stream"))
               : nullptr;
  }();
  STD_TORCH_CHECK(function != nullptr, "this torch has no CUDA");
  void* stream = nullptr;
  STD_TORCH_CHECK(function(device, &stream) == 0, "torch has no stream on CUDA device ", device);
  return stream;
}

}  // namespace glass
