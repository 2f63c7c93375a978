"""Item texts to vectors, each distinct text encoded once, some thousand texts at a time."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from glass.sid.files import remove_unfinished, replaced_file, sha256
from glass.sid.text_model import find_model, load_encoder
from glass.workers import ONE_PROCESS, Workers

log = logging.getLogger(__name__)

TEXTS_AT_A_TIME = 1 << 16
"""Distinct texts of a file of vectors: what a worker does at a time, and what a run that is killed
loses at most."""


def encode_texts(
    texts: Sequence[str],
    model: str,
    cache: Path | None = None,
    *,
    workers: Workers = ONE_PROCESS,
    work: Path | None = None,
) -> npt.NDArray[np.float32]:
    """Vectors of `texts`, zero rows for texts that are empty or only white space.

    Distinct texts are sorted and encoded `TEXTS_AT_A_TIME` at a time, each such chunk into a file.
    Memory holds the result and the vectors of one chunk.

    Args:
        texts: V strings; equal strings are encoded once.
        model: "minilm", a folder with a sentence-transformers model, or a name of one.
        cache: folder that keeps the vectors of each chunk under a key of model and texts, so that
            an interrupted call goes on where it was; None: keep nothing.
        workers: encode the chunks; those of several processes see `cache`, `work` and the model.
        work: folder for what is needed in between alone; None: the system's.

    Returns:
        float32 [V, D].

    Raises:
        ValueError: every text is empty, the model or its library is missing, or cached vectors are
            of another width.
        OSError: `cache` or `work` cannot be written.
    """
    stripped = [text.strip() for text in texts]
    wanted = sorted(set(stripped) - {""})
    if not wanted:
        raise ValueError(
            "sid.source needs item texts but every item's text is empty; "
            "name data.text_columns, or set sid.source to 'collaborative' or 'file' (for published "
            "codes also 'none')"
        )
    folder = find_model(model)
    if folder is not None:
        folder = folder.absolute()  # workers may stand elsewhere
    number = {text: i for i, text in enumerate(wanted)}
    rows = np.fromiter((number.get(text, -1) for text in stripped), np.int64, len(stripped))
    with TemporaryDirectory(prefix="texts-", dir=work, ignore_cleanup_errors=True) as own:
        room = Path(own).absolute()
        chunks = _chunks(wanted, model, folder, cache.absolute() if cache else None, room)
        missing = [chunk for chunk in chunks if not _is_whole(chunk)]
        if missing:
            todo = sum(chunk.count for chunk in missing)
            log.info("encoding %d distinct texts of %d items", todo, len(texts))
            alone = len(chunks) == 1 and not workers.several
            encode = _EncodeChunk(model, folder, _written(wanted, room), alone)
            _encode(encode, missing, len(wanted), workers)
        return _gathered(chunks, rows)


@dataclass(frozen=True)
class _Chunk:
    """Some of the sorted distinct texts, and the file of their vectors, float32 [count, D]."""

    first: int
    count: int
    path: Path


def _chunks(
    texts: Sequence[str], model: str, folder: Path | None, cache: Path | None, room: Path
) -> list[_Chunk]:
    firsts = range(0, len(texts), TEXTS_AT_A_TIME)
    parts = (texts[first : first + TEXTS_AT_A_TIME] for first in firsts)
    if cache is None:
        named = ((len(part), room / f"text-{i}.safetensors") for i, part in enumerate(parts))
    else:
        keys = _keys(parts, model, folder)
        named = ((count, cache / f"text-{key}.safetensors") for count, key in keys)
    return [_Chunk(first, *each) for first, each in zip(firsts, named, strict=True)]


def _keys(
    parts: Iterable[Sequence[str]], model: str, folder: Path | None
) -> Iterator[tuple[int, str]]:
    """How many texts each part has, and a key of them and of the model."""
    files = [] if folder is None else sorted(p for p in folder.rglob("*") if p.is_file())
    digest = hashlib.sha256()
    _add(digest, [model] if folder is None else [f"{p.name} {sha256(p)}" for p in files])
    for part in parts:
        own = digest.copy()
        _add(own, part)
        yield len(part), own.hexdigest()[:32]


def _add(digest: Any, parts: Sequence[str]) -> None:
    for part in parts:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8, "little") + encoded)  # no two lists run together


def _is_whole(chunk: _Chunk) -> bool:
    """Whether the file of a chunk is there, by its head and length."""
    if not chunk.path.is_file():
        return False
    try:
        with safe_open(chunk.path, "np") as file:
            vectors = file.get_slice("vectors")
            dtype, shape = vectors.get_dtype(), vectors.get_shape()
    except (SafetensorError, OSError) as error:
        log.warning("ignoring the damaged cache file %s (%s)", chunk.path, error)
        return False
    if dtype != "F32" or len(shape) != 2 or shape[0] != chunk.count:
        log.warning("ignoring the cache file %s: %s of shape %s", chunk.path, dtype, shape)
        return False
    return True


def _written(texts: Sequence[str], room: Path) -> Path:
    """A file of the texts, of which chunks are read each for itself."""
    path = room / "texts.parquet"
    with replaced_file(path) as temporary:
        frame = pl.DataFrame({"text": pl.Series(texts, dtype=pl.String)})
        frame.write_parquet(temporary, row_group_size=TEXTS_AT_A_TIME)
    return path


def _encode(encode: _EncodeChunk, missing: Sequence[_Chunk], total: int, workers: Workers) -> None:
    todo = sum(chunk.count for chunk in missing)
    bar = tqdm(total=total, initial=total - todo, desc="texts", unit="text", disable=encode.alone)
    try:
        with bar:
            for count in workers.map(encode, missing):
                bar.update(count)
    finally:
        _loaded.cache_clear()  # a large model would stay in memory
        for folder in {chunk.path.parent for chunk in missing}:
            remove_unfinished(folder, encode.mark)  # of workers that were killed


@dataclass(frozen=True)
class _EncodeChunk:
    """Encodes a chunk into its file, which is whole or absent; gives its number of texts."""

    model: str
    folder: Path | None
    texts: Path
    alone: bool
    """The only chunk has the model's own progress bar."""

    @property
    def mark(self) -> str:
        """Of the names of unfinished files: this call's alone, on any machine."""
        return self.texts.parent.name

    def __call__(self, chunk: _Chunk) -> int:
        frame = pl.scan_parquet(self.texts).slice(chunk.first, chunk.count).collect()
        texts = frame["text"].to_list()
        # Longest first, so that a batch holds texts of one length and padding stays small.
        order = np.argsort([-len(text) for text in texts], kind="stable")
        encoded = _loaded(self.model, self.folder).encode(
            [texts[i] for i in order],
            batch_size=128,
            convert_to_numpy=True,
            show_progress_bar=self.alone,
        )
        vectors = np.empty((len(texts), encoded.shape[1]), np.float32)
        vectors[order] = encoded
        with replaced_file(chunk.path, self.mark) as temporary:
            save_file({"vectors": vectors}, temporary)
        return chunk.count


