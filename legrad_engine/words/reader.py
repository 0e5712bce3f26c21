"""Contributions of the words of a prompt to its similarity with images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from legrad_engine.layers import DEFAULT_LAYERS
from legrad_engine.targets.templates import PLACEHOLDER, Templates, resolve_templates
from legrad_engine.words.places import Place, PlacedToken, words_of
from legrad_engine.words.towers import text_tower_of

_TEXTS_PER_BATCH = 64


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a prompt, as it was typed.

    Attributes:
        text: the word.
        start: index of its first character in the prompt.
        end: index behind its last one.
        tokens: number of its tokens in the prompt's first template; 0 for a word that the model
            does not read.
        contribution: its contribution to the similarity, negative where it lowers it.
        share: its part of the absolute contributions of all words of the prompt, 0 to 1.
    """

    text: str
    start: int
    end: int
    tokens: int
    contribution: float
    share: float


@dataclass(frozen=True, slots=True)
class PromptWords:
    """The words of one prompt, for one image.

    Attributes:
        words: the words, in the order of the prompt.
        rest: the contribution of all other tokens: punctuation, the words of the templates, start
            and end, padding.
    """

    words: tuple[Word, ...]
    rest: float


class WordReader:
    """Computes the contributions of words with the text half of one model."""

    def __init__(
        self,
        model: nn.Module,
        tokenize: Callable[[list[str]], Tensor],
        place: Callable[[str], list[PlacedToken]],
    ) -> None:
        """Read the text half of a model.

        Args:
            model: the model.
            tokenize: from texts to token ids ``[T, context]``, by the model's tokenizer.
            place: from a text to its tokens, by the same tokenizer, as
                :func:`legrad_engine.words.places.place_tokens`.

        Raises:
            InvalidTargetError: the words of this model have no contributions; says why.
        """
        self._tower = text_tower_of(model)
        self._tokenize = tokenize
        self._place = place
        self._layers = range(self._tower.depth)[-DEFAULT_LAYERS:]
        # Refuses a tokenizer that does not tell the places of its tokens.
        place("a")

    @torch.no_grad()
    def read(
        self, prompts: Sequence[str], templates: Templates, images: Tensor
    ) -> list[list[PromptWords]]:
        """Compute the contribution of every word to the similarity with every image.

        The contribution of a token is that of
        :meth:`legrad_engine.words.towers.TextTower.contributions` at the last two blocks. A token
        that covers several words is divided among them by their characters. Several templates are
        averaged.

        Args:
            prompts: the prompts, as typed.
            templates: their templates.
            images: ``[P, e]``, unit embeddings of images.

        Returns:
            For each prompt an entry for each image.

        Raises:
            InvalidOptionError: the templates are not usable.
        """
        strings = resolve_templates(templates)
        texts = [string.replace(PLACEHOLDER, prompt) for prompt in prompts for string in strings]
        contributions = np.concatenate(list(self._contributions(texts, images)))
        of_prompts = contributions.reshape(len(prompts), len(strings), *contributions.shape[1:])
        return [
            self._merge(prompt, strings, of_prompt)
            for prompt, of_prompt in zip(prompts, of_prompts, strict=True)
        ]

    def _contributions(self, texts: Sequence[str], images: Tensor) -> Iterator[NDArray[np.float64]]:
        for start in range(0, len(texts), _TEXTS_PER_BATCH):
            tokens = self._tokenize(list(texts[start : start + _TEXTS_PER_BATCH]))
            found = self._tower.contributions(tokens, self._layers, images)
            # In this order: MPS has no float64.
            yield found.cpu().double().numpy()

    def _merge(
        self, prompt: str, strings: Sequence[str], contributions: NDArray[np.float64]
    ) -> list[PromptWords]:
        """Merge tokens into words.

        Args:
            prompt: the prompt.
            strings: its templates.
            contributions: ``[templates, P, context]``.
        """
        places = words_of(prompt)
        weights = np.zeros((len(strings), contributions.shape[-1], len(places)))
        for template, string in enumerate(strings):
            before = string.index(PLACEHOLDER)
            words = [Place(before + word.start, before + word.end) for word in places]
            for token in self._place(string.replace(PLACEHOLDER, prompt)):
                length = token.place.end - token.place.start
                if length:
                    weights[template, token.position] += [
                        token.place.shared(word) / length for word in words
                    ]
        # Images by words.
        of_words = np.einsum("tpc,tcw->pw", contributions, weights) / len(strings)
        rest = contributions.sum(-1).mean(0) - of_words.sum(-1)
        counts = (weights[0] > 0).sum(0)
        return [
            PromptWords(
                tuple(
                    Word(
                        prompt[place.start : place.end],
                        place.start,
                        place.end,
                        int(count),
                        float(value),
                        float(abs(value) / total) if total > 0 else 0.0,
                    )
                    for place, count, value in zip(places, counts, row, strict=True)
                ),
                float(left),
            )
            for row, left, total in zip(of_words, rest, np.abs(of_words).sum(-1), strict=True)
        ]
