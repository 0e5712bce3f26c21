"""What a caller may ask for, what is answered, and how much of it is allowed."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from legrad_engine.errors import LegradError
from legrad_engine.families import Score
from legrad_engine.targets import TextTarget
from legrad_engine.targets.questions import Question
from legrad_engine.targets.text import Templates, resolve_templates
from service.errors import LimitExceededError, ServiceError
from service.explaining.progress import Progress
from service.explaining.targets import encoded_images
from service.schemas.answers import ImageExplanation, Timings
from service.schemas.requests import ExplainOptions, OutputOptions
from service.settings import Settings
from service.settings.url_policy import ImageUrl


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
        progress: where it is told how far the command is.
    """

    images: Sequence[bytes | ImageUrl]
    image_fields: Sequence[str]
    question: Question
    model: str | None
    options: ExplainOptions
    output: OutputOptions
    received: float
    deadline: float
    progress: Progress = dataclasses.field(default_factory=Progress)

    @property
    def templates(self) -> Templates:
        """The prompt templates, hashable."""
        templates = self.options.templates
        return tuple(templates) if isinstance(templates, list) else templates


@dataclass(frozen=True, slots=True)
class ExplainOutcome:
    """The explanations of a command's pictures, in order."""

    model: str
    layers: tuple[int, ...]
    score: Score
    cached_prompts: int
    images: list[ImageExplanation]
    timings: Timings

    @property
    def pictured_bytes(self) -> int:
        """Bytes of all heatmaps and overlays as they are sent: what an answer is large by."""
        return sum(
            len(target.heatmap or "") + len(target.overlay or "")
            for image in self.images
            for target in image.targets
        )


def check_limits(command: ExplainCommand, settings: Settings) -> None:
    """Refuses a command that asks for more than the settings allow.

    Raises:
        LimitExceededError: naming the field, what it has and what is allowed.
        InvalidOptionError: the templates are not usable.
    """
    options, question = command.options, command.question
    longest_text = settings.max_prompt_characters
    with naming_fields():
        templates = resolve_templates(command.templates)
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
            (as_option(field), len(text), longest_text, "characters in a text")
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


@contextlib.contextmanager
def naming_fields(**names: str) -> Iterator[None]:
    """Errors from inside blame a field by the caller's name for it, not the engine's."""
    try:
        yield
    except (LegradError, ServiceError) as error:
        if error.field in ExplainOptions.model_fields:
            error.field = as_option(error.field)
        elif error.field in names:
            error.field = names[error.field]
        raise


def as_option(field: str) -> str:
    """The caller's name for a field that is an option's."""
    return f"options.{field}" if field in ExplainOptions.model_fields else field


def _last_field(question: Question) -> str:
    """What the caller calls the list that its last target is in."""
    _, field = list(question.named_targets)[-1]
    return field.partition(".")[0]
