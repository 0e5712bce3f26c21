"""A picture with its trace, shared by all requests that bring the same one."""

import asyncio
from dataclasses import dataclass, field

from legrad_engine.images.geometry import Geometry
from legrad_engine.images.inputs import PreparedImage
from legrad_engine.trace import Trace
from service.pool.trace_cache import Canvas, TraceKey


@dataclass(slots=True, eq=False, weakref_slot=True)
class TracedPicture:
    """One picture, from its look-up to the last answer about it.

    Attributes:
        key: key of its trace in the cache, or None if the trace is neither looked up nor kept.
        trace: trace of this picture alone; None until a worker of the model sets it, and again
            after a worker found that its device has failed. No other thread sets it.
        prepared: the picture as model input; None until it is decoded, and where the cache had the
            trace.
        canvas: the last canvas made of it, if any.
        decoding: lock of the request that decodes it; used on the event loop only.
    """

    key: TraceKey | None = None
    trace: Trace | None = None
    prepared: PreparedImage | None = None
    canvas: Canvas | None = None
    decoding: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def geometry(self) -> Geometry | None:
        """How the patch grid maps to the picture, once that is known."""
        # Read once: a worker may drop it meanwhile.
        trace = self.trace
        if trace is not None:
            return trace.geometries[0]
        return None if self.prepared is None else self.prepared.geometry
