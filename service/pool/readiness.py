"""Readiness: whether the server would answer a request now."""

from collections.abc import Callable, Sequence

from service.errors import NotReadyError
from service.pool.model_pool import ModelPool
from service.pool.pooled_model import PooledModel
from service.schemas.models import DegradedDevice


class Readiness:
    """The readiness for load balancers and dashboards. All methods run on the event loop."""

    def __init__(
        self,
        pool: ModelPool,
        request_timeout_seconds: float,
        blockers: Sequence[Callable[[], str | None]] = (),
    ) -> None:
        """Create the readiness of a pool and of the other parts that requests need.

        Args:
            pool: the models.
            request_timeout_seconds: longest deadline of a request.
            blockers: functions that return the reason why no request would be answered, or None.
        """
        self._pool = pool
        self._timeout = request_timeout_seconds
        self._blockers = blockers

    @property
    def ready(self) -> bool:
        """Whether loading at start is over and a request without a model would be answered.

        False once the server is told to stop, so that load balancers leave before it refuses
        requests.
        """
        return self._problem() is None

    @property
    def degraded(self) -> list[DegradedDevice]:
        """The devices that compute nothing now for a model that is loaded."""
        return [device for model in self._pool for device in model.degraded]

    def require(self) -> None:
        """Raise an error if a request without a model would not be answered.

        Raises:
            NotReadyError: the server stops or is stuck, or the default model cannot answer; the
                message then lists the state of each model.
        """
        problem = self._problem()
        if problem is not None:
            raise NotReadyError(problem)

    def require_model(self, model: str) -> PooledModel:
        """Return a model that is in memory and would answer.

        Raises:
            UnknownModelError: no model has this id.
            NotReadyError: it is not loaded, or a request to it would not be answered.
        """
        found = self._pool.get(model)
        if found.state != "ready":
            raise NotReadyError(f"Model {found.standing}.")
        problem = self._server_problem() or self._model_problem(found)
        if problem is not None:
            raise NotReadyError(problem)
        return found

    def _problem(self) -> str | None:
        problems = [self._server_problem()]
        if not self._pool.answers:
            states = ", ".join(model.standing for model in self._pool)
            problems.append(f"The server cannot answer yet: {states}.")
        problems.append(self._model_problem(self._pool.get(None)))
        return " ".join(filter(None, problems)) or None

    def _server_problem(self) -> str | None:
        problems = (blocker() for blocker in self._blockers)
        return next((problem for problem in problems if problem is not None), None)

    def _model_problem(self, model: PooledModel) -> str | None:
        served = model.served
        # Long before the watchdog replaces the worker, the requests of this batch are late.
        if served is not None and served.batcher.seconds_in_flight > self._timeout:
            return f"Model {served.id!r} computes one batch for longer than a request may take."
        return None
