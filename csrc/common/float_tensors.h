// From a tensor's dtype to the float type that a kernel is compiled for.
#pragma once

#include "checks.h"
#include "floats.h"

namespace glass {

// run(zero of the elements' type)
template <typename F>
auto with_float(const Tensor& tensor, const char* name, const F& run) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return run(float{});
    case ScalarType::Double:
      return run(double{});
    case ScalarType::Half:
      return run(Half{});
    case ScalarType::BFloat16:
      return run(BFloat16{});
    default:
      STD_TORCH_CHECK(false, name, " must be float32, bfloat16, float16 or float64");
  }
}

}  // namespace glass
