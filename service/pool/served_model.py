"""One loaded model: its workers, the computation of batches, and the cost of an image."""

from typing import Any

from legrad_engine.devices import is_device_failure, is_out_of_memory
from legrad_engine.families import Tower
from legrad_engine.images.geometry import Geometry
from legrad_engine.methods.base import Method
from legrad_engine.targets import ImageTarget
from legrad_engine.targets.questions import Question
from legrad_engine.targets.resolution import TextCount
from legrad_engine.targets.text import TEXT_SHARE
from service.batching import MicroBatcher
from service.pool.explain_items import Explained, ExplainItem
from service.pool.explain_worker import ExplainProcessor
from service.pool.loading import LoadedCopies
from service.pool.trace_cache import TraceCache
from service.settings.batches import BatchPolicy
from service.telemetry.metrics import BatchMetrics, Metrics
from service.telemetry.tracing import Tracing

# Starting a worker only starts a thread: the model is loaded before.
_WORKER_START_SECONDS = 10.0


class ServedModel:
    """A loaded model with its workers, one for each copy.

    Attributes:
        id: the model's id.
        copies: its copies by the names of their workers.
        left_out: the reason why a device has no copy, by the name of the worker it would have.
        explainer: its first copy; all of them answer alike.
        max_batch_images: most images in one batch.
    """

    def __init__(
        self,
        model: str,
        copies: LoadedCopies,
        batches: BatchPolicy,
        stall_seconds: float,
        metrics: Metrics,
        traces: TraceCache,
        tracing: Tracing,
    ) -> None:
        self.id = model
        self.copies, self.left_out = copies.warm, copies.left_out
        warm = next(iter(self.copies.values()))
        self.explainer = explainer = warm.explainer
        # One queue serves all devices, so its batches have to suit each of them.
        self.max_batch_images = min(copy.max_batch_images for copy in self.copies.values())
        limits = batches.limits(self.max_batch_images)
        self._processors = {
            worker: ExplainProcessor(model, worker, copy, metrics, traces, tracing)
            for worker, copy in self.copies.items()
        }
        self.batcher: MicroBatcher[ExplainItem, Explained] = MicroBatcher(
            model,
            self._processors,
            limits,
            observer=BatchMetrics(metrics, model),
            is_out_of_memory=is_out_of_memory,
            is_fatal=is_device_failure,
            stall_seconds=stall_seconds,
        )
        # The first batches of a server that starts under load are small and slow. Their rate alone
        # would make it refuse requests that it has time for, so the warm-up counts as a full batch.
        own = explainer.plan(explainer.own_size)
        images = limits.max_batch_items
        self.batcher.expect(
            images * self.cost(own, explainer.method(), explainer.resolve_layers(), 1),
            images * warm.seconds_per_image,
        )

    def start(self) -> None:
        """Start the workers and wait until they take items.

        Raises:
            RuntimeError: no worker started.
        """
        self.batcher.start()
        if not self.batcher.wait_until_ready(_WORKER_START_SECONDS):
            self.batcher.drain(_WORKER_START_SECONDS)
            raise RuntimeError(f"The worker of {self.id} could not be started.")

    def cost(
        self,
        geometry: Geometry,
        method: Method[Any],
        layers: tuple[int, ...],
        targets: int,
        *,
        traced: bool = False,
        measured: float = 0.0,
    ) -> float:
        """Return the cost of one picture, in forward passes at the model's own size.

        Args:
            geometry: geometry of the picture.
            method: the explanation method.
            layers: indices of the explained blocks.
            targets: number of targets, negatives included.
            traced: whether its forward pass is already done.
            measured: cost of the measurements beside the maps, in forward passes of this picture.
        """
        tower = self.explainer.tower
        rows, columns = geometry.grid
        work = method.work(tower, layers, targets, traced=traced)
        return _relative_work(tower, rows * columns) * (work + measured)

    @staticmethod
    def target_cost(question: Question, texts: TextCount) -> float:
        """Return the cost of embedding a question's texts and distinct pictures, in that unit."""
        pictures = {part.digest for part, _ in question.parts if isinstance(part, ImageTarget)}
        return TEXT_SHARE * texts.strings + len(pictures)


def _relative_work(tower: Tower, patches: int) -> float:
    """Return the work of a number of patches, relative to the tower's own number.

    For each token, a block multiplies by 12 width^2 weights, and by 2 width for each other token.
    """
    own = tower.grid[0] * tower.grid[1]
    if tower.width is None:
        return patches / own
    return patches / own * (6 * tower.width + patches) / (6 * tower.width + own)
