"""The places of requests in progress: how many there are, and how much they may draw together."""

import contextlib
from collections.abc import Iterator

from service.errors import LimitExceededError, TooManyRequestsError
from service.settings import Settings
from service.telemetry.metrics import Metrics


class Places:
    """Counts what is in progress. Lives on the event loop."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._taken = 0
        self._drawn_pixels = 0

    def check(self) -> None:
        """Refuses what :meth:`take` would refuse now.

        Raises:
            TooManyRequestsError: every place is taken.
        """
        if self._taken >= self._settings.max_requests_in_progress:
            raise TooManyRequestsError(
                f"{self._taken} requests are in progress; try again in a moment."
            )

    @contextlib.contextmanager
    def take(self) -> Iterator["Place"]:
        """Holds a place.

        Raises:
            TooManyRequestsError: every place is taken.
        """
        self.check()
        self._taken += 1
        self._metrics.requests_in_progress.set(self._taken)
        place = Place(self)
        try:
            yield place
        finally:
            self._drawn_pixels -= place.drawn_pixels
            self._taken -= 1
            self._metrics.requests_in_progress.set(self._taken)

    def reserve(self, place: "Place", pixels: int) -> None:
        """See :meth:`Place.reserve`."""
        wanted, limit = place.drawn_pixels + pixels, self._settings.max_drawn_pixels
        if wanted > limit:
            raise LimitExceededError(
                f"output: heatmaps and overlays of {wanted} pixels in all, but this server draws "
                f"{limit} for one request: ask for a smaller max_side, for npy heatmaps, for no "
                "overlay, or for fewer pictures or targets at once.",
                field="output",
            )
        if self._drawn_pixels + pixels > self._settings.max_drawn_pixels_in_progress:
            raise TooManyRequestsError("Too much is being drawn and sent; try again in a moment.")
        place.drawn_pixels += pixels
        self._drawn_pixels += pixels


class Place:
    """One request's place, held until its answer is sent.

    Attributes:
        drawn_pixels: of all its heatmaps and overlays.
    """

    def __init__(self, places: Places) -> None:
        self._places = places
        self.drawn_pixels = 0

    def reserve(self, pixels: int) -> None:
        """Holds room for heatmaps and overlays of so many more pixels, for as long as the place.

        Raises:
            LimitExceededError: one request may not draw so much.
            TooManyRequestsError: requests in progress draw too much already.
        """
        self._places.reserve(self, pixels)
