"""Deep pictures: scaling to 8 bits by what the file tells, and by the values where it does not."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from legrad_engine.images import deep
from legrad_engine.images.decoding import decode
from legrad_engine.images.deep import to_grey
from tests.support.tiff_files import DEFLATE, RAW, SHORT, Tags, nodata, tiff, tiff_of

WHITE_IS_ZERO: Tags = {262: (SHORT, [0])}
RAMP = np.linspace(0, 1, 16 * 12).reshape(12, 16)

_NUMBERS = {1: "u", 2: "i", 3: "f"}
_DEEP = [
    (prefix, photometric, sample_format, fill_order, bits)
    for (prefix, photometric, (sample_format, *_), fill_order, bits, _), (
        mode,
        _,
    ) in TiffImagePlugin.OPEN_INFO.items()
    if mode.startswith(("I", "F")) and bits != (12,)
]


def grey(data: bytes | Image.Image) -> NDArray[np.uint8]:
    levels: NDArray[np.uint8] = np.asarray(decode(data))[..., 0]
    return levels


def png16(values: NDArray[np.uint16], transparent: int | None = None) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    data = buffer.getvalue()
    if transparent is None:
        return data
    content = b"tRNS" + struct.pack(">H", transparent)
    chunk = struct.pack(">I", 2) + content + struct.pack(">I", zlib.crc32(content))
    return data[:33] + chunk + data[33:]


@pytest.mark.parametrize("compression", [RAW, DEFLATE])
@pytest.mark.parametrize("kind", _DEEP, ids=str)
def test_every_deep_tiff_is_the_same_picture_as_its_8_bit_twin(
    kind: tuple[bytes, int, int, int, tuple[int, ...]], compression: int
) -> None:
    prefix, photometric, sample_format, fill_order, (bits,) = kind
    if fill_order == 2 and compression == DEFLATE:
        pytest.skip("the order of bits is that of the compressed data")
    dtype = np.dtype(f"{'<' if prefix == b'II' else '>'}{_NUMBERS[sample_format]}{bits // 8}")
    # The range of integers with a sign is stretched.
    low, high = {"u": (0, 65535), "i": (-32768, 32767), "f": (0, 1)}[dtype.kind]
    values = (low + RAMP * (high - low)).astype(dtype)
    if fill_order == 2:
        packed = np.unpackbits(values.view(np.uint8)).reshape(-1, 8)[:, ::-1]
        values = np.packbits(packed).view(dtype).reshape(values.shape)
    tags: Tags = {262: (SHORT, [photometric]), 266: (SHORT, [fill_order])}
    twin = grey(tiff_of((RAMP * 255).round().astype(np.uint8), {262: (SHORT, [photometric])}))
    found = grey(tiff_of(values, tags, compression))
    np.testing.assert_allclose(found.astype(int), twin.astype(int), atol=1)
    assert (twin[0, 0] < twin[-1, -1]) == (photometric == 1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_deep_pictures_are_turned_upright_as_8_bit_ones_are(
    orientation: int, dtype: type[Any]
) -> None:
    tags: Tags = {274: (SHORT, [orientation])}
    scale = 65535 if dtype is not np.float32 else 1
    found = grey(tiff_of((RAMP * scale).astype(dtype), tags))
    twin = grey(tiff_of((RAMP * 255).round().astype(np.uint8), tags))
    np.testing.assert_allclose(found.astype(int), twin.astype(int), atol=1)


def test_12_bits_span_black_to_white() -> None:
    tags: Tags = {258: (SHORT, [12]), 262: (SHORT, [1]), 339: (SHORT, [1])}
    # Three bytes hold two values.
    assert grey(tiff(4, 1, bytes.fromhex("0007ff800fff"), tags))[0].tolist() == [0, 127, 128, 255]


def test_a_tiff_without_photometric_interpretation_is_read_as_its_8_bit_twin() -> None:
    tags = {258: (SHORT, [16]), 339: (SHORT, [1])}
    twin = {258: (SHORT, [8]), 339: (SHORT, [1])}
    deep = grey(tiff(2, 1, np.array([0, 65535], "<u2").tobytes(), tags))
    assert deep.tolist() == grey(tiff(2, 1, bytes([0, 255]), twin)).tolist() == [[255, 0]]


@pytest.mark.parametrize("white_is_zero", [False, True])
@pytest.mark.parametrize(
    ("dtype", "text"),
    [
        ("<f4", "-9999"),
        (">f4", "-3.4028234663852886e+38"),
        ("<f4", " 255 "),
        ("<f4", "nan"),
        ("<i4", "-2147483648"),
        ("<i2", "-32768"),
        ("<u2", "65535"),
        ("<u2", "0"),
    ],
)
def test_pixels_without_a_value_are_black_and_do_not_stretch_the_others(
    dtype: str, text: str, white_is_zero: bool
) -> None:
    kind = np.dtype(dtype)
    if white_is_zero and kind.kind == "i":
        pytest.skip("Pillow does not open it")
    values = (
        (16 + RAMP * 200).astype(dtype) if kind.kind != "u" else (1 + RAMP * 65000).astype(dtype)
    )
    expected = values.astype(float) * (255 / 65535 if kind.kind == "u" else 1)
    values[3:5] = float(text)
    tags = {**nodata(text), **(WHITE_IS_ZERO if white_is_zero else {})}
    found = grey(tiff_of(values, tags)).astype(int)
    expected = 255 - expected if white_is_zero else expected
    expected[3:5] = 0
    np.testing.assert_allclose(found, expected, atol=1.01)


@pytest.mark.parametrize("text", ["", "none", "1e999", "-"])
def test_a_missing_value_that_is_no_number_fails_nothing(text: str) -> None:
    values = RAMP.astype(np.float32)
    np.testing.assert_array_equal(
        grey(tiff_of(values, nodata(text))), np.rint(values * 255).astype(np.uint8)
    )


@pytest.mark.parametrize("share", ["one", "a third"])
@pytest.mark.parametrize("fill", [-9999.0, -32768.0, -3.4e38, 1e20, 9999.0])
@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.2, 0.9), (0, 255), (-40, 30), (280, 300)])
def test_an_untold_fill_value_leaves_the_other_shades(
    low: float, high: float, fill: float, share: str
) -> None:
    values = (low + RAMP * (high - low)).astype(np.float32)
    clean = grey(tiff_of(values)).astype(int)
    assert len(np.unique(clean)) > 60
    holes = (slice(0, 1), slice(0, 1)) if share == "one" else (slice(2, 6), slice(None))
    values[holes] = fill
    found = grey(tiff_of(values)).astype(int)
    clean[holes] = 0 if fill < 0 else 255
    # Where the lowest or highest value is under the fill, the stretch begins at its neighbour.
    np.testing.assert_allclose(found, clean, atol=2)


def test_a_few_wild_pixels_are_set_aside_one_after_the_other() -> None:
    values = np.random.default_rng(0).uniform(100, 300, (60, 60)).astype(np.float32)
    clean = grey(tiff_of(values)).astype(int)
    values[0, :3] = (4e3, 4.1e3, 1e9)
    values[1, 0] = -7e5
    found = grey(tiff_of(values)).astype(int)
    assert found[0, :3].tolist() == [255] * 3
    assert found[1, 0] == 0
    np.testing.assert_allclose(found[2:], clean[2:], atol=2)


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        # A mask, labels, and content that is bright or dark in a part of the picture.
        ([0, 0, 0, 1], [0, 0, 0, 255]),
        ([0, 0, 0, 255], [0, 0, 0, 255]),
        ([-1, 0, 3], [0, 64, 255]),
        ([0, 2, 4, 10, 255, 255], [0, 2, 4, 10, 255, 255]),
        # Values that fill no usual full scale are measurements.
        ([280, 290, 300], [0, 128, 255]),
        ([0, 1500, 3000], [0, 128, 255]),
        ([0, 10, 20], [0, 128, 255]),
        ([0, 100, 200], [0, 100, 200]),
        ([np.nan, 200, 300], [0, 0, 255]),
        ([np.nan, np.nan], [0, 0]),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_content_is_not_set_aside(values: list[float], levels: list[int], dtype: type[Any]) -> None:
    if dtype is np.int32 and not np.isfinite(values).all():
        pytest.skip("integers are finite")
    assert grey(tiff_of(np.array([values], dtype)))[0].tolist() == levels


def test_a_dark_16_bit_picture_stays_dark() -> None:
    values = np.array([[0, 257, 514]], np.uint16)
    for data in (tiff_of(values), png16(values), b"P5 3 1 65535 " + values.astype(">u2").tobytes()):
        assert grey(data)[0].tolist() == [0, 1, 2]


def test_a_transparent_grey_of_16_bits_shows_white() -> None:
    values = np.array([[0, 300, 40_000, 40_001]], np.uint16)
    assert grey(png16(values, transparent=40_000))[0].tolist() == [0, 1, 255, 156]


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I;16N"])
def test_every_byte_order_of_16_bits_is_the_same_picture(mode: str) -> None:
    values = (RAMP * 65535).astype(">u2" if mode == "I;16B" else "<u2")
    image = Image.frombytes(mode, (16, 12), values.tobytes())
    assert np.abs(grey(image).astype(int) - np.rint(RAMP * 255)).max() <= 1


def test_outliers_of_every_magnitude_are_read_a_few_times_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Each is farther away than all before it: without a limit there is a pass for each.
    values = np.tile(np.float32(4.0) ** np.arange(64), (64, 1))
    passes: list[float] = []
    set_aside = deep._set_aside

    def counted(*arguments: Any) -> Any:
        passes.append(arguments[3])
        return set_aside(*arguments)

    monkeypatch.setattr(deep, "_set_aside", counted)
    assert to_grey(Image.fromarray(values)).max() == 255
    assert 1 < len(passes) <= 8
