// Blocks of a kernel that a multiprocessor holds, as NVIDIA's own header says. For each line
// "compute capability, threads, registers, shared bytes" of the input, a line.

#include "cuda_occupancy.h"

#include <cstdio>

int main() {
  int major, threads, registers, shared;
  while (std::scanf("%d %d %d %d", &major, &threads, &registers, &shared) == 4) {
    cudaOccDeviceProp card;
    card.computeMajor = major;
    card.maxThreadsPerBlock = 1024;
    card.maxThreadsPerMultiprocessor = 2048;
    card.regsPerBlock = card.regsPerMultiprocessor = 65536;
    card.warpSize = 32;
    card.numSms = 1;
    card.reservedSharedMemPerBlock = 1024;
    card.sharedMemPerMultiprocessor = (major == 8 ? 164 : 228) * 1024;
    card.sharedMemPerBlock = 48 * 1024;
    card.sharedMemPerBlockOptin = card.sharedMemPerMultiprocessor - 1024;
    cudaOccFuncAttributes kernel;
    kernel.maxThreadsPerBlock = 1024;
    kernel.numRegs = registers;
    kernel.maxDynamicSharedSizeBytes = card.sharedMemPerBlockOptin;
    kernel.partitionedGCConfig = PARTITIONED_GC_OFF;
    kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
    cudaOccDeviceState state;
    state.carveoutConfig = SHAREDMEM_CARVEOUT_MAX_SHARED;
    cudaOccResult found;
    if (cudaOccMaxActiveBlocksPerMultiprocessor(&found, &card, &kernel, &state, threads, shared) !=
        CUDA_OCC_SUCCESS)
      return 1;
    std::printf("%d\n", found.activeBlocksPerMultiprocessor);
  }
  return 0;
}
