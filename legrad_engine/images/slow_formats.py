"""Refusal of small files that a decoder would work on for minutes.

A running decoder cannot be stopped, and the number of pixels does not bound its work in formats
that may encode the same pixels many times.
"""

import re

from legrad_engine.errors import ImageDecodeError

# Encoders that search for the smallest file use about twenty.
_MOST_SCANS = 64
# Encoders write some hundred, of up to 64 kB each.
_MOST_SEGMENTS = 50_000
# Padding before the pixels, and restarts without pixels: Pillow reads them byte by byte.
_MOST_SKIPPED_BYTES = 65_536
_MOST_COMMENTS = 64

NETPBM_HEAD_BYTES = 65_536
"""Bytes within which a PPM must state its size: Pillow reads what is before it byte by byte."""

_COMMENT = re.compile(rb"#[^\r\n]*")

# A marker is FF and any byte but those of escaped data, restarts and padding.
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
# Lower markers are reserved: decoders refuse them, or skip them because they have no length.
_FIRST_WITH_LENGTH = 0xC0
_START_OF_IMAGE = 0xD8


def check_jpeg(data: bytes) -> None:
    """Refuse a JPEG with too many scans, each of which may cover the whole picture, or segments.

    Raises:
        ImageDecodeError: it has too many scans, segments, or bytes between segments.
    """
    scans = segments = skipped = 0
    position = 2
    while (found := _MARKER.search(data, position)) is not None:
        marker = data[found.start() + 1]
        skipped += 0 if scans else found.start() - position
        position = found.end()
        if skipped > _MOST_SKIPPED_BYTES:
            raise ImageDecodeError(
                f"The JPEG has more than {_MOST_SKIPPED_BYTES} bytes between its segments: save it "
                "again.",
                field="image",
            )
        if marker == _END_OF_IMAGE:
            return
        segments += 1
        if segments > _MOST_SEGMENTS:
            raise ImageDecodeError(
                f"The JPEG has more than {_MOST_SEGMENTS} segments: save it again.", field="image"
            )
        if marker == _START_OF_SCAN:
            scans += 1
            if scans > _MOST_SCANS:
                raise ImageDecodeError(
                    f"The JPEG has more than {_MOST_SCANS} scans: save it again.", field="image"
                )
        elif marker >= _FIRST_WITH_LENGTH and marker != _START_OF_IMAGE:
            position += int.from_bytes(data[position : position + 2], "big")


def check_netpbm(head: bytes) -> None:
    """Refuse a PBM, PGM or PPM with long comments or many spaces before its size.

    Args:
        head: the first NETPBM_HEAD_BYTES bytes of the file, or all if it has fewer.

    Raises:
        ImageDecodeError: the size is not within these bytes.
    """
    # The kind, width, height, and the largest value unless there are only two.
    words = 3 if head.startswith((b"P1", b"P4")) else 4
    found = _COMMENT.sub(b"", head).split(None, words)
    if len(head) == NETPBM_HEAD_BYTES and len(found) < words:
        raise ImageDecodeError(
            f"The size of the PPM is not within its first {NETPBM_HEAD_BYTES} bytes: save it "
            "again.",
            field="image",
        )


def check_plain_netpbm(data: bytes) -> None:
    """Refuse a plain-text PBM, PGM or PPM with too many comments.

    Raises:
        ImageDecodeError: it has too many comments.
    """
    if data.count(b"#") > _MOST_COMMENTS:
        raise ImageDecodeError(
            f"The PPM has more than {_MOST_COMMENTS} comments: save it again.", field="image"
        )
