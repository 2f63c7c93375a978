"""The shim finds what it says it finds."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import shimmed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.static,
    pytest.mark.skipif(shutil.which("g++") is None, reason="no g++"),
]

KERNELS = """
#include <cstdint>

// out[i] = what thread i reads of its right neighbour
__global__ void neighbours(int* out, bool barrier) {
  __shared__ int values[64];
  values[threadIdx.x] = threadIdx.x;
  if (barrier) __syncthreads();
  out[threadIdx.x] = values[(threadIdx.x + 1) % 64];
}

__global__ void warps(int* out) {
  int sum = threadIdx.x;
  for (int with = 16; with; with /= 2) sum += __shfl_xor_sync(~0u, sum, with);
  const unsigned odd = __ballot_sync(~0u, threadIdx.x & 1);
  const int down = __shfl_down_sync(~0u, static_cast<int>(threadIdx.x), 3);
  const int first = __shfl_sync(~0u, static_cast<int>(threadIdx.x), 1, 8);
  const int up = __shfl_up_sync(~0u, static_cast<int>(threadIdx.x), 3);
  const unsigned same = __match_any_sync(~0u, static_cast<long long>(threadIdx.x) % 5 << 40);
  if (threadIdx.x % 32 == 30) atomicAdd(out, sum);
  if (threadIdx.x == 1) out[1] = odd;
  if (threadIdx.x == 2) out[2] = down;
  if (threadIdx.x == 31) out[3] = down;
  if (threadIdx.x == 60) out[4] = first;
  if (threadIdx.x == 33) out[5] = up;
  if (threadIdx.x == 38) out[6] = up;
  if (threadIdx.x == 37) out[7] = same;
  if (threadIdx.x == 37) out[8] = __ffs(static_cast<int>(same));
}

// out[0] = 7, unless the first warp met itself three times before the second one ran
__global__ void runs_ahead(int* out, bool barrier) {
  __shared__ int seen;
  const int warp = threadIdx.x / 32;
  if (threadIdx.x == 0) seen = 0;
  __syncthreads();
  if (warp == 1 && threadIdx.x == 32) seen = 7;
  if (barrier) __syncthreads();
  for (int times = 0; times < 3; ++times) __syncwarp();
  if (threadIdx.x == 0) out[0] = seen;
}

__global__ void leaves_early() {
  if (threadIdx.x == 5) return;
  __syncthreads();
}

__global__ void diverges() {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

__global__ void wrong_mask() { __syncwarp(1u); }

__global__ void reads_what_nobody_wrote(int* out) {
  GLASS_DYNAMIC_SHARED(raw);
  __shared__ int fixed[2];
  out[0] = *reinterpret_cast<int*>(raw);
  out[1] = fixed[1];
  fixed[1] = 0;
}

template <class Kernel, class... Arguments>
int go(Kernel* kernel, int threads, int bytes, Arguments... arguments) {
  GLASS_LAUNCH(kernel, dim3(2), dim3(threads), bytes, nullptr, arguments...);
  return cudaGetLastError();
}

#define EXPORT extern "C" __attribute__((visibility("default")))
EXPORT int run(int which, int* out) {
  switch (which) {
    case 0: return go(neighbours, 64, 0, out, true);
    case 1: return go(neighbours, 64, 0, out, false);
    case 2: return go(warps, 64, 0, out);
    case 3: return go(leaves_early, 64, 0);
    case 4: return go(diverges, 64, 0);
    case 5: return go(wrong_mask, 32, 0);
    case 6: return go(reads_what_nobody_wrote, 1, 4, out);
    case 7: return go(leaves_early, 2000, 0);
    case 9: return go(runs_ahead, 64, 0, out, true);
    case 10: return go(runs_ahead, 64, 0, out, false);
    default: return go(reads_what_nobody_wrote, 1, 50000, out);
  }
}
EXPORT const char* what() { return shim::machine.error.c_str(); }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("kernels")
    loaded = ctypes.CDLL(str(shimmed.build("kernels", folder, source=KERNELS)))
    loaded.what.restype = ctypes.c_char_p
    return loaded


def run(library: ctypes.CDLL, which: int, seed: int = 0) -> list[int]:
    out = (ctypes.c_int * 64)()
    library.shim_seed(seed)
    assert library.run(which, out) == 0, library.what()
    return list(out)


@pytest.mark.parametrize("seed", range(4))
def test_barrier(library: ctypes.CDLL, seed: int) -> None:
    right = [*range(1, 64), 0]
    assert run(library, 0, seed) == right
    assert run(library, 1, seed) != right


def test_a_warp_may_run_ahead(library: ctypes.CDLL) -> None:
    assert {run(library, 9, seed)[0] for seed in range(9)} == {7}
    assert {run(library, 10, seed)[0] for seed in range(9)} == {0, 7}


@pytest.mark.parametrize("seed", range(4))
def test_warps(library: ctypes.CDLL, seed: int) -> None:
    sums = 2 * sum(range(64))  # two blocks
    found = run(library, 2, seed)
    assert found[:5] == [sums, ctypes.c_int(0xAAAAAAAA).value, 5, 31, 57]
    same = sum(1 << lane for lane in range(32) if (32 + lane) % 5 == 37 % 5)
    assert found[5:9] == [33, 35, same, 1]


@pytest.mark.parametrize(
    ("which", "message"),
    [
        (3, "deadlock: thread 0 waits at line 45 in block (0, 0)"),
        (4, "deadlock: thread 0 waits at line 50"),
        (5, "not in its own mask"),
        (7, "so many threads"),
        (8, "more shared memory than allowed"),
    ],
)
def test_mistakes_fail_the_launch(library: ctypes.CDLL, which: int, message: str) -> None:
    library.shim_seed(0)
    assert library.run(which, (ctypes.c_int * 64)()) != 0
    assert message in library.what().decode()
    assert run(library, 0) == [*range(1, 64), 0]  # and the next one starts afresh


def test_shared_memory_is_poisoned_in_each_block(library: ctypes.CDLL) -> None:
    poison = ctypes.c_int(0xCDCDCDCD).value
    assert run(library, 6)[:2] == [poison, poison]


def test_end_of_shared_memory_is_known(tmp_path: Path) -> None:
    source = KERNELS.replace("int*>(raw);", "int*>(raw + 1);")
    program = tmp_path / "main.cu"
    program.write_text(source + "int main() { int out[64] = {}; return run(6, out); }\n")
    command = ["g++", *shimmed.FLAGS, "-fsanitize=address", "-include", shimmed.HERE / "shim.h"]
    command = [word for word in command if word not in ("-shared", "-fPIC")]
    built = subprocess.run(
        [*command, "-x", "c++", program, "-o", tmp_path / "main"],
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode:
        pytest.skip(f"g++ has no AddressSanitizer: {built.stderr.splitlines()[-1]}")
    done = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=False)
    assert "heap-buffer-overflow" in done.stderr
