"""Admission: which requests are carried out, and what is reserved for them.

Three verbs, here and below. ``check`` refuses what could not be reserved now, and promises nothing.
``reserve`` sets room and time aside, or refuses. ``release`` gives them back.

A request reserves in this order: a slot, before its body is read; its pictures, before any work;
work in the queue of its model, priced by an estimate before decoding and by the actual geometry
after it; and the pixels of its drawings. A full server refuses before the work, never after it.
"""

import contextlib
from collections.abc import Iterator
from typing import Self

from service.batching import QueueReservation
from service.errors import LimitExceededError, TooManyRequestsError
from service.pictures.workers import PictureThreads
from service.pool.model_pool import ModelPool
from service.pool.served_model import ServedModel
from service.settings.values import AdmissionLimits
from service.telemetry.metrics import Metrics


class Admission:
    """Grants reservations to the requests of one application. Lives on the event loop."""

    def __init__(
        self,
        limits: AdmissionLimits,
        max_batch_images: int,
        pool: ModelPool,
        workers: PictureThreads,
        metrics: Metrics,
    ) -> None:
        self._limits = limits
        self._max_batch_images = max_batch_images
        self._pool = pool
        self._workers = workers
        self._metrics = metrics
        self._requests = 0
        self._drawn_pixels = 0

    def check(self, deadline: float) -> None:
        """Refuse a request of which only the deadline is known, if it would be refused now.

        Args:
            deadline: on the monotonic clock in seconds.

        Raises:
            TooManyRequestsError: every slot is taken, or the pictures in progress take until then.
            QueueFullError: no loaded model has room and time for more work.
        """
        self._check_slots()
        self._workers.check(deadline)
        self._pool.check(self._compute_deadline(deadline))

    def reserve(self) -> "Reservation":
        """Reserve a slot, until the answer is sent.

        Raises:
            TooManyRequestsError: every slot is taken.
        """
        self._check_slots()
        self._count(1)
        return Reservation(self)

    def release(self, reservation: "Reservation") -> None:
        """Give back the slot and the drawn pixels of a request."""
        self._drawn_pixels -= reservation.drawn_pixels
        reservation.drawn_pixels = 0
        self._count(-1)

    def reserve_pictures(
        self, deadline: float, pictures: int
    ) -> contextlib.AbstractContextManager[None]:
        """Reserve time of the picture workers, until the pictures are drawn.

        Raises:
            TooManyRequestsError: the pictures in progress leave no time for more.
        """
        return self._workers.reserve(deadline, pictures)

    def reserve_drawings(self, reservation: "Reservation", pixels: int) -> None:
        """Reserve so many more pixels of heatmaps and overlays, for as long as the slot.

        Raises:
            LimitExceededError: one request may not draw so much.
            TooManyRequestsError: the requests in progress draw too much already.
        """
        wanted, limit = reservation.drawn_pixels + pixels, self._limits.max_drawn_pixels_each
        if wanted > limit:
            raise LimitExceededError(
                f"output: heatmaps and overlays of {wanted} pixels in all, but this server draws "
                f"{limit} for one request: ask for a smaller max_side, for npy heatmaps, for no "
                "overlay, or for fewer pictures or targets at once.",
                field="output",
            )
        if self._drawn_pixels + pixels > self._limits.max_drawn_pixels:
            raise TooManyRequestsError("Too much is being drawn and sent; try again in a moment.")
        reservation.drawn_pixels += pixels
        self._drawn_pixels += pixels

    @contextlib.contextmanager
    def reserve_work(
        self, served: ServedModel, cost: float, deadline: float
    ) -> Iterator[QueueReservation]:
        """Reserve room and time in the queue of a model; release what is left at the end.

        Args:
            served: the model.
            cost: the estimate before decoding.
            deadline: of the request, on the monotonic clock in seconds.

        Raises:
            BatchingError: the queue is full, or the worker does not work.
        """
        reservation = served.batcher.reserve(cost, self._compute_deadline(deadline))
        try:
            yield reservation
        finally:
            served.batcher.release(reservation)

    def reserve_actual_work(
        self, reservation: QueueReservation, served: ServedModel, cost: float, deadline: float
    ) -> None:
        """Replace the estimate of a reservation by the actual cost after decoding.

        Raises:
            BatchingError: see :meth:`reserve_work`; the reservation then stays as it was.
        """
        served.batcher.reserve(cost, self._compute_deadline(deadline), reservation)

    def _compute_deadline(self, deadline: float) -> float:
        """Return the time by which pictures must be computed to be drawn with their batch."""
        return deadline - self._workers.drawing_seconds(self._max_batch_images)

    def _check_slots(self) -> None:
        if self._requests >= self._limits.max_requests:
            raise TooManyRequestsError(
                f"{self._requests} requests are in progress; try again in a moment."
            )

    def _count(self, change: int) -> None:
        self._requests += change
        self._metrics.requests_in_progress.set(self._requests)


class Reservation:
    """The slot of one request, until its answer is sent; a context manager.

    Attributes:
        drawn_pixels: pixels of all its heatmaps and overlays.
    """

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.drawn_pixels = 0

    def __enter__(self) -> Self:
        """Return the reservation, which was made before."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release the reservation."""
        self._admission.release(self)
