"""Interface between LeGrad and an image tower of any architecture.

A family is one file that wraps an architecture's own modules in a :class:`Tower` and registers it
with :mod:`legrad_engine.families.registry`. The tower never changes the modules: it calls them or
reads their weights.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from legrad_engine.errors import InvalidOptionError, UnsupportedModelError
from legrad_engine.families.affine import AffineChain
from legrad_engine.families.attention import (
    Attention,
    attention_of,
    run_observed,
    run_with_attention,
)
from legrad_engine.families.heads import ScoreHead
from legrad_engine.families.scores import Score


@dataclass(frozen=True, slots=True)
class KnownBlock:
    """The parts of a pre-norm block whose derivative has a closed form.

    ``X = x + attention_scale * output_projection(O)`` and
    ``Z = X + mlp_scale * contract(activation(expand(norm(X))))``.
    """

    output_projection: nn.Linear
    attention_scale: Tensor | None
    norm: nn.LayerNorm
    expand: nn.Linear
    activation: nn.Module
    contract: nn.Linear
    mlp_scale: Tensor | None


@dataclass(frozen=True, slots=True)
class AttentionBranch:
    """What surrounds the attention of a block ``X = x + after(attention(before(x)))``.

    Attributes:
        before: the norm of the attention's input.
        after: from the heads' merged output ``[..., heads * head_dim]`` to what the block adds to
            its input, ``[..., d]``.
    """

    before: nn.Module
    after: AffineChain


class Tower(ABC):
    """Image tower as LeGrad sees it: patch embedding, explained blocks, score heads.

    Attributes:
        family: name of the architecture family.
        depth: number of blocks that can be explained.
        patch_size: (height, width) in pixels of the area that one token of those blocks covers.
        image_size: (height, width) in pixels that the weights were trained at.
        prefix_tokens: number of tokens before the patches (class token, registers).
        scores: the scores that this tower can explain: its default first, the served one last.
        embedding_size: length of its features.
        explained_share: approximate share of a forward pass that the explained blocks take, 0 to 1.
        width: length of a token, where every token attends to every other in each block; None
            where attention is confined to windows or stages.
        drops_patches: whether the blocks and the served head take some of the patches alone: each
            patch enters with its position, see :meth:`forward_kept`.
        attention_kind: the blocks' attention in words, for the catalogue.
        block_kind: the explained blocks in words, for the catalogue.
    """

    family: str
    depth: int
    patch_size: tuple[int, int]
    image_size: tuple[int, int]
    prefix_tokens: int
    scores: tuple[Score, ...]
    embedding_size: int
    explained_share: float = 1.0
    width: int | None = None
    drops_patches: bool = False
    attention_kind: str = "self-attention"
    block_kind: str = "blocks"

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches at the size that the weights were trained at."""
        return (
            self.image_size[0] // self.patch_size[0],
            self.image_size[1] // self.patch_size[1],
        )

    @property
    def served_score(self) -> Score:
        """The score that the model itself serves, computed by :meth:`served_head`."""
        return self.scores[-1]

    @property
    def explained_attention(self) -> str:
        """The explained attention and the number of blocks in words, for the catalogue."""
        head = self.score_head(self.scores[0])
        if head.own_attention is not None:
            return f"{head.own_attention}, after each of {self.depth} blocks"
        return f"{self.attention_kind}, {self.depth} {self.block_kind}"

    def at(self, image_size: tuple[int, int]) -> "Tower":
        """Return the tower for inputs of (height, width) pixels, a whole number of patches each.

        A tower whose code does not depend on the input size returns itself.

        Raises:
            InvalidOptionError: the architecture cannot take that size.
        """
        del image_size
        return self

    @abstractmethod
    def embed(self, pixels: Tensor) -> Tensor:
        """Compute the input of the first explained block.

        Args:
            pixels: ``[B, 3, H, W]``, normalised.

        Returns:
            Tokens ``[B, N, d]``, or a feature map in towers that keep one.
        """

    @abstractmethod
    def forward_block(self, tokens: Tensor, index: int) -> Tensor:
        """Run one block by the model's own code; the output has the input's shape."""

    def forward_kept(self, tokens: Tensor, kept: Tensor, index: int) -> Tensor:
        """Run one block on some of the patches, for towers that :attr:`drops_patches`.

        Args:
            tokens: ``[B, prefix + K, d]``, the tokens before the patches and K patches of each
                image.
            kept: ``[B, K]``, which patches these are, row by row.
            index: index of the block.
        """
        del kept
        return self.forward_block(tokens, index)

    def attend(self, tokens: Tensor, index: int) -> Attention:
        """Compute the attention of one block on its input tokens."""
        return attention_of(lambda: self.forward_block(tokens, index))

    def run_block(self, tokens: Tensor, index: int) -> tuple[Attention, Tensor]:
        """Run one block and return its attention and its output."""
        return run_observed(lambda: self.forward_block(tokens, index))

    def finish_block(self, tokens: Tensor, output: Tensor, index: int) -> Tensor:
        """Run the part of a block that follows its attention. Differentiable in ``output``.

        Args:
            tokens: the block's input. Where :attr:`width` is known, some of its rows will do.
            output: :attr:`Attention.output`, or another of its shape, of the same rows.
            index: index of the block.

        Returns:
            The block's output.
        """
        return run_with_attention(lambda: self.forward_block(tokens, index), output)

    def block(self, index: int) -> Any:
        """Return the module of one explained block.

        Raises:
            UnsupportedModelError: the family does not name it.
        """
        raise UnsupportedModelError(f"{self.family} does not name the module of block {index}.")

    def known_block(self, index: int) -> KnownBlock | None:
        """Return the block's parts where its derivative has a closed form, else None."""
        del index
        return None

    def attention_branch(self, index: int) -> AttentionBranch | None:
        """Return what surrounds a block's attention, None where its output is not affine in it."""
        del index
        return None

    def first_norm(self, index: int) -> nn.Module | None:
        """Return the norm whose output is the input of a block's attention, else None."""
        del index
        return None

    def forward_from_norm(self, tokens: Tensor, normalized: Tensor, index: int) -> Tensor:
        """Run one block with a tensor in the place of its first norm's output.

        Differentiable in both tensors. Only for blocks that have a :meth:`first_norm`.

        Args:
            tokens: the block's input.
            normalized: of the same shape.
            index: index of the block.
        """
        raise NotImplementedError

    def key_and_value_weights(self, index: int) -> tuple[Tensor, Tensor] | None:
        """Return the matrices ``[heads * head_dim, d]`` from the first norm to keys and to values.

        None where keys or values are made in another way than by one linear map of each token.
        """
        del index
        return None

    def patches_of(self, tokens: Tensor) -> Tensor:
        """Return the patches ``[B, patches, d]`` of a block's input or output, row by row."""
        return tokens[:, self.prefix_tokens :]

    def output_projection(self, index: int) -> nn.Module | None:
        """Return the map from the heads' outputs side by side to a token, else None."""
        del index
        return None

    def on_grid(self, maps: Tensor, index: int) -> Tensor:
        """Reorder maps over a block's keys into maps over the patches, row by row.

        Args:
            maps: ``[B', P, keys]``, in the order of :attr:`Attention.values`.
            index: index of the block.

        Returns:
            ``[B, P, patches]``.
        """
        del index
        return maps[..., self.prefix_tokens :]

    @abstractmethod
    def score_head(self, score: Score) -> ScoreHead:
        """Return the head that computes the given score.

        Raises:
            InvalidOptionError: the tower has no such score.
        """

    @abstractmethod
    def served_head(self) -> ScoreHead:
        """Return the head that computes the model's own output features."""

    def require_score(self, score: Score, why: str) -> None:
        """Refuse a score that the tower does not have.

        Args:
            score: the requested score.
            why: clause that gives the reason, for the error.

        Raises:
            InvalidOptionError: the tower has no such score.
        """
        if score not in self.scores:
            offered = " or ".join(f"'{each}'" for each in self.scores)
            raise InvalidOptionError(
                f"score={score!r} is not available: {why}. Use score={offered}.", field="score"
            )
