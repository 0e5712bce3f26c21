"""Targets of a command: their pictures, their names in an answer, and repeated texts."""

import hashlib
from dataclasses import dataclass

from legrad_engine import targets as engine
from legrad_engine.images.cropping import PixelBox
from legrad_engine.images.inputs import PreparedImage
from legrad_engine.recently_used import RecentlyUsed
from legrad_engine.targets.classifier import Classifier
from legrad_engine.targets.questions import Question
from legrad_engine.targets.resolution import TextCount
from legrad_engine.targets.templates import Templates, resolve_templates
from service.pool.trace_cache import digest_of

_LONGEST_LABEL = 200
_TEXTS_OF_ONE = 2048
_CALLERS = 256


@dataclass(frozen=True, slots=True)
class TargetName:
    """The name of a target in an answer.

    Attributes:
        label: a short text for people.
        prompt: the text, if the target is a single text.
        head: index of the attention head whose map it is; None for a map of all heads.
    """

    label: str
    prompt: str | None
    head: int | None = None


@dataclass(frozen=True, slots=True)
class EncodedTarget:
    """A target picture of a request.

    Attributes:
        encoded: the picture's bytes.
        box: the box of its region; None for the whole picture.
        field: name of the target's field in the request.
    """

    encoded: bytes
    box: PixelBox | None
    field: str


def encoded_images(question: Question) -> dict[bytes, EncodedTarget]:
    """Return the distinct encoded target pictures and regions of them, by digest."""
    found: dict[bytes, EncodedTarget] = {}
    for part, field in question.parts:
        if isinstance(part, engine.ImageTarget) and isinstance(part.image, bytes):
            digest = part.digest or digest_of(part.image)
            found.setdefault(digest, EncodedTarget(part.image, part.box, field))
    return found


def with_prepared(
    question: Question, prepared: dict[bytes, PreparedImage], *, whole: bool
) -> Question:
    """Return the question with encoded target pictures replaced by prepared ones, by digest.

    Args:
        question: the question.
        prepared: the pictures.
        whole: whether those with a box are whole pictures, in place of the region alone.
    """

    def simple(part: engine.SimpleTarget) -> engine.SimpleTarget:
        if isinstance(part, engine.ImageTarget) and part.digest is not None:
            return engine.ImageTarget(
                prepared[part.digest], part.digest, part.box if whole else None
            )
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
        case engine.ImageTarget(digest=_, box=box):
            return (
                "image" if box is None else f"image from {box[0]}, {box[1]} to {box[2]}, {box[3]}"
            )
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


class AskedTexts:
    """Remembers, for each API key, digests of its recent texts.

    The embeddings of texts are shared by all callers. Answers and refusals tell a caller only of
    its own texts, whatever is cached: otherwise it could ask for a text to learn whether another
    caller did.
    """

    def __init__(self) -> None:
        self._of_callers = RecentlyUsed[str, RecentlyUsed[bytes, bool]](_CALLERS)

    def count(self, key: str, model: str, question: Question, templates: Templates) -> TextCount:
        """Count the texts of a question: as known those that the key asked before.

        Args:
            key: name of the API key.
            model: id of the model.
            question: the targets.
            templates: templates of the targets' texts.
        """
        asked = self._of_callers.get_or_make(key, _texts_of_one)
        digests = _text_digests(model, question, templates)
        missing = [strings for digest, strings in digests.items() if digest not in asked]
        return TextCount(len(digests) - len(missing), len(missing), sum(missing))

    def remember(self, key: str, model: str, question: Question, templates: Templates) -> None:
        """Remember that a key asked the texts of a question; see :meth:`count`."""
        asked = self._of_callers.get_or_make(key, _texts_of_one)
        for digest in _text_digests(model, question, templates):
            asked.put(digest, True)


def _texts_of_one(_key: str) -> RecentlyUsed[bytes, bool]:
    return RecentlyUsed(_TEXTS_OF_ONE)


def _text_digests(model: str, question: Question, templates: Templates) -> dict[bytes, int]:
    """Return the number of strings of each text of a question, by the text's digest."""
    texts = {(text, resolve_templates(templates)) for text in question.texts}
    texts |= {(text, resolve_templates(None)) for text in question.negative_texts}
    return {
        hashlib.blake2b(
            repr((model, *text)).encode("utf-8", "surrogatepass"), digest_size=16
        ).digest(): len(text[1])
        for text in texts
    }
