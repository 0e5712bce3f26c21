"""The use case, without HTTP: explain pictures for targets."""

import asyncio
import functools
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from legrad_engine import Explanation
from legrad_engine.presence import PresenceCalibration
from service.batching import DeadlineExceededError, Submission
from service.errors import NotFiniteError
from service.explaining.admission import Admission, Reservation
from service.explaining.command import ExplainCommand, check_limits
from service.explaining.outcome import (
    ExplainedImage,
    ExplainedTarget,
    ExplainOutcome,
    MethodUse,
    StageSeconds,
)
from service.explaining.pictures import Pictures
from service.explaining.plan import Plan, naming_costly_measurements, naming_measurements
from service.explaining.preparing import Drawing, Preparation, all_or_none
from service.explaining.progress import ProgressBoard
from service.explaining.targets import TargetName, encoded_images, name_target
from service.explaining.url_images import UrlImages
from service.pictures.drawing import DrawnImage
from service.pictures.workers import PictureWorkers
from service.pool.explain_items import Explained
from service.pool.model_pool import ModelPool
from service.pool.trace_cache import CanvasKey
from service.settings.values import PictureRules, RequestLimits
from service.telemetry.metrics import Metrics, PictureMetrics

_Value = TypeVar("_Value")


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

    def close(self) -> None:
        """End the threads of the preparation. The caller has awaited every command."""
        self._preparation.close()

    async def explain_all(
        self, commands: Sequence[ExplainCommand], reservation: Reservation
    ) -> list[ExplainOutcome]:
        """Carry out the commands of one request concurrently; the first error cancels the rest.

        Args:
            commands: the commands, at least one, all for the same model.
            reservation: the request's slot.

        Raises:
            LegradError: the pictures, prompts or options cannot be explained.
            ServiceError: a limit of the server or of the key's work is exceeded, the server or the
                model is not ready, or a picture could not be fetched.
            BatchingError: the queue is full, the deadline has passed, or the worker failed.
        """
        for command in commands:
            check_limits(command.inputs, self._limits)
        first = commands[0]
        pictures = sum(len(command.inputs.images) for command in commands)
        targets = sum(len(encoded_images(command.inputs.question)) for command in commands)
        first.progress.enter("loading")
        # Held until everything is drawn, so that the model is not unloaded meanwhile.
        async with self._pool.use(first.inputs.model, first.deadline) as served:
            try:
                async with asyncio.timeout_at(_on_loop_clock(first.deadline)):
                    with self.admission.reserve_pictures(
                        reservation, first.deadline, pictures, targets
                    ):
                        first.progress.enter("preparing")
                        plans = [Plan.of(command, served) for command in commands]
                        await self._charge_cost(plans)
                        return await all_or_none(
                            [self._explain(plan, reservation) for plan in plans]
                        )
            except TimeoutError as error:
                raise DeadlineExceededError(time.monotonic() - first.received) from error

    async def _charge_cost(self, plans: Sequence[Plan]) -> None:
        """Charge the work of a request to its key, as a whole; refuse it if it is too much."""
        costs = [plan.uncached_cost() for plan in plans]
        for plan, cost in zip(plans, costs, strict=True):
            with naming_costly_measurements(plan):
                self.admission.check_work(plan.served, cost)
        charge = plans[0].command.caller.charge
        if charge is not None:
            await charge(sum(costs))

    async def _explain(self, plan: Plan, reservation: Reservation) -> ExplainOutcome:
        command, served, progress = plan.command, plan.served, plan.command.progress
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
        if command.inputs.options.heads == "each":
            names = [replace(names[0], head=head) for head in range(plan.drawn_maps)]
        method = plan.method
        calibration = self._pool.get(served.id).presence
        # Similarities of another input are not those that a calibration was fitted on.
        rules = plan.explainer.input_rules()
        usual = [rules.match(each.explanation.geometry) for each in explained]
        use = MethodUse(method.name, method.targeted, method.note(plan.explainer.tower))
        return ExplainOutcome(
            model=served.id,
            layers=plan.layers,
            score=plan.score,
            cached_prompts=queued.cached_prompts,
            images=[
                _describe(
                    each,
                    result,
                    submission.batch_size or 1,
                    use,
                    names,
                    calibration if is_usual else None,
                )
                for each, result, submission, is_usual in zip(
                    explained, drawn, submissions, usual, strict=True
                )
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
            with naming_measurements():
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
        if not explanation.is_finite:
            raise NotFiniteError(
                "The model's numbers overflow for this picture or target: ask its operator to "
                "serve it in float32, or bfloat16 in place of float16 (LEGRAD_DTYPE)."
            )
        drawn = await self.workers.draw(
            reservation.owner,
            # Maps of a method that is not targeted are equal: one drawing serves all targets.
            explanation.maps[: plan.drawn_maps],
            explanation.geometry,
            plan.inputs.drawing_rules,
            None if drawing.canvas is None else drawing.canvas.number,
            drawing.source,
            reservation,
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
    explained: Explained,
    drawn: DrawnImage,
    batch_size: int,
    method: MethodUse,
    names: Sequence[TargetName],
    calibration: PresenceCalibration | None,
) -> ExplainedImage:
    """Describe a picture: each name gets its own number and drawing, or the only one for all."""
    explanation = explained.explanation

    def for_each_name(values: Sequence[_Value]) -> list[_Value]:
        return list(values) if len(values) == len(names) else [values[0]] * len(names)

    return ExplainedImage(
        geometry=explanation.geometry,
        batch_size=batch_size,
        cached=explained.cached,
        method=method,
        targets=[
            ExplainedTarget(
                name,
                similarity,
                None if math.isnan(probability) else probability,
                None
                if calibration is None or name.prompt is None
                else calibration.probability(similarity),
                target,
                {
                    measurement: each.targets[place]
                    for measurement, each in explained.measured.items()
                    if each.targets is not None
                },
            )
            for place, (name, similarity, probability, target) in enumerate(
                zip(
                    names,
                    for_each_name(explanation.similarities.tolist()),
                    for_each_name(explanation.probabilities.tolist()),
                    for_each_name(drawn.targets),
                    strict=True,
                )
            )
        ],
        measured={
            name: each.image for name, each in explained.measured.items() if each.image is not None
        },
    )


def _on_loop_clock(deadline: float) -> float:
    return asyncio.get_running_loop().time() + deadline - time.monotonic()
