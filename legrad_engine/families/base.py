"""What LeGrad needs to know of an image tower, whatever its architecture.

A family is one file that wraps an architecture's own modules in a :class:`Tower`. The tower never
changes the modules: it calls them, or reads their weights.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from legrad_engine.errors import InvalidOptionError
from legrad_engine.families.attention import (
    Attention,
    attention_of,
    run_observed,
    run_with_attention,
)
from legrad_engine.families.heads import Score, ScoreHead


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


class Tower(ABC):
    """An image tower as LeGrad sees it: patch embedding, explained blocks, score heads.

    Attributes:
        family: name of the architecture family.
        depth: number of blocks that can be explained.
        patch_size: height and width in pixels of what one token of those blocks covers.
        image_size: height and width in pixels that the weights were made for.
        prefix_tokens: tokens before the patches (class token, registers).
        scores: the scores that this tower can explain, its default first.
        embedding_size: length of its features.
        explained_share: the part of a forward pass that the explained blocks take, about.
        width: length of a token, where every token attends to every other in each block; None
            where attention is confined.
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

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches at the size that the weights were made for."""
        return (
            self.image_size[0] // self.patch_size[0],
            self.image_size[1] // self.patch_size[1],
        )

    def at(self, image_size: tuple[int, int]) -> "Tower":
        """The same tower for inputs of (height, width) pixels, whole patches each.

        Towers whose code does not depend on the input's size are their own answer.

        Raises:
            InvalidOptionError: the architecture cannot take that size.
        """
        del image_size
        return self

    @abstractmethod
    def embed(self, pixels: Tensor) -> Tensor:
        """What enters the first explained block, for pixels ``[B, 3, H, W]``.

        Tokens ``[B, N, d]``, or a feature map in towers that keep one.
        """

    @abstractmethod
    def forward_block(self, tokens: Tensor, index: int) -> Tensor:
        """Output of one block, of its input's shape, by the model's own code."""

    def attend(self, tokens: Tensor, index: int) -> Attention:
        """The attention of one block on its input tokens."""
        return attention_of(lambda: self.forward_block(tokens, index))

    def run_block(self, tokens: Tensor, index: int) -> tuple[Attention, Tensor]:
        """One block's attention and its output."""
        return run_observed(lambda: self.forward_block(tokens, index))

    def finish_block(self, tokens: Tensor, output: Tensor, index: int) -> Tensor:
        """The rest of the block after its attention. Differentiable in ``output``.

        Args:
            tokens: the block's input.
            output: of the shape of :attr:`Attention.output`.
            index: which block.

        Returns:
            The block's output.
        """
        return run_with_attention(lambda: self.forward_block(tokens, index), output)

    def known_block(self, index: int) -> KnownBlock | None:
        """The block's parts where its derivative has a closed form, else None."""
        del index
        return None

    def on_grid(self, maps: Tensor, index: int) -> Tensor:
        """Maps over patches ``[B, P, patches]``, row by row, from maps over a block's keys.

        Args:
            maps: ``[B', P, keys]``, in the order of :attr:`Attention.values`.
            index: which block.
        """
        del index
        return maps[..., self.prefix_tokens :]

    @abstractmethod
    def score_head(self, score: Score) -> ScoreHead:
        """The head that makes the given score.

        Raises:
            InvalidOptionError: the tower has no such score.
        """

    @abstractmethod
    def served_head(self) -> ScoreHead:
        """The head that makes the features which the model itself serves."""

    def require_score(self, score: Score, why: str) -> None:
        """Refuses a score that the tower does not have.

        Raises:
            InvalidOptionError: with the reason.
        """
        if score not in self.scores:
            offered = " or ".join(f"'{each}'" for each in self.scores)
            raise InvalidOptionError(
                f"score={score!r} is not available: {why}. Use score={offered}.", field="score"
            )
