"""Texts that each caller asked about recently."""

import hashlib

from legrad_engine.recently_used import RecentlyUsed
from legrad_engine.targets.questions import Question
from legrad_engine.targets.templates import Templates, resolve_templates

_TEXTS_OF_ONE = 2048
_CALLERS = 256


class AskedTexts:
    """Remembers, for each API key, digests of its recent texts.

    The embeddings of texts are shared by all callers. Answers tell a caller only of its own texts,
    whatever is cached: otherwise it could ask for a text to learn whether another caller did.
    """

    def __init__(self) -> None:
        self._of_callers = RecentlyUsed[str, RecentlyUsed[bytes, bool]](_CALLERS)

    def count_repeated(self, key: str, model: str, question: Question, templates: Templates) -> int:
        """Return how many texts of a question the key asked before, and remember all of them.

        Args:
            key: name of the API key.
            model: id of the model.
            question: the targets.
            templates: templates of the targets' texts.
        """
        asked = self._of_callers.get_or_make(key, lambda _: RecentlyUsed(_TEXTS_OF_ONE))
        texts = {(text, resolve_templates(templates)) for text in question.texts}
        texts |= {(text, resolve_templates(None)) for text in question.negative_texts}
        digests = [
            hashlib.blake2b(repr((model, *text)).encode("utf-8", "surrogatepass"), digest_size=16)
            for text in texts
        ]
        repeated = 0
        for each in digests:
            repeated += each.digest() in asked
            asked.put(each.digest(), True)
        return repeated
