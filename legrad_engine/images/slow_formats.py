"""Small files that would be decoded for minutes: refused before that begins.

A decoder cannot be stopped, and the size of a picture does not bound its work where the file may
say the same thing over and over.
"""

import re

from legrad_engine.errors import ImageDecodeError

# Encoders that search for the smallest file use about twenty.
_MOST_SCANS = 64
_MOST_COMMENTS = 64

# Everything that follows FF but escaped data, restarts and padding.
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
# Markers below are reserved: decoders refuse them, or skip them as having no length.
_FIRST_WITH_LENGTH = 0xC0
_START_OF_IMAGE = 0xD8


def check_jpeg(data: bytes) -> None:
    """Refuses a JPEG that refines its whole picture again and again.

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
    """Refuses a PBM, PGM or PPM in plain text that consists of comments.

    Raises:
        ImageDecodeError: it has too many.
    """
    if data.count(b"#") > _MOST_COMMENTS:
        raise ImageDecodeError(
            f"The PPM has more than {_MOST_COMMENTS} comments: save it again.", field="image"
        )