@lru_cache(maxsize=1)
def _loaded(model: str, folder: Path | None) -> Any:
    """The model, loaded once for all chunks of a process."""
    return load_encoder(model, folder)


def _gathered(chunks: Sequence[_Chunk], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """The vectors [V, D] of the texts with the numbers `rows` [V]; zeros for -1."""
    order = np.argsort(rows, kind="stable")
    edges = np.searchsorted(rows[order], [chunk.first for chunk in chunks] + [len(rows)])
    vectors = np.zeros((0, 0), np.float32)
    for chunk, (begin, end) in zip(chunks, pairwise(edges.tolist()), strict=True):
        part = load_file(chunk.path)["vectors"]
        if chunk is chunks[0]:
            vectors = np.zeros((len(rows), part.shape[1]), np.float32)
        if part.shape[1] != vectors.shape[1]:
            raise ValueError(
                f"{chunk.path} holds vectors {part.shape[1]} wide and {chunks[0].path} "
                f"{vectors.shape[1]} wide, as two versions of sid.text_model make them; remove "
                f"the files text-* of {chunk.path.parent}"
            )
        for at in range(begin, end, TEXTS_AT_A_TIME):  # many items may share a text
            chosen = order[at : min(at + TEXTS_AT_A_TIME, end)]
            vectors[chosen] = part[rows[chosen] - chunk.first]
    return vectors
