"""From a request's pictures and targets to items in the queue of its model."""

import asyncio
import math
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from legrad_engine.explainer import Explainer
from legrad_engine.families import Score
from legrad_engine.images.decoding import PreparedImage, decode
from legrad_engine.images.geometry import Geometry, drawing_size
from legrad_engine.images.geometry import plan as plan_geometry
from legrad_engine.targets.questions import Question
from legrad_engine.targets.resolution import TextCount
from service.batching import Room, Submission
from service.explaining.admission import Place
from service.explaining.command import ExplainCommand, naming_fields
from service.explaining.drawing import drawings_of_each_target
from service.explaining.offloading import offload_if_large
from service.explaining.pictures import Pictures
from service.explaining.targets import encoded_images, with_prepared
from service.explaining.url_images import UrlImages
from service.pictures.workers import PictureThreads
from service.pool.served_model import Explained, ExplainItem, ServedModel
from service.pool.trace_cache import Canvas, TraceCache, TraceKey, digests_of
from service.pool.traced_picture import TracedPicture
from service.settings import Settings
from service.settings.url_policy import ImageUrl
from service.telemetry.metrics import Metrics
from service.telemetry.stages import Stages

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Plan:
    """A command with what the model makes of its options.

    Attributes:
        command: what is wanted.
        served: the model, leased to the request.
        layers: the blocks that are explained.
        score: what is differentiated.
        usual: how a square picture is fitted to the model: others have as many patches or, at
            their native aspect ratio, fewer.
        stages: where each stage is noted once it has ended.
    """

    command: ExplainCommand
    served: ServedModel
    layers: tuple[int, ...]
    score: Score
    usual: Geometry
    stages: Stages

    @classmethod
    def of(cls, command: ExplainCommand, served: ServedModel, stages: Stages) -> "Plan":
        """The plan of a command.

        Raises:
            InvalidOptionError: the model cannot do what an option asks.
        """
        explainer, options = served.explainer, command.options
        with naming_fields():
            size = options.size or explainer.own_size
            return cls(
                command,
                served,
                explainer.resolve_layers(options.layers),
                explainer.resolve_score(options.score),
                plan_geometry(
                    explainer.own_size,
                    size=size,
                    patch_size=explainer.tower.patch_size,
                    fit="squash",
                ),
                stages,
            )

    @property
    def explainer(self) -> Explainer:
        """The model."""
        return self.served.explainer


@dataclass(frozen=True, slots=True)
class Drawing:
    """What is needed of a picture after its explanation.

    Attributes:
        size: (width, height) of its heatmaps and overlays in pixels.
        key: what its trace is found by; None where nothing is kept.
        canvas: what overlays are drawn on, if any are.
        seconds: that decoding took; None where it was not needed.
    """

    size: tuple[int, int]
    key: TraceKey | None
    canvas: Canvas | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Queued:
    """A command that waits for its model.

    Attributes:
        submissions: one for each picture, in order.
        drawings: as many.
        texts: how many texts had to be embedded, and how many were known.
    """

    submissions: list[Submission[Explained]]
    drawings: list[Drawing]
    texts: TextCount


@dataclass(frozen=True, slots=True)
class _Prepared:
    item: ExplainItem
    cost: float
    drawing: Drawing


