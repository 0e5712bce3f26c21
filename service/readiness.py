"""Whether a request would be answered now."""

from service.picture_threads import PictureThreads
from service.pool.model_pool import ModelPool
from service.problems import NotReadyError
from service.shutdown import Shutdown


class Readiness:
    """What balancers and dashboards are told. To be asked on the event loop."""

    def __init__(self, pool: ModelPool, threads: PictureThreads, shutdown: Shutdown) -> None:
        self._pool = pool
        self._threads = threads
        self._shutdown = shutdown

    @property
    def ready(self) -> bool:
        """Whether loading at start is over and a request without a model would be answered.

        Never once the server is about to stop, so that balancers leave before it refuses anybody.
        """
        return self._pool.answers and not self._threads.stuck and not self._shutdown.announced

    def require(self) -> None:
        """Refuses while a request without a model would not be answered.

        Raises:
            NotReadyError: the server is about to stop, its picture threads are stuck, or what state
                each model is in.
        """
        if self._shutdown.announced:
            raise NotReadyError("The server is shutting down: send requests to another one.")
        if self._threads.stuck:
            raise NotReadyError("All picture threads are busy with pictures that take too long.")
        if not self.ready:
            states = ", ".join(f"{model.id} is {model.state}" for model in self._pool)
            raise NotReadyError(f"The server cannot answer yet: {states}.")
