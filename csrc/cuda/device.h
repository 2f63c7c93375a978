// What a kernel needs of nvcc beyond C++. tests/cuda/shim.h defines the same for g++, which is how
// kernels are run on a machine without a GPU.
#pragma once

#ifdef __CUDACC__
#include <cuda_runtime.h>

// `kernel` is a pointer: a template's commas would split the macro's arguments.
#define GLASS_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<grid, block, shared_bytes, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__)
#define GLASS_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif
