"""The use case, without HTTP: explain pictures for targets."""

import asyncio
import functools
import math
import time
from collections.abc import Sequence

import numpy as np

from legrad_engine import Explanation
from service.batching import DeadlineExceededError, Submission
from service.errors import NotFiniteError
from service.explaining.admission import Admission, Reservation
from service.explaining.command import ExplainCommand, check_limits
from service.explaining.outcome import (
    ExplainedImage,
    ExplainedTarget,
    ExplainOutcome,
    StageSeconds,
)
from service.explaining.pictures import Pictures
from service.explaining.preparing import Drawing, Plan, Preparation, all_or_none
from service.explaining.progress import ProgressBoard
from service.explaining.targets import TargetName, name_target
from service.explaining.url_images import UrlImages
from service.pictures.drawing import DrawnImage
from service.pictures.workers import PictureWorkers
from service.pool.model_pool import ModelPool
from service.pool.served_model import Explained, ServedModel
from service.pool.trace_cache import CanvasKey
from service.settings.values import PictureRules, RequestLimits
from service.telemetry.metrics import Metrics, PictureMetrics


class ExplainingService:
    """Carries out the commands of one application.

    Attributes:
        admission: grants reservations to requests.
        progress: the progress of accepted requests, by request id.
        workers: decode and draw the pictures.
    """

    def __init__(
        self,
        limits: RequestLimits,
        picture_rules: PictureRules,
        admission: Admission,
        pool: ModelPool,
        workers: PictureWorkers,
        url_images: UrlImages,
        metrics: Metrics,
    ) -> None:
        self.admission = admission
        self.progress = ProgressBoard()
        self._limits = limits
        self._pool = pool
        self.workers = workers
        self._metrics_of = functools.cache(functools.partial(PictureMetrics, metrics))
        pictures = Pictures(pool.traces, workers, picture_rules)
        self._preparation = Preparation(
            admission, url_images, pictures, workers, picture_rules, metrics
        )

    async def explain(self, command: ExplainCommand, reservation: Reservation) -> ExplainOutcome:
        """Carry out a command.

        Args:
            command: the command.
            reservation: the request's slot.

        Raises:
            LegradError: the pictures, prompts or options cannot be explained.
            ServiceError: a limit is exceeded, the server or the model is not ready, or a picture
                could not be fetched.
            BatchingError: the queue is full, the deadline has passed, or the worker failed.
        """
        inputs, deadline = command.inputs, command.deadline
        check_limits(inputs, self._limits)
        command.progress.enter("loading")
        # Held until everything is drawn, so that the model is not unloaded meanwhile.
        async with self._pool.use(inputs.model, deadline) as served:
            try:
                async with asyncio.timeout_at(_on_loop_clock(deadline)):
                    with self.admission.reserve_pictures(deadline, len(inputs.images)):
                        return await self._explain(command, served, reservation)
            except TimeoutError as error:
                raise DeadlineExceededError(time.monotonic() - command.received) from error

    async def explain_all(
        self, commands: Sequence[ExplainCommand], reservation: Reservation
    ) -> list[ExplainOutcome]:
        """Carry out the commands of one request concurrently; the first error cancels the rest.

        Raises:
            Exception: see :meth:`explain`.
        """
        return await all_or_none([self.explain(command, reservation) for command in commands])

    async def _explain(
        self, command: ExplainCommand, served: ServedModel, reservation: Reservation
    ) -> ExplainOutcome:
        progress = command.progress
        progress.enter("preparing")
        plan = Plan.of(command, served)
        queued = await self._preparation.queue(plan, reservation)
        submissions, drawings = queued.submissions, queued.drawings
        progress.enter_queue(
            served.batcher.standing, [submission.ticket for submission in submissions]
        )
        explained = await all_or_none([self._await(plan, each) for each in submissions])
        progress.enter("drawing")
        self._keep_canvases(drawings)
        drawn = await all_or_none(
            [
                self._draw(plan, reservation, each.explanation, drawing)
                for each, drawing in zip(explained, drawings, strict=True)
            ]
        )
        self._observe(served.id, explained, drawings, drawn)
        classifier = plan.explainer.classifier
        names = [name_target(target, classifier) for target in command.inputs.question.targets]
        return ExplainOutcome(
            model=served.id,
            layers=plan.layers,
            score=plan.score,
            cached_prompts=queued.cached_prompts,
            images=[
                _describe(each, result, submission.batch_size or 1, names)
                for each, result, submission in zip(explained, drawn, submissions, strict=True)
            ],
            seconds=StageSeconds(
                decode=max(each.seconds or 0.0 for each in drawings),
                queue=max(each.queue_seconds or 0.0 for each in submissions),
                compute=max(each.compute_seconds or 0.0 for each in submissions),
                render=max(each.seconds for each in drawn),
                total=time.monotonic() - command.received,
            ),
        )

    @staticmethod
    async def _await(plan: Plan, submission: Submission[Explained]) -> Explained:
        stages = plan.command.stages
        began = time.monotonic()
        try:
            return await asyncio.wrap_future(submission.future)
        finally:
            waited = time.monotonic() - began
            # A cancelled submission may still be queued, and has no queue time then.
            queue = submission.queue_seconds or waited
            stages.ended("queue", queue, ago=max(0.0, waited - queue))
            if submission.batch_size:
                stages.ended("compute", submission.compute_seconds)

    async def _draw(
        self, plan: Plan, reservation: Reservation, explanation: Explanation, drawing: Drawing
    ) -> DrawnImage:
        maps = explanation.maps
        if not (np.isfinite(maps).all() and np.isfinite(explanation.similarities).all()):
            raise NotFiniteError(
                "The model's numbers overflow for this picture or target: ask its operator to "
                "serve it in float32, or bfloat16 in place of float16 (LEGRAD_DTYPE)."
            )
        drawn = await self.workers.draw(
            reservation,
            maps,
            explanation.geometry,
            plan.inputs.drawing_rules,
            None if drawing.canvas is None else drawing.canvas.number,
            drawing.source,
        )
        plan.command.stages.ended("render", drawn.seconds)
        return drawn

    def _keep_canvases(self, drawings: Sequence[Drawing]) -> None:
        """Put the canvases of computed pictures into the cache.

        Only now: a picture that is refused before must not evict others.
        """
        for each in drawings:
            if each.key is not None and each.canvas is not None:
                key = CanvasKey(each.key.digest, each.canvas.size, each.key.caller)
                self._pool.traces.put(key, each.canvas)

    def _observe(
        self,
        model: str,
        explained: Sequence[Explained],
        drawings: Sequence[Drawing],
        drawn: Sequence[DrawnImage],
    ) -> None:
        metrics = self._metrics_of(model)
        for drawing in drawings:
            if drawing.seconds is not None:
                metrics.decode.observe(drawing.seconds)
        for each, image in zip(explained, drawn, strict=True):
            metrics.render.observe(image.seconds)
            for similarity in each.explanation.similarities:
                metrics.similarity.observe(float(similarity))
            for target in image.targets:
                metrics.entropy.observe(target.statistics.entropy)
                metrics.border_mass.observe(target.statistics.border_mass)


def _describe(
    explained: Explained, drawn: DrawnImage, batch_size: int, names: Sequence[TargetName]
) -> ExplainedImage:
    explanation = explained.explanation
    return ExplainedImage(
        geometry=explanation.geometry,
        batch_size=batch_size,
        cached=explained.cached,
        targets=[
            ExplainedTarget(
                name,
                float(similarity),
                None if math.isnan(probability) else float(probability),
                target,
            )
            for name, similarity, probability, target in zip(
                names,
                explanation.similarities,
                explanation.probabilities,
                drawn.targets,
                strict=True,
            )
        ],
    )


def _on_loop_clock(deadline: float) -> float:
    return asyncio.get_running_loop().time() + deadline - time.monotonic()
