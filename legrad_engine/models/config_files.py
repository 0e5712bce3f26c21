"""Reading of the config files of models."""

import json
from pathlib import Path
from typing import Any

from legrad_engine.errors import ModelLoadError, UnknownModelError


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
