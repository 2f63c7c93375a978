"""The files of a training; of several processes the first writes them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from glass import distributed
from glass.training.checkpoint import load_checkpoint, save_checkpoint
from glass.training.log import MetricLog, Row

CHECKPOINT = "checkpoint.pt"


class Records:
    """Checkpoint, best weights and log below one folder.

    Args:
        folder: created if missing.
        made_with: fingerprint; a checkpoint made with another is not used.
    """

    def __init__(self, folder: Path, made_with: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._made_with = folder, made_with
        self._writes = distributed.is_first()
        self._log: MetricLog | None = None
        self.rows: list[Row] = []
        """Rows of the log; of another process than the first, those of its own time."""

    def load(self) -> dict[str, Any] | None:
        """The last checkpoint, or None; one of other settings is removed.

        Raises:
            ValueError: it is damaged, or its best weights are not there.
        """
        path = self._folder / CHECKPOINT
        state = load_checkpoint(path, made_with=self._made_with)
        best_step = 0 if state is None else _best_step(path, state)
        best = self._best(best_step)
        if best_step and not best.exists():
            raise ValueError(
                f"{path} belongs with {best.name}, which is not there; delete {CHECKPOINT} to "
                "start anew"
            )
        distributed.wait_for_all()  # nothing is removed that another has yet to read
        if self._writes:
            if state is None:
                path.unlink(missing_ok=True)
            # What other settings left, or steps that a kill undid and that may come out otherwise
            # when they are repeated (on a GPU), must never be taken for ours.
            self._remove_weights(keep=best_step)
        return state

    def open_log(self, folder: Path | None, name: str, step: int, *, tensorboard: bool) -> None:
        """Begins to write the log, after the rows up to `step`."""
        if self._writes:
            where = folder or self._folder
            self._log = MetricLog(where, name, resume_step=step, tensorboard=tensorboard)
            self.rows = self._log.rows

    def write(self, row: Row) -> None:
        """Appends a row to the log."""
        if self._log is None:
            self.rows.append(row)
        else:
            self._log.write(row)

    def save(self, state: dict[str, Any]) -> None:
        """Keeps a checkpoint, and of the weights those that it calls best."""
        if self._writes:
            save_checkpoint(self._folder / CHECKPOINT, {**state, "fingerprint": self._made_with})
            self._remove_weights(keep=state["best"][1])

    def save_best(self, step: int, weights: dict[str, Tensor]) -> None:
        """Keeps weights that no earlier ones were as good as."""
        if self._writes:
            path = self._best(step)
            temporary = path.with_name(path.name + ".tmp")
            save_file({key: value.contiguous() for key, value in weights.items()}, temporary)
            os.replace(temporary, path)

    def best_weights(self, step: int) -> dict[str, Tensor]:
        """What `save_best` kept at `step`."""
        distributed.wait_for_all()
        return load_file(self._best(step))

    def close(self) -> None:
        """Ends the log."""
        if self._log is not None:
            self._log.close()

    def _best(self, step: int) -> Path:
        """Named by its step: the weights that the last checkpoint goes with stay until the next."""
        return self._folder / f"best-{step}.safetensors"

    def _remove_weights(self, *, keep: int) -> None:
        kept = self._best(keep)
        for path in self._folder.glob("best-*.safetensors*"):
            if path != kept:
                path.unlink(missing_ok=True)


def _best_step(path: Path, state: dict[str, Any]) -> int:
    """The step that names a file: a whole number, whatever the checkpoint says."""
    best = state.get("best")
    step = best[1] if isinstance(best, list) and len(best) == 3 else None
    if type(step) is not int:
        raise ValueError(f"{path} is no checkpoint of a training; delete it to start anew")
    return step
