"""Requests share the decoding of a picture; if the first one leaves, the next one decodes it."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from legrad_engine import Explainer
from legrad_engine.errors import ImageDecodeError
from service.explaining.pictures import Pictures
from service.pictures.workers import PictureWorkers
from service.pool.trace_cache import TraceCache, TraceKey
from service.schemas.requests import ExplainOptions
from service.settings.values import PictureRules
from service.telemetry.metrics import Metrics, TraceCacheMetrics
from tests.support.pictures import encoded, picture

KEY = TraceKey(b"digest", "tiny", (64, 64), "squash", (1, 2), "mean", None)
GOOD = encoded(picture(90, 40))


@pytest.fixture(scope="module")
def explainer(tiny_model: str) -> Explainer:
    name, _, weights = tiny_model.partition("@")
    return Explainer.load(name, weights)


@pytest.fixture
def threads() -> Iterator[PictureWorkers]:
    one = PictureWorkers(1, 60)
    one.start()
    yield one
    one.close()


@pytest.fixture
def pictures(threads: PictureWorkers) -> Pictures:
    cache = TraceCache(1_000_000, TraceCacheMetrics(Metrics([], [], [])))
    return Pictures(cache, threads, PictureRules(1_000_000))


@contextlib.contextmanager
def occupied(threads: PictureWorkers) -> Iterator[threading.Event]:
    """Keep the only thread busy until the event is set."""
    free = threading.Event()
    busy = asyncio.ensure_future(threads.run(object(), "decode", lambda: free.wait(60)))
    try:
        yield free
    finally:
        free.set()
        busy.add_done_callback(lambda done: done.result())


async def preparing(
    pictures: Pictures, explainer: Explainer, data: bytes = GOOD, max_side: int | None = 50
) -> "asyncio.Task[Any]":
    shared = pictures.find(explainer, KEY)
    task = asyncio.ensure_future(
        pictures.prepare(shared, explainer, data, ExplainOptions(), max_side, object())
    )
    # Each task runs until it waits for the thread or for another task.
    await asyncio.sleep(0)
    return task


def test_pictures_on_their_way_are_decoded_once(
    pictures: Pictures, threads: PictureWorkers, explainer: Explainer
) -> None:
    async def several() -> list[Any]:
        with occupied(threads) as free:
            tasks = [await preparing(pictures, explainer) for _ in range(4)]
            free.set()
            return await asyncio.gather(*tasks)

    answers = asyncio.run(several())
    assert [seconds is not None for _, _, seconds in answers] == [True, False, False, False]
    assert {geometry.image_size for geometry, _, _ in answers} == {(90, 40)}
    assert len({id(canvas) for _, canvas, _ in answers}) == 1
    assert answers[0][1].picture.size == (50, 22)


def test_where_the_first_leaves_the_next_decodes(
    pictures: Pictures, threads: PictureWorkers, explainer: Explainer
) -> None:
    async def first_leaves() -> Any:
        with occupied(threads) as free:
            leaving = await preparing(pictures, explainer)
            staying = await preparing(pictures, explainer)
            leaving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving
            free.set()
            return await staying

    geometry, canvas, seconds = asyncio.run(first_leaves())
    assert geometry.image_size == (90, 40)
    assert canvas.picture.size == (50, 22)
    assert seconds > 0


def test_where_the_first_fails_the_next_decodes(
    pictures: Pictures, threads: PictureWorkers, explainer: Explainer
) -> None:
    async def first_fails() -> Any:
        with occupied(threads) as free:
            failing = await preparing(pictures, explainer, b"no picture")
            staying = await preparing(pictures, explainer)
            free.set()
            with pytest.raises(ImageDecodeError):
                await failing
            return await staying

    geometry, _, seconds = asyncio.run(first_fails())
    assert geometry.image_size == (90, 40)
    assert seconds > 0


def test_a_drawing_of_another_size_is_decoded_but_not_fitted_again(
    pictures: Pictures, explainer: Explainer
) -> None:
    async def two_sizes() -> list[Any]:
        shared = pictures.find(explainer, KEY)
        found = []
        for max_side in (None, 50, 50, 30):
            task = await preparing(pictures, explainer, max_side=max_side)
            _, canvas, seconds = await task
            found.append((canvas and canvas.picture.size, seconds is not None, shared.prepared))
        return found

    found = asyncio.run(two_sizes())
    assert [each[:2] for each in found] == [
        (None, True),
        ((50, 22), True),
        ((50, 22), False),
        ((30, 13), True),
    ]
    assert len({id(each[2]) for each in found}) == 1


def test_equal_pictures_of_two_models_are_not_shared(
    pictures: Pictures, explainer: Explainer, tiny_model: str
) -> None:
    name, _, weights = tiny_model.partition("@")
    reloaded = Explainer.load(name, weights)
    one = pictures.find(explainer, KEY)
    assert pictures.find(explainer, KEY) is one
    assert pictures.find(reloaded, KEY) is not one
