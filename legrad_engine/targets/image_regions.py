"""Embeddings of target pictures and of their regions.

A model whose embedding is the average of its patches has one of a region as well: its own head on
the final tokens of the patches inside the box, which have seen the rest of the picture. In any
other model the final patches never reach the head alone, so the region is cut out of the original
and is a picture of its own. docs/questions.md has the figures.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from legrad_engine.families.base import Tower
from legrad_engine.families.heads import TokenHead
from legrad_engine.images.cropping import PixelBox, check_region
from legrad_engine.images.decoding import decode
from legrad_engine.images.geometry import Geometry
from legrad_engine.images.inputs import PreparedImage
from legrad_engine.targets.kinds import ImageTarget
from legrad_engine.transfers import index_on

if TYPE_CHECKING:
    from legrad_engine.explainer import Explainer


def embeds_regions(tower: Tower) -> bool:
    """Tell whether a model's own head averages patches, so that it embeds regions of a picture."""
    head = tower.served_head()
    return (
        type(head) is TokenHead
        and head.rows.start in (None, tower.prefix_tokens)
        and (head.rows.stop is None)
    )


def check_patches(box: PixelBox, geometry: Geometry) -> None:
    """Refuse the box of a whole picture that is no region of it, or covers less than a patch.

    Raises:
        InvalidTargetError: says why.
    """
    rows, columns = geometry.grid
    width, height = geometry.image_size
    left, top, right, bottom = geometry.content_box
    # A padded picture covers a part of the grid.
    columns = columns * (right - left) // geometry.input_size[0]
    rows = rows * (bottom - top) // geometry.input_size[1]
    least = -(-width // max(columns, 1)), -(-height // max(rows, 1))
    check_region(box, geometry.image_size, least)


def embed_targets(explainer: "Explainer", targets: Sequence[ImageTarget]) -> Tensor:
    """Embed target pictures and regions as unit vectors ``[T, e]``.

    Args:
        explainer: the model.
        targets: the targets. A prepared picture with a box is a whole picture, for models that
            :func:`embeds_regions` names; without one it is the target itself.

    Raises:
        ImageDecodeError: a source is not a picture, or is damaged.
        ImageTooLargeError: a picture has more pixels than the limit.
        InvalidTargetError: a box is empty, leaves its picture or is smaller than a patch.
    """
    by_head = embeds_regions(explainer.tower)
    alone: dict[int, PreparedImage] = {}
    vectors: dict[int, Tensor] = {}
    for place, target in enumerate(targets):
        if target.box is not None and by_head:
            vectors[place] = _embed_region(explainer, target, target.box)
        else:
            alone[place] = _prepare(explainer, target)
    if alone:
        vectors |= zip(alone, explainer.embed_images(list(alone.values())), strict=True)
    return torch.stack([vectors[place] for place in range(len(targets))])


def _prepare(explainer: "Explainer", target: ImageTarget) -> PreparedImage:
    image = target.image
    if isinstance(image, PreparedImage):
        return image
    if target.box is None:
        return explainer.prepare(image)
    picture = decode(image)
    height, width = explainer.tower.patch_size
    check_region(target.box, picture.size, (width, height))
    return explainer.prepare_decoded(picture.crop(target.box))


@torch.no_grad()
def _embed_region(explainer: "Explainer", target: ImageTarget, box: PixelBox) -> Tensor:
    """Embed the final tokens of the patches whose centre lies in the box, by the model's head."""
    image = target.image
    prepared = image if isinstance(image, PreparedImage) else explainer.prepare(image)
    geometry = prepared.geometry
    check_patches(box, geometry)
    tower = explainer.tower
    tokens = tower.embed(explainer.input_of([prepared]))
    for index in range(tower.depth):
        tokens = tower.forward_block(tokens, index)
    left, top, right, bottom = geometry.image_to_input(box)
    (rows, columns), (height, width) = geometry.grid, geometry.patch_size
    down = (np.arange(rows) + 0.5) * height
    across = (np.arange(columns) + 0.5) * width
    inside = ((top <= down) & (down < bottom))[:, None] & ((left <= across) & (across < right))
    patches = index_on(tokens.device, np.flatnonzero(inside).tolist()) + tower.prefix_tokens
    prefix = torch.arange(tower.prefix_tokens, device=tokens.device)
    head = tower.served_head()
    state = head.state(tokens[:, torch.cat([prefix, patches])])
    return F.normalize(head.features(state)[0], dim=-1)
