"""Reading the configs that come with a model."""

import json
from pathlib import Path
from typing import Any

from legrad_engine.errors import ModelLoadError, UnknownModelError


def read_json(path: Path) -> Any:
    """What a config holds.

    Raises:
        ModelLoadError: it is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ModelLoadError(
            f"The model config {str(path)!r} is not JSON: {error}.", field="model"
        ) from error


def folder_with(file: str, folder: Path, *, taken: str) -> Path:
    """A folder that holds a config.

    Args:
        file: the config's name.
        folder: where it is to be.
        taken: which form takes which folders, for the error.

    Raises:
        UnknownModelError: no such folder, or no such file in it.
    """
    if not folder.is_dir():
        raise UnknownModelError(f"There is no folder {str(folder)!r}.", field="model")
    if not (folder / file).is_file():
        raise UnknownModelError(f"The folder {str(folder)!r} has no {file}; {taken}", field="model")
    return folder
