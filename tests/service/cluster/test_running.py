"""The application of a replica: ready before it is used, ended with its processes, one id."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import psutil
import pytest
from starlette.types import Message

from service.cluster.running import RunningApplication
from service.errors import ServiceError
from service.settings import Settings
from tests.support.picture_workers import children, until


def settings(model: str, **given: object) -> Settings:
    return Settings.model_validate({"models": model, "compute_threads": 1, **given})


def picture_processes() -> set[int]:
    return {pid for each in psutil.Process().children() for pid in children(each.pid)}


def is_ready(application: RunningApplication) -> bool:
    return application.readiness.ready


async def lifespan(application: RunningApplication, use: Callable[[], Awaitable[None]]) -> None:
    """Use an application between the messages of its lifespan, as Ray does."""
    received: asyncio.Queue[Message] = asyncio.Queue()
    sent: asyncio.Queue[Message] = asyncio.Queue()
    task = asyncio.create_task(application({"type": "lifespan"}, received.get, sent.put))
    await received.put({"type": "lifespan.startup"})
    assert (await sent.get())["type"] == "lifespan.startup.complete"
    await use()
    await received.put({"type": "lifespan.shutdown"})
    assert (await sent.get())["type"] == "lifespan.shutdown.complete"
    await task


def test_it_is_ready_once_started_and_leaves_no_picture_process(tiny_model: str) -> None:
    before = picture_processes()

    async def run() -> None:
        application = RunningApplication(settings(tiny_model))
        assert not is_ready(application)
        await application.start()
        assert is_ready(application)

        async def use() -> None:
            transport = httpx.ASGITransport(application)
            async with httpx.AsyncClient(transport=transport, base_url="http://a") as client:
                answer = await client.get("/health/ready", headers={"X-Request-ID": "of-ray"})
                assert answer.status_code == 200
                # Ray's proxy adds the one that it sent.
                assert "x-request-id" not in answer.headers
                answer = await client.get("/nowhere", headers={"X-Request-ID": "no id"})
                assert answer.headers["x-request-id"] == answer.json()["request_id"]

        await lifespan(application, use)
        assert not is_ready(application)

    asyncio.run(run())
    asyncio.run(until(lambda: picture_processes() <= before))


def test_a_model_that_cannot_be_loaded_ends_the_start() -> None:
    before = picture_processes()

    async def run() -> Any:
        application = RunningApplication(settings("ViT-B-32@/nowhere/weights.safetensors"))
        with pytest.raises(ServiceError) as caught:
            await application.start()
        return caught.value

    assert "There is no checkpoint at 'weights.safetensors'" in str(asyncio.run(run()))
    asyncio.run(until(lambda: picture_processes() <= before))
