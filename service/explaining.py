"""The use case: pictures and prompts in, rendered explanations out. Knows nothing of HTTP."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from legrad_engine.errors import LegradError
from legrad_engine.explainer import Explainer
from legrad_engine.families import Score
from legrad_engine.images import PreparedImage, decode
from legrad_engine.targets import TextTarget
from legrad_engine.targets.questions import Question
from legrad_engine.targets.resolution import TextCount
from legrad_engine.targets.text import TemplateSet, resolve_templates
from service.batching import DeadlineExceededError, Submission
from service.metrics import Metrics
from service.model_pool import ModelPool
from service.off_loop import run_sized
from service.pictures import Picture, Pictures
from service.problems import LimitExceededError, TooManyRequestsError
from service.rendering import RenderedImage, render
from service.schemas import (
    ExplainOptions,
    Grid,
    ImageExplanation,
    OutputOptions,
    Size,
    TargetExplanation,
    Timings,
)
from service.served_model import Explained, ExplainItem, ServedModel
from service.settings import Settings
from service.targets import encoded_images, name_target, with_prepared
from service.trace_cache import Canvas, CanvasKey, TraceKey, digests_of
from service.url_images import UrlImages
from service.url_rules import ImageUrl

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class ExplainCommand:
    """What a caller wants explained.

    Attributes:
        images: encoded pictures, or their addresses.
        image_fields: what the caller calls each of them, for errors.
        question: what to look for in each; target pictures are still encoded.
        model: a model id, or None for the default.
        options: what is computed.
        output: what is sent back.
        received: when the command arrived, on the monotonic clock in seconds.
        deadline: when the answer is of no more use, on the same clock.
    """

    images: Sequence[bytes | ImageUrl]
    image_fields: Sequence[str]
    question: Question
    model: str | None
    options: ExplainOptions
    output: OutputOptions
    received: float
    deadline: float


@dataclass(frozen=True, slots=True)
class ExplainOutcome:
    """The explanations of a command's pictures, in order."""

    model: str
    layers: tuple[int, ...]
    score: Score
    cached_prompts: int
    images: list[ImageExplanation]
    timings: Timings


