"""The served models as operators write them: a reference, with a name of its own or without."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from legrad_engine.errors import InvalidOptionError, UnknownModelError
from legrad_engine.models import ModelReference

# Safe in URLs, labels of metrics and names of files.
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?")
# A reference with one of these before its first "=" has the "=" in a path or a tag.
_OF_REFERENCES = frozenset("@/:")


@dataclass(frozen=True, slots=True)
class NamedModel:
    """One entry of the setting.

    Attributes:
        id: its id in requests: the operator's name for it, or one made from the reference.
        reference: the model.
        spelling: the reference as it is written in the setting, without folders of the local file
            system; requests may use it too.
    """

    id: str
    reference: ModelReference
    spelling: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse an entry.

        Args:
            text: a model reference, or ``NAME=REFERENCE``.

        Raises:
            UnknownModelError: the name is not safe, or the reference does not say which weights.
        """
        name, is_named, rest = text.partition("=")
        if not is_named or not _OF_REFERENCES.isdisjoint(name):
            reference = ModelReference.parse(text)
            return cls(reference.id, reference, reference.without_folders(text))
        if not _NAME.fullmatch(name):
            raise UnknownModelError(
                f"The name {name!r} before = should be letters, digits, '.', '_' and '-', at most "
                "128, with a letter or digit at both ends.",
                field="model",
            )
        reference = ModelReference.parse(rest)
        return cls(name, reference, reference.without_folders(rest.strip()))


def named_models(entries: Iterable[str]) -> tuple[NamedModel, ...]:
    """Parse all entries of the setting, without repeats.

    Raises:
        UnknownModelError: see :meth:`NamedModel.parse`.
        InvalidOptionError: two different models would have the same id.
    """
    models = tuple(dict.fromkeys(map(NamedModel.parse, entries)))
    seen: dict[str, NamedModel] = {}
    for model in models:
        if model.id in seen:
            raise InvalidOptionError(
                f"Two of the models would have the same id, {model.id!r}: give them names of their "
                f"own, such as first={model.spelling}.",
                field="models",
            )
        seen[model.id] = model
    return models
