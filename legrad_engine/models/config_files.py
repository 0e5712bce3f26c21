"""Reading of the config files of models."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from legrad_engine.errors import ModelLoadError, UnknownModelError, UnsupportedModelError

_SINGLE_LABEL = "single_label_classification"
_MULTI_LABEL = "multi_label_classification"


def read_json(path: Path) -> Any:
    """Parse a config file.

    Raises:
        ModelLoadError: the file is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ModelLoadError(
            f"The model config {str(path)!r} is not JSON: {error}.", field="model"
        ) from error


def refuse_own_code(settings: object, path: Path) -> None:
    """Refuse the config of a model with code of its own, which transformers would offer to run.

    Args:
        settings: the content of the config file.
        path: the file, for the error.

    Raises:
        ModelLoadError: the config names such code.
    """
    if isinstance(settings, dict) and "auto_map" in settings:
        raise ModelLoadError(
            f"The model config {str(path)!r} requires code of its own (auto_map), which is never "
            "run: use a model whose class is part of transformers.",
            field="model",
        )


def folder_with(file: str, folder: Path, *, taken: str) -> Path:
    """Check that a folder holds a config file, and return the folder.

    Args:
        file: name of the config file.
        folder: the folder.
        taken: sentence for the error that says which scheme takes which folders.

    Raises:
        UnknownModelError: the folder or the file does not exist.
    """
    if not folder.is_dir():
        raise UnknownModelError(f"There is no folder {str(folder)!r}.", field="model")
    if not (folder / file).is_file():
        raise UnknownModelError(f"The folder {str(folder)!r} has no {file}; {taken}", field="model")
    return folder


def has_independent_classes(config: Mapping[str, Any] | None) -> bool:
    """Tell whether a config says that a picture may have several of the model's classes.

    The field is that of Hugging Face transformers; timm's own configs have none.

    Args:
        config: the content of the config file; None without one.

    Raises:
        UnsupportedModelError: the model was trained for numbers, not classes.
        ModelLoadError: the field has an unknown value.
    """
    problem = _SINGLE_LABEL if config is None else config.get("problem_type") or _SINGLE_LABEL
    if problem == "regression":
        raise UnsupportedModelError(
            "This model was trained to tell numbers (problem_type is regression): it has no "
            "classes to explain.",
            field="model",
        )
    if problem not in (_SINGLE_LABEL, _MULTI_LABEL):
        raise ModelLoadError(
            f"The problem_type in a model's config must be {_SINGLE_LABEL} or {_MULTI_LABEL}.",
            field="model",
        )
    return bool(problem == _MULTI_LABEL)