@dataclass(frozen=True, slots=True)
class _Drawing:
    """What is needed of a picture after its explanation; ``seconds`` is None if not decoded."""

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
        self._in_progress = 0
        self._threads = ThreadPoolExecutor(settings.picture_threads, thread_name_prefix="picture")
        self._pictures = Pictures(pool.traces, self._threads, settings.max_image_pixels)

    def close(self) -> None:
        """Ends the picture threads; the caller has awaited every command."""
        self._threads.shutdown(cancel_futures=True)

    @contextlib.contextmanager
    def permit(self) -> Iterator[None]:
        """Holds one of the places for requests in progress, from before the body is read.

        Raises:
            TooManyRequestsError: every place is taken.
        """
        if self._in_progress >= self._settings.max_requests_in_progress:
            raise TooManyRequestsError(
                f"{self._in_progress} requests are in progress; try again in a moment."
            )
        self._in_progress += 1
        self._metrics.requests_in_progress.set(self._in_progress)
        try:
            yield
        finally:
            self._in_progress -= 1
            self._metrics.requests_in_progress.set(self._in_progress)

    async def explain(self, command: ExplainCommand) -> ExplainOutcome:
        """Carries out a command.

        Raises:
            LegradError: the pictures, prompts or options cannot be explained.
            ServiceError: a limit is exceeded, the server or the model is not ready, or a picture
                could not be fetched.
            BatchingError: the queue is full, the deadline has passed, or the worker failed.
        """
        self._check_limits(command)
        # Held until the answer is drawn: the model is not unloaded under a request.
        async with self._pool.lease(command.model, command.deadline) as served:
            try:
                async with asyncio.timeout_at(_on_loop_clock(command.deadline)):
                    return await self._explain(command, served)
            except TimeoutError as error:
                raise DeadlineExceededError(time.monotonic() - command.received) from error

    async def _explain(self, command: ExplainCommand, served: ServedModel) -> ExplainOutcome:
        explainer = served.explainer
        with _naming_fields():
            layers = explainer.resolve_layers(command.options.layers)
            score = explainer.resolve_score(command.options.score)
        encoded = await self._fetch(served, command)
        pictures = await self._find_pictures(served, explainer, layers, score, command, encoded)
        # Refused before any picture is decoded: a full queue must stay cheap to say no.
        served.batcher.check_room(
            sum(self._least_cost(served, picture, layers, command) for picture in pictures)
        )
        strings = resolve_templates(_hashable(command.options.templates))
        texts = await run_sized(
            sum(map(len, command.question.texts)) * len(strings),
            self._check_question,
            explainer,
            command,
        )
        question = await self._prepare_targets(explainer, command.question)
        prepared = await self._prepare_all(
            served, explainer, layers, question, texts, command, pictures, encoded
        )
        submissions = self._submit_all(served, prepared, command.deadline)
        drawings = [each.drawing for each in prepared]
        # Answers wait to be drawn, perhaps for long: their traces must not live on with them.
        del pictures, prepared, encoded
        explained = await self._await_all(submissions)
        self._keep_canvases(drawings)
        names = [name_target(target, explainer.classifier) for target in question.targets]
        rendered = await self._all(
            [
                self._on_picture_thread(
                    render,
                    each.explanation,
                    drawing.canvas and drawing.canvas.picture,
                    names,
                    command.output,
                )
                for each, drawing in zip(explained, drawings, strict=True)
            ]
        )
        self._observe(served.id, drawings, rendered)
        return ExplainOutcome(
            model=served.id,
            layers=layers,
            score=score,
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

    def _check_limits(self, command: ExplainCommand) -> None:
        options, settings, question = command.options, self._settings, command.question
        longest_text = settings.max_prompt_characters
        with _naming_fields():
            templates = resolve_templates(_hashable(options.templates))
        texts = len(question.texts) * len(templates) + len(question.negative_texts)
        pictures = len(command.images) + len(encoded_images(question))
        negatives = 0 if question.negatives is None else len(question.negatives.targets)
        many_texts = "targets" if options.templates is None else "options.templates"
        for field_name, value, limit, unit in (
            ("images", len(command.images), settings.max_images, "images"),
            ("targets", pictures, settings.max_images, "images and target images"),
            (_last_field(question), len(question.targets), settings.max_prompts, "targets"),
            ("options.negatives", negatives, settings.max_prompts, "negatives"),
            *(
                (_as_option(field), len(text), longest_text, "characters in a text")
                for part, field in question.parts
                if isinstance(part, TextTarget)
                for text in part.texts
            ),
            ("options.size", options.size or 0, settings.max_input_size, "pixels"),
            (many_texts, texts, settings.max_texts, "texts, prompts times templates"),
            (
                "options.templates",
                max(map(len, templates)),
                longest_text,
                "characters in a template",
            ),
            ("output.max_side", command.output.max_side, settings.max_output_side, "pixels"),
        ):
            if value > limit:
                raise LimitExceededError(
                    f"{field_name}: {value} {unit}, but this server allows {limit}.",
                    field=field_name,
                )

    def _check_question(self, explainer: Explainer, command: ExplainCommand) -> TextCount:
        """What the texts cost; refuses targets that the model cannot be asked about."""
        templates = _hashable(command.options.templates)
        with _naming_fields():
            explainer.resolver.check(command.question, templates)
            texts = explainer.resolver.count_texts(command.question, templates)
        self._metrics.cache_hits.labels("prompts").inc(texts.known)
        self._metrics.cache_misses.labels("prompts").inc(texts.missing)
        return texts

    async def _prepare_targets(self, explainer: Explainer, question: Question) -> Question:
        images = encoded_images(question)
        prepared = await self._all(
            [
                self._on_picture_thread(self._prepare_target, explainer, encoded, field)
                for encoded, field in images.values()
            ]
        )
        return with_prepared(question, dict(zip(images, prepared, strict=True)))

    def _prepare_target(self, explainer: Explainer, encoded: bytes, field: str) -> PreparedImage:
        with _naming_fields(image=field):
            picture = decode(encoded, max_pixels=self._settings.max_image_pixels)
            return explainer.prepare_decoded(picture)

    async def _fetch(self, served: ServedModel, command: ExplainCommand) -> list[bytes]:
        missing = sum(isinstance(image, ImageUrl) for image in command.images)
        if missing:
            # A full queue must stay cheap to say no, and set no other server to work.
            served.batcher.check_room(missing)
        return await self._url_images.fetch(command.images, command.image_fields)

    async def _find_pictures(
        self,
        served: ServedModel,
        explainer: Explainer,
        layers: tuple[int, ...],
        score: Score,
        command: ExplainCommand,
        encoded: Sequence[bytes],
    ) -> list[Picture]:
        options = command.options
        if not options.cache:
            return [Picture() for _ in encoded]
        size = options.size or explainer.default_size
        digests = await run_sized(sum(map(len, encoded)), digests_of, encoded)
        return [
            self._pictures.find(
                explainer, TraceKey(digest, served.id, size, options.fit, layers, score)
            )
            for digest in digests
        ]

    @staticmethod
    def _least_cost(
        served: ServedModel, picture: Picture, layers: tuple[int, ...], command: ExplainCommand
    ) -> float:
        """What a picture costs at least, as far as that is known before it is decoded."""
        if picture.trace is None or picture.geometry is None:
            return 1.0
        return served.cost(picture.geometry, layers, command.question.rows, traced=True)

    async def _prepare_all(
        self,
        served: ServedModel,
        explainer: Explainer,
        layers: tuple[int, ...],
        question: Question,
        texts: TextCount,
        command: ExplainCommand,
        pictures: Sequence[Picture],
        encoded: Sequence[bytes],
    ) -> list[_Prepared]:
        return await self._all(
            [
                self._prepare(
                    served, explainer, layers, question, texts, command, field, picture, image
                )
                for field, picture, image in zip(
                    command.image_fields, pictures, encoded, strict=True
                )
            ]
        )

    async def _prepare(
        self,
        served: ServedModel,
        explainer: Explainer,
        layers: tuple[int, ...],
        question: Question,
        texts: TextCount,
        command: ExplainCommand,
        field: str,
        picture: Picture,
        encoded: bytes,
    ) -> _Prepared:
        options, output = command.options, command.output
        with _naming_fields(image=field):
            geometry, canvas, seconds = await self._pictures.prepare(
                picture,
                explainer,
                encoded,
                options,
                output.max_side if output.overlay else None,
            )
        item = ExplainItem(
            picture,
            question,
            layers,
            explainer.resolve_score(options.score),
            _hashable(options.templates),
        )
        # One whose trace another request is about to make still counts in full: it may be left to
        # make it after all.
        traced = picture.trace is not None
        cost = served.cost(geometry, layers, question.rows, traced=traced)
        # What is embedded is embedded once for all pictures of the command.
        cost += served.target_cost(question, texts) / len(command.images)
        return _Prepared(item, cost, _Drawing(picture.key, canvas, seconds))

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

    async def _await_all(self, submissions: Sequence[Submission[Explained]]) -> list[Explained]:
        return await self._all([asyncio.wrap_future(each.future) for each in submissions])

    def _keep_canvases(self, drawings: Sequence[_Drawing]) -> None:
        """Only those of answered pictures: one that is refused must not push others out."""
        for each in drawings:
            if each.key is not None and each.canvas is not None:
                size = each.canvas.picture.size
                self._pool.traces.put(CanvasKey(each.key.digest, size), each.canvas)

    async def _on_picture_thread(
        self, function: Callable[..., _Answer], *arguments: object
    ) -> _Answer:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, function, *arguments)

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


@contextlib.contextmanager
def _naming_fields(**names: str) -> Iterator[None]:
    """Errors from inside blame a field by the caller's name for it, not the engine's."""
    try:
        yield
    except LegradError as error:
        if error.field in ExplainOptions.model_fields:
            error.field = _as_option(error.field)
        elif error.field in names:
            error.field = names[error.field]
        raise


def _as_option(field: str) -> str:
    return f"options.{field}" if field in ExplainOptions.model_fields else field


def _last_field(question: Question) -> str:
    """What the caller calls the list that its last target is in."""
    _, field = list(question.named_targets)[-1]
    return field.partition(".")[0]


def _hashable(templates: TemplateSet | list[str] | None) -> TemplateSet | tuple[str, ...] | None:
    return tuple(templates) if isinstance(templates, list) else templates


def _on_loop_clock(deadline: float) -> float:
    return asyncio.get_running_loop().time() + deadline - time.monotonic()
