"""An internal error becomes problem details or a closed connection, never a traceback."""

from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn

import httpx
import pytest
from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from legrad_engine import Explainer
from service.app import create_app
from service.http.access import OPEN
from service.http.access_routes import AccessRouter
from tests.support import running_app
from tests.support.pictures import request_of
from tests.support.running_app import RunningApp

SECRET = "zebra5671"
TELLTALES = (SECRET, "Traceback", "RuntimeError", ".py", "line ")


def fail(*_: Any, **__: Any) -> NoReturn:
    raise RuntimeError(SECRET)


async def failing_dependency() -> AsyncIterator[None]:
    yield
    fail()


class Answer(BaseModel):
    number: int


class Unserialisable:
    __slots__ = ()

    def __repr__(self) -> str:
        return SECRET


def failing_check() -> None:
    fail()


def add_bugs(app: FastAPI) -> None:
    router = AccessRouter(needs=OPEN)

    @router.get("/bug/route")
    async def in_the_route() -> Answer:
        fail()

    @router.get("/bug/thread")
    def in_a_thread() -> Answer:
        fail()

    @router.get("/bug/dependency", dependencies=[Depends(failing_check)])
    async def in_a_dependency() -> None: ...

    @router.get("/bug/dependency-after", dependencies=[Depends(failing_dependency)])
    async def after_the_route() -> None: ...

    @router.get("/bug/response-model")
    async def wrong_answer() -> Answer:
        return {"number": SECRET}  # type: ignore[return-value]

    @router.get("/bug/serialisation", response_model=None)
    async def no_json() -> Any:
        return {"answer": Unserialisable()}

    @router.get("/bug/stream")
    async def half_an_answer() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"half"
            fail()

        return StreamingResponse(pieces())

    app.include_router(router)


class FailsInMiddleware:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/bug/middleware":
            fail()
        await self._app(scope, receive, send)


@pytest.fixture
def breakable(tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunningApp]:
    def create(*arguments: Any) -> FastAPI:
        app = create_app(*arguments)
        add_bugs(app)
        # The innermost middleware: the service's own surround it, as they surround routes.
        app.user_middleware.append(Middleware(FailsInMiddleware))
        return app

    monkeypatch.setattr(running_app, "create_app", create)
    return lambda **settings: RunningApp(tiny_model, **settings)


def check(answer: httpx.Response) -> None:
    assert not [telltale for telltale in TELLTALES if telltale in answer.text], answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    "layer",
    ["route", "thread", "dependency", "response-model", "serialisation", "middleware"],
)
def test_a_bug_is_a_problem_without_its_trace(
    breakable: Callable[..., RunningApp], layer: str
) -> None:
    with breakable() as running:
        answer = running.client.get(f"/bug/{layer}")
        assert (answer.status_code, answer.json()["error"]) == (500, "internal-error")
        check(answer)
        assert running.explain().status_code == 200


@pytest.mark.parametrize("layer", ["stream", "dependency-after"])
def test_a_bug_after_the_answer_began_closes_the_connection(
    breakable: Callable[..., RunningApp], layer: str
) -> None:
    with breakable() as running:
        seen = b""
        try:
            with running.client.stream("GET", f"/bug/{layer}") as answer:
                for piece in answer.iter_raw():
                    seen += piece
        except httpx.RemoteProtocolError:
            pass
        assert seen in (b"half", b"null", b"")
        alive = httpx.get(f"http://{running.host}:{running.port}/health/live", timeout=60)
        assert alive.status_code == 200


def test_a_bug_in_the_keys_is_a_problem(
    breakable: Callable[..., RunningApp], monkeypatch: pytest.MonkeyPatch
) -> None:
    with breakable(key="key") as running:
        with monkeypatch.context() as patched:
            patched.setattr(running.state.access._ring, "find", fail)
            for answer in (running.explain(), running.client.get("/metrics")):
                assert answer.status_code == 500
                check(answer)
        assert running.explain().status_code == 200


def test_a_bug_in_loading_on_demand_is_a_problem(
    breakable: Callable[..., RunningApp], monkeypatch: pytest.MonkeyPatch
) -> None:
    with breakable(load_models="on-demand") as running:
        with monkeypatch.context() as patched:
            patched.setattr(Explainer, "load", fail)
            answer = running.explain(request_of(), **{"X-Request-Timeout-Ms": "20000"})
            assert answer.status_code >= 500
            check(answer)
        with monkeypatch.context() as patched:
            patched.setattr(running.app, "openapi", fail)
            check(running.client.get("/openapi.json"))
