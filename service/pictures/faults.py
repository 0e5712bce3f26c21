"""The errors of pictures whose process was killed or has crashed."""

import signal

from service.errors import (
    OutOfMemoryError,
    PictureCrashError,
    PictureMemoryError,
    PictureProcessEndedError,
    PictureTimeoutError,
    ServiceError,
)
from service.pictures.turns import Work

_FIELDS: dict[Work, str] = {"draw": "output", "decode": "image"}
# How a decoder that fails ends its process. Other signals come from outside.
_CRASHES = frozenset(
    -number
    for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
)
_REMEDY = "send a smaller one, or ask for a smaller max_side."


def no_memory() -> OutOfMemoryError:
    """Return the error of a job that the server itself has no memory for."""
    return OutOfMemoryError("The server has no memory left; try again in a moment.")


def error_of_memory(work: Work) -> ServiceError:
    """Return the error of a job that needed more memory than it may have."""
    return PictureMemoryError(
        f"It takes more memory than is allowed to {work} the picture: {_REMEDY}",
        field=_FIELDS[work],
    )


def error_of_end(
    work: Work, killed_for: str | None, status: int | None, seconds: float
) -> ServiceError:
    """Return the error of a job whose process has ended.

    Args:
        work: the kind of work.
        killed_for: the reason why the server killed the process; None if it did not.
        status: exit status of the process, negative for a signal; None if it is unknown.
        seconds: longest time of a job.
    """
    if killed_for == "time":
        return PictureTimeoutError(
            f"It takes longer than {seconds:g} s to {work} the picture: {_REMEDY}",
            field=_FIELDS[work],
        )
    if status in _CRASHES or killed_for == "broken":
        return PictureCrashError(
            f"The process that should {work} the picture crashed: save the picture again, in "
            "another format.",
            field=_FIELDS[work],
        )
    return PictureProcessEndedError("The process of the picture was ended; send it again.")
