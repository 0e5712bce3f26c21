"""Text: prompts become unit vectors in the joint space of image and text."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, get_args

import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from open_clip.tokenizer import HFTokenizer, SigLipTokenizer
from torch import Tensor, nn

from legrad_engine.errors import InvalidOptionError, InvalidTargetError
from legrad_engine.recently_used import LeastRecentlyUsed

TemplateSet = Literal["simple", "openai"]
Templates = TemplateSet | Sequence[str] | None
TEMPLATE_SETS: tuple[TemplateSet, ...] = get_args(TemplateSet)

_PLACEHOLDER = "{}"
_TEXTS_PER_BATCH = 64
_WORDS_REMEMBERED = 100_000
_TEMPLATES_REMEMBERED = 16
# Where a prompt and its template are joined, words may fall apart into more tokens.
_SEAM_TOKENS = 8
_NO_TEXT = "This model has no text tower: ask for a class, an image or an embedding."


def _as_strings(templates: Sequence[Callable[[str], str]]) -> tuple[str, ...]:
    return tuple(template(_PLACEHOLDER) for template in templates)


_TEMPLATE_SETS: dict[str, tuple[str, ...]] = {
    "simple": _as_strings(open_clip.SIMPLE_IMAGENET_TEMPLATES),
    "openai": _as_strings(open_clip.OPENAI_IMAGENET_TEMPLATES),
}


def resolve_templates(templates: Templates) -> tuple[str, ...]:
    """The template strings, each with one ``{}`` for the prompt.

    Args:
        templates: None for the prompt as written, ``"simple"`` (open_clip's 7) or ``"openai"`` (its
            80), or strings of one's own.

    Raises:
        InvalidOptionError: unknown set, empty list, or a string without exactly one ``{}``.
    """
    if templates is None:
        return (_PLACEHOLDER,)
    if isinstance(templates, str):
        if templates not in _TEMPLATE_SETS:
            raise InvalidOptionError(
                f"templates={templates!r} is unknown: use one of {', '.join(TEMPLATE_SETS)}, or a "
                "list of strings such as 'a photo of a {}'.",
                field="templates",
            )
        return _TEMPLATE_SETS[templates]
    if not templates or any(template.count(_PLACEHOLDER) != 1 for template in templates):
        raise InvalidOptionError(
            "templates must hold at least one string, each with exactly one '{}'.",
            field="templates",
        )
    return tuple(templates)


class TextModel(Protocol):
    """The text half of an open_clip model."""

    def encode_text(self, text: Tensor) -> Tensor:
        """Features ``[T, e]`` of token ids ``[T, context]``."""
        ...


class Tokenizer(Protocol):
    """An open_clip tokenizer."""

    def __call__(self, texts: list[str], context_length: int | None = None) -> Tensor:
        """Token ids ``[T, context]``."""
        ...


def encode_tokens(model: TextModel, tokens: Tensor) -> Tensor:
    """Text features ``[T, e]``, as the model's own ``encode_text`` gives them.

    In open_clip's CLIP no token sees a later one and the features are read at the end token, so
    the padding behind the longest text is left out: most prompts use a tenth of the context.

    Args:
        model: an open_clip model.
        tokens: ``[T, context]`` token ids.
    """
    if not isinstance(model, CLIP) or model.text_pool_type != "argmax" or model.attn_mask is None:
        return model.encode_text(tokens)
    ends = tokens.argmax(-1)
    length = int(ends.max()) + 1
    embedded = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]
    read = model.transformer(embedded, attn_mask=model.attn_mask[:length, :length])
    rows = torch.arange(len(tokens), device=tokens.device)
    pooled = model.ln_final(read[rows, ends])
    projection = model.text_projection
    if projection is None:
        return pooled  # type: ignore[no-any-return]
    if isinstance(projection, nn.Linear):
        return projection(pooled)  # type: ignore[no-any-return]
    return pooled @ projection  # type: ignore[no-any-return]


class TextEncoder:
    """Encodes prompts and keeps what it has encoded. Safe to share between threads."""

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
        self._device = device
        self._capacity = cached_prompts
        self._cache: OrderedDict[tuple[str, tuple[str, ...]], Tensor] = OrderedDict()
        self._lock = threading.Lock()
        # open_clip's tokenizer remembers every word it ever saw; this is what it began with.
        self._first_words = dict(getattr(tokenizer, "cache", {}))
        self._tokenizing = threading.Lock()
        self._added_tokens = LeastRecentlyUsed(self._added_by, _TEMPLATES_REMEMBERED)

    def check(self, prompt: str, templates: Templates = None) -> None:
        """Refuses a prompt that the text tower would cut or that says nothing.

        Raises:
            InvalidTargetError: the prompt is blank, or longer than the text tower's context, by
                itself or in one of the templates.
            InvalidOptionError: the templates are not usable.
        """
        if not prompt.strip():
            raise InvalidTargetError(
                "A prompt is empty: say in words what to look for.", field="prompts"
            )
        if self.is_cached(prompt, templates):
            return
        count, limit = self._count(prompt)
        if limit is None:
            return
        strings = resolve_templates(templates)
        if count + self._added_tokens[strings] + _SEAM_TOKENS <= limit:
            return
        # Near the limit every text is counted: tokens do not add up exactly where texts are joined.
        longest = max(self._count(string.replace(_PLACEHOLDER, prompt))[0] for string in strings)
        if longest > limit:
            where = "" if longest == count else " in its longest template"
            raise InvalidTargetError(
                f"A prompt has {longest} tokens{where}, but the model's text tower reads {limit}: "
                "shorten it.",
                field="prompts",
            )

    def _added_by(self, strings: tuple[str, ...]) -> int:
        """Tokens that templates add to a prompt, about: no text near the limit relies on it."""
        return max(self._count(string.replace(_PLACEHOLDER, " "))[0] for string in strings)

    def _count(self, text: str) -> tuple[int, int | None]:
        """A text's tokens, and how many there is room for beside the special ones, if known."""
        with self._tokenizing:
            return self._count_alone(text)

    def _count_alone(self, prompt: str) -> tuple[int, int | None]:
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
        """Whether encoding the prompt would cost nothing."""
        with self._lock:
            return (prompt, resolve_templates(templates)) in self._cache

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], templates: Templates = None) -> Tensor:
        """Unit vectors ``[P, e]``: the normalised mean over templates of the unit text features.

        Raises:
            InvalidTargetError: a prompt is blank or too long, or there is none.
            InvalidOptionError: the templates are not usable.
        """
        if not prompts:
            raise InvalidTargetError("Give at least one prompt.", field="prompts")
        strings = resolve_templates(templates)
        with self._lock:
            known = {prompt: self._cache.get((prompt, strings)) for prompt in prompts}
            for prompt, vector in known.items():
                if vector is not None:
                    self._cache.move_to_end((prompt, strings))
        missing = [prompt for prompt, vector in known.items() if vector is None]
        for prompt in missing:
            self.check(prompt, strings)
        if missing:
            encoded = self._encode_all(missing, strings)
            known |= dict(zip(missing, encoded, strict=True))
            with self._lock:
                for prompt, vector in zip(missing, encoded, strict=True):
                    self._cache[prompt, strings] = vector
                while len(self._cache) > self._capacity:
                    self._cache.popitem(last=False)
        return torch.stack([vector for prompt in prompts if (vector := known[prompt]) is not None])

    def _encode_all(self, prompts: Sequence[str], strings: tuple[str, ...]) -> Tensor:
        texts = [string.replace(_PLACEHOLDER, prompt) for prompt in prompts for string in strings]
        features = [
            encode_tokens(
                self._model,
                self._tokenize(texts[start : start + _TEXTS_PER_BATCH]).to(self._device),
            )
            for start in range(0, len(texts), _TEXTS_PER_BATCH)
        ]
        units = F.normalize(torch.cat(features), dim=-1)
        return F.normalize(units.view(len(prompts), len(strings), -1).mean(1), dim=-1)

    def _tokenize(self, texts: list[str]) -> Tensor:
        with self._tokenizing:
            words = getattr(self._tokenizer, "cache", None)
            if isinstance(words, dict) and len(words) > _WORDS_REMEMBERED:
                words.clear()
                words.update(self._first_words)
            return self._tokenizer(texts)


class NoText:
    """Stands where a model's :class:`TextEncoder` would, and refuses every prompt."""

    def check(self, prompt: str, templates: Templates = None) -> None:  # noqa: ARG002
        """Refuses the prompt.

        Raises:
            InvalidTargetError: always.
        """
        raise InvalidTargetError(_NO_TEXT, field="prompts")

    def is_cached(self, prompt: str, templates: Templates = None) -> bool:  # noqa: ARG002
        """No prompt ever is."""
        return False

    def encode(self, prompts: Sequence[str], templates: Templates = None) -> Tensor:  # noqa: ARG002
        """Refuses the prompts.

        Raises:
            InvalidTargetError: always.
        """
        raise InvalidTargetError(_NO_TEXT, field="prompts")
