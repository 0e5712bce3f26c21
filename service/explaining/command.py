"""The command of the use case: pictures, targets, options, and the limits on them."""

import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from legrad_engine.errors import LegradError
from legrad_engine.targets import TextTarget
from legrad_engine.targets.questions import Question
from legrad_engine.targets.templates import Templates, resolve_templates
from service.errors import LimitExceededError, ServiceError
from service.explaining.progress import Progress
from service.explaining.targets import encoded_images
from service.pictures.drawing import DrawingRules
from service.schemas.requests import ExplainOptions, OutputOptions
from service.settings.url_policy import ImageUrl
from service.settings.values import RequestLimits
from service.telemetry.stages import Stages


@dataclass(frozen=True)
class ExplainInputs:
    """The content of a request, independent of its protocol.

    Attributes:
        images: encoded pictures, or URLs to fetch pictures from.
        image_fields: name of each picture's field in the request, for errors.
        question: the targets; their pictures are still encoded.
        model: a model id, or None for the default.
        options: choices for the computation.
        output: choices for the answer.
    """

    images: Sequence[bytes | ImageUrl]
    image_fields: Sequence[str]
    question: Question
    model: str | None
    options: ExplainOptions
    output: OutputOptions

    @property
    def templates(self) -> Templates:
        """The prompt templates, hashable."""
        templates = self.options.templates
        return tuple(templates) if isinstance(templates, list) else templates

    @cached_property
    def drawing_rules(self) -> DrawingRules:
        """The wanted pictures and numbers of the answer."""
        return DrawingRules.of(vars(self.output))


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request.

    Attributes:
        key: name of its API key, or None on a server without keys. Callers share nothing with
            other keys, neither cached pictures nor what answers tell of cached texts.
        charge: charges the cost of a command to the key, or refuses it; None without a limit.
    """

    key: str | None
    charge: Callable[[float], Awaitable[None]] | None = None


@dataclass(frozen=True, slots=True)
class ExplainCommand:
    """Inputs with the times, progress and stages of their request.

    Attributes:
        inputs: the content of the request.
        received: time of arrival, on the monotonic clock in seconds.
        deadline: time after which the answer is useless, on the same clock.
        progress: updated when a stage begins.
        stages: records the seconds of each stage when it ends.
        caller: the sender of the request.
    """

    inputs: ExplainInputs
    received: float
    deadline: float
    progress: Progress
    stages: Stages
    caller: Caller


def check_limits(inputs: ExplainInputs, limits: RequestLimits) -> None:
    """Refuse inputs that exceed a limit.

    Raises:
        LimitExceededError: names the field, its size and the limit.
        InvalidOptionError: the templates are not usable.
    """
    options, question = inputs.options, inputs.question
    longest_text = limits.max_text_characters
    with naming_fields():
        templates = resolve_templates(inputs.templates)
    texts = len(question.texts) * len(templates) + len(question.negative_texts)
    pictures = len(inputs.images) + len(encoded_images(question))
    negatives = 0 if question.negatives is None else len(question.negatives.targets)
    many_texts = "targets" if options.templates is None else "options.templates"
    for field_name, value, limit, unit in (
        ("images", len(inputs.images), limits.max_images, "images"),
        ("targets", pictures, limits.max_images, "images and target images"),
        (_last_field(question), len(question.targets), limits.max_prompts, "targets"),
        ("options.negatives", negatives, limits.max_prompts, "negatives"),
        *(
            (as_option(field), len(text), longest_text, "characters in a text")
            for part, field in question.parts
            if isinstance(part, TextTarget)
            for text in part.texts
        ),
        ("options.size", options.size or 0, limits.max_input_size, "pixels"),
        (many_texts, texts, limits.max_texts, "texts, prompts times templates"),
        (
            "options.templates",
            max(map(len, templates)),
            longest_text,
            "characters in a template",
        ),
        ("output.max_side", inputs.output.max_side, limits.max_output_side, "pixels"),
    ):
        if value > limit:
            raise LimitExceededError(
                f"{field_name}: {value} {unit}, but this server allows {limit}.",
                field=field_name,
            )


@contextlib.contextmanager
def naming_fields(**names: str) -> Iterator[None]:
    """Replace the engine's name of a field by the request's, in errors raised inside.

    Args:
        names: the request's names of fields that are not options, by the engine's names.
    """
    try:
        yield
    except (LegradError, ServiceError) as error:
        if error.field in ExplainOptions.model_fields:
            error.field = as_option(error.field)
        elif error.field in names:
            error.field = names[error.field]
        raise


def as_option(field: str) -> str:
    """Return a field's name in the request, with a prefix if it is an option."""
    return f"options.{field}" if field in ExplainOptions.model_fields else field


def _last_field(question: Question) -> str:
    """Return the name of the request's list that holds the last target."""
    _, field = list(question.named_targets)[-1]
    return field.partition(".")[0]
