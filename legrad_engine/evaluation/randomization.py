"""Parameter randomisation: do the maps of a method change when the weights do?

Source: Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018 (arXiv 1810.03292), the
cascading test from the top down, with rank similarity: first the head, then the blocks, and the
embedding of patches last. There each layer is initialised anew; here the values of each tensor are
shuffled, which keeps their distribution, so that no activation explodes.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from legrad_engine.errors import UnsupportedModelError
from legrad_engine.evaluation.metrics.ranking import spearman
from legrad_engine.explainer import Explainer
from legrad_engine.explanation import Explanation
from legrad_engine.images.inputs import PreparedImage
from legrad_engine.targets.resolved import ResolvedTargets

SEED = 0
HEAD = "head"
EMBEDDING = "embedding"


@dataclass(frozen=True, slots=True)
class RandomizedStage:
    """The maps after one more part of the model was randomised.

    Attributes:
        stage: the part, :data:`HEAD`, ``"block 11"`` or :data:`EMBEDDING`; all parts before it stay
            randomised.
        similarity: mean Spearman correlation with the maps of the intact model, -1 to 1; None if
            no maps could be compared.
        heatmaps: number of maps that could be compared. Constant maps, and those that overflowed,
            have no ranks.
    """

    stage: str
    similarity: float | None
    heatmaps: int


@torch.no_grad()
def randomize(
    explainer: Explainer,
    images: Sequence[PreparedImage],
    resolved: Sequence[ResolvedTargets],
    methods: Sequence[str],
) -> dict[str, list[RandomizedStage]]:
    """Randomise a copy of a model part by part, from the top down, and compare its maps.

    Targets keep the vectors of the intact model. The explainer is left as it is.

    Args:
        explainer: a model in float32 or float64.
        images: pictures of one input size.
        resolved: the targets of each picture, from :attr:`Explainer.resolver`.
        methods: names of methods.

    Returns:
        The stages by method: the head of the image tower with what pools its tokens, each block,
        and all that comes before the first one.

    Raises:
        InvalidOptionError: the model does not offer a method.
        UnsupportedModelError: the parameters of the blocks cannot be told apart.
    """
    intact = {name: _maps(explainer, images, resolved, name) for name in methods}
    twin = copy.deepcopy(explainer.model)
    generator = torch.Generator().manual_seed(SEED)
    parts = _parts(explainer, twin, images[0])
    stages: dict[str, list[RandomizedStage]] = {name: [] for name in methods}
    for stage, parameters in parts:
        for parameter in parameters:
            _shuffle(parameter, generator)
        # A new one: an explainer keeps products of the weights.
        randomized = Explainer(
            twin, None, name=explainer.name, preprocessing=explainer.preprocessing
        )
        for name in methods:
            found = _maps(randomized, images, resolved, name)
            stages[name].append(_compared(stage, intact[name], found))
    return stages


def _parts(
    explainer: Explainer, twin: nn.Module, image: PreparedImage
) -> list[tuple[str, list[nn.Parameter]]]:
    """Return the parameters of the twin's image tower, part by part, from the top down."""
    visual: nn.Module = twin.get_submodule("visual")
    by_name = dict(visual.named_parameters())
    originals = {
        id(parameter): name
        for name, parameter in explainer.model.get_submodule("visual").named_parameters()
    }
    depth = explainer.tower.depth
    parts: list[tuple[str, list[nn.Parameter]]] = []
    for index in reversed(range(depth)):
        module: nn.Module = explainer.tower.block(index)
        names = [originals.get(id(parameter)) for parameter in module.parameters()]
        if not names or None in names:
            raise UnsupportedModelError(f"The parameters of block {index} cannot be told apart.")
        parts.append((f"block {index}", [by_name.pop(name) for name in names if name is not None]))
    embedding = _of_embedding(explainer, twin, image, list(by_name.values()))
    head = [each for each in by_name.values() if not any(each is other for other in embedding)]
    whole = [(HEAD, head), *parts, (EMBEDDING, embedding)]
    return [(stage, parameters) for stage, parameters in whole if parameters]


def _of_embedding(
    explainer: Explainer, twin: nn.Module, image: PreparedImage, parameters: list[nn.Parameter]
) -> list[nn.Parameter]:
    """Return the parameters that the input of the first block depends on."""
    own = Explainer(twin, None, name=explainer.name, preprocessing=explainer.preprocessing)
    width, height = image.geometry.input_size
    for parameter in parameters:
        parameter.requires_grad_()
    with torch.enable_grad():
        tokens = own.tower.at((height, width)).embed(own.input_of([image]))
        gradients = torch.autograd.grad(tokens.sum(), parameters, allow_unused=True)
    for parameter in parameters:
        parameter.requires_grad_(False)
    return [
        parameter
        for parameter, gradient in zip(parameters, gradients, strict=True)
        if gradient is not None
    ]


def _shuffle(parameter: nn.Parameter, generator: torch.Generator) -> None:
    order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
    parameter.data = parameter.data.flatten()[order].view_as(parameter)


def _maps(
    explainer: Explainer,
    images: Sequence[PreparedImage],
    resolved: Sequence[ResolvedTargets],
    method: str,
) -> list[Explanation]:
    trace = explainer.trace(images, method=method)
    return explainer.launch_attribution(trace, resolved).finish()


def _compared(
    stage: str, intact: Sequence[Explanation], found: Sequence[Explanation]
) -> RandomizedStage:
    correlations = [
        spearman(one, other)
        for before, after in zip(intact, found, strict=True)
        for one, other in zip(before.maps, after.maps, strict=True)
        if np.isfinite(one).all() and np.isfinite(other).all()
    ]
    defined = [each for each in correlations if each is not None]
    mean = sum(defined) / len(defined) if defined else None
    return RandomizedStage(stage, mean, len(defined))
