"""The application behind a real socket in this process, so that tests can inspect it."""

import contextlib
import threading
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self, TypeVar

import httpx
import uvicorn

from service.app import create_app
from service.explaining.network import Network
from service.http.application import application_of
from service.pictures.workers import PictureWorkers
from service.pool.served_model import ServedModel
from service.server.process import server_config
from service.server.sockets import listen_for
from service.settings import Settings
from tests.support.api_keys import bearer, entry, listed
from tests.support.pictures import request_of
from tests.support.plain_http import plain_client
from tests.support.recording_batcher import reserved

_PATIENCE_SECONDS = 60.0

_Answer = TypeVar("_Answer")


class RunningApp:
    """A running application, as a context manager; it drains as the real server does."""

    def __init__(
        self,
        models: str,
        *,
        wait: bool = True,
        network: Network | None = None,
        key: str | None = None,
        **settings: Any,
    ) -> None:
        """Start it.

        Args:
            models: the models of the settings.
            wait: whether to wait until it is ready.
            network: where pictures are fetched from.
            key: a key with all scopes, which the client sends; without it, no key is needed.
            settings: all other settings.
        """
        if key is not None:
            settings["api_keys"] = listed(entry("operator", key, "explain", "admin", "metrics"))
        chosen = Settings.model_validate(
            {"models": models, "port": 0, "compute_threads": 1, **settings}
        )
        chosen, listeners = listen_for(chosen)
        self.settings = chosen
        self.app = create_app(chosen, network)
        self.state = application_of(self.app)
        self.host: str = "localhost"
        self.port: int = 0
        if chosen.uds is None:
            self.host, self.port = listeners.public[0].getsockname()[:2]
        self.admin_port = chosen.admin_port
        self._server = uvicorn.Server(server_config(self.app, chosen))
        self._thread = threading.Thread(target=self._server.run, args=(listeners.all,), daemon=True)
        self._thread.start()
        self.client = plain_client(
            f"http://{self.host}:{self.port}",
            timeout=60,
            transport=httpx.HTTPTransport(uds=str(chosen.uds)) if chosen.uds else None,
        )
        self.client.headers.update({} if key is None else bearer(key))
        self._callers = ThreadPoolExecutor(64)
        # Answered only once the application has started.
        assert self.client.get("/health/live").status_code == 200
        if wait:
            self.eventually(lambda: self.client.get("/health/ready").status_code == 200)

    @property
    def model(self) -> ServedModel:
        """The default model as it is loaded now."""
        return self.served()

    @property
    def workers(self) -> PictureWorkers:
        """The picture processes."""
        return self.state.explaining.workers

    def served(self, model: str | None = None) -> ServedModel:
        """Return a model, the default one if none is named, as it is loaded now."""
        found = self.state.pool.get(model).served
        assert found is not None
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._callers.shutdown()
        self.client.close()
        self._server.should_exit = True
        self._thread.join(_PATIENCE_SECONDS)
        assert not self._thread.is_alive()

    def explain(self, body: dict[str, Any] | None = None, /, **headers: str) -> httpx.Response:
        """Post a JSON body, by default a good one, to ``/explain``."""
        return self.client.post("/explain", json=body or request_of(), headers=headers)

    def explain_in_background(
        self, body: dict[str, Any] | None = None, /, **headers: str
    ) -> "Future[httpx.Response]":
        """Post a JSON body in the background; return the future answer."""
        return self._callers.submit(self.explain, body, **headers)

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Fill the default model's queue for all callers while the context lasts."""
        batcher, cost = self.model.batcher, self.settings.batch_policy("cpu").max_queue_cost
        with contextlib.ExitStack() as stack:
            stack.enter_context(reserved(batcher, cost))
            # Each takes half of the spare room that is left.
            for owner in range(10):
                stack.enter_context(reserved(batcher, cost / 8 / 2 ** (owner + 1), owner))
            yield

    def metric(self, sample: str) -> float:
        """Return the value of one sample, named as in the exposition."""
        return samples(self.client.get("/metrics").text)[sample]

    def wait_for_queue(self, depth: int) -> None:
        """Wait, for a bounded time, until the default model's queue holds so many items."""
        self.eventually(lambda: self.model.batcher.queue_depth == depth)

    def eventually(self, holds: Callable[[], bool]) -> None:
        """Wait, for a bounded time, until a condition holds."""
        pause = threading.Event()
        for _ in range(int(_PATIENCE_SECONDS / 0.01)):
            if holds():
                return
            pause.wait(0.01)
        raise AssertionError("It never came about.")

    def line_of(
        self, answer: httpx.Response, logs: Sequence[MutableMapping[str, Any]]
    ) -> MutableMapping[str, Any]:
        """Return the captured log line of an answer, which is written after its last byte."""

        def lines() -> list[MutableMapping[str, Any]]:
            sought = answer.headers["X-Request-ID"]
            return [line for line in logs if line.get("request_id") == sought]

        self.eventually(lambda: len(lines()) > 0)
        (line,) = lines()
        return line

    def processor(self, model: str | None = None) -> Any:
        """Return the processor of a model's only worker."""
        (processor,) = self.served(model)._processors.values()
        return processor


class Held:
    """Holds a model's worker before it computes, until it is released."""

    def __init__(self, running: RunningApp, model: str | None = None) -> None:
        processor: Any = running.processor(model)
        self._compute = processor.launch
        self._processor = processor
        self._released = threading.Event()
        self.entered = threading.Event()
        self.seen: list[Any] = []
        processor.launch = self._launch

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        del self._processor.launch

    def release(self) -> None:
        """Let the worker continue."""
        self._released.set()

    def _launch(self, items: Sequence[Any]) -> Any:
        self.seen += items
        self.entered.set()
        assert self._released.wait(_PATIENCE_SECONDS)
        return self._compute(items)


def in_one_batch(running: RunningApp, count: int, ask: Callable[[], _Answer]) -> _Answer:
    """Ask while the default model's worker is held until so many pictures wait, for one batch."""
    with ThreadPoolExecutor(1) as caller, Held(running) as held:
        first = running.explain_in_background()
        assert held.entered.wait(_PATIENCE_SECONDS)
        answer = caller.submit(ask)
        running.wait_for_queue(count)
        held.release()
        assert first.result().status_code == 200
        return answer.result()


def samples(exposition: str) -> dict[str, float]:
    """Return every sample of a Prometheus exposition, by its name with labels."""
    found = {}
    for line in exposition.splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            found[name] = float(value)
    return found
