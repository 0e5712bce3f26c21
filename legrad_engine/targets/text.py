"""Text encoder: from prompts to unit vectors in the joint space of image and text."""

import threading
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from open_clip.tokenizer import HFTokenizer, SigLipTokenizer
from torch import Tensor, nn

from legrad_engine.errors import InvalidTargetError
from legrad_engine.recently_used import RecentlyUsed
from legrad_engine.targets.prompt_vectors import PromptVectors
from legrad_engine.targets.templates import PLACEHOLDER, Templates, resolve_templates
from legrad_engine.transfers import to_device
from legrad_engine.words.bounds import bound_in
from legrad_engine.words.places import PlacedToken, place_tokens
from legrad_engine.words.reader import WordReader

TEXT_SHARE = 0.03
"""Work of embedding a short text in a typical text tower, in forward passes of an image."""

_TEXTS_PER_BATCH = 64
_WORDS_REMEMBERED = 100_000
# Long ones are rare among words, and take the memory of many.
_LONGEST_REMEMBERED = 64
_TEMPLATES_REMEMBERED = 16
# A word may split into more tokens where a prompt and its template are joined.
_SEAM_TOKENS = 8
_NO_TEXT = "This model has no text tower: ask for a class, an image or an embedding."


class TextModel(Protocol):
    """Text half of an open_clip model."""

    def encode_text(self, text: Tensor) -> Tensor:
        """Encode token ids ``[T, context]`` as features ``[T, e]``."""
        ...


class Tokenizer(Protocol):
    """Tokenizer of open_clip."""

    def __call__(self, texts: list[str], context_length: int | None = None) -> Tensor:
        """Tokenize texts into ids ``[T, context]``."""
        ...


def encode_tokens(model: TextModel, tokens: Tensor, device: torch.device | None = None) -> Tensor:
    """Encode tokens as the model's own ``encode_text`` does, without the padding.

    In open_clip's CLIP the attention is causal and the features are read at the end token, so the
    padding behind the longest text can be cut: most prompts use a tenth of the context.

    Args:
        model: an open_clip model.
        tokens: ``[T, context]`` token ids, on the host.
        device: the model's device; None for that of the tokens.

    Returns:
        Text features ``[T, e]`` on the device, not normalised.
    """
    device = tokens.device if device is None else device
    if not isinstance(model, CLIP) or model.text_pool_type != "argmax" or model.attn_mask is None:
        return model.encode_text(to_device(tokens, device))
    ends = tokens.argmax(-1)
    # Read on the host, which must not wait for the device.
    length = int(ends.max()) + 1
    kept, ends = to_device(tokens[:, :length], device), to_device(ends, device)
    embedded = model.token_embedding(kept) + model.positional_embedding[:length]
    read = model.transformer(embedded, attn_mask=model.attn_mask[:length, :length])
    rows = torch.arange(len(tokens), device=device)
    pooled = model.ln_final(read[rows, ends])
    projection = model.text_projection
    if projection is None:
        return pooled  # type: ignore[no-any-return]
    if isinstance(projection, nn.Linear):
        return projection(pooled)  # type: ignore[no-any-return]
    return pooled @ projection  # type: ignore[no-any-return]


def _alike(tokens: Tensor) -> list[list[int]]:
    """Group texts of similar lengths, so that a long one does not lengthen many short ones.

    Args:
        tokens: ``[T, context]`` token ids.

    Returns:
        The rows of each group, at most ``_TEXTS_PER_BATCH``.
    """
    # Behind its last change, a row repeats one token: the padding.
    changes = tokens[:, 1:] != tokens[:, :-1]
    lengths = (changes * torch.arange(1, tokens.shape[1])).amax(1).tolist()
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if (
            groups
            and len(groups[-1]) < _TEXTS_PER_BATCH
            and lengths[row] <= 2 * lengths[groups[-1][0]]
        ):
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


class _Words(dict[str, str]):
    """Cache of a tokenizer, which would keep every word that callers ever sent."""

    def __init__(self, first: dict[str, str]) -> None:
        super().__init__(first)
        # Special tokens, which the tokenizer looks up here alone.
        self._first = first

    def __setitem__(self, word: str, tokens: str) -> None:
        if len(word) > _LONGEST_REMEMBERED:
            return
        if len(self) >= _WORDS_REMEMBERED:
            self.clear()
            self.update(self._first)
        super().__setitem__(word, tokens)


