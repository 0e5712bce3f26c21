"""Report of the layers: where in the model the decision for each target forms."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from legrad_engine.errors import InvalidOptionError
from legrad_engine.explainer import Explainer
from legrad_engine.families import Tower
from legrad_engine.families.heads import at_least_float32
from legrad_engine.images.inputs import PreparedImage
from legrad_engine.methods.direct_effects import (
    DirectEffects,
    directions_of,
    effects_of_keys,
    trace_direct_effects,
)
from legrad_engine.targets.resolved import ResolvedTargets

_METHOD = "textspan"


@dataclass(frozen=True, slots=True)
class CosineTerms:
    """The similarity of one picture with each of P targets, as a sum; all float32.

    Attributes:
        patches: ``[P, blocks, heads]``, the direct effect of each head through the patches.
        prefix: ``[P, blocks, heads]``, through the tokens before the patches, such as the class
            token.
        biases: ``[P, blocks]``, of the biases behind each attention.
        mlps: ``[P, blocks]``, of each MLP.
        input: ``[P]``, of the input of the first block.
        head: ``[P]``, of the biases of the last norm and projection.
    """

    patches: NDArray[np.float32]
    prefix: NDArray[np.float32]
    biases: NDArray[np.float32]
    mlps: NDArray[np.float32]
    input: NDArray[np.float32]
    head: NDArray[np.float32]

    @property
    def blocks(self) -> NDArray[np.float32]:
        """``[P, blocks]``: the direct effect of each block, attention and MLP together."""
        heads = self.patches + self.prefix
        effects: NDArray[np.float32] = heads.sum(-1) + self.biases + self.mlps
        return effects

    @property
    def total(self) -> NDArray[np.float32]:
        """``[P]``: the sum of all terms, equal to the similarity but for rounding."""
        total: NDArray[np.float32] = self.blocks.sum(-1) + self.input + self.head
        return total


@dataclass(frozen=True, slots=True)
class LayersReport:
    """One picture's similarity with each of P targets after every block.

    Attributes:
        similarities: float32 ``[P, blocks]``, the cosine that the model's own final norm and head
            give for the output of each block; after the last block it is the served similarity.
        ranks: int64 ``[P, blocks]``, 1 for the most similar of the P targets; equal ones share
            their best rank.
        terms: the served similarity as a sum over blocks and heads; None where it was not asked.
    """

    similarities: NDArray[np.float32]
    ranks: NDArray[np.int64]
    terms: CosineTerms | None

    @property
    def gap(self) -> NDArray[np.float32] | None:
        """``[P]``: the sum of the terms less the served similarity, 0 but for rounding."""
        if self.terms is None:
            return None
        gap: NDArray[np.float32] = self.terms.total - self.similarities[:, -1]
        return gap


@torch.no_grad()
def report_layers(
    explainer: Explainer,
    images: Sequence[PreparedImage],
    resolved: Sequence[ResolvedTargets],
    *,
    terms: bool = False,
) -> list[LayersReport]:
    """Report the layers of pictures of one input size, from one forward pass.

    With ``terms``, a model whose norm comes before the average of its tokens takes a second pass.

    Args:
        explainer: the model's explainer.
        images: at least one, from :meth:`Explainer.prepare`.
        resolved: the targets of each picture, from :attr:`Explainer.resolver`.
        terms: whether to tell the served similarity as a sum over blocks and heads.

    Raises:
        InvalidOptionError: pictures of several input sizes, or ``terms`` where the similarity of
            this model is no such sum; the message says why.
    """
    sizes = {image.geometry.input_size for image in images}
    if len(sizes) != 1:
        raise InvalidOptionError(
            f"A report must be of pictures of one input size, not {sorted(sizes)}.", field="images"
        )
    if terms:
        # Refuses the model with the reason.
        explainer.method(_METHOD)
    (width, height) = sizes.pop()
    tower = explainer.tower.at((height, width))
    embeddings: list[Tensor] = []
    head = tower.served_head()

    def visit(tokens: Tensor) -> None:
        features = head.features(head.state(tokens))
        embeddings.append(at_least_float32(F.normalize(features, dim=-1)))

    tokens = tower.embed(explainer.input_of(images))
    layers = tuple(range(tower.depth))
    effects: tuple[DirectEffects, ...] = ()
    if terms:
        effects, _ = trace_direct_effects(tower, tokens, layers, visit)
    else:
        for index in layers:
            tokens = tower.forward_block(tokens, index)
            visit(tokens)
    after_blocks = torch.stack(embeddings, 1)
    return [
        _report(tower, after_blocks[image], targets, _of_image(effects, image))
        for image, targets in enumerate(resolved)
    ]


def _report(
    tower: Tower, embeddings: Tensor, resolved: ResolvedTargets, effects: tuple[DirectEffects, ...]
) -> LayersReport:
    vectors = at_least_float32(resolved.vectors)
    similarities = vectors @ embeddings.T
    ranks = 1 + (similarities.unsqueeze(0) > similarities.unsqueeze(1)).sum(1)
    terms = _terms(tower, effects, resolved.vectors.unsqueeze(0)) if effects else None
    return LayersReport(_array(similarities), ranks.cpu().numpy(), terms)


def _terms(tower: Tower, effects: tuple[DirectEffects, ...], targets: Tensor) -> CosineTerms:
    """Compute the terms of one image for targets ``[1, P, e]``."""
    directions = directions_of(tower, effects[0].pooled, targets)
    vectors = directions.vectors[0]
    keys = torch.stack(
        [effects_of_keys(tower, each, index, directions)[0] for index, each in enumerate(effects)],
        1,
    )
    prefix = tower.prefix_tokens
    return CosineTerms(
        patches=_array(keys[..., prefix:].sum(-1)),
        prefix=_array(keys[..., :prefix].sum(-1)),
        biases=_array(vectors @ torch.stack([each.constant[0] for each in effects], 1)),
        mlps=_array(vectors @ torch.stack([each.mlp[0] for each in effects], 1)),
        input=_array(vectors @ effects[0].entering[0]),
        head=_array(directions.constants[0]),
    )


def _of_image(effects: tuple[DirectEffects, ...], image: int) -> tuple[DirectEffects, ...]:
    one = slice(image, image + 1)
    return tuple(
        DirectEffects(
            each.weights[one],
            each.values[one],
            each.constant[one],
            each.mlp[one],
            each.entering[one],
            each.pooled[one],
        )
        for each in effects
    )


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.float().cpu().numpy()
