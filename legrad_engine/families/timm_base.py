"""Base of the towers of timm's architectures: the trunk, its input sizes, and its closed form."""

import copy
from typing import Any

from timm.layers import Mlp, activations
from timm.models import (
    beit,
    eva,
    fastvit,
    swin_transformer,
    vision_transformer,
    vision_transformer_relpos,
)
from torch import Tensor, nn

from legrad_engine.errors import InvalidOptionError
from legrad_engine.families.affine import AffineChain
from legrad_engine.families.base import AttentionBranch, KnownBlock, Tower
from legrad_engine.families.heads import precise
from legrad_engine.families.positions import resample_positions
from legrad_engine.recently_used import RecentlyUsed

# A kept size holds its own position embeddings, and with rotary ones a table for every block.
_SIZES_KEPT = 4
_PRE_NORM_BLOCKS = (
    vision_transformer.Block,
    vision_transformer_relpos.RelPosBlock,
    beit.Block,
    eva.EvaBlock,
)
# The norm before the attention, by class of block.
_FIRST_NORMS: dict[type, str] = {
    **dict.fromkeys(_PRE_NORM_BLOCKS, "norm1"),
    swin_transformer.SwinTransformerBlock: "norm1",
    fastvit.AttentionBlock: "norm",
}
_ELEMENTWISE_ACTIVATIONS = (
    nn.GELU,
    nn.ReLU,
    nn.SiLU,
    activations.GELU,
    activations.GELUTanh,
    activations.QuickGELU,
)


def same_weights(trunk: Any) -> Any:
    """Copy a trunk's modules, sharing its parameters.

    Changes to the copy, such as another input size, leave the trunk as it is.
    """
    shared: dict[int, object] = {id(parameter): parameter for parameter in trunk.parameters()}
    return copy.deepcopy(trunk, shared)


