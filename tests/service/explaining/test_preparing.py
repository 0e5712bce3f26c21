"""Steps of a command: concurrent ones, of which all succeed or none goes on, and tokenization."""

import asyncio
import threading
from typing import Any

import pytest

from service.explaining.preparing import all_or_none
from tests.support.pictures import data_url, encoded, picture, request_of
from tests.support.running_app import RunningApp


@pytest.mark.parametrize("leaves", [False, True])
def test_an_error_is_raised_once_the_other_steps_have_ended(leaves: bool) -> None:
    ended: list[str] = []

    async def fails() -> None:
        if leaves:
            await asyncio.sleep(60)
        raise ValueError("as a damaged picture does")

    async def ends_after_a_while() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            # As a picture process does that is about to finish, or to be killed.
            await asyncio.sleep(0.05)
            ended.append("the other")

    async def scenario() -> None:
        steps = asyncio.create_task(all_or_none([fails(), ends_after_a_while()]))
        await asyncio.sleep(0.01)
        if leaves:
            steps.cancel()
        with pytest.raises(asyncio.CancelledError if leaves else ValueError):
            await steps
        assert ended == ["the other"]

    asyncio.run(scenario())


def test_texts_that_take_long_to_tokenize_delay_no_other_requests(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    entered = threading.Semaphore(0)

    with RunningApp(tiny_model, trusted_proxies="127.0.0.1") as running:
        text: Any = running.model.explainer.resolver.text
        check = text.check

        def long(prompt: str, *arguments: Any, **options: Any) -> None:
            if prompt.startswith("long"):
                entered.release()
                assert released.wait(60)
            check(prompt, *arguments, **options)

        monkeypatch.setattr(text, "check", long)
        # More than any pool has threads.
        slow = [
            running.explain_in_background(request_of(prompts=[f"long {number}"]))
            for number in range(40)
        ]
        try:
            for _ in range(2):
                assert entered.acquire(timeout=60)
            large = data_url(encoded(picture(600, 400)))
            for number in range(2):
                answer = running.explain(
                    request_of(image=large, prompts=[f"short {number}"]),
                    **{"X-Forwarded-For": f"10.0.0.{number}", "X-Request-Timeout-Ms": "20000"},
                )
                assert answer.status_code == 200
            assert not any(each.done() for each in slow)
        finally:
            released.set()
        assert {each.result(60).status_code for each in slow} == {200}
