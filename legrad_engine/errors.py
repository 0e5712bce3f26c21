"""Errors the engine raises on purpose.

Every error here is caused by what the caller passed in or by a model that cannot be served, never
by a bug. ``code`` is a stable slug that a caller can branch on; the message is for a person and
says what to do next.
"""

from typing import ClassVar


class LegradError(Exception):
    """Base of every deliberate engine error.

    Attributes:
        code: Stable slug of the kind of error.
        field: Name of the offending argument where one argument is to blame, else None.
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


class InvalidTargetError(LegradError):
    """A prompt, embedding, image or class cannot serve as the target of an explanation."""

    code = "invalid-target"


class UnknownModelError(LegradError):
    """No model goes by that name."""

    code = "unknown-model"


class UnsupportedModelError(LegradError):
    """The model exists, but its architecture cannot be explained."""

    code = "unsupported-model"


class ModelLoadError(LegradError):
    """The weights or configuration of a model could not be read."""

    code = "model-load-failed"


def in_one_line(error: BaseException, longest: int = 300) -> str:
    """What another library's error says, fit to stand in a sentence: its kind and its message."""
    told = " ".join(str(error).split()).rstrip(". ")
    if len(told) > longest:
        told = told[:longest] + "..."
    return f"{type(error).__name__}: {told}" if told else type(error).__name__
