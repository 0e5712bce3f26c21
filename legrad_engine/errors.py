"""Errors that the engine raises deliberately.

Each is caused by the caller's input or by a model that cannot be served, never by a bug. ``code``
is a stable slug for programs; the message is for people and says what to do next.
"""

from collections.abc import Collection
from typing import ClassVar


class LegradError(Exception):
    """Base class of the engine's deliberate errors.

    Attributes:
        code: stable slug of the kind of error.
        field: name of the invalid argument, or None if no single argument is invalid.
    """

    code: ClassVar[str] = "legrad-error"

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class ImageDecodeError(LegradError):
    """The image is empty, truncated, damaged or in a format that is not accepted."""

    code = "image-decode-failed"


class ImageTooLargeError(LegradError):
    """The image has more pixels than the limit allows."""

    code = "image-too-large"


class InvalidOptionError(LegradError):
    """An option is outside its allowed values."""

    code = "invalid-option"


def check_choice(field: str, value: object, choices: Collection[object]) -> None:
    """Check that an option has one of its values.

    Args:
        field: name of the option.
        value: its value.
        choices: the values that it may have.

    Raises:
        InvalidOptionError: it has another one.
    """
    if value not in choices:
        raise InvalidOptionError(
            f"{field}={value!r} is unknown: use one of {', '.join(map(str, choices))}.", field=field
        )


class InvalidTargetError(LegradError):
    """A prompt, embedding, image or class cannot be the target of an explanation."""

    code = "invalid-target"


class UnknownModelError(LegradError):
    """No model has that name."""

    code = "unknown-model"


class UnsupportedModelError(LegradError):
    """The model exists, but its architecture cannot be explained."""

    code = "unsupported-model"


class ModelLoadError(LegradError):
    """The weights or configuration of a model could not be read."""

    code = "model-load-failed"


def in_one_line(error: BaseException, longest: int = 300) -> str:
    """Format another library's error for use within a sentence: its type and its message."""
    message = " ".join(str(error).split()).rstrip(". ")
    if len(message) > longest:
        message = message[:longest] + "..."
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
