"""Whether a request would be answered now."""

from service.errors import NotReadyError
from service.pictures.workers import PictureThreads
from service.pool.model_pool import ModelPool
from service.pool.pooled_model import PooledModel
from service.server.shutdown import Shutdown


class Readiness:
    """What balancers and dashboards are told. To be asked on the event loop."""

    def __init__(
        self,
        pool: ModelPool,
        threads: PictureThreads,
        shutdown: Shutdown,
        request_timeout_seconds: float,
    ) -> None:
        self._pool = pool
        self._threads = threads
        self._shutdown = shutdown
        self._timeout = request_timeout_seconds

    @property
    def ready(self) -> bool:
        """Whether loading at start is over and a request without a model would be answered.

        Never once the server is about to stop, so that balancers leave before it refuses anybody.
        """
        return self._problem() is None

    def require(self) -> None:
        """Refuses while a request without a model would not be answered.

        Raises:
            NotReadyError: the server is about to stop, it is stuck, or what state each model is in.
        """
        problem = self._problem()
        if problem is not None:
            raise NotReadyError(problem)

    def require_model(self, model: str) -> PooledModel:
        """A model that is in memory and would answer.

        Raises:
            UnknownModelError: no model has this id.
            NotReadyError: it is not loaded, or a request to it would not be answered.
        """
        found = self._pool.get(model)
        if found.state != "ready":
            raise NotReadyError(f"Model {found.id!r} is {found.state}.")
        problem = self._server_problem() or self._model_problem(found)
        if problem is not None:
            raise NotReadyError(problem)
        return found

    def _problem(self) -> str | None:
        problem = self._server_problem()
        if problem is None and not self._pool.answers:
            states = ", ".join(f"{model.id} is {model.state}" for model in self._pool)
            problem = f"The server cannot answer yet: {states}."
        return problem or self._model_problem(self._pool.get(None))

    def _server_problem(self) -> str | None:
        if self._shutdown.announced:
            return "The server is shutting down: send requests to another one."
        if self._threads.stuck:
            return "All picture threads are busy with pictures that take too long."
        return None

    def _model_problem(self, model: PooledModel) -> str | None:
        served = model.served
        # Long before the watchdog gives it up: whoever came with this batch is past the deadline.
        if served is not None and served.batcher.seconds_in_flight > self._timeout:
            return f"Model {served.id!r} computes one batch for longer than a request may take."
        return None
