"""Look-up and decoding of pictures, shared by requests with equal pictures."""

from functools import partial
from weakref import WeakKeyDictionary, WeakValueDictionary

from legrad_engine.explainer import Explainer
from legrad_engine.images.geometry import Geometry, drawing_size
from service.pictures.decoding import decode_picture
from service.pictures.workers import PictureWorkers
from service.pool.trace_cache import Canvas, CanvasKey, TraceCache, TraceKey
from service.pool.traced_picture import TracedPicture
from service.schemas.requests import ExplainOptions
from service.settings.values import PictureRules


class Pictures:
    """Finds and decodes pictures. Used on the event loop only; decoding runs on picture workers.

    A picture with a cached trace is decoded only for an overlay, and only if the cache has no
    canvas of the overlay's size.

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
        owner: object,
    ) -> tuple[Geometry, Canvas | None, float | None]:
        """Decode a picture, as far as the computation and the overlay need it.

        Args:
            picture: from :meth:`find`, or a new one that is not shared.
            explainer: the model that computes its trace.
            encoded: the picture's bytes.
            options: input size and fit.
            max_side: longest side of the overlay in pixels, or None for no overlay.
            owner: the request; picture workers are shared fairly among requests.

        Returns:
            The picture's geometry; its canvas, or None for no overlay; and the seconds of decoding,
            or None if the picture was not decoded.

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
            decoded = await self._workers.run(
                owner,
                "decode",
                partial(
                    decode_picture,
                    encoded,
                    self._rules,
                    explainer.input_rules(options.size, options.fit),
                    geometry,
                    max_side,
                ),
            )
            if decoded.prepared is not None:
                explainer.check_geometry(decoded.geometry)
                picture.prepared = decoded.prepared
            if decoded.canvas is not None:
                picture.canvas = canvas = Canvas(decoded.canvas)
            return decoded.geometry, canvas, decoded.seconds

    def _known_canvas(self, picture: TracedPicture, max_side: int | None) -> Canvas | None:
        geometry = picture.geometry
        if geometry is None or max_side is None:
            return None
        size = drawing_size(geometry.image_size, max_side)
        if picture.canvas is not None and picture.canvas.picture.size == size:
            return picture.canvas
        if picture.key is None:
            return None
        return self._traces.get(CanvasKey(picture.key.digest, size, picture.key.caller))
