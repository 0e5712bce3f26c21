"""The stages of one request, as they end."""

from typing import Literal

from service.telemetry.tracing import SpanLink, Tracing

Stage = Literal["fetch", "decode", "queue", "compute", "render"]


class Stages:
    """What each stage has taken, in seconds, and its span. Of several pictures the slowest counts.

    A request that fails has those that ended before.
    """

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self.seconds: dict[Stage, float] = {}

    def link(self) -> SpanLink | None:
        """What the batches of this request link to."""
        return self._tracing.link()

    def ended(self, stage: Stage, seconds: float, *, ago: float = 0.0) -> None:
        """Notes one stage of one picture, which ended so many seconds ago.

        To be called in the request's own context.
        """
        self.seconds[stage] = max(seconds, self.seconds.get(stage, 0.0))
        self._tracing.stage(stage, seconds, ago=ago)
