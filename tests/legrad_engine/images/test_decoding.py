import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from legrad_engine.errors import ImageDecodeError, ImageTooLargeError, LegradError
from legrad_engine.images.decoding import ImageSource, decode
from tests.support.paths import EXAMPLES

FORMATS = ["JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM"]
LOSSLESS = ["PNG", "BMP", "TIFF", "PPM"]


def noise(width: int = 40, height: int = 30, mode: str = "RGB") -> Image.Image:
    channels = len(Image.new(mode, (1, 1)).getbands())
    values = np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)
    return Image.frombytes(mode, (width, height), values.tobytes())


def encode(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("file_format", FORMATS)
def test_every_accepted_format_decodes_to_rgb(file_format: str) -> None:
    original = Image.linear_gradient("L").resize((40, 30)).convert("RGB")
    decoded = decode(encode(original, file_format))
    assert decoded.size == (40, 30)
    error = np.abs(pixels(decoded).astype(int) - pixels(original)).mean()
    assert error < (0.01 if file_format in LOSSLESS else 8)


@pytest.mark.parametrize("file_format", LOSSLESS)
def test_lossless_formats_keep_every_pixel(file_format: str) -> None:
    np.testing.assert_array_equal(pixels(decode(encode(noise(), file_format))), pixels(noise()))


@pytest.mark.parametrize("as_source", [Path, str, lambda path: Path(path).read_bytes(), Image.open])
def test_every_kind_of_source_gives_the_same_picture(
    as_source: Callable[[str], ImageSource],
) -> None:
    path = str(EXAMPLES / "astronaut.jpg")
    np.testing.assert_array_equal(pixels(decode(as_source(path))), pixels(decode(path)))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(file_format: str, orientation: int) -> None:
    upright = np.zeros((24, 48, 3), np.uint8)
    upright[:8, :16] = (255, 0, 0)
    upright[16:, :16] = (0, 255, 0)
    # How a camera held that way stores the picture.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(np.ascontiguousarray(stored)), file_format, exif=exif)
    decoded = pixels(decode(data)).astype(int)
    assert decoded.shape == upright.shape
    assert np.abs(decoded - upright).mean() < 16
    assert decoded[4, 8] == pytest.approx((255, 0, 0), abs=16)
    assert decoded[20, 8] == pytest.approx((0, 255, 0), abs=16)


def test_decoding_a_decoded_picture_changes_nothing() -> None:
    once = decode(EXAMPLES / "astronaut.jpg")
    assert once.size == (360, 512)
    np.testing.assert_array_equal(pixels(decode(once)), pixels(once))


def test_damaged_exif_does_not_cost_the_picture() -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 40
    data = encode(noise(), "JPEG", exif=exif)
    with pytest.warns(UserWarning, match="Corrupt EXIF"):
        assert decode(data).size == (40, 30)


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_pixels_are_those_of_pillows_own_conversion(
    tmp_path: Path, file_format: str, mode: str
) -> None:
    if mode == "RGBA" and file_format in ("JPEG", "PPM"):
        mode = "RGB"
    path = tmp_path / "picture"
    path.write_bytes(encode(noise(mode=mode), file_format))
    with Image.open(path) as image:
        expected = image.convert("RGBA")
        expected.alpha_composite(Image.new("RGBA", image.size, "white"))
        expected.alpha_composite(image.convert("RGBA"))
    for source in (path, path.read_bytes()):
        decoded = decode(source)
        assert type(decoded) is Image.Image
        assert decoded.info == {}
        np.testing.assert_array_equal(pixels(decoded), pixels(expected.convert("RGB")))


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_callers_open_file_shares_no_pixels_with_the_decoded_picture(file_format: str) -> None:
    with Image.open(io.BytesIO(encode(noise(), file_format))) as image:
        before = image.convert("RGB")
        info = dict(image.info)
        decode(image).paste("red", (0, 0, 40, 30))
        np.testing.assert_array_equal(pixels(image.convert("RGB")), pixels(before))
        assert image.info == info
        shown = decode(image)
        image.paste(0, (0, 0, 40, 30))
        np.testing.assert_array_equal(pixels(shown), pixels(before))


def test_a_pillow_image_is_left_as_it_was() -> None:
    original = noise(mode="RGBA")
    original.info["note"] = "kept"
    before = original.tobytes()
    decode(original)
    assert (original.mode, original.info, original.tobytes()) == ("RGBA", {"note": "kept"}, before)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_shows_white(mode: str) -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    decoded = decode(image.convert(mode))
    assert pixels(decoded).tolist() == [[[255, 255, 255], [0, 0, 0]]]


def test_half_transparent_black_is_mid_grey() -> None:
    decoded = decode(encode(Image.new("RGBA", (1, 1), (0, 0, 0, 128)), "PNG"))
    assert pixels(decoded).tolist() == [[[127, 127, 127]]]


@pytest.mark.parametrize(("mode", "transparent"), [("L", 0), ("RGB", (0, 0, 0)), ("P", 0)])
def test_a_transparent_colour_shows_white(mode: str, transparent: object) -> None:
    image = Image.new("RGB", (2, 1))
    image.putpixel((1, 0), (200, 200, 200))
    if mode == "P":
        indexed = Image.new("P", (2, 1))
        indexed.putpalette([0, 0, 0, 200, 200, 200])
        indexed.putpixel((1, 0), 1)
        image = indexed
    data = encode(image.convert(mode), "PNG", transparency=transparent)
    assert pixels(decode(data)).tolist() == [[[255] * 3, [200] * 3]]


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV"])
def test_other_modes_become_their_colours(mode: str) -> None:
    red = Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode)
    assert pixels(decode(red)).min() >= 254


