"""Records the time of each stage of a request."""

from typing import Literal

from service.telemetry.tracing import SpanLink, Tracing

Stage = Literal["fetch", "decode", "queue", "compute", "render"]


class Stages:
    """Seconds spent in each finished stage of a request; with several images, the slowest one's."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self.seconds: dict[Stage, float] = {}

    def link(self) -> SpanLink | None:
        """Return the span that batches with images of this request link to."""
        return self._tracing.link()

    def ended(self, stage: Stage, seconds: float, *, ago: float = 0.0) -> None:
        """Record one finished stage of one image. Must be called in the request's context.

        Args:
            stage: name of the stage.
            seconds: its duration.
            ago: seconds since it ended.
        """
        self.seconds[stage] = max(seconds, self.seconds.get(stage, 0.0))
        self._tracing.stage(stage, seconds, ago=ago)
