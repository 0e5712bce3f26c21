"""Building frozen dataclasses from parsed JSON, driven by their annotations."""

import base64
import io
from dataclasses import MISSING, Field, fields, is_dataclass
from datetime import datetime
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

import numpy as np
from PIL import Image

JSON_NAME = "json_name"
"""Key of a dataclass field's metadata: the field's name in JSON, where it differs."""


def json_name(field: "Field[Any]") -> str:
    """Return the name of a dataclass field in JSON."""
    return str(field.metadata.get(JSON_NAME, field.name))


def parse(kind: Any, value: Any) -> Any:
    """Convert a parsed JSON value to an annotated type.

    Members of an object that the dataclass does not declare are ignored, so that newer servers may
    add some. Those that older servers lack have defaults in the dataclass. An array is read from
    an npy file, an image from an image file; files are in base64, or bytes that were parts of a
    multipart answer.

    Args:
        kind: a dataclass, a scalar type, ``bytes``, ``datetime``, an array type,
            ``PIL.Image.Image``, ``tuple[X, ...]`` of these, or a union of one of these with None.
        value: the parsed JSON.

    Raises:
        KeyError: a member without a default is missing.
        TypeError: a value has another type.
        ValueError, OSError: a date, a number, an array or an image cannot be read.
    """
    if is_dataclass(kind):
        return _parse_object(kind, value)
    origin = get_origin(kind)
    if origin is UnionType:
        (kind,) = (each for each in get_args(kind) if each is not NoneType)
        return None if value is None else parse(kind, value)
    if origin is tuple:
        return tuple(parse(get_args(kind)[0], each) for each in _typed(list, value))
    if origin is np.ndarray:
        return np.load(io.BytesIO(_decoded(value)), allow_pickle=False)
    if kind is Image.Image:
        image = Image.open(io.BytesIO(_decoded(value)))
        image.load()
        return image
    if kind is bytes:
        return _decoded(value)
    if kind is datetime:
        return datetime.fromisoformat(_typed(str, value))
    if kind is float and type(value) is int:
        return float(value)
    return _typed(kind, value)


def _parse_object(kind: Any, value: Any) -> Any:
    members = _typed(dict, value)
    return kind(
        **{
            each.name: parse(each.type, members[json_name(each)])
            for each in fields(kind)
            if each.default is MISSING or json_name(each) in members
        }
    )


def _typed(kind: Any, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r:.80} is not of type {kind.__name__}.")
    return value


def _decoded(value: Any) -> bytes:
    return value if isinstance(value, bytes) else base64.b64decode(_typed(str, value))