def test_cmyk_jpeg_is_not_inverted() -> None:
    dark = Image.new("RGB", (16, 16), (20, 30, 90)).convert("CMYK")
    decoded = pixels(decode(encode(dark, "JPEG", quality=95)))
    assert decoded.reshape(-1, 3).mean(0) == pytest.approx((20, 30, 90), abs=4)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_not_clipped(file_format: str) -> None:
    values = np.array([[0, 257, 12_850, 32_896, 65_535]], np.uint16)
    decoded = pixels(decode(encode(Image.fromarray(values), file_format)))
    assert decoded[0].tolist() == [[level] * 3 for level in (0, 1, 50, 128, 255)]


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        (np.array([[0, 65_535]], np.int32), [0, 255]),
        (np.array([[-10, 0, 10]], np.int32), [0, 128, 255]),
        (np.array([[0, 2_000_000]], np.int32), [0, 255]),
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
        (np.array([[0, 51, 255]], np.float32), [0, 51, 255]),
        (np.array([[0, 257, 65_535]], np.float32), [0, 1, 255]),
        (np.array([[-1, 0, 3]], np.float32), [0, 64, 255]),
        (np.array([[np.nan, np.inf, 1]], np.float32), [0, 0, 255]),
        (np.array([[-5, -5]], np.float32), [0, 0]),
        (np.array([[-3e38, 3e38]], np.float32), [0, 255]),
    ],
)
def test_deep_images_scale_to_8_bits(values: np.ndarray, levels: list[int]) -> None:
    decoded = pixels(decode(encode(Image.fromarray(values), "TIFF")))
    assert decoded[0, :, 0].tolist() == levels


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "TIFF", "PNG"])
def test_of_an_animation_the_first_frame_is_read(file_format: str) -> None:
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "green", "blue")]
    data = encode(frames[0], file_format, save_all=True, append_images=frames[1:])
    assert pixels(decode(data)).mean((0, 1)) == pytest.approx((255, 0, 0), abs=4)


@pytest.mark.parametrize("file_format", FORMATS)
def test_one_pixel_is_a_picture(file_format: str) -> None:
    assert decode(encode(Image.new("RGB", (1, 1), "white"), file_format)).size == (1, 1)


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "really-a.png"
    path.write_bytes(encode(noise(), "JPEG"))
    assert decode(path).size == (40, 30)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.[!m]*")), ids=lambda path: path.name)
def test_examples_decode_upright(path: Path) -> None:
    expected = {
        "astronaut.jpg": (360, 512),
        "cat.jpg": (451, 300),
        "coffee.webp": (600, 400),
        "coffee-cut-out.png": (322, 280),
        "galaxies.gif": (640, 214),
        "photographer.png": (384, 384),
        "rocket.jpg": (640, 427),
    }
    if path.name not in expected:
        pytest.skip("not a photograph of this set")
    assert decode(path).size == expected[path.name]


def test_examples_look_as_their_features_demand() -> None:
    rocket_sky = pixels(decode(EXAMPLES / "rocket.jpg"))[:100].mean((0, 1))
    assert rocket_sky[2] > rocket_sky[0] + 30
    cut_out = pixels(decode(EXAMPLES / "coffee-cut-out.png"))
    assert cut_out[0, 0].tolist() == [255, 255, 255]
    photographer = pixels(decode(EXAMPLES / "photographer.png"))
    assert 20 < photographer.std() < 120


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"hello, world", "JPEG, PNG, WebP"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "JPEG, PNG, WebP"),
        (b"%PDF-1.7", "JPEG, PNG, WebP"),
        (b"\x89PNG\r\n\x1a\n", "truncated or damaged"),
    ],
)
def test_what_is_not_an_image_says_what_to_send(data: bytes, message: str) -> None:
    with pytest.raises(ImageDecodeError, match=message) as caught:
        decode(data)
    assert caught.value.field == "image"


