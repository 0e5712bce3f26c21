"""Preparation of a command: fetch, decode and queue its pictures for its model."""

import asyncio
import math
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from pickle import PickleBuffer  # nosec B403 # a view of bytes; nothing is unpickled here
from typing import TypeVar

from legrad_engine.explainer import Explainer
from legrad_engine.families import Score
from legrad_engine.images.geometry import Geometry, drawing_size
from legrad_engine.images.geometry import plan as plan_geometry
from legrad_engine.images.inputs import PreparedImage
from legrad_engine.targets.questions import Question
from legrad_engine.targets.resolution import TextCount
from service.batching import QueueReservation, Submission
from service.explaining.admission import Admission, Reservation
from service.explaining.asked_texts import AskedTexts
from service.explaining.command import ExplainCommand, ExplainInputs, naming_fields
from service.explaining.offloading import offload
from service.explaining.pictures import Pictures
from service.explaining.targets import encoded_images, with_prepared
from service.explaining.url_images import UrlImages
from service.pictures.jobs import Decode
from service.pictures.workers import PictureWorkers
from service.pool.served_model import Explained, ExplainItem, ServedModel
from service.pool.trace_cache import Canvas, TraceKey, digests_of
from service.pool.traced_picture import TracedPicture
from service.settings.values import PictureRules
from service.telemetry.metrics import Metrics

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Plan:
    """A command with its model and resolved options.

    Attributes:
        command: the command.
        served: the model, held by the request.
        layers: indices of the explained blocks.
        score: the explained score.
        usual: the geometry of a square picture. Other pictures have as many patches, or fewer at
            their native aspect ratio.
    """

    command: ExplainCommand
    served: ServedModel
    layers: tuple[int, ...]
    score: Score
    usual: Geometry

    @classmethod
    def of(cls, command: ExplainCommand, served: ServedModel) -> "Plan":
        """Resolve the options of a command for a model.

        Raises:
            InvalidOptionError: the model does not support an option.
        """
        explainer, options = served.explainer, command.inputs.options
        with naming_fields():
            return cls(
                command,
                served,
                explainer.resolve_layers(options.layers),
                explainer.resolve_score(options.score),
                plan_geometry(
                    explainer.own_size,
                    size=options.size or explainer.own_size,
                    patch_size=explainer.tower.patch_size,
                    fit="squash",
                ),
            )

    @property
    def inputs(self) -> ExplainInputs:
        """The content of the request."""
        return self.command.inputs

    @property
    def explainer(self) -> Explainer:
        """The model."""
        return self.served.explainer

    def estimate(self, pictures: Sequence[TracedPicture | None], texts: TextCount) -> float:
        """Estimate the cost of the command before decoding.

        Args:
            pictures: the shared pictures; None for a picture that is not fetched yet.
            texts: number of texts to embed.

        Returns:
            The cost in forward passes at the model's own size.
        """
        costs = (
            self._picture_cost(self.usual, traced=False)
            if picture is None
            else self.picture_cost(picture, picture.geometry or self.usual)
            for picture in pictures
        )
        return sum(costs) + self.served.target_cost(self.inputs.question, texts)

    def uncached_cost(self) -> float:
        """Return the cost of the command for square pictures if nothing is cached.

        Keys are charged this: what is cached, for whatever caller, must not show in their limits.
        """
        question, templates = self.inputs.question, self.inputs.templates
        with naming_fields():
            texts = self.explainer.resolver.count_texts(question, templates, cache=False)
        return self.estimate([None] * len(self.inputs.images), texts)

    def picture_cost(self, picture: TracedPicture, geometry: Geometry) -> float:
        """Return the cost of one picture, without the embeddings of the targets.

        The cost includes the forward pass even if another request is about to make the trace: if
        that request fails, this one makes it.
        """
        return self._picture_cost(geometry, traced=picture.trace is not None)

    def _picture_cost(self, geometry: Geometry, *, traced: bool) -> float:
        rows = self.inputs.question.rows
        return self.served.cost(geometry, self.layers, rows, traced=traced)


