"""`words` of text targets."""

from legrad_engine.measurements.words import Words, texts_with_words
from legrad_engine.targets.templates import resolve_templates
from service.explaining.command import ExplainInputs
from service.explaining.measurements.registry import Option, register


def _read(inputs: ExplainInputs) -> Words | None:
    texts = len(texts_with_words(inputs.question))
    return Words(texts * len(resolve_templates(inputs.templates))) if texts else None


register(
    Option(
        name=Words.name,
        field="targets",
        read=_read,
        cheaper="ask for the words of fewer texts, or use fewer templates",
    )
)
