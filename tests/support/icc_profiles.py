"""ICC profiles, made for tests."""

import struct

import numpy as np
from PIL import ImageCms

_HEADER, _ENTRY = 128, 12
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

# Primaries of Display P3, adapted to the white of profiles (D50).
_P3_PRIMARIES = {
    b"rXYZ": (0.51512, 0.24120, -0.00105),
    b"gXYZ": (0.29198, 0.69225, 0.04189),
    b"bXYZ": (0.15710, 0.06657, 0.78407),
}


def _fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _xyz(values: tuple[float, float, float]) -> bytes:
    return b"XYZ " + bytes(4) + _fixed(*values)


def gamma(exponent: float) -> bytes:
    """Return a tone curve."""
    return b"para" + bytes(4) + struct.pack(">HH", 0, 0) + _fixed(exponent)


def _srgb_curve() -> bytes:
    parameters = _fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    return b"para" + bytes(4) + struct.pack(">HH", 3, 0) + parameters


def profile(space: bytes, tags: dict[bytes, bytes], device: bytes = b"mntr") -> bytes:
    """Return an ICC profile of version 4.4 that converts to XYZ, or to Lab for CMYK."""
    connection = b"Lab " if space == b"CMYK" else b"XYZ "
    description = b"mluc" + bytes(4) + struct.pack(">II", 0, 12)
    every = {b"desc": description, b"cprt": description, b"wtpt": _xyz((0.9642, 1, 0.8249)), **tags}
    start = _HEADER + 4 + _ENTRY * len(every)
    table, body = struct.pack(">I", len(every)), b""
    for name, data in every.items():
        table += struct.pack(">4sII", name, start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = bytearray(_HEADER)
    struct.pack_into(">I", header, 0, start + len(body))
    header[8:12] = b"\x04\x40\0\0"
    header[12:24] = device + space + connection
    header[36:40] = b"acsp"
    header[68:80] = _fixed(0.9642, 1, 0.8249)
    return bytes(header) + table + body


def rgb_profile(primaries: dict[bytes, tuple[float, float, float]], tone: bytes) -> bytes:
    """Return a profile of a display."""
    curves = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), tone)
    return profile(b"RGB ", {name: _xyz(each) for name, each in primaries.items()} | curves)


def display_p3() -> bytes:
    """Return Display P3, the colours of phones, with the tone curve of sRGB."""
    return rgb_profile(_P3_PRIMARIES, _srgb_curve())


def swapped() -> bytes:
    """Return a profile whose red is the blue of sRGB, and the other way round."""
    primaries = {
        b"bXYZ": (0.43607, 0.22249, 0.01392),
        b"gXYZ": (0.38515, 0.71687, 0.09708),
        b"rXYZ": (0.14307, 0.06061, 0.71410),
    }
    return rgb_profile(primaries, _srgb_curve())


def grey(exponent: float) -> bytes:
    """Return a profile of grey with a tone curve."""
    return profile(b"GRAY", {b"kTRC": gamma(exponent)})


def cmyk() -> bytes:
    """Return a profile of a printer, whose colours are those of Lab by two points each side."""
    grid = [
        (1 - k)
        * np.array([1 - 0.3 * c - 0.4 * m - 0.1 * y, 0.5 - 0.2 * c + 0.2 * m, 0.5 + 0.2 * y])
        + k * np.array([0, 0.5, 0.5])
        for c in (0, 1)
        for m in (0, 1)
        for y in (0, 1)
        for k in (0, 1)
    ]
    colours = (np.clip(grid, 0, 1) * 65280).astype(">u2").tobytes()
    ramp = struct.pack(">HH", 0, 65535)
    lut = (
        b"mft2" + bytes(4) + bytes([4, 3, 2, 0]) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
        + struct.pack(">HH", 2, 2) + ramp * 4 + colours + ramp * 3
    )  # fmt: skip
    return profile(b"CMYK", {b"A2B0": lut}, device=b"prtr")


def elements(count: int) -> bytes:
    """Return a profile with so many processing elements, of which all are the same bytes."""
    identity = b"matf" + bytes(4) + struct.pack(">HH", 3, 3)
    identity += struct.pack(">12f", 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0)
    head = b"mpet" + bytes(4) + struct.pack(">HHI", 3, 3, count)
    place = struct.pack(">II", len(head) + 8 * count, len(identity))
    whole = head + place * count + identity
    base = {name: _xyz(each) for name, each in _P3_PRIMARIES.items()}
    curves = {name: gamma(2.2) for name in (b"rTRC", b"gTRC", b"bTRC")}
    return profile(b"RGB ", {**base, **curves, b"D2B0": whole})