class Preparation:
    """Fetches, decodes and queues what commands bring. Lives on the event loop."""

    def __init__(
        self,
        url_images: UrlImages,
        traces: TraceCache,
        threads: PictureThreads,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self._url_images = url_images
        self._threads = threads
        self._pictures = Pictures(traces, threads, settings.max_image_pixels)
        self._settings = settings
        self._metrics = metrics

    def computed_by(self, deadline: float) -> float:
        """When pictures must be computed, so that they can still be drawn with their batch."""
        return deadline - self._threads.drawing_seconds(self._settings.max_batch_images)

    async def queue(self, plan: Plan, place: Place) -> Queued:
        """Queues all pictures of a command, or none.

        Room for them is held before any is fetched or decoded: a full queue must stay cheap to say
        no, and must not say it once the work is done.

        Args:
            plan: the command's.
            place: the request's; what it will draw is reserved there.

        Raises:
            LegradError: the pictures or targets cannot be explained.
            ServiceError: a limit is exceeded, or a picture could not be fetched.
            BatchingError: the queue is full, or the worker failed.
        """
        command, served = plan.command, plan.served
        computed_by = self.computed_by(command.deadline)
        with served.batcher.holding() as room:
            encoded = await self._fetch(plan, room)
            pictures = await self._find_pictures(plan, encoded)
            expected = sum(_expected_cost(plan, picture) for picture in pictures)
            served.batcher.resize(room, expected, computed_by)
            texts = await self._check_question(plan)
            expected += served.target_cost(command.question, texts)
            served.batcher.resize(room, expected, computed_by)
            question = await self._prepare_targets(plan.explainer, command.question, place)
            prepared = await all_or_none(
                [
                    self._prepare(plan, question, texts, field, picture, image, place)
                    for field, picture, image in zip(
                        command.image_fields, pictures, encoded, strict=True
                    )
                ]
            )
            drawn = drawings_of_each_target(command.output) * len(question.targets)
            place.reserve(drawn * sum(math.prod(each.drawing.size) for each in prepared))
            served.batcher.resize(room, sum(each.cost for each in prepared), computed_by)
            submissions = _submit_all(served, prepared, command.deadline, room)
        return Queued(submissions, [each.drawing for each in prepared], texts)

    async def _fetch(self, plan: Plan, room: Room) -> list[bytes]:
        command = plan.command
        missing = sum(isinstance(image, ImageUrl) for image in command.images)
        if missing:
            # They may turn out to be known, but no other server is set to work in vain.
            plan.served.batcher.resize(room, missing, self.computed_by(command.deadline))
        began = time.monotonic()
        encoded = await self._url_images.fetch(command.images, command.image_fields)
        if missing:
            plan.stages.ended("fetch", time.monotonic() - began)
        return encoded

    async def _find_pictures(self, plan: Plan, encoded: Sequence[bytes]) -> list[TracedPicture]:
        options, explainer = plan.command.options, plan.explainer
        if not options.cache:
            return [TracedPicture() for _ in encoded]
        size = plan.usual.input_size
        digests = await offload_if_large(sum(map(len, encoded)), digests_of, encoded)
        keys = (
            TraceKey(digest, plan.served.id, size, options.fit, plan.layers, plan.score)
            for digest in digests
        )
        return [self._pictures.find(explainer, key) for key in keys]

    async def _check_question(self, plan: Plan) -> TextCount:
        """What the texts cost; refuses targets that the model cannot be asked about."""
        question, templates = plan.command.question, plan.command.templates
        resolver = plan.explainer.resolver
        with naming_fields():
            texts = resolver.count_texts(question, templates)
            if texts.missing:
                # Tokenising is slow, and the tokenizer may be busy: never on the event loop.
                await asyncio.to_thread(resolver.check, question, templates)
            else:
                resolver.check(question, templates)
        self._metrics.cache_hits.labels("prompts").inc(texts.known)
        self._metrics.cache_misses.labels("prompts").inc(texts.missing)
        return texts

    async def _prepare_targets(
        self, explainer: Explainer, question: Question, place: Place
    ) -> Question:
        images = encoded_images(question)
        prepared = await all_or_none(
            [
                self._prepare_target(explainer, encoded, field, place)
                for encoded, field in images.values()
            ]
        )
        return with_prepared(question, dict(zip(images, prepared, strict=True)))

    async def _prepare_target(
        self, explainer: Explainer, encoded: bytes, field: str, place: Place
    ) -> PreparedImage:
        def prepare() -> PreparedImage:
            picture = decode(encoded, max_pixels=self._settings.max_image_pixels)
            return explainer.prepare_decoded(picture)

        with naming_fields(image=field):
            return await self._threads.run(place, "decode", prepare)

    async def _prepare(
        self,
        plan: Plan,
        question: Question,
        texts: TextCount,
        field: str,
        picture: TracedPicture,
        encoded: bytes,
        place: Place,
    ) -> _Prepared:
        command, served = plan.command, plan.served
        drawn_side = command.output.max_side if command.output.overlay else None
        with naming_fields(image=field):
            geometry, canvas, seconds = await self._pictures.prepare(
                picture, plan.explainer, encoded, command.options, drawn_side, place
            )
        if seconds is not None:
            plan.stages.ended("decode", seconds)
        item = ExplainItem(
            picture, question, plan.layers, plan.score, command.templates, plan.stages.link()
        )
        # What is embedded is embedded once for all pictures of the command.
        cost = _cost(plan, picture, geometry)
        cost += served.target_cost(question, texts) / len(command.images)
        size = drawing_size(geometry.image_size, command.output.max_side)
        return _Prepared(item, cost, Drawing(size, picture.key, canvas, seconds))


async def all_or_none(awaitables: Sequence[Awaitable[_Answer]]) -> list[_Answer]:
    """All answers; the first error, or the caller's leaving, cancels what is left."""
    tasks = [asyncio.ensure_future(each) for each in awaitables]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _expected_cost(plan: Plan, picture: TracedPicture) -> float:
    """What a picture will cost, as far as that is known before it is decoded."""
    return _cost(plan, picture, picture.geometry or plan.usual)


def _cost(plan: Plan, picture: TracedPicture, geometry: Geometry) -> float:
    # One whose trace another request is about to make still counts in full: it may be left to make
    # it after all.
    traced = picture.trace is not None
    return plan.served.cost(geometry, plan.layers, plan.command.question.rows, traced=traced)


def _submit_all(
    served: ServedModel, prepared: Sequence[_Prepared], deadline: float, room: Room
) -> list[Submission[Explained]]:
    """All pictures of a command are queued, or none."""
    submissions: list[Submission[Explained]] = []
    try:
        for each in prepared:
            submissions.append(
                served.batcher.submit(
                    each.item,
                    bucket=each.item.bucket,
                    cost=each.cost,
                    deadline=deadline,
                    room=room,
                )
            )
    except BaseException:
        for submission in submissions:
            submission.future.cancel()
        raise
    return submissions
