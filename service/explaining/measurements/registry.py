"""Registry of the measurements that a request can ask for.

A measurement is one file of this package that calls :func:`register`. The registry imports every
module of the package when it is first asked, so a new measurement is listed nowhere else.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from legrad_engine.discovery import import_modules
from legrad_engine.measurements.base import Measurement
from service.explaining.command import ExplainInputs

_PACKAGE = "service.explaining.measurements"


@dataclass(frozen=True, slots=True)
class Option:
    """The option of a request that asks for a measurement.

    Attributes:
        name: name of the measurement, and of the answer's field with its result.
        field: the option's dotted name in the request, for errors.
        read: returns the measurement that the inputs ask for, or None.
        cheaper: how to ask for less work, as a clause for errors.
    """

    name: str
    field: str
    read: Callable[[ExplainInputs], Measurement | None]
    cheaper: str


_options: dict[str, Option] = {}


def register(option: Option) -> None:
    """Add a measurement. Called by the files of this package on import.

    Raises:
        ValueError: the name is taken.
    """
    if option.name in _options:
        raise ValueError(f"the measurement {option.name!r} is registered twice")
    _options[option.name] = option


def options() -> Mapping[str, Option]:
    """Return the registered measurements by name."""
    import_modules(_PACKAGE)
    return _options


def measurements_of(inputs: ExplainInputs) -> tuple[Measurement, ...]:
    """Return the measurements that the inputs of a request ask for."""
    asked = (option.read(inputs) for option in options().values())
    return tuple(each for each in asked if each is not None)
