"""Look-up and decoding of pictures, shared by requests with equal pictures."""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from pickle import PickleBuffer  # nosec B403 # a view of bytes; nothing is unpickled here
from weakref import WeakKeyDictionary, WeakValueDictionary

from legrad_engine.explainer import Explainer
from legrad_engine.images.geometry import Geometry, drawing_size
from service.pictures.jobs import Decode
from service.pictures.workers import PictureWorkers
from service.pool.trace_cache import Canvas, CanvasKey, TraceCache, TraceKey
from service.pool.traced_picture import TracedPicture
from service.schemas.requests import ExplainOptions
from service.settings.values import PictureRules


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """A picture whose geometry is known, with its canvas if its overlay needs one.

    Attributes:
        geometry: how the patch grid maps to the picture.
        canvas: the canvas; None for no overlay.
        source: decodes the canvas again, in case its picture process ends.
        seconds: seconds of decoding; None if the picture was not decoded.
    """

    geometry: Geometry
    canvas: Canvas | None
    source: Decode
    seconds: float | None


class Pictures:
    """Finds and decodes pictures. Used on the event loop only; decoding runs on picture workers.

    A picture with a cached trace is decoded only for an overlay, and only if the cache has no
    canvas of the overlay's size; or for a measurement that needs its pixels.

    Requests in progress that explain an equal picture in the same way share one
    :class:`TracedPicture`:

    - The first of them decodes it. It is decoded again only for a canvas of another size.
    - The first that is computed makes the trace. All requests in the same batch use it; later ones
      use it if the cache has room for it.
    - If the request that decodes or computes fails or is cancelled, the next one takes over.
    """

    def __init__(self, traces: TraceCache, workers: PictureWorkers, rules: PictureRules) -> None:
        self._traces = traces
        self._workers = workers
        self._rules = rules
        # By loaded model and not by id: another model may be loaded under the same id.
        self._shared: WeakKeyDictionary[Explainer, WeakValueDictionary[TraceKey, TracedPicture]] = (
            WeakKeyDictionary()
        )

    def find(self, explainer: Explainer, key: TraceKey) -> TracedPicture:
        """Return the shared picture of a key, with its cached trace if there is one.

        Args:
            explainer: the model that computes its trace.
            key: key of the trace.
        """
        shared = self._shared.setdefault(explainer, WeakValueDictionary())
        # In this order: a trace enters the cache before the last request drops the shared picture.
        picture = shared.get(key)
        kept = self._traces.get(key)
        if picture is None:
            picture = shared[key] = TracedPicture(key, kept)
        return picture

    async def prepare(
        self,
        picture: TracedPicture,
        explainer: Explainer,
        encoded: bytes,
        options: ExplainOptions,
        max_side: int | None,
        owner: Hashable,
        request: object,
        *,
        with_pixels: bool = False,
    ) -> DecodedImage:
        """Decode a picture, as far as the computation and the overlay need it.

        Args:
            picture: from :meth:`find`, or a new one that is not shared.
            explainer: the model that computes its trace.
            encoded: the picture's bytes.
            options: input size and fit.
            max_side: longest side of the overlay in pixels, or None for no overlay.
            owner: owner of the request; picture processes are shared fairly among owners.
            request: the request; those of one owner take turns.
            with_pixels: whether the model input is needed even if the trace is cached.

        Raises:
            LegradError: see :func:`~legrad_engine.images.decoding.decode` and
                :meth:`Explainer.prepare`.
            ServiceError: see :meth:`PictureWorkers.decode`.
        """
        rules = explainer.input_rules(options.size, options.fit)
        async with picture.decoding:
            geometry = None if with_pixels and picture.prepared is None else picture.geometry
            source = Decode(PickleBuffer(encoded), self._rules, rules, geometry, max_side)
            canvas = self._known_canvas(picture, max_side)
            if geometry is not None and (max_side is None or canvas is not None):
                return DecodedImage(geometry, canvas, source, None)
            decoded = await self._workers.decode(owner, source, request)
            if decoded.prepared is not None:
                explainer.check_geometry(decoded.geometry)
                picture.prepared = decoded.prepared
            if decoded.canvas is not None:
                picture.canvas = canvas = decoded.canvas
            source = replace(source, geometry=decoded.geometry)
            return DecodedImage(decoded.geometry, canvas, source, decoded.seconds)

    def _known_canvas(self, picture: TracedPicture, max_side: int | None) -> Canvas | None:
        geometry = picture.geometry
        if geometry is None or max_side is None:
            return None
        size = drawing_size(geometry.image_size, max_side)
        kept = picture.canvas
        if (kept is None or kept.size != size) and picture.key is not None:
            kept = self._traces.get(CanvasKey(picture.key.digest, size, picture.key.caller))
        if kept is None or kept.size != size or not self._workers.keeps(kept.number):
            return None
        return kept
