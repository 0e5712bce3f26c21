"""The presence calibrations of served models, as operators write them."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from legrad_engine.presence import PresenceCalibration, PresenceError, built_in
from service.settings.models import NamedModel


def read_calibrations(
    entries: Iterable[str], models: Sequence[NamedModel]
) -> dict[str, PresenceCalibration]:
    """Read the calibrations of models by their ids, with those that ship with a model.

    Args:
        entries: ``ID=FILE`` each.
        models: the served models.

    Raises:
        PresenceError: an entry has another form, names no served model or one that has an entry
            already, or its file is no calibration.
    """
    ids = [model.id for model in models]
    given: dict[str, PresenceCalibration] = {}
    for entry in entries:
        name, is_named, path = entry.partition("=")
        name, path = name.strip(), path.strip()
        if not (is_named and name and path):
            raise PresenceError(
                f"Write ID=FILE in place of {entry!r}, with the id of a served model.",
                field="presence",
            )
        if name not in ids:
            raise PresenceError(
                f"{name!r} is no served model; there is {', '.join(ids)}.", field="presence"
            )
        if name in given:
            raise PresenceError(f"{name!r} has two calibrations.", field="presence")
        given[name] = PresenceCalibration.read(Path(path).expanduser())
    found = {model.id: given.get(model.id) or built_in(model.reference) for model in models}
    return {name: each for name, each in found.items() if each is not None}
