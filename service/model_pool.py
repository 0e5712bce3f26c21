"""The models that one process serves."""

import time
from collections.abc import Iterator

from legrad_engine.errors import UnknownModelError
from service.metrics import Metrics, TraceCacheMetrics
from service.served_model import ServedModel
from service.settings import Settings
from service.trace_cache import TraceCache


class ModelPool:
    """Every served model, by id; the first one of the settings is the default."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        references = settings.model_references
        self._default = references[0].id
        self.traces = TraceCache(settings.trace_cache_bytes, TraceCacheMetrics(metrics))
        self._models = {
            reference.id: ServedModel(
                reference, settings, metrics, self.traces, default=position == 0
            )
            for position, reference in enumerate(references)
        }

    def __iter__(self) -> Iterator[ServedModel]:
        """The models, the default one first."""
        return iter(self._models.values())

    def get(self, model: str | None) -> ServedModel:
        """A model by id; None means the default.

        Raises:
            UnknownModelError: it is not served here.
        """
        chosen = self._default if model is None else model
        if chosen not in self._models:
            raise UnknownModelError(
                f"Model {chosen!r} is not served here; there is {', '.join(self._models)}.",
                field="model",
            )
        return self._models[chosen]

    @property
    def ready(self) -> bool:
        """Whether every model can answer."""
        return all(model.state == "ready" for model in self)

    def start(self) -> None:
        """Starts every worker; they load their models and become ready by themselves."""
        for model in self:
            model.batcher.start()

    def drain(self, timeout: float) -> bool:
        """Finishes what is queued and stops the workers; whether all did within the time."""
        until = time.monotonic() + timeout
        drained = [model.batcher.drain(max(0.0, until - time.monotonic())) for model in self]
        return all(drained)
