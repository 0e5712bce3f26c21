"""Fast resizing beside Pillow's: sizes, filters and strips."""

import multiprocessing
import os
import resource
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from legrad_engine.images import resizing
from legrad_engine.images.geometry import Box
from legrad_engine.images.resizing import resize_exactly, resize_fast
from legrad_engine.models.preprocessing import Interpolation
from tests.support.pictures import picture


def differences(
    image: Image.Image,
    size: tuple[int, int],
    interpolation: Interpolation,
    box: Box | None = None,
) -> np.ndarray:
    fast, exact = (
        resize(image, size, interpolation, box) for resize in (resize_fast, resize_exactly)
    )
    assert fast.size == exact.size == size
    assert fast.mode == exact.mode == "RGB"
    difference: np.ndarray = np.abs(np.asarray(fast).astype(int) - np.asarray(exact))
    return difference


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos", "box"])
@pytest.mark.parametrize(
    ("image_size", "size"),
    [
        *product([(256, 256), (301, 97)], [(224, 224), (96, 200)]),
        *product([(60, 40)], [(224, 224), (60, 224), (224, 40)]),
        ((1, 500), (224, 224)),
        ((500, 1), (1, 1)),
    ],
)
def test_nearly_every_value_is_that_of_pillow(
    image_size: tuple[int, int], size: tuple[int, int], interpolation: Interpolation
) -> None:
    found = differences(picture(*image_size), size, interpolation)
    assert found.max() <= 2
    assert (found > 0).mean() <= 0.02


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos"])
@pytest.mark.parametrize("image_size", [(97, 601), (17, 2000), (300, 700)])
@pytest.mark.parametrize("size", [(140, 140), (60, 224), (10, 120)])
def test_tall_pictures_are_lowered_before_they_are_narrowed_as_in_pillow(
    image_size: tuple[int, int], size: tuple[int, int], interpolation: Interpolation
) -> None:
    found = differences(picture(*image_size), size, interpolation)
    assert found.max() <= 2
    assert (found > 0).mean() <= 0.02


@pytest.mark.parametrize("box", [(0, 0, 300.5, 210.25), (0.75, 0.5, 301, 211), (3, 40, 64, 45.5)])
@pytest.mark.parametrize("size", [(224, 224), (40, 200), (200, 40), (301, 211)])
def test_a_box_of_fractions_is_resized_as_by_pillow(box: Box, size: tuple[int, int]) -> None:
    found = differences(picture(301, 211), size, "bicubic", box)
    assert found.max() <= 2
    assert (found > 0).mean() <= 0.02
    assert not differences(picture(301, 211), size, "hamming", box).any()


@pytest.mark.parametrize("interpolation", ["nearest", "hamming"])
def test_filters_that_are_not_fast_are_exact(interpolation: Interpolation) -> None:
    assert not differences(picture(300, 200), (64, 64), interpolation).any()


def test_a_picture_of_the_wanted_size_stays_as_it_is() -> None:
    assert not differences(picture(120, 80), (120, 80), "bicubic").any()


def test_without_the_library_everything_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resizing, "vectorised", None)
    assert not differences(picture(300, 200), (64, 64), "bicubic").any()


@pytest.mark.parametrize(("size", "between"), [((300, 300), 224 * 300), ((300, 900), 300 * 224)])
def test_a_picture_that_is_large_between_the_steps_is_left_to_pillow(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], between: int
) -> None:
    monkeypatch.setattr(resizing, "_MOST_BYTES_BETWEEN", 4 * between)
    assert differences(picture(*size), (224, 224), "bicubic").any()
    monkeypatch.setattr(resizing, "_MOST_BYTES_BETWEEN", 4 * between - 1)
    assert not differences(picture(*size), (224, 224), "bicubic").any()


def exit_statuses(old: tuple[int, int], new: tuple[int, int], limits: Sequence[int]) -> set[int]:
    """Resize under limits on further memory; return 0 for a result, 1 for a MemoryError."""
    strip = Image.new("RGB", old)
    resize_fast(Image.new("RGB", (50, 50)), (20, 20), "bicubic")
    own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    statuses = set()
    for limit in limits:
        child = os.fork()
        if not child:
            resource.setrlimit(resource.RLIMIT_AS, (own + limit, resource.RLIM_INFINITY))
            try:
                resize_fast(strip, new, "bicubic")
            except MemoryError:
                os._exit(1)
            os._exit(0)
        statuses.add(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    return statuses


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits address space")
def test_long_strips_without_memory_do_not_end_the_process() -> None:
    limits = range(0, 30_000_000, 1_000_000)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
        for old, new in (((200_000, 3), (150_000, 3)), ((3, 200_000), (3, 150_000))):
            assert processes.submit(exit_statuses, old, new, limits).result() == {0, 1}