def test_an_unreadable_path_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.jpg", tmp_path, "nul\0byte.png"):
        with pytest.raises(ImageDecodeError, match="check the path"):
            decode(path)


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_truncated_file_is_refused_or_read_but_never_crashes(file_format: str) -> None:
    data = encode(noise(64, 64), file_format)
    for length in np.linspace(0, len(data) - 1, 50).astype(int):
        with suppress(LegradError):
            assert decode(data[:length]).size == (64, 64)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM"])
def test_half_a_file_is_refused(file_format: str) -> None:
    data = encode(noise(64, 64), file_format)
    with pytest.raises(ImageDecodeError, match="whole file"):
        decode(data[: len(data) // 2])


@given(st.binary(max_size=300))
def test_random_bytes_raise_only_typed_errors(data: bytes) -> None:
    with pytest.raises(LegradError):
        decode(data)


@given(st.sampled_from(FORMATS), st.data())
def test_flipped_bytes_raise_only_typed_errors(file_format: str, data: st.DataObject) -> None:
    mutated = bytearray(encode(noise(16, 16), file_format))
    for _ in range(data.draw(st.integers(1, 5))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about damaged metadata
        with suppress(LegradError):
            decode(bytes(mutated), max_pixels=1_000_000)


def gigapixel(file_format: str) -> bytes:
    """A small file whose header promises at least a gigapixel (for WebP, its most)."""
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = bytearray(encode(Image.new("RGB", (8, 8)), file_format, **options))
    if file_format == "PNG":
        data[16:24] = struct.pack(">II", 50_000, 50_000)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif file_format == "JPEG":
        start = data.index(b"\xff\xc0") + 5
        data[start : start + 4] = struct.pack(">HH", 65_500, 65_500)
    elif file_format == "GIF":
        data[6:10] = struct.pack("<HH", 65_535, 65_535)
    elif file_format == "BMP":
        data[18:26] = struct.pack("<ii", 40_000, 40_000)
    elif file_format == "WEBP":
        data[21:25] = struct.pack("<I", 16_383 | 16_383 << 14)
    elif file_format == "PPM":
        data = bytearray(b"P6 40000 40000 255\n")
    return bytes(data)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "PPM"])
def test_a_decompression_bomb_is_refused_from_its_header(file_format: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageTooLargeError, match="the limit is 64000000 pixels") as caught:
            decode(gigapixel(file_format))
    assert caught.value.field == "image"


def test_the_limit_is_the_callers_and_counts_pixels() -> None:
    data = encode(noise(40, 30), "PNG")
    assert decode(data, max_pixels=1200).size == (40, 30)
    for source in (data, noise(40, 30)):
        with pytest.raises(ImageTooLargeError, match=r"40 x 30 pixels; the limit is 1199"):
            decode(source, max_pixels=1199)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_a_large_allowed_picture_warns_of_nothing(file_format: str) -> None:
    # Above 89 megapixels Pillow's own opening would warn.
    data = encode(Image.new("1", (10_000, 9_000)), file_format)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(data, max_pixels=90_000_000).size == (10_000, 9_000)


def test_a_refusal_leaves_the_next_picture_alone() -> None:
    for bad in (b"", gigapixel("PNG"), encode(noise(), "JPEG")[:200]):
        with pytest.raises(LegradError):
            decode(bad)
        np.testing.assert_array_equal(pixels(decode(encode(noise(), "PNG"))), pixels(noise()))


def test_threads_with_different_limits_do_not_meet() -> None:
    data = encode(noise(), "PNG")

    def attempt(limit: int) -> bool:
        try:
            decode(data, max_pixels=limit)
        except ImageTooLargeError:
            return False
        return True

    limits = [1199, 1200] * 100
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(attempt, limits)) == [limit == 1200 for limit in limits]


def test_pillow_images_without_pixels_are_refused() -> None:
    with pytest.raises(ImageDecodeError, match="no pixels"):
        decode(Image.new("RGB", (0, 5)))


def test_an_embedded_colour_profile_is_no_obstacle() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert decode(encode(noise(), "PNG", icc_profile=profile)).size == (40, 30)


def test_a_path_like_object_is_a_path() -> None:
    class Named(os.PathLike[str]):
        def __fspath__(self) -> str:
            return str(EXAMPLES / "cat.jpg")

    assert decode(Named()).size == (451, 300)
