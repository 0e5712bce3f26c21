"""Question about one picture: its targets and negatives, with their names in the request."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from legrad_engine.errors import InvalidTargetError
from legrad_engine.targets import (
    ClassTarget,
    ContrastTarget,
    EmbeddingTarget,
    ImageTarget,
    ResidualTarget,
    SimpleTarget,
    Target,
    TargetKind,
    TextTarget,
)
from legrad_engine.targets.negatives import Negatives

KINDS: dict[type, TargetKind] = {
    TextTarget: "text",
    EmbeddingTarget: "embedding",
    ImageTarget: "image",
    ClassTarget: "class",
    ContrastTarget: "contrast",
    ResidualTarget: "residual",
}


@dataclass(frozen=True)
class Question:
    """Targets and negatives of one picture. Its parts are found once, because many steps read them.

    Attributes:
        targets: the targets.
        negatives: targets that the maps must not show; None for no correction.
        fields: name of each target in the caller's request, for errors; None for the default names.
    """

    targets: tuple[Target, ...]
    negatives: Negatives | None = None
    fields: tuple[str, ...] | None = None

    @classmethod
    def of(cls, targets: Sequence[Target | str], negatives: Negatives | None = None) -> "Question":
        """Make a question from targets and plain strings, which are texts.

        Raises:
            InvalidTargetError: an entry is not a target, or the targets are not a list.
        """
        if isinstance(targets, str):
            raise InvalidTargetError(
                "prompts must be a list, even for one prompt.", field="prompts"
            )
        fields = tuple(
            "prompts" if isinstance(target, str) else f"targets.{position}"
            for position, target in enumerate(targets)
        )
        return cls(tuple(map(_as_target, targets)), negatives, fields)

    @property
    def named_targets(self) -> Iterator[tuple[Target, str]]:
        """Every target with its field name."""
        fields = self.fields or tuple(f"targets.{row}" for row in range(len(self.targets)))
        return zip(self.targets, fields, strict=True)

    @property
    def named_negatives(self) -> Iterator[tuple[Target, str]]:
        """Every negative with its field name."""
        negatives = self.negatives.targets if self.negatives is not None else ()
        return ((_as_target(each), "negatives") for each in negatives)

    @cached_property
    def rows(self) -> int:
        """Number of vectors to attribute: targets and negatives."""
        negatives = () if self.negatives is None else self.negatives.targets
        return len(self.targets) + len(negatives)

    @cached_property
    def parts(self) -> Sequence[tuple[SimpleTarget, str]]:
        """Every simple target and negative, nested ones included, with its field name."""
        return [*self.target_parts, *self.negative_parts]

    @cached_property
    def target_parts(self) -> Sequence[tuple[SimpleTarget, str]]:
        """Every simple target, nested ones included, with its field name."""
        return _parts_of_all(self.named_targets)

    @cached_property
    def negative_parts(self) -> Sequence[tuple[SimpleTarget, str]]:
        """Every simple target of the negatives, nested ones included, with its field name."""
        return _parts_of_all(self.named_negatives)

    @cached_property
    def texts(self) -> Sequence[str]:
        """Texts of the targets."""
        return _texts_of(self.target_parts)

    @cached_property
    def negative_texts(self) -> Sequence[str]:
        """Texts of the negatives."""
        return _texts_of(self.negative_parts)


def is_target(value: object) -> bool:
    """Tell whether a value is a target or a string, which stands for a text target."""
    return isinstance(value, str) or type(value) in KINDS


def _as_target(target: Target | str) -> Target:
    if isinstance(target, str):
        return TextTarget(target)
    if not is_target(target):
        raise InvalidTargetError(
            f"{type(target).__name__} is not a target: give a string or one of "
            f"{', '.join(kind.__name__ for kind in KINDS)}.",
            field="targets",
        )
    return target


def _parts_of_all(named: Iterable[tuple[Target, str]]) -> list[tuple[SimpleTarget, str]]:
    return [part for target, field in named for part in _parts_of(target, field)]


def _texts_of(parts: Iterable[tuple[SimpleTarget, str]]) -> list[str]:
    return [text for part, _ in parts if isinstance(part, TextTarget) for text in part.texts]


def _parts_of(target: Target, field: str) -> list[tuple[SimpleTarget, str]]:
    match target:
        case ContrastTarget(wanted, against):
            return [(wanted, f"{field}.target"), (against, f"{field}.against")]
        case ResidualTarget(wanted, distractors):
            return [
                (wanted, f"{field}.target"),
                *((each, f"{field}.distractors.{row}") for row, each in enumerate(distractors)),
            ]
        case _:
            return [(target, field)]