@dataclass(frozen=True, slots=True)
class Drawing:
    """Inputs for drawing the explanation of one picture.

    Attributes:
        size: (width, height) of its heatmaps and overlays in pixels.
        key: key of its trace; None if the request does not use the cache.
        canvas: the picture below the overlays; None without overlays.
        source: decodes the canvas again, in case its picture process ends.
        seconds: seconds of decoding; None if the picture was not decoded.
    """

    size: tuple[int, int]
    key: TraceKey | None
    canvas: Canvas | None
    source: Decode
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Queued:
    """A command in the queue of its model.

    Attributes:
        submissions: one for each picture, in order.
        drawings: one for each picture, in order.
        cached_prompts: number of cached texts, as far as the caller may know.
    """

    submissions: list[Submission[Explained]]
    drawings: list[Drawing]
    cached_prompts: int


@dataclass(frozen=True, slots=True)
class _Prepared:
    item: ExplainItem
    cost: float
    drawing: Drawing


class Preparation:
    """Fetches, decodes and queues the pictures of commands. Used on the event loop only."""

    def __init__(
        self,
        admission: Admission,
        url_images: UrlImages,
        pictures: Pictures,
        workers: PictureWorkers,
        picture_rules: PictureRules,
        metrics: Metrics,
    ) -> None:
        self._admission = admission
        self._url_images = url_images
        self._pictures = pictures
        self._workers = workers
        self._picture_rules = picture_rules
        self._metrics = metrics
        self._asked_texts = AskedTexts()

    async def queue(self, plan: Plan, reservation: Reservation) -> Queued:
        """Queue all pictures of a command, or none.

        Work is reserved before any picture is fetched or decoded, so that a full queue refuses
        cheaply.

        Args:
            plan: the plan of the command.
            reservation: the request's slot; heatmaps and overlays are reserved with it.

        Raises:
            LegradError: the pictures or targets cannot be explained.
            ServiceError: a limit of the server or of the key's work is exceeded, or a picture could
                not be fetched.
            BatchingError: the queue is full, or the worker failed.
        """
        inputs, served, deadline = plan.inputs, plan.served, plan.command.deadline
        if plan.command.caller.charge is not None:
            await plan.command.caller.charge(plan.uncached_cost())
        sent = iter(await self._find(plan, [i for i in inputs.images if isinstance(i, bytes)]))
        known = [next(sent) if isinstance(image, bytes) else None for image in inputs.images]
        texts = self._count_texts(plan)
        with self._admission.reserve_work(served, plan.estimate(known, texts), deadline) as work:
            await self._check_question(plan, texts)
            encoded, pictures = await self._fetch(plan, known)
            question = await self._prepare_targets(plan.explainer, inputs.question, reservation)
            prepared = await all_or_none(
                [
                    self._prepare(plan, question, texts, field, picture, image, reservation)
                    for field, picture, image in zip(
                        inputs.image_fields, pictures, encoded, strict=True
                    )
                ]
            )
            drawn = inputs.drawing_rules.drawings_of_each_target * len(question.targets)
            pixels = drawn * sum(math.prod(each.drawing.size) for each in prepared)
            self._admission.reserve_drawings(reservation, pixels)
            actual = sum(each.cost for each in prepared)
            self._admission.reserve_actual_work(work, served, actual, deadline)
            submissions = _submit_all(plan, prepared, work)
        return Queued(
            submissions, [each.drawing for each in prepared], self._cached_prompts(plan, texts)
        )

    async def _find(self, plan: Plan, encoded: Sequence[bytes]) -> list[TracedPicture]:
        """Return the shared picture of each encoded one, with its cached trace if there is one."""
        options = plan.inputs.options
        if not options.cache:
            return [TracedPicture() for _ in encoded]
        size, key = plan.usual.input_size, plan.command.caller.key
        digests = await offload(sum(map(len, encoded)), digests_of, encoded)
        keys = (
            TraceKey(digest, plan.served.id, size, options.fit, plan.layers, plan.score, key)
            for digest in digests
        )
        return [self._pictures.find(plan.explainer, key) for key in keys]

    async def _fetch(
        self, plan: Plan, known: Sequence[TracedPicture | None]
    ) -> tuple[list[bytes], list[TracedPicture]]:
        """Fetch the pictures with a URL; return all encoded pictures and all shared pictures."""
        inputs = plan.inputs
        if None not in known:
            return (
                [image for image in inputs.images if isinstance(image, bytes)],
                [picture for picture in known if picture is not None],
            )
        began = time.monotonic()
        encoded = await self._url_images.fetch(inputs.images, inputs.image_fields)
        plan.command.stages.ended("fetch", time.monotonic() - began)
        missing = [image for image, picture in zip(encoded, known, strict=True) if picture is None]
        fetched = iter(await self._find(plan, missing))
        return encoded, [picture or next(fetched) for picture in known]

    def _count_texts(self, plan: Plan) -> TextCount:
        inputs, resolver = plan.inputs, plan.explainer.resolver
        with naming_fields():
            return resolver.count_texts(
                inputs.question, inputs.templates, cache=inputs.options.cache
            )

    def _cached_prompts(self, plan: Plan, texts: TextCount) -> int:
        inputs, key = plan.inputs, plan.command.caller.key
        if key is None or not inputs.options.cache:
            return texts.known
        return self._asked_texts.count_repeated(
            key, plan.served.id, inputs.question, inputs.templates
        )

    async def _check_question(self, plan: Plan, texts: TextCount) -> None:
        """Refuse targets that the model does not support."""
        question, templates = plan.inputs.question, plan.inputs.templates
        resolver, cache = plan.explainer.resolver, plan.inputs.options.cache
        with naming_fields():
            if texts.missing:
                # Tokenization is slow, and may wait for other users of the tokenizer.
                await asyncio.to_thread(resolver.check, question, templates, cache=cache)
            else:
                resolver.check(question, templates, cache=cache)
        if cache:
            self._metrics.cache_hits.labels("prompts").inc(texts.known)
            self._metrics.cache_misses.labels("prompts").inc(texts.missing)

    async def _prepare_targets(
        self, explainer: Explainer, question: Question, reservation: Reservation
    ) -> Question:
        """Return the question with its pictures decoded and fitted."""
        images = encoded_images(question)
        prepared = await all_or_none(
            [
                self._prepare_target(explainer, encoded, field, reservation)
                for encoded, field in images.values()
            ]
        )
        return with_prepared(question, dict(zip(images, prepared, strict=True)))

    async def _prepare_target(
        self, explainer: Explainer, encoded: bytes, field: str, reservation: Reservation
    ) -> PreparedImage:
        task = Decode(
            PickleBuffer(encoded), self._picture_rules, explainer.input_rules(), None, None
        )
        with naming_fields(image=field):
            decoded = await self._workers.decode(reservation, task)
            explainer.check_geometry(decoded.geometry)
        if decoded.prepared is None:
            raise RuntimeError("a picture of unknown geometry was not fitted")
        return decoded.prepared

    async def _prepare(
        self,
        plan: Plan,
        question: Question,
        texts: TextCount,
        field: str,
        picture: TracedPicture,
        encoded: bytes,
        reservation: Reservation,
    ) -> _Prepared:
        inputs, served, stages = plan.inputs, plan.served, plan.command.stages
        drawn_side = inputs.output.max_side if inputs.output.overlay else None
        with naming_fields(image=field):
            decoded = await self._pictures.prepare(
                picture, plan.explainer, encoded, inputs.options, drawn_side, reservation
            )
        geometry, seconds = decoded.geometry, decoded.seconds
        if seconds is not None:
            stages.ended("decode", seconds)
        item = ExplainItem(
            picture,
            question,
            plan.layers,
            plan.score,
            inputs.templates,
            inputs.options.cache,
            stages.link(),
        )
        # Embeddings are computed once for all pictures of the command.
        cost = plan.picture_cost(picture, geometry)
        cost += served.target_cost(question, texts) / len(inputs.images)
        size = drawing_size(geometry.image_size, inputs.output.max_side)
        return _Prepared(
            item, cost, Drawing(size, picture.key, decoded.canvas, decoded.source, seconds)
        )


async def all_or_none(awaitables: Sequence[Awaitable[_Answer]]) -> list[_Answer]:
    """Await all concurrently; the first error, or cancellation, cancels the rest."""
    if len(awaitables) <= 1:
        # Most requests have one picture, and a task costs more than the steps that it would run.
        return [await each for each in awaitables]
    tasks = [asyncio.ensure_future(each) for each in awaitables]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _submit_all(
    plan: Plan, prepared: Sequence[_Prepared], reservation: QueueReservation
) -> list[Submission[Explained]]:
    """Submit all pictures of a command to the batcher, or none."""
    submissions: list[Submission[Explained]] = []
    try:
        for each in prepared:
            submissions.append(
                plan.served.batcher.submit(
                    each.item,
                    bucket=each.item.bucket,
                    cost=each.cost,
                    deadline=plan.command.deadline,
                    reservation=reservation,
                    owner=plan.command.caller.owner,
                )
            )
    except BaseException:
        for submission in submissions:
            submission.future.cancel()
        raise
    return submissions
