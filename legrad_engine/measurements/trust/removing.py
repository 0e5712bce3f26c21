"""Scores of pictures without some of their patches."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from legrad_engine.families import Tower
from legrad_engine.families.heads import at_least_float32
from legrad_engine.images.geometry import Geometry
from legrad_engine.measurements.base import Subjects
from legrad_engine.measurements.trust.levels import Removal, TrustScore
from legrad_engine.transfers import index_on, to_device


class Reduced(NamedTuple):
    """A picture without some of its patches.

    Attributes:
        image: index of the picture.
        removed: indices of the patches, row by row, ascending.
    """

    image: int
    removed: tuple[int, ...]


def removal_of(tower: Tower) -> Removal:
    """Return how patches are removed from the input of a tower."""
    return "dropped" if tower.drops_patches else "masked"


def score_of(subjects: Subjects, image: int, row: int) -> TrustScore:
    """Return which score is followed for a target."""
    of_class = subjects.resolved[image].classes[row] is not None
    return "probability" if of_class and subjects.explainer.classifier else "similarity"


def content_patches(geometry: Geometry) -> NDArray[np.intp]:
    """Return the indices of the patches that show the picture and no padding, row by row."""
    rows, columns = geometry.grid
    cells: NDArray[np.intp] = np.arange(rows * columns).reshape(rows, columns)
    return cells[geometry.content_cells].ravel()


def scores_without(
    subjects: Subjects, reduced: Sequence[Reduced]
) -> dict[Reduced, NDArray[np.float64]]:
    """Compute the scores of all targets for pictures without some of their patches.

    Each distinct one is computed once. Those with as many patches share forward passes, whatever
    picture they are of. Where the tower allows, tokens are left out after their positions were
    added; else pixels become the mean colour, because blacked out patches bias vision transformers
    (arXiv 2204.08945).

    Returns:
        Scores ``[P]`` by picture and patches.
    """
    explainer = subjects.explainer
    width, height = subjects.trace.geometries[0].input_size
    tower = explainer.tower.at((height, width))
    pixels = explainer.input_of(subjects.pictures)
    remove: Callable[[Sequence[Reduced]], Tensor]
    if tower.drops_patches:
        remove = _Dropping(tower, pixels)
    else:
        colour = to_device(torch.tensor(explainer.preprocessing.neutral), pixels.device)
        remove = _Masking(tower, pixels, colour.to(pixels.dtype))
    alike: defaultdict[int, list[Reduced]] = defaultdict(list)
    for each in dict.fromkeys(reduced):
        alike[len(each.removed)].append(each)
    head = tower.served_head()
    found: dict[Reduced, NDArray[np.float64]] = {}
    for members in alike.values():
        for start in range(0, len(members), subjects.images_per_pass):
            part = members[start : start + subjects.images_per_pass]
            features = head.features(head.state(remove(part)))
            found |= zip(part, _scores(subjects, part, features), strict=True)
    return found


def whole_scores(subjects: Subjects) -> list[NDArray[np.float64]]:
    """Return the scores ``[P]`` of all targets of each whole picture, from its trace."""
    whole = [Reduced(image, ()) for image in range(len(subjects))]
    return _scores(subjects, whole, subjects.trace.features)


class _Dropping:
    """Leaves tokens of patches out of all blocks."""

    def __init__(self, tower: Tower, pixels: Tensor) -> None:
        self._tower = tower
        self._tokens = tower.embed(pixels)

    def __call__(self, reduced: Sequence[Reduced]) -> Tensor:
        """Compute the output of the last block; all have as many patches."""
        tower, tokens = self._tower, self._tokens
        prefix, device = tower.prefix_tokens, tokens.device
        patches = tokens.shape[1] - prefix
        everywhere = np.arange(patches)
        kept = torch.from_numpy(
            np.stack([np.delete(everywhere, list(each.removed)) for each in reduced])
        ).to(device)
        before = torch.arange(prefix, device=device).expand(len(reduced), -1)
        index = torch.cat([before, kept + prefix], 1)
        images = index_on(device, [each.image for each in reduced])
        some = tokens[images.unsqueeze(1), index]
        for block in range(tower.depth):
            some = tower.forward_kept(some, kept, block)
        return some


class _Masking:
    """Fills the pixels of patches with the mean colour."""

    def __init__(self, tower: Tower, pixels: Tensor, colour: Tensor) -> None:
        self._tower = tower
        self._pixels = pixels
        self._colour = colour.view(3, 1, 1)
        height, width = tower.patch_size
        self._grid = pixels.shape[2] // height, pixels.shape[3] // width

    def __call__(self, reduced: Sequence[Reduced]) -> Tensor:
        """Compute the output of the last block."""
        tower, pixels = self._tower, self._pixels
        rows, columns = self._grid
        height, width = tower.patch_size
        mask = np.zeros((len(reduced), rows * columns), np.bool_)
        for place, each in enumerate(reduced):
            mask[place, list(each.removed)] = True
        hidden = mask.reshape(-1, rows, columns).repeat(height, 1).repeat(width, 2)
        images = index_on(pixels.device, [each.image for each in reduced])
        masked = pixels[images]
        covered = masked[:, :, : rows * height, : columns * width]
        where = torch.from_numpy(hidden).to(pixels.device).unsqueeze(1)
        covered.copy_(torch.where(where, self._colour, covered))
        tokens = tower.embed(masked)
        for block in range(tower.depth):
            tokens = tower.forward_block(tokens, block)
        return tokens


def _scores(
    subjects: Subjects, reduced: Sequence[Reduced], features: Tensor
) -> list[NDArray[np.float64]]:
    classifier = subjects.explainer.classifier
    embeddings = F.normalize(at_least_float32(features), dim=-1)
    probabilities = None
    if classifier is not None and any(
        index is not None for each in subjects.resolved for index in each.classes
    ):
        probabilities = classifier.probabilities(features)
    rows = []
    for place, each in enumerate(reduced):
        resolved = subjects.resolved[each.image]
        scores = at_least_float32(resolved.vectors) @ embeddings[place]
        if probabilities is not None:
            classes = [row for row, index in enumerate(resolved.classes) if index is not None]
            if classes:
                wanted = [index for index in resolved.classes if index is not None]
                chosen = probabilities[place, index_on(scores.device, wanted)]
                scores[index_on(scores.device, classes)] = chosen.to(scores.dtype)
        rows.append(scores)
    # One copy to the host, and then to float64, which MPS does not have.
    lengths = [len(each) for each in rows]
    joined = torch.cat(rows).cpu().double().numpy()
    return np.split(joined, np.cumsum(lengths)[:-1])
