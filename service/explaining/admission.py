"""Admission control: reservations of slots, time, queued work and drawn pixels.

This module and those below it use three verbs. ``check`` refuses a request that could not get a
reservation now, and reserves nothing. ``reserve`` makes a reservation, or refuses. ``release`` ends
a reservation.

A request reserves in this order: a slot, before its body is read; time of the picture processes,
before any work; work in the queue of its model, priced by an estimate before decoding and by the
actual geometry after it; and the pixels of its heatmaps and overlays, before the model computes.

Each request has an owner, its caller. Owners share every one of these fairly: one that holds little
finds room and time beside others that have taken all they can.
"""

import contextlib
from collections.abc import Hashable, Iterator
from functools import partial
from typing import Self

from service.batching import QueueReservation, Shares
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
        pool: ModelPool,
        pictures: PictureCapacity,
        metrics: Metrics,
    ) -> None:
        self._limits = limits
        self._pool = pool
        self._pictures = pictures
        self._requests = requests = Shares(limits.max_requests)
        self._drawn_pixels = Shares(limits.max_drawn_pixels)
        metrics.requests_in_progress.set_function(lambda: requests.total)

    def check(self, owner: Hashable, deadline: float) -> None:
        """Refuse a request that would get no reservation now, before its content is known.

        Args:
            owner: owner of the request.
            deadline: on the monotonic clock in seconds.

        Raises:
            TooManyRequestsError: no slot is free for the owner, or the picture processes are busy
                until the deadline.
            QueueFullError: no loaded model has room and time for more work of the owner.
        """
        self._check_slots(owner)
        self._pictures.check(owner, deadline)
        self._pool.check(owner, partial(self._compute_deadline, deadline))

    def reserve(self, owner: Hashable) -> "Reservation":
        """Reserve a slot, until the returned reservation is released.

        Args:
            owner: owner of the request.

        Raises:
            TooManyRequestsError: no slot is free for the owner.
        """
        self._check_slots(owner)
        self._requests.add(owner, 1)
        return Reservation(self, owner)

    def release(self, reservation: "Reservation") -> None:
        """Release the slot and the drawn pixels of a request."""
        self._drawn_pixels.add(reservation.owner, -reservation.drawn_pixels)
        reservation.drawn_pixels = 0
        self._requests.add(reservation.owner, -1)

    def reserve_pictures(
        self, reservation: "Reservation", deadline: float, pictures: int, targets: int
    ) -> contextlib.AbstractContextManager[None]:
        """Reserve time of the picture processes, until the context ends.

        Args:
            reservation: the request's slot.
            deadline: of the request, on the monotonic clock in seconds.
            pictures: number of pictures to decode and draw.
            targets: number of target pictures, which are decoded only.

        Raises:
            TooManyRequestsError: the picture processes are busy until the deadline.
        """
        return self._pictures.reserve(reservation.owner, deadline, pictures, targets)

    def reserve_drawings(self, reservation: "Reservation", pixels: int) -> None:
        """Reserve pixels of heatmaps and overlays, until the slot is released.

        Args:
            reservation: the request's slot.
            pixels: number of pixels, in addition to those already reserved.

        Raises:
            LimitExceededError: the request exceeds the limit on one request.
            TooManyRequestsError: the requests in progress leave no room for the owner.
        """
        wanted, limit = reservation.drawn_pixels + pixels, self._limits.max_drawn_pixels_each
        if wanted > limit:
            raise LimitExceededError(
                f"output: heatmaps and overlays of {wanted} pixels in all, but this server draws "
                f"{limit} for one request: ask for a smaller max_side, for npy heatmaps, for no "
                "overlay, or for fewer pictures or targets at once.",
                field="output",
            )
        if self._drawn_pixels.excess(reservation.owner, pixels) > 0:
            self._drawn_pixels.refused(reservation.owner)
            raise TooManyRequestsError("Too much is being drawn and sent; try again in a moment.")
        reservation.drawn_pixels += pixels
        self._drawn_pixels.add(reservation.owner, pixels)

    def check_work(self, served: ServedModel, cost: float) -> None:
        """Refuse a command that is more work than the whole queue of its model holds.

        Args:
            served: the model.
            cost: the cost if nothing is cached: otherwise the refusal would tell what is.

        Raises:
            ItemTooLargeError: it is more.
        """
        served.batcher.check_size(cost)

    @contextlib.contextmanager
    def reserve_work(
        self, slot: "Reservation", served: ServedModel, cost: float, deadline: float
    ) -> Iterator[QueueReservation]:
        """Reserve work in the queue of a model; release the unused rest when the context ends.

        Args:
            slot: the request's slot.
            served: the model.
            cost: the estimate before decoding, in forward passes at the model's own size.
            deadline: of the request, on the monotonic clock in seconds.

        Raises:
            BatchingError: the queue is full, or the worker is not running.
        """
        reservation = served.batcher.reserve(
            cost,
            self._compute_deadline(deadline, served.max_batch_images),
            owner=slot.owner,
            admitted=slot.admitted,
        )
        slot.admitted = True
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
        computed_by = self._compute_deadline(deadline, served.max_batch_images)
        served.batcher.reserve(cost, computed_by, reservation)

    def _compute_deadline(self, deadline: float, batch: int) -> float:
        """Return the deadline of the computation, which leaves time to draw a full batch.

        Args:
            deadline: of the request.
            batch: most images in a batch of its model.
        """
        return deadline - self._pictures.drawing_seconds(batch)

    def _check_slots(self, owner: Hashable) -> None:
        if self._requests.excess(owner, 1) > 0:
            self._requests.refused(owner)
            raise TooManyRequestsError(
                f"{self._requests.total:g} requests are in progress; try again in a moment."
            )


class Reservation:
    """The slot of one request; a context manager that releases it.

    Attributes:
        owner: owner of the request; owners share the server fairly.
        drawn_pixels: reserved pixels of all its heatmaps and overlays.
        admitted: whether it has reserved work, for one command of several.
    """

    def __init__(self, admission: Admission, owner: Hashable) -> None:
        self._admission = admission
        self.owner = owner
        self.drawn_pixels = 0
        self.admitted = False

    def __enter__(self) -> Self:
        """Return the reservation."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release the reservation."""
        self._admission.release(self)
