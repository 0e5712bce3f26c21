"""Admission control: reservations of slots, time, queued work and drawn pixels.

This module and those below it use three verbs. ``check`` refuses a request that could not get a
reservation now, and reserves nothing. ``reserve`` makes a reservation, or refuses. ``release`` ends
a reservation.

A request reserves in this order: a slot, before its body is read; time of the picture processes,
before any work; work in the queue of its model, priced by an estimate before decoding and by the
actual geometry after it; and the pixels of its heatmaps and overlays, before the model computes.
"""

import contextlib
from collections.abc import Iterator
from typing import Self

from service.batching import QueueReservation
from service.errors import LimitExceededError, TooManyRequestsError
from service.pictures.capacity import PictureCapacity
from service.pool.model_pool import ModelPool
from service.pool.served_model import ServedModel
from service.settings.values import AdmissionLimits
from service.telemetry.metrics import Metrics


class Admission:
    """Grants reservations to the requests of one application. Used on the event loop only."""

    def __init__(
        self,
        limits: AdmissionLimits,
        max_batch_images: int,
        pool: ModelPool,
        pictures: PictureCapacity,
        metrics: Metrics,
    ) -> None:
        self._limits = limits
        self._max_batch_images = max_batch_images
        self._pool = pool
        self._pictures = pictures
        self._metrics = metrics
        self._requests = 0
        self._drawn_pixels = 0

    def check(self, deadline: float) -> None:
        """Refuse a request that would get no reservation now, before its content is known.

        Args:
            deadline: on the monotonic clock in seconds.

        Raises:
            TooManyRequestsError: every slot is taken, or the picture processes are busy until the
                deadline.
            QueueFullError: no loaded model has room and time for more work.
        """
        self._check_slots()
        self._pictures.check(deadline)
        self._pool.check(self._compute_deadline(deadline))

    def reserve(self) -> "Reservation":
        """Reserve a slot, until the returned reservation is released.

        Raises:
            TooManyRequestsError: every slot is taken.
        """
        self._check_slots()
        self._count(1)
        return Reservation(self)

    def release(self, reservation: "Reservation") -> None:
        """Release the slot and the drawn pixels of a request."""
        self._drawn_pixels -= reservation.drawn_pixels
        reservation.drawn_pixels = 0
        self._count(-1)

    def reserve_pictures(
        self, deadline: float, pictures: int
    ) -> contextlib.AbstractContextManager[None]:
        """Reserve time of the picture processes, until the context ends.

        Args:
            deadline: of the request, on the monotonic clock in seconds.
            pictures: number of pictures to decode and draw.

        Raises:
            TooManyRequestsError: the picture processes are busy until the deadline.
        """
        return self._pictures.reserve(deadline, pictures)

    def reserve_drawings(self, reservation: "Reservation", pixels: int) -> None:
        """Reserve pixels of heatmaps and overlays, until the slot is released.

        Args:
            reservation: the request's slot.
            pixels: number of pixels, in addition to those already reserved.

        Raises:
            LimitExceededError: the request exceeds the limit on one request.
            TooManyRequestsError: the requests in progress exceed the limit on all of them.
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
        """Reserve work in the queue of a model; release the unused rest when the context ends.

        Args:
            served: the model.
            cost: the estimate before decoding, in forward passes at the model's own size.
            deadline: of the request, on the monotonic clock in seconds.

        Raises:
            BatchingError: the queue is full, or the worker is not running.
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

        Args:
            reservation: from :meth:`reserve_work`.
            served: the model.
            cost: the actual cost, in the unit of the estimate.
            deadline: of the request, on the monotonic clock in seconds.

        Raises:
            BatchingError: see :meth:`reserve_work`; the reservation keeps the estimate.
        """
        served.batcher.reserve(cost, self._compute_deadline(deadline), reservation)

    def _compute_deadline(self, deadline: float) -> float:
        """Return the deadline of the computation, which leaves time to draw a full batch."""
        return deadline - self._pictures.drawing_seconds(self._max_batch_images)

    def _check_slots(self) -> None:
        if self._requests >= self._limits.max_requests:
            raise TooManyRequestsError(
                f"{self._requests} requests are in progress; try again in a moment."
            )

    def _count(self, change: int) -> None:
        self._requests += change
        self._metrics.requests_in_progress.set(self._requests)


class Reservation:
    """The slot of one request; a context manager that releases it.

    Attributes:
        drawn_pixels: reserved pixels of all its heatmaps and overlays.
    """

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.drawn_pixels = 0

    def __enter__(self) -> Self:
        """Return the reservation."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release the reservation."""
        self._admission.release(self)
