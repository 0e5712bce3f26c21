"""The application as a replica runs it: started before Ray uses it, with one request id."""

import asyncio
import time

from starlette.types import Message, Receive, Scope, Send

from service.app import create_app
from service.http.application import application_of
from service.http.headers import REQUEST_ID_HEADER
from service.settings import Settings

_REQUEST_ID = REQUEST_ID_HEADER.lower().encode()
_LOOK_SECONDS = 0.05


class RunningApplication:
    """ASGI application that is started before Ray uses it, and ended by its lifespan.

    Attributes:
        readiness: whether it would answer a request now.
    """

    def __init__(self, settings: Settings) -> None:
        """Create the application.

        Args:
            settings: settings of the replica.
        """
        self._app = create_app(settings)
        state = application_of(self._app)
        self.readiness = state.readiness
        self._pool = state.pool
        self._drain = state.drain
        self._stop = asyncio.Event()
        self._life: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it, and wait until it is ready.

        Raises:
            ServiceError: the default model could not be loaded.
        """
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._life = asyncio.create_task(self._live(started))
        await started
        try:
            while not self.readiness.ready:
                failure = self._pool.get(None).failure
                if failure is not None:
                    raise failure.problem(time.monotonic())
                await asyncio.sleep(_LOOK_SECONDS)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Drain and end: models, picture processes, threads."""
        self._drain.announce()
        self._stop.set()
        if self._life is not None:
            await self._life

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, or the end of the replica."""
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self.stop()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await self._app(scope, receive, _without_rays_id(scope, send))

    async def _live(self, started: asyncio.Future[None]) -> None:
        # One task enters and leaves, as context managers may require.
        try:
            async with self._app.router.lifespan_context(self._app):
                started.set_result(None)
                await self._stop.wait()
        except Exception as error:
            if started.done():
                raise
            started.set_exception(error)


def _without_rays_id(scope: Scope, send: Send) -> Send:
    """Return ``send`` without the answer's id, if Ray's proxy is about to add the same one."""
    asked = {value for name, value in scope.get("headers", ()) if name == _REQUEST_ID}

    async def send_without(message: Message) -> None:
        if message["type"] == "http.response.start" and len(asked) == 1:
            message["headers"] = [
                (name, value)
                for name, value in message.get("headers", ())
                if name.lower() != _REQUEST_ID or value not in asked
            ]
        await send(message)

    return send_without
