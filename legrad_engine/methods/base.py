"""Interface of an explanation method.

A method is one file that derives a class from :class:`Method` and registers an instance with
:mod:`legrad_engine.methods.registry`. It reads a tower and its traces; it never changes them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import Field, dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar, get_args

from torch import Tensor

from legrad_engine.errors import InvalidOptionError, check_choice
from legrad_engine.families.base import Tower
from legrad_engine.families.heads import ScoreHead
from legrad_engine.families.scores import Score
from legrad_engine.layers import Layers, resolve_layers
from legrad_engine.legrad.closed_form import FoldedBlock
from legrad_engine.legrad.rectified_product import RectifiedProduct
from legrad_engine.methods.names import Heads, TakenLayers


class BlockTrace(Protocol):
    """A frozen dataclass of tensors, each with B, the number of images, as its first dimension."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


_LAYERS_TAKEN: dict[TakenLayers, str] = {
    "any": "any blocks",
    "last-blocks": "a number of last blocks, without a gap: use layers=6 or another number, or "
    "layers='all'",
    "last": "the last block alone: use layers=1",
    "all": "the model as a whole: leave layers out, or use layers='all'",
}

# Copying a map that the trace holds already.
_LEAST_WORK = 0.001

_Block = TypeVar("_Block", bound=BlockTrace)


@dataclass(frozen=True, slots=True)
class ModelParts:
    """Parts that one explainer computes once and lends to the methods.

    Attributes:
        folded: from the index of a block with a closed form to its folded weights.
        product: computes the sum of ReLU(G V^T).
    """

    folded: Callable[[int], FoldedBlock]
    product: RectifiedProduct


