"""Refusal of small files that a decoder would work on for minutes.

A running decoder cannot be stopped, and the number of pixels does not bound its work in formats
that may encode the same pixels many times.
"""

import re

from legrad_engine.errors import ImageDecodeError

# Encoders that search for the smallest file use about twenty.
_MOST_SCANS = 64
_MOST_COMMENTS = 64

# A marker is FF and any byte but those of escaped data, restarts and padding.
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
# Lower markers are reserved: decoders refuse them, or skip them because they have no length.
_FIRST_WITH_LENGTH = 0xC0
_START_OF_IMAGE = 0xD8


def check_jpeg(data: bytes) -> None:
    """Refuse a progressive JPEG with too many scans, each of which may cover the whole picture.

    Raises:
        ImageDecodeError: it has too many scans.
    """
    scans = 0
    position = 2
    while (found := _MARKER.search(data, position)) is not None:
        marker = data[found.start() + 1]
        position = found.end()
        if marker == _END_OF_IMAGE:
            return
        if marker == _START_OF_SCAN:
            scans += 1
            if scans > _MOST_SCANS:
                raise ImageDecodeError(
                    f"The JPEG has more than {_MOST_SCANS} scans: save it again.", field="image"
                )
        elif marker >= _FIRST_WITH_LENGTH and marker != _START_OF_IMAGE:
            position += int.from_bytes(data[position : position + 2], "big")


def check_plain_netpbm(data: bytes) -> None:
    """Refuse a plain-text PBM, PGM or PPM with too many comments.

    Raises:
        ImageDecodeError: it has too many comments.
    """
    if data.count(b"#") > _MOST_COMMENTS:
        raise ImageDecodeError(
            f"The PPM has more than {_MOST_COMMENTS} comments: save it again.", field="image"
        )
