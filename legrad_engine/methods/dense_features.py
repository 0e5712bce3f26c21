"""Features of every patch in the joint space, and the base of the methods that compare them.

A patch's features are its token's way through the model's own final norm and projection, as if the
model pooled that token alone. In front of an attentional pooler, which reads tokens only through
its attention, they are the way of the patch's value behind that attention, as in MaskCLIP's own
treatment of CLIP's attention pool.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from legrad_engine.errors import InvalidOptionError
from legrad_engine.families.attention import Attention
from legrad_engine.families.base import Tower
from legrad_engine.families.heads import (
    FeatureMapHead,
    Features,
    RowsHead,
    ScoreHead,
    TokenHead,
    at_least_float32,
)
from legrad_engine.families.pooler import PoolerHead
from legrad_engine.methods.base import Method, ModelParts

OwnAttention = Callable[[Attention], Tensor]


@dataclass(frozen=True, slots=True)
class PatchEmbeddings:
    """Unit vectors of the patches and of the image.

    Attributes:
        patches: ``[B, patches, e]``, at least float32.
        image: ``[B, e]``, the model's own embedding.
    """

    patches: Tensor
    image: Tensor

    def cosines(self, targets: Tensor) -> Tensor:
        """Compute the cosine ``[B, P, patches]`` of every patch and target ``[B, P, e]``."""
        return at_least_float32(targets) @ self.patches.transpose(-1, -2)


def dense_refusal(tower: Tower) -> str | None:
    """Give the reason why a tower's patches have no features of their own, as a clause, or None."""
    if tower.width is None:
        return (
            "its blocks attend within windows or stages, and no patch has features of its own in "
            "the joint space (LeGrad explains it)"
        )
    head = _dense_head(tower)
    if isinstance(head, PoolerHead) or _tokenwise(head) is not None:
        return None
    return "its head does not treat every token alike (LeGrad explains it)"


def embed_patches(tower: Tower, tokens: Tensor, served: Tensor) -> tuple[Tensor, Tensor]:
    """Compute unit features of every patch, and the model's own features.

    Args:
        tower: a tower that :func:`dense_refusal` does not refuse.
        tokens: ``[B, N, d]``, the output of the last block on a method's own path.
        served: ``[B, N, d]``, the output of the last block on the model's path.

    Returns:
        ``[B, patches, e]``, unit vectors, and ``[B, e]``, not normalised; both at least float32.
    """
    head, served_head = _dense_head(tower), tower.served_head()
    if isinstance(head, PoolerHead):
        attention = head.attend(tokens)
        values = attention.values[:, :, head.prefix_keys :].transpose(1, 2)
        found = head.features_of_values(values.flatten(2).flatten(0, 1))
        state = attention.output if tokens is served else served_head.state(served)
    else:
        tokenwise = _tokenwise(head)
        if tokenwise is None:
            raise InvalidOptionError("This model's patches have no features.", field="method")
        patches = tokens[:, tower.prefix_tokens :].flatten(0, 1)
        found = tokenwise(at_least_float32(patches))
        state = served_head.state(served)
    embeddings = F.normalize(found, dim=-1).view(len(tokens), -1, found.shape[-1])
    return embeddings, served_head.features(state)


def run_both(
    tower: Tower, tokens: Tensor, index: int, attend: OwnAttention
) -> tuple[Tensor, Tensor]:
    """Run a block on a method's own path and on the model's path.

    Where the model reads only tokens before the patches, both paths share one pass: behind its
    attention a block treats every token alone.

    Args:
        tower: the tower.
        tokens: the block's input.
        index: index of the block.
        attend: from the block's attention to the output, of the shape of
            :attr:`Attention.output`, that takes its place on the method's path.

    Returns:
        The outputs of the method's path, right for the patches, and of the model's path, right for
        the tokens that its head reads.
    """
    head, prefix = tower.served_head(), tower.prefix_tokens
    if isinstance(head, TokenHead) and head.rows.stop is not None and head.rows.stop <= prefix:
        attention = tower.attend(tokens, index)
        own = attend(attention)[:, :, prefix:]
        mixed = torch.cat([attention.output[:, :, :prefix], own], 2)
        finished = tower.finish_block(tokens, mixed, index)
        return finished, finished
    attention, served = tower.run_block(tokens, index)
    return tower.finish_block(tokens, attend(attention), index), served


class DenseMethod(Method[PatchEmbeddings]):
    """Method whose map is the cosine of every patch's features and the target.

    Its trace is a single one, whatever the number of blocks that it changes.
    """

    target_share = 0.005

    def refusal(self, tower: Tower) -> str | None:
        """See :meth:`Method.refusal`."""
        return dense_refusal(tower)

    def note(self, tower: Tower) -> str | None:
        """See :meth:`Method.note`."""
        if isinstance(tower.served_head(), PoolerHead):
            return (
                "A patch's features are its value in the attentional pooler, carried through the "
                "rest of the pooler."
            )
        return None

    def trace(
        self, tower: Tower, tokens: Tensor, layers: tuple[int, ...], head: ScoreHead
    ) -> tuple[tuple[PatchEmbeddings, ...], Tensor]:
        """See :meth:`Method.trace`."""
        del head
        patches, features = embed_patches(tower, *self.run(tower, tokens, layers))
        return (PatchEmbeddings(patches, F.normalize(features, dim=-1)),), features

    @abstractmethod
    def run(self, tower: Tower, tokens: Tensor, layers: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Run the blocks; return the tokens of the method's path and of the model's path."""

    def maps(
        self,
        tower: Tower,
        blocks: tuple[PatchEmbeddings, ...],
        layers: tuple[int, ...],
        head: ScoreHead,
        targets: Tensor,
        parts: ModelParts,
    ) -> Tensor:
        """See :meth:`Method.maps`."""
        del tower, layers, head, parts
        (embeddings,) = blocks
        return embeddings.cosines(targets)


def run_blocks(tower: Tower, tokens: Tensor, count: int) -> Tensor:
    """Run the first blocks."""
    for index in range(count):
        tokens = tower.forward_block(tokens, index)
    return tokens


def _dense_head(tower: Tower) -> ScoreHead:
    """Return the head whose features a single token can have.

    The first score averages tokens, also in towers that serve several tokens side by side.
    """
    return tower.score_head(tower.scores[0])


def _tokenwise(head: ScoreHead) -> Features | None:
    """Return the way from tokens ``[M, d]`` to features ``[M, e]``; None if there is none."""
    if isinstance(head, FeatureMapHead):
        return head.tokenwise
    if isinstance(head, TokenHead) and not isinstance(head, RowsHead):
        return lambda tokens: head.features(tokens.unsqueeze(1))
    return None
