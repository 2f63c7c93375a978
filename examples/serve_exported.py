"""Loads what `glass export` wrote and generates: torch, safetensors and glass_kernels, no `glass`.

    python examples/serve_exported.py runs/shop/glass_exported --history 5 17 5 --history 3

prints, for each history (item ids, oldest first), the best semantic IDs and their items. The .pt2
files are native code that runs on loading: load none that you would not run as a program.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glass_kernels import SidTrie, trie_beam_step

Graphs = Mapping[str, Callable[..., Sequence[Tensor]]]
LEVELS_OF_CPU = ("DEFAULT", "AVX2", "AVX512")
KEYS = {"format", "format_version", "torch", "machine", "cpu", "device", "files", "graphs"}


class Server:
    """Beam search with the encoder and the decoder steps of a folder.

    Args:
        manifest: of the folder.
        graphs: "encoder" and "decoder_step_<level>", as functions of tensors.
        trie: the catalogue.
    """

    def __init__(self, manifest: Mapping[str, Any], graphs: Graphs, trie: SidTrie) -> None:
        self.manifest = manifest
        self.graphs = graphs
        self.trie = trie

    @classmethod
    def load(cls, folder: Path | str) -> Server:
        """Checks the folder, then loads it. Raises ValueError, with the remedy."""
        folder = Path(folder)
        manifest = read_manifest(folder)
        graphs = {
            name: torch._inductor.aoti_load_package(str(folder / graph["file"]))
            for name, graph in manifest["graphs"].items()
        }
        return cls(manifest, graphs, SidTrie.load(folder / "trie.safetensors", manifest["device"]))

    @torch.no_grad()
    def generate(
        self,
        histories: Sequence[Sequence[int]],
        beam_width: int,
        visits: Sequence[Sequence[int]] | None = None,
        days: Sequence[Sequence[float]] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The best SIDs of every user.

        Args:
            histories: item ids, oldest first; may be empty.
            beam_width: W.
            visits: of each event, how many visits ago it was, 1 for the newest; default: every
                event is a visit. Read by a model with a copy head alone, as are
            days: from each event to the user's newest; default: 0.

        Returns codes int64 [B, W, L], best first, -1 where there are fewer SIDs, and
        scores float32 [B, W], summed log-probabilities.
        """
        self._check(histories, beam_width)
        if visits is None:
            visits = [range(len(items), 0, -1) for items in histories]
        if days is None:
            days = [[0.0] * len(items) for items in histories]
        users = len(histories)
        state = self._inputs(histories, visits, days)
        self._run("encoder", state)
        device, rows = self.trie.device, len(state["short_items"])
        codes = torch.zeros(rows, 1, 0, dtype=torch.int64, device=device)
        scores = torch.zeros(rows, 1, device=device)
        nodes = torch.zeros(rows, 1, dtype=torch.int32, device=device)
        for level in range(self.trie.num_levels):
            self._run(f"decoder_step_{level}", state)
            scores, nodes, parents, chosen = self._with_dead_beams(
                *trie_beam_step(state["logits"], scores, nodes, self.trie, level, beam_width)
            )
            index = parents.long()[..., None].expand(-1, -1, level)
            codes = torch.cat((codes.gather(1, index), chosen.long()[..., None]), dim=2)
            state |= {"codes": codes, "parents": parents}
        codes = codes.masked_fill(scores.isneginf()[..., None], -1)
        return codes[:users, :beam_width], scores[:users, :beam_width]

    def _with_dead_beams(self, *beams: Tensor) -> list[Tensor]:
        """(scores, nodes, parents, codes) of at least as many beams as the graphs take."""
        missing = max(self.manifest["min_beams"] - beams[0].shape[1], 0)
        values = (-torch.inf, -1, 0, -1)
        return [
            torch.nn.functional.pad(part, (0, missing), value=value) if missing else part
            for part, value in zip(beams, values, strict=True)
        ]

    def _run(self, name: str, state: dict[str, Tensor]) -> None:
        """Calls a graph with its inputs out of `state`, and puts its outputs there."""
        names = self.manifest["graphs"][name]
        outputs = self.graphs[name](*(state[key] for key in names["inputs"]))
        state.update(zip(names["outputs"], outputs, strict=True))

    def _inputs(
        self,
        histories: Sequence[Sequence[int]],
        visits: Sequence[Sequence[int]],
        days: Sequence[Sequence[float]],
    ) -> dict[str, Tensor]:
        """What the encoder reads; a user of no interest is added where events are too few."""
        count = self.manifest["short_length"]
        cut = count if self.manifest["long_history"] == "older" else 0
        short = [list(items[-count:]) for items in histories]
        ends = [max(len(items) - cut, 0) for items in histories]
        columns = [
            [list(row[:end]) for row, end in zip(table, ends, strict=True)]
            for table in (histories, visits, days)
        ]
        least = self.manifest["min_events"]
        if sum(ends) < least:
            short.append([])
            for column, value in zip(columns, (0, 1, 0.0), strict=True):
                column.append([value] * least)
        width = max(1, *map(len, short))
        left = self.manifest["pad_left"]
        padding = [[-1] * (width - len(row)) for row in short]
        padded = [p + row if left else row + p for p, row in zip(padding, short, strict=True)]
        flat = [[value for row in column for value in row] for column in columns]
        offsets = [0, *accumulate(len(row) for row in columns[0])]
        integers = {
            "short_items": padded,
            "long_items": flat[0],
            "long_offsets": offsets,
            "long_visits": flat[1],
        }
        device = self.trie.device
        tensors = {name: torch.tensor(rows, device=device) for name, rows in integers.items()}
        return {**tensors, "long_days": torch.tensor(flat[2], device=device)}

    def _check(self, histories: Sequence[Sequence[int]], beam_width: int) -> None:
        most = self.manifest["max_batch"]
        if not 1 <= len(histories) <= most:
            raise ValueError(f"histories must be of 1 to {most} users, were of {len(histories)}")
        if not 1 <= beam_width <= self.manifest["max_beams"]:
            raise ValueError(
                f"beam_width must be in [1, {self.manifest['max_beams']}], was {beam_width}"
            )
        num_items = self.manifest["num_items"]
        for row in histories:
            wrong = [item for item in row if not 0 <= item < num_items]
            if wrong:
                raise ValueError(f"histories must hold items in [0, {num_items}), held {wrong[0]}")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder that this machine can load and whose files are whole.

    Raises ValueError, with the remedy.
    """
    path = folder / "manifest.json"
    if not path.exists():
        raise ValueError(f"{folder} holds no exported model; make one with `glass export`")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); export the model again") from error
    if not isinstance(manifest, dict) or not manifest.keys() >= KEYS:
        raise ValueError(f"{path} is not the manifest of an export; export the model again")
    if (manifest.get("format"), manifest.get("format_version")) != ("glass-rec exported model", 1):
        raise ValueError(f"{path} is of another format; export the model again")
    again = f"export the model again with `glass export` to load it here ({folder})"
    # A build for a GPU is another program than that of the same version for the CPU.
    if manifest["torch"] != torch.__version__:
        raise ValueError(
            f"made with torch {manifest['torch']}, here is {torch.__version__}; {again}"
        )
    here, made = torch.backends.cpu.get_cpu_capability(), manifest["cpu"]
    order = LEVELS_OF_CPU
    lacks = made != here and not (
        made in order and here in order and order.index(here) > order.index(made)
    )
    if manifest["machine"] != platform.machine() or lacks:
        raise ValueError(
            f"made for {manifest['machine']} with {made}, here is {platform.machine()} with "
            f"{here}; {again}"
        )
    if manifest["device"] == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"made for a GPU, and torch sees none; {again}")
    for name, digest in manifest["files"].items():
        file = folder / name
        if name in ("", "..") or name != file.name or file.is_symlink():
            raise ValueError(f"{path} names {name!r}, which is no file of the folder; {again}")
        if not file.exists() or hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            raise ValueError(f"{file} is missing or not what was exported; {again}")
    listed = {graph["file"] for graph in manifest["graphs"].values()} | {"trie.safetensors"}
    if unlisted := listed - set(manifest["files"]):
        raise ValueError(f"{path} has no digest of {sorted(unlisted)[0]}; {again}")
    return manifest


def main() -> None:
    """Prints the beams of the histories on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--history", type=int, nargs="*", action="append", required=True)
    parser.add_argument("--beams", type=int, default=10)
    arguments = parser.parse_args()
    server = Server.load(arguments.folder)
    codes, scores = server.generate(arguments.history, arguments.beams)
    for user, history in enumerate(arguments.history):
        print(f"history {' '.join(map(str, history)) or '(empty)'}")
        items, offsets = server.trie.items(codes[user])
        for rank, (sid, score) in enumerate(
            zip(codes[user].tolist(), scores[user].tolist(), strict=True)
        ):
            if sid[0] >= 0:
                found = items[offsets[rank] : offsets[rank + 1]].tolist()
                print(f"{rank + 1:4}  {score:8.3f}  SID {sid}  items {found}")


if __name__ == "__main__":
    main()
