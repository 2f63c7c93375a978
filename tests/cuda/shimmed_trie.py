"""The CUDA kernels of beam search compiled with g++ and shim.h, called with NumPy arrays.

No torch here: this file runs by itself under sanitizers, `python shimmed_trie.py LIBRARY`.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import numpy as np
from shimmed import CUDA, LaunchError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

from beam_cases import BeamCase, beam_case

KINDS = {"float32": 0, "float16": 1, "bfloat16": 2, "float64": 3}
POINTER, NUMBER = ctypes.c_void_p, ctypes.c_int64


class _Call(ctypes.Structure):
    """BeamStepCall of csrc/cuda/trie_beam_step.h."""

    _fields_ = (
        *(("logits", POINTER), ("logits_kind", NUMBER)),
        *(("scores", POINTER), ("scores_kind", NUMBER)),
        *(("num_requests", NUMBER), ("num_beams", NUMBER), ("num_codes", NUMBER)),
        *(("nodes", POINTER), ("wide_nodes", NUMBER)),
        *(("child_offsets", POINTER), ("child_codes", POINTER)),
        *(("num_parents", NUMBER), ("num_children", NUMBER), ("max_children", NUMBER)),
        ("mask_before_softmax", NUMBER),
        *(("filter_offsets", POINTER), ("filter_nodes", POINTER)),
        *(("num_filtered", NUMBER), ("filter_keeps", NUMBER)),
        *(("beam_width", NUMBER), ("splits", NUMBER)),
        *(("partial_scores", POINTER), ("partial_children", POINTER), ("partial_parents", POINTER)),
        *(("out_scores", POINTER), ("out_nodes", POINTER)),
        *(("out_parents", POINTER), ("out_codes", POINTER)),
    )


Found = tuple[np.ndarray, "np.ndarray | None", np.ndarray, np.ndarray]
"""(scores, nodes, parents, codes)"""


def as_kind(values: np.ndarray, kind: str) -> np.ndarray:
    """Bits of `values`, which are exact in `kind`."""
    if kind != "bfloat16":
        return np.ascontiguousarray(values, dtype=kind)
    return (
        np.ascontiguousarray(values, dtype=np.float32).view(np.uint32).__rshift__(16).astype("u2")
    )


def rounded(case: BeamCase, kind: str) -> BeamCase:
    """The case with logits and scores that are exact in `kind`."""
    if kind == "bfloat16":
        for array in (case.logits, case.scores):
            finite = np.isfinite(array)
            bits = array[finite].view(np.uint32) & np.uint32(0xFFFF0000)
            array[finite] = bits.view(np.float32)
    elif kind == "float16":
        for array in (case.logits, case.scores):
            array[...] = array.astype(np.float16)
    return case


class BeamStep:
    """`glass_beam_step` of a compiled library."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.shim_error.restype = ctypes.c_char_p
        self._library.glass_beam_step_widest.restype = NUMBER
        self._library.glass_beam_step_splits.restype = NUMBER

    def widest(self) -> int:
        return int(self._library.glass_beam_step_widest())

    def splits(self, requests: int, beams: int, children: int, processors: int) -> int:
        wide = (NUMBER(requests), NUMBER(beams), NUMBER(children), processors)
        return int(self._library.glass_beam_step_splits(*wide))

    def shared_bytes(self) -> int:
        """Shared memory of a block of the last call."""
        return int(self._library.shim_shared_bytes())

    def __call__(
        self,
        case: BeamCase,
        kind: str = "float32",
        scores_kind: str | None = None,
        *,
        splits: int = 1,
        wide_nodes: bool = True,
        seed: int = 0,
    ) -> Found:
        scores_kind = scores_kind or kind
        requests, beams, codes = case.logits.shape
        double = "float64" in (kind, scores_kind)
        logits, scores = as_kind(case.logits, kind), as_kind(case.scores, scores_kind)
        nodes = None
        if case.nodes is not None:
            nodes = np.ascontiguousarray(case.nodes, np.int64 if wide_nodes else np.int32)
        partial = self._buffers(double, requests * splits if splits > 1 else 0, case.beam_width)
        out = self._buffers(double, requests, case.beam_width, 3)
        out_nodes = None if nodes is None else out[3]
        has_children = case.child_offsets is not None
        call = _Call(
            *(_at(logits), KINDS[kind], _at(scores), KINDS[scores_kind], requests, beams, codes),
            *(_at(nodes), wide_nodes, _at(case.child_offsets), _at(case.child_codes)),
            *(len(case.child_offsets) - 1, len(case.child_codes)) if has_children else (0, 0),
            *(case.max_children, case.mask_before_softmax),
            *(_at(case.filter_offsets), _at(case.filter_nodes)),
            *(0 if case.filter_nodes is None else len(case.filter_nodes), case.filter_keeps),
            *(case.beam_width, splits, *map(_at, partial)),
            *(_at(out[0]), _at(out_nodes), _at(out[1]), _at(out[2])),
        )
        self._library.shim_seed(seed)
        if self._library.glass_beam_step(ctypes.byref(call), None):
            raise LaunchError(self._library.shim_error().decode())
        return out[0], out_nodes, out[1], out[2]

    def _buffers(self, double: bool, rows: int, width: int, whole: int = 2) -> list[np.ndarray]:
        floats = np.full((rows, width), np.nan, dtype=np.float64 if double else np.float32)
        return [floats, *(np.full((rows, width), -7777, dtype=np.int32) for _ in range(whole))]


