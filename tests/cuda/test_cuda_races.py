"""The CUDA kernels under ThreadSanitizer: nothing races, and without any barrier something does."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import shimmed
import shimmed_search
import shimmed_trie
from sanitised import RACE, WATCHED, racing_lines, watched

pytestmark = [
    pytest.mark.slow,
    pytest.mark.static,
    pytest.mark.skipif(shutil.which("g++") is None, reason="no g++"),
]


@dataclass
class Kernels:
    calls: ModuleType
    source: str
    broken: tuple[str, ...] = ()
    """Arguments of `calls` that need each barrier."""


OPS = {
    "sid_tier": Kernels(shimmed, (shimmed.CUDA / "sid_tier.cu").read_text()),
    "hard_search": Kernels(shimmed_search, (shimmed.CUDA / "hard_search.cu").read_text()),
    "trie_beam_step": Kernels(shimmed_trie, shimmed_trie.inlined(), broken=("1",)),
}
BARRIERS = [(op, which) for op in OPS for which in range(len(shimmed.barriers(OPS[op].source)))]


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of each op, with numbered barriers."""
    folder = tmp_path_factory.mktemp("watched")
    return {
        op: shimmed.build(op, folder, WATCHED, source=shimmed.numbered(kernels.source))
        for op, kernels in OPS.items()
    }


def command(op: str, libraries: dict[str, Path]) -> list[str]:
    return [sys.executable, str(OPS[op].calls.__file__), str(libraries[op])]


def test_every_kernel_is_here() -> None:
    assert set(OPS) == {path.stem for path in shimmed.CUDA.glob("*.cu")}
    in_headers = [path.read_text() for path in shimmed.CUDA.glob("*.h")]
    text = "".join(kernels.source for kernels in OPS.values())
    for header in in_headers:
        assert not shimmed.barriers(header) or header.replace("#pragma once", "") in text


@pytest.mark.parametrize("op", OPS)
def test_nothing_races(op: str, libraries: dict[str, Path]) -> None:
    done = watched(command(op, libraries))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "equal\n"
    assert not done.stderr


@pytest.mark.parametrize(("op", "which"), BARRIERS)
def test_every_barrier_keeps_a_race_away(op: str, which: int, libraries: dict[str, Path]) -> None:
    asked = [*command(op, libraries), *OPS[op].broken]
    done = watched(asked, SHIM_LEAVE_OUT=str(which))
    assert done.returncode == RACE, done.stderr
    assert "WARNING: ThreadSanitizer: data race" in done.stderr
    assert len(racing_lines(done.stderr, f"{op}.cu")) == 2, done.stderr


KERNELS = """
#include <cstdint>

// Each block: what thread i reads of its right neighbour.
__global__ void neighbours(int* out, bool barrier) {
  GLASS_DYNAMIC_SHARED(raw);
  int* const values = reinterpret_cast<int*>(raw);
  values[threadIdx.x] = threadIdx.x;  // WRITES 1
  if (barrier) __syncthreads();
  out[blockIdx.x * 64 + threadIdx.x] = values[(threadIdx.x + 1) % 64];  // READS 1
}

#ifdef STATIC
__global__ void neighbours_in_static(int* out) {
  __shared__ int values[64];
  values[threadIdx.x] = threadIdx.x;
  __syncthreads();
  out[blockIdx.x * 64 + threadIdx.x] = values[(threadIdx.x + 1) % 64];
}
#endif

// Lanes of a warp are ordered by __syncwarp only.
__global__ void neighbours_of_a_warp(int* out, bool order) {
  GLASS_DYNAMIC_SHARED(raw);
  int* const values = reinterpret_cast<int*>(raw);
  values[threadIdx.x] = threadIdx.x;  // WRITES 2
  const int lane = __shfl_sync(~0u, static_cast<int>(threadIdx.x % 32), threadIdx.x % 32);
  if (order) __syncwarp();
  const unsigned next = threadIdx.x / 32 * 32 + (lane + 1) % 32;
  out[blockIdx.x * 64 + threadIdx.x] = values[next];  // READS 2
}

// What a warp reads after another has written it, by chance and not for __syncwarp.
__global__ void of_another_warp(int* out) {
  GLASS_DYNAMIC_SHARED(raw);
  if (threadIdx.x == 0) *raw = 7;  // WRITES 3
  __syncwarp();
  if (threadIdx.x == 63) out[blockIdx.x] = *raw;  // READS 3
}

__global__ void counts(int* out, bool atomic) {
  if (threadIdx.x) return;
  if (atomic) {
    atomicAdd(out, 1);
  } else {
    out[0] += 1;  // WRITES 4
  }
}

// An array on the stack, where the next block will have its own.
__attribute__((noinline)) void fill(int* values) {
  for (int i = 0; i < 9; ++i) values[i] = i;
}
__global__ void on_the_stack(int* out) {
  int values[9];
  fill(values);
  __syncthreads();
  atomicAdd(out, values[threadIdx.x % 9]);
}

template <class Kernel, class... Arguments>
void go(Kernel* kernel, Arguments... arguments) {
  GLASS_LAUNCH(kernel, dim3(3), dim3(64), 64 * sizeof(int), nullptr, arguments...);
}

int main(int, char** given) {
  static int out[3 * 64];
  shim_seed(std::atoi(given[2]));
  switch (std::atoi(given[1])) {
    case 0: go(neighbours, out, true); break;
    case 1: go(neighbours, out, false); break;
    case 2: go(neighbours_of_a_warp, out, true); break;
    case 3: go(neighbours_of_a_warp, out, false); break;
    case 4: go(of_another_warp, out); break;
    case 5: go(counts, out, true); break;
    case 6: go(counts, out, false); break;
    case 7: go(on_the_stack, out); break;
#ifdef STATIC
    case 8: go(neighbours_in_static, out); break;
#endif
    default:  // one launch after another, then the host
      go(neighbours, out, true);
      go(neighbours, out, true);
      ++out[5];
  }
  return cudaGetLastError();
}
"""


def compiled(folder: Path, *flags: str) -> Path:
    return shimmed.build("kernels", folder, WATCHED, "-fPIE", "-pie", *flags, source=KERNELS)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("races"))


@pytest.mark.parametrize("which", [0, 2, 5, 7, 9])
def test_what_is_ordered_is_no_race(which: int, program: Path) -> None:
    for seed in ("0", "1"):
        done = watched([program, str(which), seed], python=False)
        assert done.returncode == 0, done.stderr
        assert not done.stderr


def test_blocks_share_static_memory_one_after_another(tmp_path: Path) -> None:
    done = watched([compiled(tmp_path, "-DSTATIC"), "8", "1"], python=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("which", "lines"),
    [(1, ("WRITES 1", "READS 1")), (3, ("WRITES 2", "READS 2")), (4, ("WRITES 3", "READS 3")),
     (6, ("WRITES 4",))],
)  # fmt: skip
def test_a_race_is_found_at_its_lines(which: int, lines: tuple[str, ...], program: Path) -> None:
    numbers = {i for i, line in enumerate(KERNELS.splitlines(), 1) if line.endswith(lines)}
    for seed in ("0", "1"):
        done = watched([program, str(which), seed], python=False)
        assert done.returncode == RACE, done.stderr
        assert set(racing_lines(done.stderr, "kernels.cu")) == numbers, done.stderr
