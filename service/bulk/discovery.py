"""Finding the pictures of a folder, by their content."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

# Taken for pictures without importing Pillow, which costs a run with nothing left to do a fifth.
_USUAL_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
# The raw files of cameras are TIFF files whose first picture is a thumbnail.
_RAW_SUFFIXES = frozenset(
    {".3fr", ".arw", ".cr2", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".nef", ".nrw", ".pef",
     ".raw", ".rwl", ".sr2", ".srf", ".srw"}
)  # fmt: skip


class Found(NamedTuple):
    """The files of a folder.

    Attributes:
        pictures: those to explain, in sorted order.
        skipped: all others, in sorted order.
    """

    pictures: Sequence[Path]
    skipped: Sequence[Path]


def find_pictures(path: Path, output: Path) -> Found:
    """Return the picture ``path``, or all pictures below the folder ``path``.

    A file is a picture by its content, whatever its name. A file that is named like a picture and
    is none counts as one, so that its explanation fails with the reason. Hidden files and folders
    are left out, and so is everything below ``output``, which holds the overlays of earlier runs.
    """
    if not path.is_dir():
        return Found([path], [])
    own = output.resolve()
    files = sorted(
        each
        for each in path.rglob("*")
        if each.is_file()
        and own not in each.resolve().parents
        and not any(part.startswith(".") for part in each.relative_to(path).parts)
    )
    pictures = [each for each in files if _is_picture(each)]
    return Found(pictures, sorted(set(files) - set(pictures)))


def _is_picture(path: Path) -> bool:
    suffix = path.suffix.lower()
    if suffix in _USUAL_SUFFIXES:
        return True
    from legrad_engine.images.formats import HEAD_BYTES, SUFFIXES, open_picture, recognise

    if suffix in SUFFIXES:
        return True
    if suffix in _RAW_SUFFIXES:
        return False
    try:
        stream = path.open("rb")
    except OSError:
        # Its explanation fails with the reason.
        return True
    with stream:
        try:
            name = recognise(stream.read(HEAD_BYTES))
            if name is None or name == "HEIF":
                # Without the extra for HEIF such a picture cannot be opened; its refusal says so.
                return name is not None
            # A text may begin with the two letters of BMP or PPM.
            stream.seek(0)
            open_picture(stream).close()
        # On other bytes Pillow's readers raise exceptions of nearly any type.
        except Exception:
            return False
    return True