def _at(array: np.ndarray | None) -> int | None:
    return None if array is None else array.ctypes.data


def inlined(name: str = "trie_beam_step") -> str:
    """The kernels with the header that sorts in it, so that tests can break either."""
    include = '#include "best_entries.h"\n'
    source = (CUDA / f"{name}.cu").read_text()
    assert source.count(include) == 1
    return source.replace(
        include, (CUDA / "best_entries.h").read_text().replace("#pragma once", "")
    )


# arguments of beam_case, and splits: every path, odd sizes
CASES: tuple[tuple[dict[str, object], int], ...] = (
    ({"requests": 1, "beams": 1, "codes": 1, "width": 1, "share": 1.0}, 1),
    ({"requests": 3, "beams": 5, "codes": 7, "width": 4, "wild": True}, 1),
    ({"requests": 2, "beams": 5, "codes": 7, "width": 60, "wild": True, "mask": False}, 2),
    ({"requests": 2, "beams": 9, "codes": 33, "width": 9, "ends": True, "filtered": False}, 4),
    ({"requests": 3, "beams": 4, "codes": 50, "width": 11, "ends": True, "filtered": True}, 1),
    ({"requests": 1, "beams": 40, "codes": 300, "width": 130, "filtered": False}, 1),
    ({"requests": 1, "beams": 3, "codes": 1500, "width": 20, "trie": False, "wild": True}, 2),
    ({"requests": 2, "beams": 30, "codes": 9, "width": 25, "ends": True, "ties": True}, 3),
    ({"requests": 1, "beams": 70, "codes": 3, "width": 8, "parents": 90, "mask": False}, 1),
)


def busy_cases() -> tuple[BeamCase, BeamCase]:
    """Full rounds of several warps, entries dropped after the second; and one round, half full."""
    full = beam_case(1, 45, 130, 300, share=1.0, parents=2)
    assert full.nodes is not None
    full.nodes[:] = np.arange(45) % 2
    return full, beam_case(1, 9, 130, 40)


def main(library: str, *seeds: str) -> None:
    """Every case; with seeds only the busy ones, in those orders of threads."""
    run = BeamStep(Path(library))
    for seed in seeds or ("1",):
        for case in busy_cases():
            case.assert_found(*run(case, seed=int(seed)))
    for arguments, splits in () if seeds else CASES:
        for kind in ("float32", "bfloat16", "float64"):
            dtype = np.float64 if kind == "float64" else np.float32
            case = rounded(beam_case(**arguments, dtype=dtype), kind)
            case.assert_found(*run(case, kind, splits=splits, seed=1))
    print("equal")


if __name__ == "__main__":
    main(*sys.argv[1:])
