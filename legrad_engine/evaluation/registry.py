"""Registry of data sets and protocols: one file each, which registers itself."""

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from legrad_engine.discovery import import_modules
from legrad_engine.errors import InvalidOptionError
from legrad_engine.evaluation.samples import DataSet, Options

if TYPE_CHECKING:
    from legrad_engine.evaluation.protocols.base import Protocol

_DataSetType = TypeVar("_DataSetType", bound=type[DataSet])
_ProtocolType = TypeVar("_ProtocolType", bound="type[Protocol]")

_data_sets: dict[str, type[DataSet]] = {}
_protocols: "dict[str, type[Protocol]]" = {}


def register_data_set(cls: _DataSetType) -> _DataSetType:
    """Register a data set under its kind; a decorator.

    Raises:
        ValueError: the kind is registered twice.
    """
    if cls.kind in _data_sets:
        raise ValueError(f"the data set {cls.kind!r} is registered twice")
    _data_sets[cls.kind] = cls
    return cls


def register_protocol(cls: _ProtocolType) -> _ProtocolType:
    """Register a protocol under its name; a decorator.

    Raises:
        ValueError: the name is registered twice.
    """
    if cls.name in _protocols:
        raise ValueError(f"the protocol {cls.name!r} is registered twice")
    _protocols[cls.name] = cls
    return cls


def data_sets() -> dict[str, type[DataSet]]:
    """Return all kinds of data sets by name, sorted."""
    import_modules("legrad_engine.evaluation.datasets")
    return dict(sorted(_data_sets.items()))


def protocols() -> "dict[str, type[Protocol]]":
    """Return all protocols by name, sorted."""
    import_modules("legrad_engine.evaluation.protocols")
    return dict(sorted(_protocols.items()))


def open_data_set(text: str, options: Options) -> DataSet:
    """Open a data set.

    Args:
        text: ``KIND:PATH``.
        options: choices within it.

    Raises:
        InvalidOptionError: no such kind.
        DataSetError: a file is missing or not in the published form.
    """
    kind = data_set_type(text)
    return kind(Path(text.partition(":")[2]).expanduser(), options)


def data_set_type(text: str) -> type[DataSet]:
    """Return the type of the data set that ``KIND:PATH`` names.

    Raises:
        InvalidOptionError: no such kind.
    """
    kind, _, path = text.partition(":")
    known = data_sets()
    if not path or kind not in known:
        raise InvalidOptionError(
            f"{text!r} names no data set: write KIND:PATH, with one of the kinds "
            f"{', '.join(known)}.",
            field="data",
        )
    return known[kind]


def find_protocol(name: str) -> "type[Protocol]":
    """Return a protocol by its name.

    Raises:
        InvalidOptionError: no such protocol.
    """
    known = protocols()
    if name not in known:
        raise InvalidOptionError(
            f"protocol {name!r} is unknown: use one of {', '.join(known)}.", field="protocol"
        )
    return known[name]
