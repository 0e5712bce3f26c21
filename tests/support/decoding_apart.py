"""The memory that decoding takes, measured in processes of their own."""

import multiprocessing
import warnings
from multiprocessing.connection import Connection
from pathlib import Path

from legrad_engine.images.decoding import decode

_PATIENCE_SECONDS = 60


def decoded_apart(data: bytes, max_pixels: int) -> tuple[object, int]:
    """Decode in a forked process; to be called in one without threads.

    Args:
        data: a file.
        max_pixels: as of ``decode``.

    Returns:
        The size, or the type of the error; and the most bytes that it took meanwhile.
    """
    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(
        target=_measure, args=(data, max_pixels, there), daemon=True
    )
    process.start()
    # The end of a process that crashes is then that of the pipe.
    there.close()
    with here:
        assert here.poll(_PATIENCE_SECONDS), "It does not end."
        outcome, grown = here.recv()
    process.join()
    return outcome, grown


def _measure(data: bytes, max_pixels: int, answers: Connection) -> None:
    warnings.simplefilter("ignore")
    # Sets the peak to what is resident now.
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak_bytes()
    outcome: object
    try:
        outcome = decode(data, max_pixels=max_pixels).size
    except Exception as error:
        outcome = type(error)
    answers.send((outcome, _peak_bytes() - before))


def _peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
