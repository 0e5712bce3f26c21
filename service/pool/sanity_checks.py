"""Results of `legrad check`: one file for each model's weights, in one folder."""

import os
import re
from pathlib import Path

import structlog
from pydantic import ValidationError

from legrad_engine import LegradError
from legrad_engine.models.identity import ModelIdentity
from legrad_engine.models.reference import ModelReference
from service.schemas.sanity import SanityCheck

_log = structlog.get_logger("legrad.models")


def default_folder() -> Path:
    """Return the folder of results where no setting names one: `legrad/checks` in the cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(cache) / "legrad" / "checks"


def file_of(folder: Path, weights: str) -> Path:
    """Return the file of some weights.

    Args:
        folder: the folder of results.
        weights: see :attr:`ModelIdentity.weights`.
    """
    return folder / f"{re.sub(r'[^0-9A-Za-z.-]+', '_', weights)}.json"


def read_check(folder: Path | None, weights: str) -> SanityCheck | None:
    """Read the result for some weights; None if there is none, or one that cannot be read."""
    path = file_of(folder or default_folder(), weights)
    try:
        found = SanityCheck.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        _log.warning("check cannot be read", file=path.name, reason=str(error))
        return None
    return found if found.weights == weights else None


def check_of(
    folder: Path | None, reference: ModelReference, identity: ModelIdentity | None
) -> SanityCheck | None:
    """Return the result for a model that has just been loaded, or None.

    Args:
        folder: the folder of results, or None for the default one.
        reference: the model.
        identity: its identity; None if it is not known yet. Its files are then read, if there is a
            result of any model.
    """
    try:
        if not any((folder or default_folder()).glob("*.json")):
            return None
        identity = identity or ModelIdentity.of_loaded(reference, None)
        return read_check(folder, identity.weights)
    except (LegradError, OSError) as error:
        _log.warning("check cannot be found", model=reference.title, reason=str(error))
        return None


def write_check(folder: Path | None, check: SanityCheck) -> Path:
    """Write a result, in place of an earlier one of the same weights; return its file.

    Earlier results of other methods are kept.

    Raises:
        OSError: the folder cannot be written to.
    """
    folder = folder or default_folder()
    folder.mkdir(parents=True, exist_ok=True)
    earlier = read_check(folder, check.weights)
    new = {each.method for each in check.methods}
    kept = [] if earlier is None else [each for each in earlier.methods if each.method not in new]
    merged = check.model_copy(update={"methods": [*kept, *check.methods]})
    path = file_of(folder, check.weights)
    unfinished = path.with_suffix(".part")
    unfinished.write_text(merged.model_dump_json(indent=2))
    unfinished.replace(path)
    return path
