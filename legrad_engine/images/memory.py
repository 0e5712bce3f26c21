"""Telling a lack of memory from a damaged picture."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

_PIECE_BYTES = 2**20
# No decoder takes more, whatever sizes a damaged file states.
_MOST_PIECES = 2**13


@contextmanager
def enough_to_decode(nbytes: int) -> Iterator[None]:
    """Raise MemoryError where a decoder fails without the memory for a whole picture.

    Decoders report a lack of memory by the errors of damaged files. What they have allocated is
    free again once they have failed, so the same amount can be asked for.

    Args:
        nbytes: least amount with which none of these errors is for a lack of memory; not more than
            a whole picture of this size takes until it is ready.

    Raises:
        MemoryError: the decoder failed, and there is less memory.
        Exception: the decoder's own, if there is enough: the file is damaged.
    """
    try:
        yield
    # A refusal before anything is allocated.
    except Image.DecompressionBombError:
        raise
    # Decoders raise errors of many types.
    except Exception as error:
        if not _is_free(nbytes):
            raise MemoryError(f"less than {nbytes} bytes to decode a picture") from error
        raise


def _is_free(nbytes: int) -> bool:
    """Tell whether a decoder could get memory. None of it is used."""
    count = min(-(-nbytes // _PIECE_BYTES), _MOST_PIECES)
    # Also in pieces, for what has been freed may be in several places.
    return _can_allocate(count * _PIECE_BYTES, 1) or _can_allocate(_PIECE_BYTES, count)


def _can_allocate(nbytes: int, times: int) -> bool:
    try:
        # Numpy does not clear it.
        _ = [np.empty(nbytes, np.uint8) for _ in range(times)]
    except MemoryError:
        return False
    return True
