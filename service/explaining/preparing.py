"""Preparation of a command: fetch, decode and queue its pictures for its model."""

import asyncio
import math
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from pickle import PickleBuffer  # nosec B403 # a view of bytes; nothing is unpickled here
from typing import Any, TypeVar

from legrad_engine.explainer import Explainer
from legrad_engine.images.geometry import drawing_size
from legrad_engine.images.inputs import PreparedImage
from legrad_engine.targets.image_regions import check_patches, embeds_regions
from legrad_engine.targets.questions import Question
from legrad_engine.targets.resolution import TextCount
from service.batching import QueueReservation, Submission
from service.explaining.admission import Admission, Reservation
from service.explaining.command import naming_fields
from service.explaining.fair_threads import FairThreads
from service.explaining.offloading import offload
from service.explaining.pictures import Pictures
from service.explaining.plan import Plan
from service.explaining.targets import (
    AskedTexts,
    EncodedTarget,
    encoded_images,
    with_prepared,
)
from service.explaining.url_images import UrlImages
from service.pictures.jobs import Decode
from service.pictures.workers import PictureWorkers
from service.pool.explain_items import Explained, ExplainItem
from service.pool.trace_cache import Canvas, TraceKey, digests_of
from service.pool.traced_picture import TracedPicture
from service.settings.values import PictureRules
from service.telemetry.metrics import Metrics

_Answer = TypeVar("_Answer")

# For several models and owners: the tokenizer of one model serves one thread at a time.
_TOKENIZING_THREADS = 4


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
    """A picture that is ready for the queue.

    Attributes:
        item: the picture with its question.
        cost: its cost without the embeddings of the targets.
        drawing: inputs for drawing its explanation.
    """

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
        self._tokenizing = FairThreads("tokenize", _TOKENIZING_THREADS, leave_room=True)

    def close(self) -> None:
        """Tokenize no further texts. The caller has awaited every command."""
        self._tokenizing.close()

    async def queue(self, plan: Plan, reservation: Reservation) -> Queued:
        """Queue all pictures of a command, or none.

        Work is reserved before any picture is fetched or decoded, so that a full queue refuses
        cheaply.

        Args:
            plan: the plan of the command.
            reservation: the request's slot; heatmaps and overlays are reserved with it.

        Raises:
            LegradError: the pictures or targets cannot be explained.
            ServiceError: a limit of the server is exceeded, or a picture could not be fetched.
            BatchingError: the queue is full, or the worker failed.
        """
        inputs, served, deadline = plan.inputs, plan.served, plan.command.deadline
        sent = iter(await self._find(plan, [i for i in inputs.images if isinstance(i, bytes)]))
        known = [next(sent) if isinstance(image, bytes) else None for image in inputs.images]
        texts = plan.count_texts(cache=inputs.options.cache)
        told = self._texts_told(plan, texts)
        estimate = plan.estimate(known, told)
        with self._admission.reserve_work(reservation, served, estimate, deadline) as work:
            await self._check_question(plan, texts, reservation)
            encoded, pictures = await self._fetch(plan, reservation, known)
            question = await self._prepare_targets(plan.explainer, inputs.question, reservation)
            prepared = await all_or_none(
                [
                    self._prepare(plan, question, field, picture, image, reservation)
                    for field, picture, image in zip(
                        inputs.image_fields, pictures, encoded, strict=True
                    )
                ]
            )
            drawn = inputs.drawing_rules.drawings_of_each_target * plan.drawn_maps
            pixels = drawn * sum(math.prod(each.drawing.size) for each in prepared)
            self._admission.reserve_drawings(reservation, pixels)
            actual = sum(each.cost for each in prepared)
            actual += served.target_cost(inputs.question, told)
            self._admission.reserve_actual_work(work, served, actual, deadline)
            # Never more than was reserved, so that the queue has nothing left to refuse.
            priced = min(texts, told, key=lambda each: each.strings)
            submissions = _submit_all(
                plan, prepared, served.target_cost(inputs.question, priced), work
            )
        self._remember_texts(plan)
        return Queued(submissions, [each.drawing for each in prepared], told.known)

    async def _find(self, plan: Plan, encoded: Sequence[bytes]) -> list[TracedPicture]:
        """Return the shared picture of each encoded one, with its cached trace if there is one."""
        options = plan.inputs.options
        if not options.cache:
            return [TracedPicture() for _ in encoded]
        size, key = plan.usual.input_size, plan.command.caller.key
        digests = await offload(sum(map(len, encoded)), digests_of, encoded)
        keys = (
            TraceKey(
                digest,
                plan.served.id,
                size,
                options.fit,
                plan.method.name,
                plan.layers,
                plan.score,
                key,
            )
            for digest in digests
        )
        return [self._pictures.find(plan.explainer, key) for key in keys]

    async def _fetch(
        self, plan: Plan, reservation: Reservation, known: Sequence[TracedPicture | None]
    ) -> tuple[list[bytes], list[TracedPicture]]:
        """Fetch the pictures with a URL; return all encoded pictures and all shared pictures."""
        inputs = plan.inputs
        if None not in known:
            return (
                [image for image in inputs.images if isinstance(image, bytes)],
                [picture for picture in known if picture is not None],
            )
        began = time.monotonic()
        encoded = await self._url_images.fetch(
            reservation.owner, inputs.images, inputs.image_fields
        )
        plan.command.stages.ended("fetch", time.monotonic() - began)
        missing = [image for image, picture in zip(encoded, known, strict=True) if picture is None]
        fetched = iter(await self._find(plan, missing))
        return encoded, [picture or next(fetched) for picture in known]

    def _texts_told(self, plan: Plan, texts: TextCount) -> TextCount:
        """Count the texts, as cached only those of which the caller may know.

        Refusals go by this count as answers do, because they show the cost of a command.
        """
        inputs, key = plan.inputs, plan.command.caller.key
        if key is None or not inputs.options.cache:
            return texts
        return self._asked_texts.count(key, plan.served.id, inputs.question, inputs.templates)

    def _remember_texts(self, plan: Plan) -> None:
        """Note the texts of a key, once they are sure to be embedded."""
        inputs, key = plan.inputs, plan.command.caller.key
        if key is not None and inputs.options.cache:
            self._asked_texts.remember(key, plan.served.id, inputs.question, inputs.templates)

    async def _check_question(self, plan: Plan, texts: TextCount, reservation: Reservation) -> None:
        """Refuse targets that the model does not support."""
        question, templates = plan.inputs.question, plan.inputs.templates
        resolver, cache = plan.explainer.resolver, plan.inputs.options.cache
        with naming_fields():
            if texts.missing:
                # Tokenization is slow, and may wait for other users of the tokenizer.
                check = partial(resolver.check, question, templates, cache=cache)
                await self._tokenizing.run(reservation.owner, check)
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
            [self._prepare_target(explainer, target, reservation) for target in images.values()]
        )
        by_digest = dict(zip(images, prepared, strict=True))
        return with_prepared(question, by_digest, whole=embeds_regions(explainer.tower))

    async def _prepare_target(
        self, explainer: Explainer, target: EncodedTarget, reservation: Reservation
    ) -> PreparedImage:
        whole = embeds_regions(explainer.tower)
        task = Decode(
            PickleBuffer(target.encoded),
            self._picture_rules,
            explainer.input_rules(),
            None,
            None,
            None if whole else target.box,
        )
        with naming_fields(image=f"{target.field}.image", box=f"{target.field}.box"):
            decoded = await self._workers.decode(reservation.owner, task, reservation)
            explainer.check_geometry(decoded.geometry)
            if whole and target.box is not None:
                check_patches(target.box, decoded.geometry)
        if decoded.prepared is None:
            raise RuntimeError("a picture of unknown geometry was not fitted")
        return decoded.prepared

    async def _prepare(
        self,
        plan: Plan,
        question: Question,
        field: str,
        picture: TracedPicture,
        encoded: bytes,
        reservation: Reservation,
    ) -> _Prepared:
        inputs, stages = plan.inputs, plan.command.stages
        drawn_side = inputs.output.max_side if inputs.output.overlay else None
        with naming_fields(image=field):
            decoded = await self._pictures.prepare(
                picture,
                plan.explainer,
                encoded,
                inputs.options,
                drawn_side,
                reservation.owner,
                reservation,
                with_pixels=any(each.needs_pixels for each in plan.measurements),
            )
        geometry, seconds = decoded.geometry, decoded.seconds
        if seconds is not None:
            stages.ended("decode", seconds)
        item = ExplainItem(
            picture,
            question,
            plan.method.name,
            inputs.options.heads,
            plan.layers,
            plan.score,
            inputs.templates,
            inputs.options.cache,
            stages.link(),
            plan.measurements,
        )
        size = drawing_size(geometry.image_size, inputs.output.max_side)
        with naming_fields(format="output.format", heatmap="output.heatmap"):
            inputs.drawing_rules.check(size)
        return _Prepared(
            item,
            plan.picture_cost(picture, geometry),
            Drawing(size, picture.key, decoded.canvas, decoded.source, seconds),
        )


