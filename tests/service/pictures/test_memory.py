"""The memory of one picture: enough for every format, and no more than is allowed."""

import asyncio
import functools
import sys
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from legrad_engine.errors import ImageDecodeError, LegradError
from service.errors import PictureMemoryError, ServiceError
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tests.support.icc_profiles import display_p3
from tests.support.picture_workers import decoding, drawing, started
from tests.support.pictures import encoded, heic
from tests.support.running_app import samples

SIDE = 2000
# The promise of docs/settings.md.
PROMISED = Settings(max_image_pixels=SIDE * SIDE, max_drawn_pixels=1).picture_limits.max_bytes

# From the least that a format takes to more than any of them does.
LIMITS = (41_000_000, 50_000_000, 66_000_000, 84_000_000, 100_000_000, PROMISED)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits address space")


@functools.cache
def large(mode: str) -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (20, 20, 4), dtype=np.uint8)
    smooth = Image.fromarray(np.kron(coarse, np.ones((SIDE // 20, SIDE // 20, 1), np.uint8)))
    return smooth.convert("RGB").quantize(64) if mode == "P" else smooth.convert(mode)


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x112] = 6
    return exif


FILES: dict[str, Callable[[], bytes]] = {
    "JPEG": lambda: encoded(large("RGB"), "JPEG"),
    "JPEG, turned": lambda: encoded(large("RGB"), "JPEG", exif=turned()),
    "JPEG, progressive": lambda: encoded(large("RGB"), "JPEG", progressive=True),
    "JPEG, CMYK": lambda: encoded(large("CMYK"), "JPEG"),
    "PNG": lambda: encoded(large("RGB"), compress_level=1),
    "PNG, alpha": lambda: encoded(large("RGBA"), compress_level=1),
    "PNG, alpha, turned": lambda: encoded(large("RGBA"), compress_level=1, exif=turned()),
    "PNG, grey and alpha": lambda: encoded(large("LA"), compress_level=1),
    "PNG, palette and alpha": lambda: encoded(large("P"), transparency=3, compress_level=1),
    "PNG, stored": lambda: encoded(large("RGBA"), compress_level=0),
    "PNG, colour profile": lambda: encoded(
        large("RGBA"), compress_level=1, icc_profile=display_p3()
    ),
    "WebP": lambda: encoded(large("RGB"), "WEBP", quality=50, method=0),
    "WebP, alpha": lambda: encoded(large("RGBA"), "WEBP", quality=50, method=0),
    "WebP, lossless": lambda: encoded(large("RGBA"), "WEBP", lossless=True, quality=0, method=0),
    "AVIF": lambda: encoded(large("RGB"), "AVIF", speed=10, quality=50),
    "AVIF, alpha": lambda: encoded(large("RGBA"), "AVIF", speed=10, quality=50),
    "HEIC": lambda: heic(large("RGB"), quality=10),
    "HEIC, alpha": lambda: heic(large("RGBA"), quality=10),
    "GIF": lambda: encoded(large("P"), "GIF"),
    "GIF, alpha": lambda: encoded(large("P"), "GIF", transparency=3),
    "BMP": lambda: encoded(large("RGB"), "BMP"),
    "BMP, alpha": lambda: encoded(large("RGBA"), "BMP"),
    "TIFF": lambda: encoded(large("RGB"), "TIFF"),
    "TIFF, alpha": lambda: encoded(large("RGBA"), "TIFF", compression="tiff_lzw"),
    "TIFF, one strip": lambda: encoded(large("RGB"), "TIFF", compression="zstd", strip_size=2**30),
    "TIFF, float": lambda: encoded(large("F"), "TIFF"),
    "PPM": lambda: encoded(large("RGB"), "PPM"),
}


@functools.cache
def file_of(name: str) -> bytes:
    return FILES[name]()


@pytest.mark.parametrize("name", FILES)
def test_every_format_is_decoded_within_the_promised_memory(name: str) -> None:
    data = file_of(name)

    async def decoded() -> None:
        async with started(max_bytes=PROMISED) as workers:
            pids = workers.pids
            found = await workers.decode("a", decoding(data, SIDE))
            assert found.geometry.image_size == (SIDE, SIDE)
            assert workers.pids == pids

    asyncio.run(decoded())


def refused(data: bytes, max_bytes: int) -> Exception | None:
    """The refusal of a picture under a limit; None if it is decoded."""

    async def limited() -> Exception | None:
        async with started(max_bytes=max_bytes) as workers:
            try:
                await workers.decode("a", decoding(data, SIDE))
            except (LegradError, ServiceError) as error:
                return error
            return None

    return asyncio.run(limited())


@pytest.mark.parametrize("max_bytes", [2_000_000, 19_000_000, 28_000_000])
@pytest.mark.parametrize("name", FILES)
def test_a_picture_beyond_the_limit_is_refused_for_memory_whatever_its_format(
    name: str, max_bytes: int
) -> None:
    assert isinstance(refused(file_of(name), max_bytes), PictureMemoryError)


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_picture_is_refused_as_such_wherever_a_whole_one_is_decoded(name: str) -> None:
    data = file_of(name)
    limits = (max_bytes for max_bytes in LIMITS if refused(data, max_bytes) is None)
    assert isinstance(refused(data[: len(data) * 2 // 3], next(limits)), ImageDecodeError)


def test_a_picture_beyond_the_limit_fails_alone_and_others_go_on() -> None:
    data, metrics = file_of("PNG, alpha"), Metrics([], [], [])

    async def limited() -> None:
        async with started(max_bytes=24_000_000, metrics=metrics) as workers:
            for _ in range(2):
                with pytest.raises(PictureMemoryError, match="more memory") as caught:
                    await workers.decode("a", decoding(data))
                assert caught.value.field == "image"
                small = await workers.decode("a", decoding())
                drawn = await drawing(workers, small)
                assert drawn.targets[0].overlay is not None

    asyncio.run(limited())
    name = 'legrad_picture_process_ends_total{reason="memory"}'
    # Only a process that begins with this picture decides; the second time it was another's.
    assert samples(metrics.exposition().decode())[name] == 3


def test_canvases_that_are_kept_take_no_memory_from_the_next_picture() -> None:
    data = file_of("JPEG")

    async def many() -> None:
        async with started(max_bytes=60_000_000) as workers:
            pids = workers.pids
            kept = [(await workers.decode("a", decoding(data, SIDE))).canvas for _ in range(12)]
            assert sum(each.nbytes for each in kept if each is not None) > 3 * 60_000_000
            assert workers.pids == pids

    asyncio.run(many())


def test_canvases_that_are_dropped_give_their_memory_back() -> None:
    data = file_of("JPEG")

    async def many() -> None:
        async with started(max_bytes=60_000_000) as workers:
            pids = workers.pids
            for _ in range(12):
                await workers.decode("a", decoding(data, SIDE))
            assert workers.pids == pids

    asyncio.run(many())
