"""Limits on batches, from the settings and the kind of device to those of one model."""

from dataclasses import dataclass

from service.batching import BatchLimits

CPU_BATCH_IMAGES = 16
"""Most images in a batch on CPUs, unless the settings say otherwise."""

# On an accelerator the warm-up finds a model's own number below this one.
_ACCELERATOR_BATCH_IMAGES = 256
# A batch holds half of its images at larger sizes or with many targets; a queue holds some batches.
_COST_OF_AN_IMAGE = 2.0
_QUEUED_BATCHES = 8
# Those of a batch on CPUs. Smaller batches leave the limits on single items as they are.
_LEAST_BATCH_COST = _COST_OF_AN_IMAGE * CPU_BATCH_IMAGES
_LEAST_QUEUE_COST = float(_QUEUED_BATCHES * CPU_BATCH_IMAGES)


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """Limits on batches, before the warm-up of a model.

    Attributes:
        max_images: most images in one batch.
        max_cost: most work in one batch; None for what suits its number of images.
        max_queue_cost: most work in the queue of one model.
        max_wait_seconds: longest wait of an image for its batch to fill.
    """

    max_images: int
    max_cost: float | None
    max_queue_cost: float
    max_wait_seconds: float

    @classmethod
    def of(
        cls,
        device: str,
        max_images: int | None,
        max_cost: float | None,
        max_queue_cost: float | None,
        max_wait_seconds: float,
    ) -> "BatchPolicy":
        """Complete the limits that are None.

        Args:
            device: value of ``torch.device.type``.
            max_images: most images in one batch.
            max_cost: most work in one batch.
            max_queue_cost: most work in the queue of one model.
            max_wait_seconds: longest wait of an image for its batch to fill.
        """
        if max_images is None:
            max_images = CPU_BATCH_IMAGES if device == "cpu" else _ACCELERATOR_BATCH_IMAGES
        if max_queue_cost is None:
            max_queue_cost = max(_LEAST_QUEUE_COST, float(_QUEUED_BATCHES * max_images))
        return cls(max_images, max_cost, max_queue_cost, max_wait_seconds)

    def limits(self, images: int) -> BatchLimits:
        """Return the limits of a model whose batches hold at most a number of images."""
        cost = self.max_cost
        if cost is None:
            cost = max(_LEAST_BATCH_COST, _COST_OF_AN_IMAGE * images)
        return BatchLimits(images, cost, self.max_queue_cost, self.max_wait_seconds)
