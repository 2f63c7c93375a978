"""One kernel with one setting, as `benchmarks.gpu_static` compiles it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import triton


@dataclass(frozen=True)
class Build:
    """A kernel, with the setting that is compiled.

    Pointers are taken to be aligned to 16 bytes and, where Triton makes use of it (AMD), tensors to
    have less than 2 GiB.
    """

    kernel: str
    setting: str
    function: Any
    types: dict[str, str]
    """Triton's type of each argument that is not a constant, by name; others are left out."""
    constants: dict[str, Any]
    config: triton.Config
    aligned: tuple[str, ...] = ()
    """Integers that are taken to be multiples of 16, which Triton makes use of."""

    @property
    def case(self) -> tuple[str, str]:
        """What is alike in all builds among which a launch chooses one."""
        fixed = {n: v for n, v in self.constants.items() if n not in self.config.kwargs}
        return self.kernel, f"{self.types} {fixed}"


def config_name(config: triton.Config) -> str:
    """`SIZE=value ... warps=w stages=s`."""
    sizes = "".join(f"{name}={value} " for name, value in config.kwargs.items())
    return f"{sizes}warps={config.num_warps} stages={config.num_stages}"
