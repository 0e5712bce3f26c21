"""The use case: pictures and prompts in, rendered explanations out. Knows nothing of HTTP."""

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from legrad_engine import Explanation
from legrad_engine.explainer import Explainer
from legrad_engine.families import Score
from legrad_engine.images import PreparedImage, decode
from legrad_engine.targets.questions import Question
from legrad_engine.targets.resolution import TextCount
from service.batching import DeadlineExceededError, Submission
from service.commands import ExplainCommand, ExplainOutcome, check_limits, naming_fields
from service.fetching.images import UrlImages
from service.fetching.rules import ImageUrl
from service.metrics import Metrics
from service.off_loop import run_sized
from service.picture_threads import PictureThreads
from service.pictures import Picture, Pictures
from service.places import Place, Places
from service.pool.model_pool import ModelPool
from service.pool.served_model import Explained, ExplainItem, ServedModel
from service.progress import ProgressBoard
from service.rendering import RenderedImage, drawing_size, drawings_of_each_target, render
from service.schemas.answers import Grid, ImageExplanation, Size, TargetExplanation, Timings
from service.settings import Settings
from service.targets import TargetName, encoded_images, name_target, with_prepared
from service.telemetry.stages import Stages
from service.trace_cache import Canvas, CanvasKey, TraceKey, digests_of

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class _Plan:
    """A command with what the model makes of its options."""

    command: ExplainCommand
    served: ServedModel
    layers: tuple[int, ...]
    score: Score
    stages: Stages

    @property
    def explainer(self) -> Explainer:
        return self.served.explainer


@dataclass(frozen=True, slots=True)
class _Drawing:
    """What is needed of a picture after its explanation; ``seconds`` is None if not decoded."""

    size: tuple[int, int]
    key: TraceKey | None
    canvas: Canvas | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class _Prepared:
    item: ExplainItem
    cost: float
    drawing: _Drawing


