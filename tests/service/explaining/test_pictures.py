"""Requests share the decoding of a picture; if the first one leaves, the next one decodes it."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest

from legrad_engine import Explainer
from legrad_engine.errors import ImageDecodeError
from service.explaining.pictures import DecodedImage, Pictures
from service.pictures.workers import PictureWorkers
from service.pool.trace_cache import TraceCache, TraceKey
from service.schemas.requests import ExplainOptions
from service.settings.values import PictureLimits, PictureRules
from service.telemetry.metrics import Metrics, TraceCacheMetrics
from tests.support.picture_workers import paused, started, until
from tests.support.pictures import encoded, picture

KEY = TraceKey(b"digest", "tiny", (64, 64), "squash", "legrad", (1, 2), "mean", None)
GOOD = encoded(picture(90, 40))


@pytest.fixture(scope="module")
def explainer(tiny_model: str) -> Explainer:
    name, _, weights = tiny_model.partition("@")
    return Explainer.load(name, weights)


@contextlib.asynccontextmanager
async def one_process() -> AsyncIterator[tuple[Pictures, PictureWorkers]]:
    async with started() as workers:
        cache = TraceCache(1_000_000, TraceCacheMetrics(Metrics([], [], [])))
        yield Pictures(cache, workers, PictureRules(1_000_000)), workers


async def preparing(
    pictures: Pictures, explainer: Explainer, data: bytes = GOOD, max_side: int | None = 50
) -> "asyncio.Task[Any]":
    shared = pictures.find(explainer, KEY)
    task = asyncio.ensure_future(
        pictures.prepare(shared, explainer, data, ExplainOptions(), max_side, "a", object())
    )
    # Each task runs until it waits for the process or for another task.
    await asyncio.sleep(0)
    return task


def test_pictures_on_their_way_are_decoded_once(explainer: Explainer) -> None:
    async def several() -> list[DecodedImage]:
        async with one_process() as (pictures, workers):
            with paused(workers):
                tasks = [await preparing(pictures, explainer) for _ in range(4)]
            return list(await asyncio.gather(*tasks))

    answers = asyncio.run(several())
    assert [each.seconds is not None for each in answers] == [True, False, False, False]
    assert {each.geometry.image_size for each in answers} == {(90, 40)}
    assert len({id(each.canvas) for each in answers}) == 1
    assert answers[0].canvas is not None
    assert answers[0].canvas.size == (50, 22)


def test_where_the_first_leaves_the_next_decodes(explainer: Explainer) -> None:
    async def first_leaves() -> DecodedImage:
        async with one_process() as (pictures, workers):
            with paused(workers):
                leaving = await preparing(pictures, explainer)
                staying = await preparing(pictures, explainer)
                leaving.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await leaving
            found: DecodedImage = await staying
            return found

    found = asyncio.run(first_leaves())
    assert found.geometry.image_size == (90, 40)
    assert found.canvas is not None
    assert found.canvas.size == (50, 22)
    assert found.seconds is not None


def test_where_the_first_fails_the_next_decodes(explainer: Explainer) -> None:
    async def first_fails() -> DecodedImage:
        async with one_process() as (pictures, workers):
            with paused(workers):
                failing = await preparing(pictures, explainer, b"no picture")
                staying = await preparing(pictures, explainer)
            with pytest.raises(ImageDecodeError):
                await failing
            found: DecodedImage = await staying
            return found

    found = asyncio.run(first_fails())
    assert found.geometry.image_size == (90, 40)
    assert found.seconds is not None


def test_a_drawing_of_another_size_is_decoded_but_not_fitted_again(explainer: Explainer) -> None:
    async def two_sizes() -> list[Any]:
        async with one_process() as (pictures, _):
            shared = pictures.find(explainer, KEY)
            found = []
            for max_side in (None, 50, 50, 30):
                each = await (await preparing(pictures, explainer, max_side=max_side))
                size = None if each.canvas is None else each.canvas.size
                found.append((size, each.seconds is not None, shared.prepared))
            return found

    found = asyncio.run(two_sizes())
    assert [each[:2] for each in found] == [
        (None, True),
        ((50, 22), True),
        ((50, 22), False),
        ((30, 13), True),
    ]
    assert len({id(each[2]) for each in found}) == 1


def test_a_canvas_whose_process_has_ended_is_decoded_again(explainer: Explainer) -> None:
    async def ended() -> list[DecodedImage]:
        async with one_process() as (pictures, workers):
            shared = pictures.find(explainer, KEY)
            found = [await (await preparing(pictures, explainer))]
            (pid,) = workers.pids
            os.kill(pid, signal.SIGKILL)
            await until(lambda: workers.pids not in ([], [pid]))
            found += [await (await preparing(pictures, explainer)) for _ in range(2)]
            assert shared.canvas is found[1].canvas
            return found

    found = asyncio.run(ended())
    assert [each.seconds is not None for each in found] == [True, True, False]
    assert found[0].canvas is not found[1].canvas


def test_equal_pictures_of_two_models_are_not_shared(explainer: Explainer, tiny_model: str) -> None:
    name, _, weights = tiny_model.partition("@")
    reloaded = Explainer.load(name, weights)
    cache = TraceCache(1_000_000, TraceCacheMetrics(Metrics([], [], [])))
    workers = PictureWorkers(PictureLimits(1, 60, 1), Metrics([], [], []))
    pictures = Pictures(cache, workers, PictureRules(1_000_000))
    one = pictures.find(explainer, KEY)
    assert pictures.find(explainer, KEY) is one
    assert pictures.find(reloaded, KEY) is not one
