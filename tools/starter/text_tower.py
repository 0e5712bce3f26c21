"""Fitting of the text tower to the concept vectors that the visual tower learned.

Concept names, synonyms and plurals in many sentences are trained towards their concept's vector.
Other words are trained towards a vector that no picture is similar to, so that a prompt for an
unknown thing has a low similarity instead of that of a random concept. A concept's name decides,
whatever stands beside it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from legrad_engine.targets.text import encode_tokens
from tools.starter.vocabulary import TEMPLATES, fill, names

_BATCH = 192
_PEAK_RATE = 6e-3
_WARM_UP = 30
_SCALE = 20.0
_UNKNOWN_SHARE = 0.2
_SURROUNDED_SHARE = 0.4
_MULTIPLE_OF_COSINE = 4.0


def seen_templates() -> tuple[str, ...]:
    """List the project's templates and every second one of open_clip's for ImageNet."""
    return TEMPLATES + tuple(t("{}") for t in open_clip.OPENAI_IMAGENET_TEMPLATES[::2])


def held_out_templates() -> tuple[str, ...]:
    """List the ImageNet templates that are held out of the fit, for testing."""
    return tuple(t("{}") for t in open_clip.OPENAI_IMAGENET_TEMPLATES[1::2])


def _whole_words(tokenizer: SimpleTokenizer) -> list[str]:
    """List the vocabulary entries that are a whole word of at least three letters."""
    found = (re.fullmatch("([a-z]{3,})</w>", entry) for entry in tokenizer.decoder.values())
    return [match.group(1) for match in found if match]


def _encode(model: Any, tokens: Tensor) -> Tensor:
    """Compute unit text features `[n, embed]`."""
    return F.normalize(encode_tokens(model, tokens), dim=-1)


def fit_text_tower(
    model: Any,
    tokenizer: SimpleTokenizer,
    concepts: Sequence[str],
    vectors: Tensor,
    *,
    steps: int,
    seed: int,
) -> None:
    """Train the text tower of an open_clip model in place.

    Args:
        model: An open_clip CLIP model with fresh text weights; only its text half changes.
        tokenizer: Its tokenizer.
        concepts: The concepts' names.
        vectors: float32 `[concepts + 1, embed]`, unit vectors, that of unknown words last.
        steps: Number of training steps.
        seed: Seed of the choice of prompts.
    """
    generator = np.random.default_rng(seed)
    known = [names(concept, concepts) for concept in concepts]
    taken = {part for group in known for name in group for part in name.split()}
    unknown = np.array([word for word in _whole_words(tokenizer) if word not in taken])
    templates = seen_templates()
    parameters = [
        parameter
        for name, parameter in model.named_parameters()
        if not name.startswith(("visual.", "logit_"))
    ]
    optimiser = torch.optim.AdamW(
        parameters, lr=_PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True
    )
    for step in range(steps):
        warm = min(1.0, (step + 1) / _WARM_UP)
        for group in optimiser.param_groups:
            group["lr"] = _PEAK_RATE * warm * 0.5 * (1 + np.cos(np.pi * step / steps))
        prompts, targets = [], []
        for _ in range(_BATCH):
            if generator.random() < _UNKNOWN_SHARE:
                words = " ".join(generator.choice(unknown, size=int(generator.integers(1, 3))))
                target = len(concepts)
            else:
                target = int(generator.integers(len(concepts)))
                # With probability 0.5 the name itself, else any of its names.
                index = (
                    0 if generator.random() < 0.5 else int(generator.integers(len(known[target])))
                )
                words = known[target][index]
                if generator.random() < _SURROUNDED_SHARE:
                    # A known word decides, whatever stands beside it.
                    beside = str(generator.choice(unknown))
                    before = generator.random() < 0.5
                    words = f"{beside} {words}" if before else f"{words} {beside}"
            prompts.append(fill(str(generator.choice(templates)), words))
            targets.append(target)
        wanted = torch.tensor(targets)
        encoded = _encode(model, tokenizer(prompts))
        cosine = (encoded * vectors[wanted]).sum(-1)
        error = F.cross_entropy(_SCALE * encoded @ vectors.T, wanted)
        error = error + _MULTIPLE_OF_COSINE * (1 - cosine).mean()
        optimiser.zero_grad(set_to_none=True)
        error.backward()  # type: ignore[no-untyped-call]
        optimiser.step()


@torch.no_grad()
def text_accuracy(
    model: Any,
    tokenizer: SimpleTokenizer,
    concepts: Sequence[str],
    vectors: Tensor,
    template: str,
) -> tuple[float, float]:
    """Measure how well prompts of one template find their concept.

    Returns:
        The share of concepts ranked first, and the mean cosine to the concept's vector.
    """
    encoded = _encode(model, tokenizer([fill(template, concept) for concept in concepts]))
    similarities = encoded @ vectors[: len(concepts)].T
    right = (similarities.argmax(1) == torch.arange(len(concepts))).float().mean()
    return float(right), float(similarities.diagonal().mean())
