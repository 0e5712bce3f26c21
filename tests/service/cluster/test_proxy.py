"""Middleware of Ray's proxies, around applications that behave as Ray's proxy does."""

import asyncio
from typing import Any

import httpx
import pytest
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.cluster.proxy import TypedErrors, middlewares
from tests.support.answers import check_against_contract


class OfRay:
    """Adds an id to the request or takes the first given one, and appends it to the answer."""

    def __init__(self, answer: ASGIApp) -> None:
        self._answer = answer
        self.seen = Headers()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = MutableHeaders(scope=scope)
        headers.setdefault("x-request-id", "of-ray")
        self.seen = Headers(scope=scope)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).append("X-Request-ID", headers["x-request-id"])
            await send(message)

        await self._answer(scope, receive, send_with_id)


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """Ray's proxy after its call to a replica failed."""


async def failing(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("secret")


def ask(app: ASGIApp, path: str = "/explain", headers: Any = None) -> httpx.Response:
    async def get() -> httpx.Response:
        transport = httpx.ASGITransport(TypedErrors(app))
        async with httpx.AsyncClient(transport=transport, base_url="http://a") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(get())


def check(answer: httpx.Response, status: int, error: str) -> None:
    problem = answer.json()
    check_against_contract(problem, "ProblemDetails")
    assert (answer.status_code, problem["status"], problem["error"]) == (status, status, error)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers.get_list("x-request-id") == [problem["request_id"]]


def test_a_lost_replica_is_a_problem_that_says_when_to_ask_again() -> None:
    answer = ask(OfRay(nothing), headers={"X-Request-ID": "mine"})
    check(answer, 502, "replica-lost")
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["request_id"] == "mine"


def test_a_fault_of_the_proxy_is_a_problem_without_its_reason() -> None:
    answer = ask(OfRay(failing))
    check(answer, 500, "internal-error")
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    ("status", "error", "retry"),
    [
        (404, "not-deployed", None),
        (408, "replica-silent", None),
        (429, "too-many-requests", "1"),
        (503, "no-replica", "2"),
    ],
)
def test_plain_errors_of_ray_become_problems_with_their_status(
    status: int, error: str, retry: str | None
) -> None:
    answer = ask(OfRay(PlainTextResponse("plain words", status)))
    check(answer, status, error)
    assert answer.headers.get("retry-after") == retry
    assert "plain words" not in answer.text


@pytest.mark.parametrize(
    "response",
    [
        JSONResponse({"error": "queue-full"}, 429, {"Retry-After": "7"}),
        JSONResponse({"error": "x"}, 503, media_type="application/problem+json"),
        PlainTextResponse("legrad_ready 1.0"),
        PlainTextResponse("a teapot", 418),
    ],
)
def test_answers_of_applications_stay_as_they_are(response: Response) -> None:
    answer = ask(OfRay(response))
    assert answer.status_code == response.status_code
    assert answer.content == response.body
    assert answer.headers.get("retry-after") == response.headers.get("retry-after")


@pytest.mark.parametrize(
    ("sent", "kept"),
    [([], False), (["mine"], True), (["not an id"], False), (["a", "b"], False), ([""], False)],
)
def test_a_replica_sees_one_valid_id(sent: list[str], kept: bool) -> None:
    app = OfRay(JSONResponse({}))
    answer = ask(app, headers=[("X-Request-ID", each) for each in sent])
    (seen,) = app.seen.getlist("x-request-id")
    assert answer.headers.get_list("x-request-id") == [seen]
    assert (seen in sent) is kept


def test_callers_cannot_turn_off_time_limits_or_choose_replicas() -> None:
    app = OfRay(JSONResponse({}))
    sent = {
        "x-request-timeout-seconds": "-1",
        "X-Request-Disconnect-Disabled": "?1",
        "serve_multiplexed_model_id": "one",
        "Serve-Multiplexed-Model-Id": "two",
        "X-Request-Timeout-Ms": "50",
    }
    ask(app, headers=sent)
    assert [name for name in sent if name in app.seen] == ["X-Request-Timeout-Ms"]


def test_rays_own_paths_stay_as_they_are() -> None:
    answer = ask(OfRay(PlainTextResponse("draining", 503)), "/-/healthz")
    assert (answer.status_code, answer.text) == (503, "draining")


def test_ray_gets_the_middleware_by_its_path() -> None:
    (only,) = middlewares()
    assert str(only.cls) == str(TypedErrors)