def _bound_words(tokenizer: object) -> None:
    """Bound the caches of open_clip's tokenizer, and of one of ``transformers`` inside it."""
    for each in (tokenizer, getattr(tokenizer, "tokenizer", None)):
        words = getattr(each, "cache", None)
        if type(words) is dict:
            each.cache = _Words(words)  # type: ignore[union-attr]


class TextEncoder:
    """Encodes prompts and caches their vectors. Safe to share between threads.

    Attributes:
        device: the model's device.
        vectors: the cache.
    """

    def __init__(
        self,
        model: TextModel,
        tokenizer: Tokenizer,
        device: torch.device,
        *,
        cached_prompts: int = 4096,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self.device = device
        self.vectors = PromptVectors(cached_prompts)
        _bound_words(tokenizer)
        self._tokenizing = threading.Lock()
        self._added_tokens = RecentlyUsed[tuple[str, ...], int](_TEMPLATES_REMEMBERED)

    @cached_property
    def words(self) -> WordReader:
        """Reader of the contributions of words.

        Raises:
            InvalidTargetError: the words of this model have no contributions; says why.
        """
        return WordReader(self._model, self._tokenize, self._place)  # type: ignore[arg-type]

    def check(self, prompt: str, templates: Templates = None, *, cache: bool = True) -> None:
        """Refuse a prompt that is blank or that the text tower would truncate.

        Args:
            prompt: the prompt.
            templates: its templates.
            cache: whether a prompt with a cached vector needs no check.

        Raises:
            InvalidTargetError: the prompt is blank, contains a token that ends a text, or is longer
                than the text tower's context, by itself or in one of the templates.
            InvalidOptionError: the templates are not usable.
        """
        if not prompt.strip():
            raise InvalidTargetError(
                "A prompt is empty: say in words what to look for.", field="prompts"
            )
        if cache and self.is_cached(prompt, templates):
            return
        count, limit = self._count(prompt)
        self._refuse_bounds(prompt, "prompts")
        if limit is None:
            return
        strings = resolve_templates(templates)
        added = self._added_tokens.get_or_make(strings, self._tokens_added_by)
        if count + added + _SEAM_TOKENS <= limit:
            return
        # Near the limit every text is counted whole: token counts of joined texts do not add up.
        longest = max(self._count(string.replace(PLACEHOLDER, prompt))[0] for string in strings)
        if longest > limit:
            where = "" if longest == count else " in its longest template"
            raise InvalidTargetError(
                f"A prompt has {longest} tokens{where}, but the model's text tower reads {limit}: "
                "shorten it.",
                field="prompts",
            )

    def _tokens_added_by(self, strings: tuple[str, ...]) -> int:
        """Estimate the number of tokens that templates add to a prompt."""
        alone = [string.replace(PLACEHOLDER, " ") for string in strings]
        for string in alone:
            self._refuse_bounds(string, "templates")
        return max(self._count(string)[0] for string in alone)

    def _refuse_bounds(self, text: str, field: str) -> None:
        """Refuse a text with a token that begins or ends texts: the model reads no further.

        Raises:
            InvalidTargetError: it has one.
        """
        with self._tokenizing:
            found = bound_in(self._tokenizer, text)
        if found is not None:
            raise InvalidTargetError(
                f"A text contains {found!r}, with which this model begins or ends every text: "
                "leave it out.",
                field=field,
            )

    def _count(self, text: str) -> tuple[int, int | None]:
        """Count a text's tokens; return the count and the most that fit, None if unknown.

        Both are without the special tokens.
        """
        with self._tokenizing:
            return self._count_unlocked(text)

    def _count_unlocked(self, prompt: str) -> tuple[int, int | None]:
        tokenizer: Any = self._tokenizer
        context: int | None = getattr(tokenizer, "context_length", None)
        if context is None:
            return 0, None
        if isinstance(tokenizer, (HFTokenizer, SigLipTokenizer)):
            inner = tokenizer.tokenizer
            if isinstance(tokenizer, HFTokenizer):
                prompt = tokenizer.clean_fn(prompt)
            plain = len(inner(prompt, add_special_tokens=False)["input_ids"])
            if getattr(tokenizer, "tokenizer_mode", "") == "clips":
                # A start, an end and a class token.
                return plain, context - 3
            return plain, context - (len(inner(prompt)["input_ids"]) - plain)
        encode = getattr(tokenizer, "encode", None)
        # A start and an end token.
        return (0, None) if encode is None else (len(encode(prompt)), context - 2)

    def is_cached(self, prompt: str, templates: Templates = None) -> bool:
        """Tell whether the prompt's vector is cached."""
        return (prompt, resolve_templates(templates)) in self.vectors

    @torch.no_grad()
    def encode(
        self, prompts: Sequence[str], templates: Templates = None, *, cache: bool = True
    ) -> Tensor:
        """Encode prompts as the normalised mean over templates of the unit text features.

        Args:
            prompts: the prompts.
            templates: their templates.
            cache: whether vectors are looked up and kept.

        Returns:
            Unit vectors ``[P, e]``.

        Raises:
            InvalidTargetError: a prompt is blank or too long, or there is no prompt.
            InvalidOptionError: the templates are not usable.
        """
        if not prompts:
            raise InvalidTargetError("Give at least one prompt.", field="prompts")
        strings = resolve_templates(templates)
        known = {
            prompt: self.vectors.get((prompt, strings), self.device) if cache else None
            for prompt in prompts
        }
        missing = [prompt for prompt, vector in known.items() if vector is None]
        for prompt in missing:
            self.check(prompt, strings, cache=cache)
        if missing:
            encoded = self._encode_all(missing, strings)
            known |= dict(zip(missing, encoded, strict=True))
            if cache:
                self.vectors.put([(prompt, strings) for prompt in missing], encoded, self.device)
        return torch.stack([vector for prompt in prompts if (vector := known[prompt]) is not None])

    def _encode_all(self, prompts: Sequence[str], strings: tuple[str, ...]) -> Tensor:
        texts = [string.replace(PLACEHOLDER, prompt) for prompt in prompts for string in strings]
        tokens = self._tokenize(texts)
        features: dict[int, Tensor] = {}
        for rows in _alike(tokens):
            encoded = encode_tokens(self._model, tokens[rows], self.device)
            features |= dict(zip(rows, encoded, strict=True))
        units = F.normalize(torch.stack([features[row] for row in range(len(texts))]), dim=-1)
        return F.normalize(units.view(len(prompts), len(strings), -1).mean(1), dim=-1)

    def _tokenize(self, texts: list[str]) -> Tensor:
        with self._tokenizing:
            return self._tokenizer(texts)

    def _place(self, text: str) -> list[PlacedToken]:
        with self._tokenizing:
            return place_tokens(self._tokenizer, text)


class NoText:
    """Stand-in for :class:`TextEncoder` in models without a text tower: refuses every prompt."""

    @property
    def words(self) -> WordReader:
        """Refuse to read words.

        Raises:
            InvalidTargetError: always.
        """
        raise InvalidTargetError(_NO_TEXT, field="words")

    def check(self, prompt: str, templates: Templates = None, *, cache: bool = True) -> None:  # noqa: ARG002
        """Refuse the prompt.

        Raises:
            InvalidTargetError: always.
        """
        raise InvalidTargetError(_NO_TEXT, field="prompts")

    def is_cached(self, prompt: str, templates: Templates = None) -> bool:  # noqa: ARG002
        """Return False: no prompt is ever cached."""
        return False

    def encode(
        self,
        prompts: Sequence[str],  # noqa: ARG002
        templates: Templates = None,  # noqa: ARG002
        *,
        cache: bool = True,  # noqa: ARG002
    ) -> Tensor:
        """Refuse the prompts.

        Raises:
            InvalidTargetError: always.
        """
        raise InvalidTargetError(_NO_TEXT, field="prompts")


def share_vectors(encoders: Iterable[TextEncoder | NoText]) -> None:
    """Give the text encoders of the copies of one model one cache of vectors; it begins empty.

    Args:
        encoders: encoders with the same weights and precision. A single one keeps its own cache.
    """
    sharing = [each for each in encoders if isinstance(each, TextEncoder)]
    if len(sharing) > 1:
        vectors = sharing[0].vectors.shared_by({each.device for each in sharing})
        for each in sharing:
            each.vectors = vectors