class Method(ABC, Generic[_Block]):
    """One explanation method. Stateless: one instance serves every model and thread.

    Attributes:
        name: its name in options, such as ``"grad-eclip"``.
        title: its name in text, such as ``"Grad-ECLIP"``.
        description: at most three short lines, for the catalogue, the page and the docs.
        source: authors, venue and arXiv number.
        targeted: whether the map depends on the target.
        default_layers: number of last blocks that are explained by default, or ``"all"``.
        compares_targets: whether the map depends on the other targets of the picture, too.
        takes_layers: the blocks that it can explain, see :data:`TakenLayers`.
        splits_heads: whether :meth:`head_maps` gives a map for each attention head.
        rectified: whether its maps are sums of :attr:`ModelParts.product` alone, so that another
            product gives the same sums without rectification.
        trace_share: cost of a trace beyond the forward pass, for each explained block, in forward
            passes of that block.
        target_share: cost of one target's map, for each explained block, in the same unit.
        whole_trace_share: `trace_share` where the score averages all tokens, so that no single row
            of attention stands for it; None if it costs the same.
        whole_target_share: `target_share` there; None if it costs the same.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    description: ClassVar[str]
    source: ClassVar[str]
    targeted: ClassVar[bool] = True
    default_layers: ClassVar[Layers] = 1
    compares_targets: ClassVar[bool] = False
    takes_layers: ClassVar[TakenLayers] = "any"
    splits_heads: ClassVar[bool] = False
    rectified: ClassVar[bool] = False
    trace_share: ClassVar[float] = 0.0
    target_share: ClassVar[float] = 0.1
    whole_trace_share: ClassVar[float | None] = None
    whole_target_share: ClassVar[float | None] = None

    def refusal(self, tower: Tower) -> str | None:
        """Give the reason why a tower cannot have the method, as a clause; None if it can."""
        del tower
        return None

    def note(self, tower: Tower) -> str | None:
        """Say, in a sentence, how the method is defined for this tower if that is not evident."""
        del tower
        return None

    def layers(self, tower: Tower, asked: Layers | None) -> tuple[int, ...]:
        """Resolve the explained blocks, ascending.

        Args:
            tower: the tower.
            asked: see :func:`legrad_engine.layers.resolve_layers`; None for the default.

        Raises:
            InvalidOptionError: blocks that do not exist, or that the method cannot explain.
        """
        default = self.default_layers
        if asked is None:
            asked = min(default, tower.depth) if isinstance(default, int) else default
        layers = resolve_layers(asked, tower.depth)
        taken = self.layers_taken(tower)
        first = {"any": None, "last-blocks": layers[0], "last": tower.depth - 1, "all": 0}[taken]
        if first is not None and layers != tuple(range(first, tower.depth)):
            raise InvalidOptionError(
                f"The method '{self.name}' explains {_LAYERS_TAKEN[taken]}.", field="layers"
            )
        return layers

    def layers_taken(self, tower: Tower) -> TakenLayers:
        """Return the blocks that it can explain in a tower."""
        del tower
        return self.takes_layers

    def score(self, tower: Tower, asked: Score | None) -> Score:
        """Resolve the explained score: the one that the model serves, unless a method says more.

        Raises:
            InvalidOptionError: the method explains no such score of this tower.
        """
        if asked not in (None, tower.served_score):
            raise InvalidOptionError(
                f"The method '{self.name}' explains the score that the model serves: use "
                f"score='{tower.served_score}', or leave it out.",
                field="score",
            )
        return tower.served_score

    def check(self, heads: Heads, targets: int, *, negatives: bool) -> None:
        """Check the options of a question about one image.

        Args:
            heads: whether a map of each head is asked for.
            targets: number of targets.
            negatives: whether maps of negatives are to be subtracted.

        Raises:
            InvalidOptionError: the method cannot do this, or it would have no effect.
        """
        check_choice("heads", heads, get_args(Heads))
        if heads == "each" and not self.splits_heads:
            raise InvalidOptionError(
                f"The method '{self.name}' has no map of single heads: use heads='mean'.",
                field="heads",
            )
        if heads == "each" and targets > 1:
            raise InvalidOptionError(
                f"heads='each' gives one map for each head, whatever the target: ask for one "
                f"target, not {targets}.",
                field="heads",
            )
        if negatives and not self.targeted:
            raise InvalidOptionError(
                f"The method '{self.name}' gives every target the same map, so negatives would "
                "erase it: leave them out.",
                field="negatives",
            )
        if negatives and self.compares_targets:
            raise InvalidOptionError(
                f"The method '{self.name}' compares the targets of a request with one another: "
                "leave negatives out, and give them as further targets.",
                field="negatives",
            )

    def trace_pixels(
        self, tower: Tower, pixels: Tensor, layers: tuple[int, ...], head: ScoreHead
    ) -> tuple[tuple[_Block, ...], Tensor]:
        """Run :meth:`trace` on a model's input ``[B, 3, H, W]``, normalised.

        A method that explains pixels keeps them in its trace.
        """
        return self.trace(tower, tower.embed(pixels), layers, head)

    @abstractmethod
    def trace(
        self, tower: Tower, tokens: Tensor, layers: tuple[int, ...], head: ScoreHead
    ) -> tuple[tuple[_Block, ...], Tensor]:
        """Run one forward pass and keep the tensors that the maps need.

        Args:
            tower: the tower at the input's size.
            tokens: the input of the first block, from :meth:`Tower.embed`.
            layers: indices of the explained blocks, from :meth:`layers`.
            head: the head of the explained score.

        Returns:
            One trace for each explained block, or a single one where the method cannot tell blocks
            apart, and the model's own output features ``[B, e]``, not normalised, at least float32.
        """

    @abstractmethod
    def maps(
        self,
        tower: Tower,
        blocks: tuple[_Block, ...],
        layers: tuple[int, ...],
        head: ScoreHead,
        targets: Tensor,
        parts: ModelParts,
    ) -> Tensor:
        """Compute the map of every target over the patches.

        Args:
            tower: the tower at the input's size.
            blocks: from :meth:`trace`.
            layers: the blocks' indices.
            head: the head that the trace was made with.
            targets: ``[B, P, e]`` unit vectors.
            parts: parts of the model that are computed once.

        Returns:
            ``[B, P, patches]``, at least float32, not normalised. The maps of an image are equal
            if the method is not :attr:`targeted`.

        Raises:
            InvalidOptionError: the trace was made by another model.
        """

    def head_maps(
        self, tower: Tower, blocks: tuple[_Block, ...], layers: tuple[int, ...]
    ) -> Tensor:
        """Compute the map of every attention head, for methods that :attr:`splits_heads`.

        Args:
            tower: the tower at the input's size.
            blocks: from :meth:`trace`.
            layers: the blocks' indices.

        Returns:
            ``[B, heads, patches]``, at least float32, not normalised. No target changes them.
        """
        raise NotImplementedError(f"{self.name} splits no heads")

    def work(
        self, tower: Tower, layers: tuple[int, ...], targets: int, *, traced: bool = False
    ) -> float:
        """Return the cost of one image of the tower's own size, in forward passes; above 0.

        Args:
            tower: the tower.
            layers: indices of the explained blocks.
            targets: number of targets.
            traced: whether the trace is already made.
        """
        trace_share, target_share = self.trace_share, self.target_share
        if tower.served_score == "mean":
            if self.whole_trace_share is not None:
                trace_share = self.whole_trace_share
            if self.whole_target_share is not None:
                target_share = self.whole_target_share
        explained = tower.explained_share * len(layers) / tower.depth
        per_target = explained * target_share * (targets if self.targeted else 1)
        if traced:
            return max(per_target, _LEAST_WORK)
        return 1 + explained * trace_share + per_target
