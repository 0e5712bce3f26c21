"""Prompt templates. Importing this module loads no torch."""

from collections.abc import Sequence
from functools import cache
from typing import Literal, get_args

from legrad_engine.errors import InvalidOptionError

TemplateSet = Literal["simple", "openai"]
Templates = TemplateSet | Sequence[str] | None
TEMPLATE_SETS: tuple[TemplateSet, ...] = get_args(TemplateSet)

PLACEHOLDER = "{}"


def resolve_templates(templates: Templates) -> tuple[str, ...]:
    """Return the template strings, each with one ``{}`` for the prompt.

    Args:
        templates: None for the prompt as written, ``"simple"`` (open_clip's 7) or ``"openai"`` (its
            80), or template strings.

    Raises:
        InvalidOptionError: unknown set, empty list, or a string without exactly one ``{}``.
    """
    if templates is None:
        return (PLACEHOLDER,)
    if isinstance(templates, str):
        if templates not in TEMPLATE_SETS:
            raise InvalidOptionError(
                f"templates={templates!r} is unknown: use one of {', '.join(TEMPLATE_SETS)}, or a "
                "list of strings such as 'a photo of a {}'.",
                field="templates",
            )
        return _template_sets()[templates]
    if not templates or any(template.count(PLACEHOLDER) != 1 for template in templates):
        raise InvalidOptionError(
            "templates must hold at least one string, each with exactly one '{}'.",
            field="templates",
        )
    return tuple(templates)


@cache
def _template_sets() -> dict[TemplateSet, tuple[str, ...]]:
    # Imported on first use, because open_clip imports torch.
    from open_clip import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES

    return {
        "simple": tuple(template(PLACEHOLDER) for template in SIMPLE_IMAGENET_TEMPLATES),
        "openai": tuple(template(PLACEHOLDER) for template in OPENAI_IMAGENET_TEMPLATES),
    }
