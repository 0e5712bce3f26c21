"""One loaded model: its worker, and what the worker computes."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from legrad_engine import Explainer, Explanation
from legrad_engine.devices import is_out_of_memory, release_cached_memory
from legrad_engine.explainer import PreparedImage
from legrad_engine.families import Score
from legrad_engine.geometry import Geometry
from legrad_engine.targets import Templates
from service.batching import BatchLimits, MicroBatcher
from service.metrics import BatchMetrics, Metrics
from service.settings import Settings

# A walk back through one block costs about 0.42 of a forward pass through it, for each target.
_WALK_BACK_SHARE = 0.42
# A short prompt in a text tower of the usual proportions, against its image tower.
_TEXT_SHARE = 0.03
# Starting a worker only takes a thread: the model is loaded before.
_WORKER_START_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class ExplainItem:
    """One picture with its prompts, ready for the worker.

    Attributes:
        digest: identifies the picture's bytes, so that equal pictures share one forward pass.
        prepared: the picture as the model will see it.
        prompts: what to look for.
        layers: resolved block indices.
        score: the explained score.
        templates: prompt templates.
    """

    digest: bytes
    prepared: PreparedImage
    prompts: tuple[str, ...]
    layers: tuple[int, ...]
    score: Score
    templates: Templates

    @property
    def bucket(self) -> tuple[object, ...]:
        """Items with an equal bucket can be computed in one batch."""
        return (self.prepared.geometry.input_size, self.layers, self.score, self.templates)


class ExplainProcessor:
    """Computes batches with a loaded model, on the worker's thread."""

    def __init__(self, model: str, explainer: Explainer, metrics: Metrics) -> None:
        self._model = model
        self._explainer = explainer
        self._metrics = metrics

    def start(self) -> None:
        """Says that the model can be used; it was loaded and warmed up before."""
        self._metrics.model_loaded.labels(self._model).set(1)

    def process(self, items: Sequence[ExplainItem]) -> Sequence[Explanation | Exception]:
        """One explanation for each item; all are of one bucket."""
        explainer = self._explainer
        first = items[0]
        try:
            started = time.perf_counter()
            prompts = list(dict.fromkeys(prompt for item in items for prompt in item.prompts))
            row_of = {prompt: row for row, prompt in enumerate(prompts)}
            vectors = explainer.text.encode(prompts, first.templates)
            started = self._observe("text", started)
            keys = [(item.digest, item.prepared.geometry) for item in items]
            distinct = dict(zip(keys, (item.prepared for item in items), strict=True))
            trace = explainer.trace(list(distinct.values()), layers=first.layers, score=first.score)
            if len(distinct) < len(items):
                place_of = {key: place for place, key in enumerate(distinct)}
                trace = trace.select([place_of[key] for key in keys])
            started = self._observe("forward", started)
            rows = [[row_of[prompt] for prompt in item.prompts] for item in items]
            explanations = explainer.attribute(trace, [vectors[chosen] for chosen in rows])
            self._observe("backward", started)
        except Exception as error:
            if is_out_of_memory(error):
                release_cached_memory()
            raise
        return explanations

    def stop(self) -> None:
        """The model itself is kept: a worker that replaces this one starts at once."""
        self._metrics.model_loaded.labels(self._model).set(0)

    def _observe(self, stage: str, started: float) -> float:
        now = time.perf_counter()
        self._metrics.compute.labels(self._model, stage).observe(now - started)
        return now


class ServedModel:
    """A loaded model with its worker, from the start of the worker to its end."""

    def __init__(
        self, model: str, explainer: Explainer, settings: Settings, metrics: Metrics
    ) -> None:
        self.id = model
        self.explainer = explainer
        self._processor = ExplainProcessor(model, explainer, metrics)
        self.batcher: MicroBatcher[ExplainItem, Explanation] = MicroBatcher(
            model,
            self._processor,
            BatchLimits(
                max_batch_items=settings.max_batch_images,
                max_batch_cost=settings.max_batch_cost,
                max_queue_cost=settings.max_queue_cost,
                max_wait_seconds=settings.max_wait_ms / 1000,
            ),
            observer=BatchMetrics(metrics, model),
            is_out_of_memory=is_out_of_memory,
        )

    def start(self) -> None:
        """Starts the worker and waits until it takes items.

        Raises:
            RuntimeError: no thread could be had for it.
        """
        self.batcher.start()
        if not self.batcher.wait_until_ready(_WORKER_START_SECONDS):
            self.batcher.drain(_WORKER_START_SECONDS)
            raise RuntimeError(f"The worker of {self.id} could not be started.")

    def cost(self, geometry: Geometry, layers: Sequence[int], prompts: int) -> float:
        """The work of one picture, in forward passes at the model's own size."""
        tower = self.explainer.tower
        rows, columns = geometry.grid
        own = (tower.image_size[0] // tower.patch_size[0]) * (
            tower.image_size[1] // tower.patch_size[1]
        )
        walk_back = _WALK_BACK_SHARE * len(layers) * prompts / tower.depth
        return rows * columns / own * (1 + walk_back)

    @staticmethod
    def text_cost(texts: int) -> float:
        """The work of encoding so many texts, in the same unit."""
        return _TEXT_SHARE * texts
