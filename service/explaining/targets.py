"""Targets of a command: their pictures, and their names in an answer."""

from dataclasses import dataclass

from legrad_engine import targets as engine
from legrad_engine.images.inputs import PreparedImage
from legrad_engine.targets.classifier import Classifier
from legrad_engine.targets.questions import Question
from service.pool.trace_cache import digest_of

_LONGEST_LABEL = 200


@dataclass(frozen=True, slots=True)
class TargetName:
    """The name of a target in an answer.

    Attributes:
        label: a short text for people.
        prompt: the text, if the target is a single text.
    """

    label: str
    prompt: str | None


def encoded_images(question: Question) -> dict[bytes, tuple[bytes, str]]:
    """Return the distinct encoded target pictures by digest, each with its field's name."""
    found: dict[bytes, tuple[bytes, str]] = {}
    for part, field in question.parts:
        if isinstance(part, engine.ImageTarget) and isinstance(part.image, bytes):
            digest = part.digest or digest_of(part.image)
            found.setdefault(digest, (part.image, f"{field}.image"))
    return found


def with_prepared(question: Question, prepared: dict[bytes, PreparedImage]) -> Question:
    """Return the question with encoded target pictures replaced by prepared ones, by digest."""

    def simple(part: engine.SimpleTarget) -> engine.SimpleTarget:
        if isinstance(part, engine.ImageTarget) and part.digest is not None:
            return engine.ImageTarget(prepared[part.digest], part.digest)
        return part

    def any_kind(target: engine.Target) -> engine.Target:
        match target:
            case engine.ContrastTarget(wanted, against):
                return engine.ContrastTarget(simple(wanted), simple(against))
            case engine.ResidualTarget(wanted, distractors, atoms):
                return engine.ResidualTarget(simple(wanted), tuple(map(simple, distractors)), atoms)
            case _:
                return simple(target)

    if not prepared:
        return question
    return Question(tuple(map(any_kind, question.targets)), question.negatives, question.fields)


def name_target(target: engine.Target, classifier: Classifier | None) -> TargetName:
    """Return the name of a target in an answer."""
    prompt = None
    if isinstance(target, engine.TextTarget):
        prompt = target.text
    label = _label(target, classifier)
    if len(label) > _LONGEST_LABEL:
        label = f"{label[: _LONGEST_LABEL - 1]}…"
    return TargetName(label, prompt)


def _label(target: engine.Target, classifier: Classifier | None) -> str:
    match target:
        case engine.TextTarget(texts=texts):
            return ", ".join(texts)
        case engine.EmbeddingTarget():
            return "embedding"
        case engine.ImageTarget():
            return "image"
        case engine.ClassTarget():
            return _class_label(target.key, classifier)
        case engine.ContrastTarget(wanted, against):
            return f"{_quoted(wanted, classifier)} against {_quoted(against, classifier)}"
        case engine.ResidualTarget(wanted, distractors):
            without = ", ".join(_quoted(each, classifier) for each in distractors)
            return f"{_quoted(wanted, classifier)} without {without}"


def _quoted(target: engine.SimpleTarget, classifier: Classifier | None) -> str:
    if isinstance(target, engine.TextTarget):
        return ", ".join(f'"{text}"' for text in target.texts)
    return _label(target, classifier)


def _class_label(class_: int | str, classifier: Classifier | None) -> str:
    if classifier is None:
        return f"class {class_}"
    index = classifier.index_of(class_)
    return f"class {index}" + (f": {classifier.labels[index]}" if classifier.labels else "")