class ExplainingService:
    """Decodes, queues, awaits and renders. One for each application."""

    def __init__(
        self, pool: ModelPool, url_images: UrlImages, settings: Settings, metrics: Metrics
    ) -> None:
        self._pool = pool
        self._url_images = url_images
        self._settings = settings
        self._metrics = metrics
        self._places = Places(settings, metrics)
        self.progress = ProgressBoard()
        self._threads = PictureThreads(settings.picture_threads, settings.picture_timeout_seconds)
        self._pictures = Pictures(pool.traces, self._threads, settings.max_image_pixels)

    def close(self) -> None:
        """Ends the picture threads; the caller has awaited every command."""
        # Not waited for: one that never ends must not hold the event loop.
        self._threads.close()

    def permit(self, deadline: float) -> contextlib.AbstractContextManager[Place]:
        """Holds one of the places for requests in progress, from before the body is read.

        Args:
            deadline: of the request, on the monotonic clock in seconds.

        Raises:
            TooManyRequestsError: every place is taken, or what is in progress takes until then.
        """
        self._threads.check_time(deadline)
        return self._places.take()

    async def explain(
        self, command: ExplainCommand, place: Place, stages: Stages
    ) -> ExplainOutcome:
        """Carries out a command.

        Args:
            command: what is wanted.
            place: the request's, held until its answer is sent.
            stages: where each stage is noted once it has ended.

        Raises:
            LegradError: the pictures, prompts or options cannot be explained.
            ServiceError: a limit is exceeded, the server or the model is not ready, or a picture
                could not be fetched.
            BatchingError: the queue is full, the deadline has passed, or the worker failed.
        """
        check_limits(command, self._settings)
        command.progress.enter("loading")
        # Held until the answer is drawn: the model is not unloaded under a request.
        async with self._pool.lease(command.model, command.deadline) as served:
            try:
                async with asyncio.timeout_at(_on_loop_clock(command.deadline)):
                    with self._threads.promise(command.deadline, len(command.images)):
                        return await self._explain(command, served, place, stages)
            except TimeoutError as error:
                raise DeadlineExceededError(time.monotonic() - command.received) from error

    async def explain_all(
        self, commands: Sequence[ExplainCommand], place: Place, stages: Stages
    ) -> list[ExplainOutcome]:
        """Carries out commands of one request side by side; the first error gives up the others.

        Raises:
            Exception: see :meth:`explain`.
        """
        return await self._all([self.explain(command, place, stages) for command in commands])

    async def _explain(
        self, command: ExplainCommand, served: ServedModel, place: Place, stages: Stages
    ) -> ExplainOutcome:
        explainer, options = served.explainer, command.options
        command.progress.enter("preparing")
        with naming_fields():
            layers = explainer.resolve_layers(options.layers)
            score = explainer.resolve_score(options.score)
            plan = _Plan(command, served, layers, score, stages)
        encoded = await self._fetch(plan)
        pictures = await self._find_pictures(plan, encoded)
        # Refused before any picture is decoded: a full queue must stay cheap to say no.
        served.batcher.check_room(
            sum(_least_cost(plan, picture) for picture in pictures), self._computed_by(command)
        )
        # Tokenising is slow, and the tokenizer may be busy: never on the event loop.
        texts = await asyncio.to_thread(self._check_question, plan)
        question = await self._prepare_targets(explainer, command.question, place)
        prepared = await self._all(
            [
                self._prepare(plan, question, texts, field, picture, image, place)
                for field, picture, image in zip(
                    command.image_fields, pictures, encoded, strict=True
                )
            ]
        )
        drawn = drawings_of_each_target(command.output) * len(question.targets)
        place.reserve(drawn * sum(math.prod(each.drawing.size) for each in prepared))
        served.batcher.check_room(sum(each.cost for each in prepared), self._computed_by(command))
        submissions = self._submit_all(served, prepared, command.deadline)
        command.progress.enter_queue(
            served.batcher.standing, [submission.ticket for submission in submissions]
        )
        drawings = [each.drawing for each in prepared]
        # Answers wait to be drawn, perhaps for long: their traces must not live on with them.
        del pictures, prepared, encoded
        explained = await self._await_all(plan, submissions)
        command.progress.enter("drawing")
        self._keep_canvases(drawings)
        names = [name_target(target, explainer.classifier) for target in question.targets]
        rendered = await self._all(
            [
                self._render(plan, place, each.explanation, drawing.canvas, names)
                for each, drawing in zip(explained, drawings, strict=True)
            ]
        )
        self._observe(served.id, drawings, rendered)
        return ExplainOutcome(
            model=served.id,
            layers=layers,
            score=plan.score,
            cached_prompts=texts.known,
            images=[
                _describe(each, result.targets, submission.batch_size or 1)
                for each, result, submission in zip(explained, rendered, submissions, strict=True)
            ],
            timings=Timings(
                decode=max(each.seconds or 0.0 for each in drawings),
                queue=max(each.queue_seconds or 0.0 for each in submissions),
                compute=max(each.compute_seconds or 0.0 for each in submissions),
                render=max(each.seconds for each in rendered),
                total=time.monotonic() - command.received,
            ),
        )

    def _check_question(self, plan: _Plan) -> TextCount:
        """What the texts cost; refuses targets that the model cannot be asked about."""
        question, templates = plan.command.question, plan.command.templates
        with naming_fields():
            plan.explainer.resolver.check(question, templates)
            texts = plan.explainer.resolver.count_texts(question, templates)
        self._metrics.cache_hits.labels("prompts").inc(texts.known)
        self._metrics.cache_misses.labels("prompts").inc(texts.missing)
        return texts

    async def _prepare_targets(
        self, explainer: Explainer, question: Question, place: Place
    ) -> Question:
        images = encoded_images(question)
        prepared = await self._all(
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

    async def _fetch(self, plan: _Plan) -> list[bytes]:
        command = plan.command
        missing = sum(isinstance(image, ImageUrl) for image in command.images)
        if missing:
            # A full queue must stay cheap to say no, and set no other server to work.
            plan.served.batcher.check_room(missing, self._computed_by(command))
        began = time.monotonic()
        encoded = await self._url_images.fetch(command.images, command.image_fields)
        if missing:
            plan.stages.ended("fetch", time.monotonic() - began)
        return encoded

    async def _find_pictures(self, plan: _Plan, encoded: Sequence[bytes]) -> list[Picture]:
        options, explainer = plan.command.options, plan.explainer
        if not options.cache:
            return [Picture() for _ in encoded]
        size = (options.size, options.size) if options.size else explainer.own_size
        digests = await run_sized(sum(map(len, encoded)), digests_of, encoded)
        keys = (
            TraceKey(digest, plan.served.id, size, options.fit, plan.layers, plan.score)
            for digest in digests
        )
        return [self._pictures.find(explainer, key) for key in keys]

    async def _prepare(
        self,
        plan: _Plan,
        question: Question,
        texts: TextCount,
        field: str,
        picture: Picture,
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
        # One whose trace another request is about to make still counts in full: it may be left to
        # make it after all.
        traced = picture.trace is not None
        cost = served.cost(geometry, plan.layers, question.rows, traced=traced)
        # What is embedded is embedded once for all pictures of the command.
        cost += served.target_cost(question, texts) / len(command.images)
        size = drawing_size(geometry.image_size, command.output.max_side)
        return _Prepared(item, cost, _Drawing(size, picture.key, canvas, seconds))

    def _computed_by(self, command: ExplainCommand) -> float:
        """When the pictures must be computed, so that they can still be drawn with their batch."""
        return command.deadline - self._threads.drawing_seconds(self._settings.max_batch_images)

    def _submit_all(
        self, served: ServedModel, prepared: Sequence[_Prepared], deadline: float
    ) -> list[Submission[Explained]]:
        """All pictures of a command are queued, or none."""
        submissions: list[Submission[Explained]] = []
        try:
            for each in prepared:
                submissions.append(
                    served.batcher.submit(
                        each.item, bucket=each.item.bucket, cost=each.cost, deadline=deadline
                    )
                )
        except BaseException:
            for submission in submissions:
                submission.future.cancel()
            raise
        return submissions

    async def _await_all(
        self, plan: _Plan, submissions: Sequence[Submission[Explained]]
    ) -> list[Explained]:
        return await self._all([self._await(plan, each) for each in submissions])

    @staticmethod
    async def _await(plan: _Plan, submission: Submission[Explained]) -> Explained:
        began = time.monotonic()
        try:
            return await asyncio.wrap_future(submission.future)
        finally:
            waited = time.monotonic() - began
            # One that is given up may still be in the queue, or computed for nobody.
            queue = submission.queue_seconds or waited
            plan.stages.ended("queue", queue, ago=max(0.0, waited - queue))
            if submission.batch_size:
                plan.stages.ended("compute", submission.compute_seconds)

    async def _render(
        self,
        plan: _Plan,
        place: Place,
        explanation: Explanation,
        canvas: Canvas | None,
        names: Sequence[TargetName],
    ) -> RenderedImage:
        picture = canvas.picture if canvas else None
        drawing = partial(render, explanation, picture, names, plan.command.output)
        rendered = await self._threads.run(place, "draw", drawing)
        plan.stages.ended("render", rendered.seconds)
        return rendered

    def _keep_canvases(self, drawings: Sequence[_Drawing]) -> None:
        """Only those of answered pictures: one that is refused must not push others out."""
        for each in drawings:
            if each.key is not None and each.canvas is not None:
                size = each.canvas.picture.size
                self._pool.traces.put(CanvasKey(each.key.digest, size), each.canvas)

    @staticmethod
    async def _all(awaitables: Sequence[Awaitable[_Answer]]) -> list[_Answer]:
        """All answers; the first error, or the caller's leaving, cancels what is left."""
        tasks = [asyncio.ensure_future(each) for each in awaitables]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    def _observe(
        self, model: str, drawings: Sequence[_Drawing], rendered: Sequence[RenderedImage]
    ) -> None:
        metrics = self._metrics
        for each in drawings:
            if each.seconds is not None:
                metrics.compute.labels(model, "decode").observe(each.seconds)
        for image in rendered:
            metrics.compute.labels(model, "render").observe(image.seconds)
            for target in image.targets:
                metrics.similarity.labels(model).observe(target.similarity)
                metrics.heatmap_entropy.labels(model).observe(target.statistics.entropy)
                metrics.heatmap_border_mass.labels(model).observe(target.statistics.border_mass)


def _least_cost(plan: _Plan, picture: Picture) -> float:
    """What a picture costs at least, as far as that is known before it is decoded."""
    if picture.trace is None or picture.geometry is None:
        return 1.0
    rows = plan.command.question.rows
    return plan.served.cost(picture.geometry, plan.layers, rows, traced=True)


def _describe(
    explained: Explained, targets: list[TargetExplanation], batch_size: int
) -> ImageExplanation:
    geometry = explained.explanation.geometry
    rows, columns = geometry.grid
    return ImageExplanation(
        size=Size(width=geometry.image_size[0], height=geometry.image_size[1]),
        input_size=Size(width=geometry.input_size[0], height=geometry.input_size[1]),
        grid=Grid(rows=rows, columns=columns),
        batch_size=batch_size,
        cached=explained.cached,
        targets=targets,
    )


def _on_loop_clock(deadline: float) -> float:
    return asyncio.get_running_loop().time() + deadline - time.monotonic()
