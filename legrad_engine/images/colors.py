"""Conversion of pictures with an ICC profile to sRGB."""

import io
import struct
from functools import lru_cache

from PIL import Image, ImageCms

# Profiles of printers, the largest in use, have 3 MB.
LARGEST_PROFILE = 4 * 2**20
# Differences that rounding makes between two profiles of sRGB, in levels.
_ROUNDING = 2

_TAG_TABLE, _TAG_SIZE = 128, 12
_DEVICES = frozenset({b"mntr", b"prtr", b"scnr", b"spac"})
_MODES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}
_GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "F"})


def to_srgb(profile: object, image: Image.Image, rgb: Image.Image) -> Image.Image:
    """Convert a picture from the colours of its ICC profile to sRGB.

    The rendering is perceptual. A profile of sRGB changes nothing. A profile that is damaged, too
    large, or of another kind of colours than the picture is ignored.

    Args:
        profile: the ICC profile as bytes, or anything else for none.
        image: the picture as stored, decoded.
        rgb: the same picture in RGB without regard to its profile, transparency composited.

    Returns:
        RGB; `rgb` itself if there is nothing to convert.
    """
    if not isinstance(profile, bytes) or not 0 < len(profile) <= LARGEST_PROFILE:
        return rgb
    mode = _mode_of(profile)
    if mode is None or not _fits(mode, image.mode):
        return rgb
    transform = _transform(profile, mode)
    if transform is None:
        return rgb
    if mode == "CMYK":
        return transform.apply(image)
    return transform.apply(rgb if mode == "RGB" else rgb.getchannel(0))


def _fits(profile_mode: str, mode: str) -> bool:
    if profile_mode == "L":
        return mode in _GREY_MODES or mode.startswith("I;16")
    if profile_mode == "CMYK":
        return mode == "CMYK"
    return mode not in ("CMYK", "LAB")


def _mode_of(profile: bytes) -> str | None:
    """Return the mode of pictures that a profile describes; None if it describes none."""
    device, space = profile[12:16], profile[16:20]
    if device not in _DEVICES or not _is_bounded(profile):
        return None
    return _MODES.get(space)


def _is_bounded(profile: bytes) -> bool:
    """Return whether the work and memory of a profile are bounded by its size.

    Processing elements (mpet), which are rare, may repeat the same bytes a hundred thousand times,
    and a table of colours (mft1, mft2) may be said to be larger than the file. Then a few kilobytes
    take minutes, or hundreds of megabytes. All other tags are a few steps of their own size.
    """
    count = int.from_bytes(profile[_TAG_TABLE : _TAG_TABLE + 4], "big")
    table = profile[_TAG_TABLE + 4 :][: count * _TAG_SIZE]
    whole = len(table) // _TAG_SIZE * _TAG_SIZE
    for _, offset, _ in struct.iter_unpack(">4sII", table[:whole]):
        kind, sizes = profile[offset : offset + 4], profile[offset + 8 : offset + 11]
        if kind == b"mpet":
            return False
        if kind in (b"mft1", b"mft2") and len(sizes) == 3:
            inputs, outputs, points = sizes
            if points**inputs * outputs > len(profile):
                return False
    return True


# Pictures of one source have one profile.
@lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform from a profile to sRGB; None if it is damaged or changes nothing."""
    try:
        transform = ImageCms.ImageCmsTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)), _srgb(), mode, "RGB"
        )
    # Not a property of the profile, so it is not to be remembered.
    except MemoryError:
        raise
    # Damaged profiles raise exceptions of several types.
    except Exception:
        return None
    probe = _probe(mode)
    if probe is not None:
        changed = transform.apply(probe)
        pairs = zip(changed.tobytes(), probe.convert("RGB").tobytes(), strict=True)
        if all(abs(after - before) <= _ROUNDING for after, before in pairs):
            return None
    return transform


@lru_cache(maxsize=1)
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _probe(mode: str) -> Image.Image | None:
    """Return a picture of colours from the whole range of a mode; None for CMYK."""
    if mode == "L":
        return Image.frombytes("L", (256, 1), bytes(range(256)))
    if mode == "RGB":
        levels = range(0, 256, 17)
        colours = bytes(
            value for r in levels for g in levels for b in levels for value in (r, g, b)
        )
        return Image.frombytes("RGB", (256, 16), colours)
    return None
