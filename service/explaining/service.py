"""The use case: pictures and prompts in, rendered explanations out. Knows nothing of HTTP."""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from functools import partial

from legrad_engine import Explanation
from service.batching import DeadlineExceededError, Submission
from service.explaining.admission import Place, Places
from service.explaining.command import ExplainCommand, ExplainOutcome, check_limits
from service.explaining.drawing import RenderedImage, render
from service.explaining.preparing import Drawing, Plan, Preparation, all_or_none
from service.explaining.progress import ProgressBoard
from service.explaining.targets import TargetName, name_target
from service.explaining.url_images import UrlImages
from service.pictures.workers import PictureThreads
from service.pool.model_pool import ModelPool
from service.pool.served_model import Explained, ServedModel
from service.pool.trace_cache import Canvas, CanvasKey
from service.schemas.answers import Grid, ImageExplanation, Size, TargetExplanation, Timings
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.telemetry.stages import Stages


class ExplainingService:
    """Decodes, queues, awaits and renders. One for each application."""

    def __init__(
        self,
        pool: ModelPool,
        threads: PictureThreads,
        url_images: UrlImages,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self._pool = pool
        self._settings = settings
        self._metrics = metrics
        self._places = Places(settings, metrics)
        self.progress = ProgressBoard()
        self._threads = threads
        self._preparation = Preparation(url_images, pool.traces, self._threads, settings, metrics)

    def check_room(self, deadline: float) -> None:
        """Refuses a request of which nothing but its deadline is known. Promises nothing.

        Args:
            deadline: of the request, on the monotonic clock in seconds.

        Raises:
            TooManyRequestsError: every place is taken, or what is in progress takes until then.
            QueueFullError: no loaded model has room and time for anything more.
        """
        self._places.check()
        self._threads.check_time(deadline)
        self._pool.check_room(self._preparation.computed_by(deadline))

    def permit(self) -> contextlib.AbstractContextManager[Place]:
        """Holds one of the places for requests in progress, from before the body is read.

        Raises:
            TooManyRequestsError: every place is taken.
        """
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
        return await all_or_none([self.explain(command, place, stages) for command in commands])

    async def _explain(
        self, command: ExplainCommand, served: ServedModel, place: Place, stages: Stages
    ) -> ExplainOutcome:
        command.progress.enter("preparing")
        plan = Plan.of(command, served, stages)
        queued = await self._preparation.queue(plan, place)
        submissions, drawings = queued.submissions, queued.drawings
        command.progress.enter_queue(
            served.batcher.standing, [submission.ticket for submission in submissions]
        )
        explained = await all_or_none([self._await(plan, each) for each in submissions])
        command.progress.enter("drawing")
        self._keep_canvases(drawings)
        classifier = plan.explainer.classifier
        names = [name_target(target, classifier) for target in command.question.targets]
        rendered = await all_or_none(
            [
                self._render(plan, place, each.explanation, drawing.canvas, names)
                for each, drawing in zip(explained, drawings, strict=True)
            ]
        )
        self._observe(served.id, drawings, rendered)
        return ExplainOutcome(
            model=served.id,
            layers=plan.layers,
            score=plan.score,
            cached_prompts=queued.texts.known,
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

    @staticmethod
    async def _await(plan: Plan, submission: Submission[Explained]) -> Explained:
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
        plan: Plan,
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

    def _keep_canvases(self, drawings: Sequence[Drawing]) -> None:
        """Only those of answered pictures: one that is refused must not push others out."""
        for each in drawings:
            if each.key is not None and each.canvas is not None:
                size = each.canvas.picture.size
                self._pool.traces.put(CanvasKey(each.key.digest, size), each.canvas)

    def _observe(
        self, model: str, drawings: Sequence[Drawing], rendered: Sequence[RenderedImage]
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


def _on_loop_clock(deadline: float) -> float:
    return asyncio.get_running_loop().time() + deadline - time.monotonic()