class _Given(nn.Module):
    """A module whose output is given beforehand."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self._output = output

    def forward(self, _: Tensor) -> Tensor:
        """Return the given output."""
        return self._output


class TimmTower(Tower):
    """Tower of a timm trunk and the adapter that open_clip puts behind it.

    The tower runs a copy of the trunk that shares its weights, so that the copy's input size can be
    set and fused attention switched on.
    """

    def __init__(self, trunk: Any, adapter: nn.Module | None) -> None:
        """Wrap a trunk.

        Args:
            trunk: a timm model.
            adapter: layers from the trunk's output to the embedding; None for a plain image model,
                whose features are the inputs of its classifier.
        """
        self._trunk: Any = same_weights(trunk)
        for module in self._trunk.modules():
            if hasattr(module, "fused_attn"):
                # Same results; but only fused attention can be observed.
                module.fused_attn = True
        self._adapter = adapter
        self._sizes = RecentlyUsed[tuple[int, int], Tower](_SIZES_KEPT)

    def at(self, image_size: tuple[int, int]) -> Tower:
        """See :meth:`Tower.at`."""
        if image_size == self.image_size:
            return self
        return self._sizes.get_or_make(image_size, self._resized)

    def only_own_size(self, image_size: tuple[int, int]) -> Tower:
        """Return the tower itself, for architectures with tables of relative positions.

        The tables are made for one size. timm's code that rebuilds them relies on indexing that
        PyTorch has announced to change, and needs memory quadratic in the number of patches for
        every block.

        Raises:
            InvalidOptionError: the size is not the tower's own.
        """
        if image_size != self.image_size:
            height, width = self.image_size
            raise InvalidOptionError(
                "This model's relative positions are made for inputs of "
                f"{width} x {height} pixels: leave size out, and use fit='squash' or 'pad'.",
                field="size",
            )
        return self

    def _resized(self, image_size: tuple[int, int]) -> "TimmTower":
        resized = copy.copy(self)
        resized._trunk = same_weights(self._trunk)
        if hasattr(resized._trunk, "set_input_size"):
            try:
                resized._trunk.set_input_size(image_size)
            except (AssertionError, ValueError, RuntimeError) as error:
                height, width = image_size
                raise InvalidOptionError(
                    f"This model cannot take an input of {width} x {height} pixels: {error}. "
                    "Leave size out for its own.",
                    field="size",
                ) from error
        resized._fit_positions(self._trunk)
        resized._prepare()
        return resized

    def _fit_positions(self, original: Any) -> None:
        """Resample learned position embeddings as :func:`resample_positions` does, unlike timm."""
        positions = getattr(original, "pos_embed", None)
        if not isinstance(positions, Tensor) or positions.ndim != 3:
            return
        old, new = (tuple(each.patch_embed.grid_size) for each in (original, self._trunk))
        prefix = positions.shape[1] - old[0] * old[1]
        resampled = resample_positions(positions[0], old, new, prefix)
        self._trunk.pos_embed = nn.Parameter(resampled[None], requires_grad=False)

    def _prepare(self) -> None:
        """Compute the tables that depend on the input size alone."""

    @property
    def _after_pooling(self) -> nn.Sequential:
        """The layers from a pooled token to features, in float32 at least."""
        parts = [self._trunk.fc_norm]
        if self._adapter is not None:
            parts += [self._trunk.head, self._adapter]
        return nn.Sequential(*(precise(part) for part in parts))

    def known_block(self, index: int) -> KnownBlock | None:
        """See :meth:`Tower.known_block`."""
        return _known_block(self.block(index))

    def attention_branch(self, index: int) -> AttentionBranch | None:
        """See :meth:`Tower.attention_branch`."""
        return _attention_branch(self.block(index))

    def first_norm(self, index: int) -> nn.Module | None:
        """See :meth:`Tower.first_norm`."""
        block = self.block(index)
        name = _FIRST_NORMS.get(type(block))
        return None if name is None else block.get_submodule(name)

    def forward_from_norm(self, tokens: Tensor, normalized: Tensor, index: int) -> Tensor:
        """See :meth:`Tower.forward_from_norm`."""
        block = self.block(index)
        # A block of the same parts but one; the model's own is left as it is.
        twin = copy.copy(block)
        twin._modules = {**block._modules, _FIRST_NORMS[type(block)]: _Given(normalized)}
        return self.run(twin, tokens, index)

    def run(self, block: Any, tokens: Tensor, index: int) -> Tensor:
        """Run a block, or its twin, on its input tokens."""
        del index
        output: Tensor = block(tokens)
        return output

    def forward_block(self, tokens: Tensor, index: int) -> Tensor:
        """See :meth:`Tower.forward_block`."""
        return self.run(self.block(index), tokens, index)

    def output_projection(self, index: int) -> nn.Module | None:
        """See :meth:`Tower.output_projection`."""
        projection = getattr(getattr(self.block(index), "attn", None), "proj", None)
        return projection if isinstance(projection, nn.Linear) else None


def _known_block(block: Any) -> KnownBlock | None:
    """Return the parts of a pre-norm block with a plain MLP; None for any other block."""
    if type(block) not in _PRE_NORM_BLOCKS:
        return None
    attention, mlp, norm = block.attn, block.mlp, block.norm2
    plain = (
        isinstance(getattr(attention, "norm", None) or nn.Identity(), nn.Identity)
        and getattr(attention, "gate", None) is None
        and isinstance(getattr(attention, "proj", None), nn.Linear)
        and type(mlp) is Mlp
        and isinstance(mlp.norm, nn.Identity)
        and isinstance(mlp.act, _ELEMENTWISE_ACTIVATIONS)
        and isinstance(mlp.fc1, nn.Linear)
        and isinstance(mlp.fc2, nn.Linear)
        and isinstance(norm, nn.LayerNorm)
        and norm.weight is not None
        and norm.bias is not None
    )
    if not plain:
        return None
    return KnownBlock(
        output_projection=attention.proj,
        attention_scale=_layer_scale(block, "ls1", "gamma_1"),
        norm=norm,
        expand=mlp.fc1,
        activation=mlp.act,
        contract=mlp.fc2,
        mlp_scale=_layer_scale(block, "ls2", "gamma_2"),
    )


def _attention_branch(block: Any) -> AttentionBranch | None:
    """Return what surrounds the attention of a pre-norm block; None for any other block."""
    attention = block.attn if type(block) in _PRE_NORM_BLOCKS else None
    if attention is None or getattr(attention, "gate", None) is not None:
        return None
    scale = _layer_scale(block, "ls1", "gamma_1")
    after = AffineChain.of(getattr(attention, "norm", None), attention.proj, scale)
    return None if after is None else AttentionBranch(block.norm1, after)


def _layer_scale(block: Any, module: str, parameter: str) -> Tensor | None:
    """Return a block's layer scale: a module in timm's ViT, a parameter in its EVA."""
    scale: Tensor | None = getattr(getattr(block, module, None), "gamma", None)
    return scale if scale is not None else getattr(block, parameter, None)