async def all_or_none(steps: Sequence[Coroutine[Any, Any, _Answer]]) -> list[_Answer]:
    """Await all concurrently; the first error, or cancellation, cancels the rest.

    It is raised once the rest has ended: until then their work keeps the place of the request.
    """
    if len(steps) <= 1:
        # Most requests have one picture, and a task costs more than the steps that it would run.
        return [await each for each in steps]
    tasks = [asyncio.create_task(each) for each in steps]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            # A second cancellation would interrupt the end that the first one began.
            if not task.cancelling():
                task.cancel()
        await asyncio.wait(tasks)
        raise


def _submit_all(
    plan: Plan, prepared: Sequence[_Prepared], target_cost: float, reservation: QueueReservation
) -> list[Submission[Explained]]:
    """Submit all pictures of a command to the batcher, or none.

    Args:
        plan: the plan of the command.
        prepared: the pictures.
        target_cost: cost of embedding the targets, once for all pictures.
        reservation: covers the pictures.
    """
    submissions: list[Submission[Explained]] = []
    try:
        for each in prepared:
            submissions.append(
                plan.served.batcher.submit(
                    each.item,
                    bucket=each.item.bucket,
                    cost=each.cost + target_cost / len(prepared),
                    deadline=plan.command.deadline,
                    reservation=reservation,
                    owner=reservation.owner,
                )
            )
    except BaseException:
        for submission in submissions:
            submission.future.cancel()
        raise
    return submissions
