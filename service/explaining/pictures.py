"""Pictures on their way to the worker, shared by all requests that bring the same one."""

import asyncio
import time
from dataclasses import dataclass, field
from functools import partial
from weakref import WeakKeyDictionary, WeakValueDictionary

from PIL import Image

from legrad_engine.explainer import Explainer
from legrad_engine.images.decoding import PreparedImage, decode
from legrad_engine.images.geometry import Geometry
from legrad_engine.trace import Trace
from service.explaining.drawing import drawing_size
from service.pictures.workers import PictureThreads
from service.pool.trace_cache import Canvas, CanvasKey, TraceCache, TraceKey
from service.schemas.requests import ExplainOptions


@dataclass(slots=True, eq=False, weakref_slot=True)
class Picture:
    """One picture, from its look-up to the last answer about it.

    Attributes:
        key: what its trace is found by, or None where it is to be computed in any case.
        trace: of this picture alone; None until the worker, and nobody else, has set it.
        prepared: the picture as the model will see it; None until it is decoded, and where the
            trace was known before.
        canvas: the last one made of it, if any.
        decoding: held by the request that decodes it; on the event loop only.
    """

    key: TraceKey | None = None
    trace: Trace | None = None
    prepared: PreparedImage | None = None
    canvas: Canvas | None = None
    decoding: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def geometry(self) -> Geometry | None:
        """How the patch grid maps to the picture, once that is known."""
        if self.trace is not None:
            return self.trace.geometries[0]
        return None if self.prepared is None else self.prepared.geometry


@dataclass(frozen=True, slots=True)
class _Decoded:
    geometry: Geometry
    prepared: PreparedImage | None
    canvas: Canvas | None
    seconds: float


class Pictures:
    """Finds and decodes pictures. Lives on the event loop; decoding runs on the given threads.

    A picture whose trace is kept is not decoded, unless a drawing is wanted and no canvas of its
    size is kept. Requests that bring an equal picture for the same computation, while another one
    is between its look-up and its answer, get the same object: it is decoded once (again only for
    a drawing of a size that the others did not want), and whichever of them is computed first
    makes the trace for all that are computed later or in the same batch, or in the same batch only
    if the cache would have no room for it. Where the one that decodes or computes fails or leaves,
    the next one does it in its place.
    """

    def __init__(self, traces: TraceCache, threads: PictureThreads, max_pixels: int) -> None:
        self._traces = traces
        self._threads = threads
        self._max_pixels = max_pixels
        # Of each loaded model apart: another one may come to bear its id.
        self._shared: WeakKeyDictionary[Explainer, WeakValueDictionary[TraceKey, Picture]] = (
            WeakKeyDictionary()
        )

    def find(self, explainer: Explainer, key: TraceKey) -> Picture:
        """The picture that others share already, with its trace where one is kept."""
        shared = self._shared.setdefault(explainer, WeakValueDictionary())
        # In this order: a trace is kept before the last of those who share the picture lets go.
        picture = shared.get(key)
        kept = self._traces.get(key)
        if picture is None:
            picture = shared[key] = Picture(key, kept)
        return picture

    async def prepare(
        self,
        picture: Picture,
        explainer: Explainer,
        encoded: bytes,
        options: ExplainOptions,
        max_side: int | None,
        owner: object,
    ) -> tuple[Geometry, Canvas | None, float | None]:
        """Decodes a picture, as far as that is needed to compute and to draw it.

        Args:
            picture: from :meth:`find`, or a new one that is not shared.
            explainer: the model that will see it.
            encoded: the picture's bytes.
            options: how it is fitted to the model.
            max_side: longest side of a drawing in pixels, or None where none is wanted.
            owner: the request that wants it.

        Returns:
            The picture's geometry, its canvas, if one is wanted, and the seconds that decoding
            took, if it was needed.

        Raises:
            LegradError: see :func:`~legrad_engine.images.decoding.decode` and
                :meth:`Explainer.prepare`.
            PictureTimeoutError: decoding took too long.
        """
        async with picture.decoding:
            geometry = picture.geometry
            canvas = self._known_canvas(picture, max_side)
            if geometry is not None and (max_side is None or canvas is not None):
                return geometry, canvas, None
            decoded = await self._threads.run(
                owner,
                "decode",
                partial(self._decode, explainer, encoded, options, max_side, geometry),
            )
            picture.prepared = decoded.prepared or picture.prepared
            picture.canvas = decoded.canvas or picture.canvas
            return decoded.geometry, decoded.canvas, decoded.seconds

    def _known_canvas(self, picture: Picture, max_side: int | None) -> Canvas | None:
        geometry = picture.geometry
        if geometry is None or max_side is None:
            return None
        size = drawing_size(geometry.image_size, max_side)
        if picture.canvas is not None and picture.canvas.picture.size == size:
            return picture.canvas
        if picture.key is None:
            return None
        return self._traces.get(CanvasKey(picture.key.digest, size))

    def _decode(
        self,
        explainer: Explainer,
        encoded: bytes,
        options: ExplainOptions,
        max_side: int | None,
        geometry: Geometry | None,
    ) -> _Decoded:
        """Fits the picture to the model only where its geometry is not known yet."""
        began = time.perf_counter()
        upright = decode(encoded, max_pixels=self._max_pixels)
        prepared = canvas = None
        if geometry is None:
            prepared = explainer.prepare_decoded(upright, options.size, options.fit)
            geometry = prepared.geometry
        if max_side is not None:
            # Only what will be drawn on is kept while the picture waits, not the whole of it.
            size = drawing_size(upright.size, max_side)
            canvas = Canvas(upright.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0))
        return _Decoded(geometry, prepared, canvas, time.perf_counter() - began)
