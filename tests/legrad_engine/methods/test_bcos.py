"""B-cos maps against the package's own explanation mode, and their sum against the logit."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from legrad_engine import Explainer
from legrad_engine.errors import InvalidOptionError
from legrad_engine.methods.base import ModelParts
from legrad_engine.methods.registry import methods
from legrad_engine.targets import ClassTarget
from tests.support.bcos_models import TINY, TINY_WITH_STEM, both, write_bcos
from tests.support.pictures import picture

pytest.importorskip("bcos")
pytest.importorskip("einops")

Pair = tuple[Any, Explainer]


@pytest.fixture(scope="module", params=[TINY, TINY_WITH_STEM])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A model of the package, and the same one in the engine."""
    return both(tmp_path_factory.mktemp("bcos"), request.param)


@pytest.fixture(scope="module")
def explainer(tmp_path_factory: pytest.TempPathFactory) -> Explainer:
    return Explainer.load(write_bcos(tmp_path_factory.mktemp("bcos")))


def pixels_of(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


@torch.no_grad()
def maps_of(explainer: Explainer, name: str, pixels: Tensor, targets: Tensor) -> Tensor:
    """Return the maps ``[P, rows, columns]`` of one picture."""
    tower, method = explainer.tower, explainer.method(name)
    layers, head = method.layers(tower, None), tower.served_head()
    parts: ModelParts = explainer.parts
    blocks, _ = method.trace_pixels(tower, pixels[None], layers, head)
    maps = method.maps(tower, blocks, layers, head, targets[None], parts)[0]
    rows, columns = pixels.shape[1] // 16, pixels.shape[2] // 16
    return maps.view(len(targets), rows, columns)


def shares_of(model: Any, pixels: Tensor, index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the shares of the pixels ``[H, W]`` and of the positions, and the logit."""
    image = torch.cat([pixels, 1 - pixels])[None].requires_grad_()
    positions: list[Tensor] = []

    def replace(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
        positions.append(output.detach().requires_grad_())
        return positions[0]

    hook = model[0].positional_embedding.register_forward_hook(replace)
    with torch.enable_grad(), model.explanation_mode():
        logit = model(image)[0, index]
        at_image, at_positions = torch.autograd.grad(logit, [image, positions[0]])
    hook.remove()
    return (
        (image * at_image).detach().sum((0, 1)),
        (positions[0] * at_positions).detach().sum(),
        logit.detach(),
    )


def test_patches_positions_and_bias_add_up_to_the_logit(pair: Pair) -> None:
    model, explainer = pair
    assert explainer.classifier is not None
    pixels = pixels_of(3, 96, 160)
    vectors = explainer.classifier.vectors(range(3))
    found = maps_of(explainer, "bcos", pixels, vectors)
    for index in range(3):
        shares, positions, logit = shares_of(model, pixels, index)
        whole = found[index].sum() + positions + model[1].logit_bias
        torch.testing.assert_close(whole, logit, rtol=1e-10, atol=0)
        rows, columns = found.shape[1:]
        expected = shares.view(rows, 16, columns, 16).sum((1, 3))
        torch.testing.assert_close(found[index], expected, rtol=1e-9, atol=1e-15)
        assert found[index].min() < 0 < found[index].max()


def test_a_target_that_is_no_class_is_explained_as_a_class_with_its_weights(pair: Pair) -> None:
    model, explainer = pair
    pixels = pixels_of(3, 96, 96)
    target = F.normalize(pixels_of(model[0].linear_head.linear.in_features) - 0.5, dim=0)
    found = maps_of(explainer, "bcos", pixels, target[None])[0]
    weight = model[0].linear_head.linear.linear.weight
    before = weight.detach().clone()
    try:
        with torch.no_grad():
            weight[1] = 3 * target
        shares, _, _ = shares_of(model, pixels, 1)
    finally:
        with torch.no_grad():
            weight.copy_(before)
    expected = shares.view(6, 16, 6, 16).sum((1, 3))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-15)


def test_legrad_is_the_gradient_with_respect_to_the_packages_own_softmax(pair: Pair) -> None:
    model, explainer = pair
    assert explainer.classifier is not None
    pixels = pixels_of(3, 96, 96)
    vectors = explainer.classifier.vectors([0, 2])
    found = maps_of(explainer, "legrad", pixels, vectors)
    trunk = model[0]
    weights: list[Tensor] = []
    outputs: list[Tensor] = []
    hooks = [
        hook
        for block in trunk.transformer
        for hook in (
            block.attn.attend.register_forward_hook(lambda *seen: weights.append(seen[2])),
            block.register_forward_hook(lambda *seen: outputs.append(seen[2])),
        )
    ]
    with torch.enable_grad():
        model(torch.cat([pixels, 1 - pixels])[None])
    for hook in hooks:
        hook.remove()
    layers = explainer.resolve_layers()
    for vector, given in zip(vectors, found, strict=True):
        expected = torch.zeros(6 * 6, dtype=torch.float64)
        for index in layers:
            features = trunk.linear_head.norm(outputs[index].mean(1))
            score = (F.normalize(features, dim=-1) @ vector).sum()
            (gradient,) = torch.autograd.grad(score, weights[index], retain_graph=True)
            expected += gradient.relu().mean((0, 1, 2))
        torch.testing.assert_close(given.flatten(), expected, rtol=1e-8, atol=1e-15)


def test_pictures_of_a_batch_have_the_maps_that_each_has_alone(explainer: Explainer) -> None:
    # More than are walked back at once.
    pictures = [picture(seed=seed) for seed in range(5)]
    asked = [[ClassTarget(index % 3), ClassTarget((index + 1) % 3)] for index in range(5)]
    together = explainer.explain(pictures, asked, method="bcos", size=96)
    for image, given, found in zip(pictures, asked, together, strict=True):
        (alone,) = explainer.explain(image, given, method="bcos", size=96)
        torch.testing.assert_close(
            torch.from_numpy(found.maps),
            torch.from_numpy(alone.maps),
            rtol=1e-4,
            atol=1e-5 * float(abs(alone.maps).max()),
        )


def test_a_model_of_linear_layers_refuses_the_method_with_the_reason() -> None:
    starter = Explainer.load("starter")
    assert "bcos" not in [each.name for each in starter.methods]
    with pytest.raises(InvalidOptionError, match="needs a model of B-cos units"):
        starter.method("bcos")


def test_a_bcos_model_offers_methods_that_run_and_refuses_the_others(explainer: Explainer) -> None:
    offered = {each.name for each in explainer.methods}
    assert {"legrad", "bcos", "gradcam", "raw-attention"} <= offered
    for method in methods():
        if method.name in offered:
            (found,) = explainer.explain(picture(), [ClassTarget(0)], method=method.name, size=96)
            assert found.maps.shape[-2:] == (6, 6)
            assert abs(found.maps).max() > 0
        else:
            with pytest.raises(InvalidOptionError, match="not offered by this model: it"):
                explainer.method(method.name)


def test_the_map_is_of_the_whole_model(explainer: Explainer) -> None:
    with pytest.raises(InvalidOptionError, match="as a whole"):
        explainer.resolve_layers(1, "bcos")
