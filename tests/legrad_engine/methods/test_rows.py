"""Methods that read gradients, against their definitions written out with attention matrices."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from legrad_engine.errors import InvalidOptionError
from legrad_engine.families import Tower, find_tower
from legrad_engine.methods import rows
from legrad_engine.methods.base import ModelParts
from legrad_engine.methods.registry import find_method, methods_of
from legrad_engine.trace import Trace
from tests.support.architectures import CUSTOM, STANDARD, seeded_explainer, seeded_model
from tests.support.explicit_methods import ExplicitModel, written_out
from tests.support.explicit_timm import explained_blocks
from tests.support.pictures import picture
from tests.support.plain_timm import MODELS, ReadsFeatures, plain_model
from tests.support.shrunk_catalogue import shrunk_model

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5}
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["64", "32"])
ROW_METHODS = {"attention-cam", "chefercam", "grad-eclip", "agcam"}
METHODS = ["attention-cam", "chefercam", "grad-eclip", "agcam", "gradcam"]


def unused(*_: Any) -> Any:
    raise AssertionError("these methods need no folded weights and no sum of products")


def found_maps(
    tower: Tower, name: str, pixels: Tensor, targets: Tensor, layers: Any = None
) -> tuple[Tensor, Tensor]:
    method = find_method(name, tower)
    chosen = method.layers(tower, layers)
    head = tower.score_head(method.score(tower, None))
    with torch.no_grad():
        blocks, features = method.trace(tower, tower.embed(pixels), chosen, head)
        maps = method.maps(tower, blocks, chosen, head, targets, ModelParts(unused, unused))
    return maps, features


def noise(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


class Subject:
    """A model, its tower, and its own forward pass written out."""

    def __init__(
        self,
        model: nn.Module,
        visual: Any,
        blocks: Sequence[Any],
        projection: Any,
    ) -> None:
        self.norms = [getattr(block, "ln_1", None) or block.norm1 for block in blocks]
        self.attentions = [block.attn for block in blocks]
        self.tower = find_tower(model)
        self.visual = visual
        self.projection = projection

    def explicit(self, pixels: Tensor, *, cut: bool = False) -> ExplicitModel:
        read, prefix = rows_of(self.tower)
        return ExplicitModel(
            self.visual,
            pixels,
            rows=read,
            prefix=prefix,
            norms=self.norms,
            cut=self.attentions if cut else (),
        )

    def expected(self, name: str, pixels: Tensor, target: Tensor, layers: Any = None) -> Tensor:
        model = self.explicit(pixels, cut=name == "agcam")
        if name == "grad-eclip":
            return model.grad_eclip(target, self.projection)
        if name == "agcam":
            return model.agcam(target, layers or range(self.tower.depth))
        if name == "chefercam":
            return model.chefercam(target, layers or [-1])
        if name == "gradcam":
            return model.gradcam(target)
        return model.attention_cam(target)


def rows_of(tower: Tower) -> tuple[slice, int]:
    """Written by hand for the models of these tests: query rows, keys before the patches."""
    trunk: Any = getattr(tower, "_trunk", None) or tower._visual  # type: ignore[attr-defined]
    if hasattr(trunk, "transformer"):
        if trunk.attn_pool is not None:
            return slice(0, 1), 1
        return slice(1, None) if trunk.pool_type == "avg" else slice(0, 1), 1
    prefix = trunk.num_prefix_tokens
    if "Distilled" in type(trunk).__name__:
        return slice(0, 2), prefix
    if trunk.global_pool == "map":
        whole = type(trunk).__name__ == "Eva"
        return slice(0, 1), prefix if whole else 0
    if trunk.global_pool == "avg":
        whole = getattr(trunk, "pool_include_prefix", False)
        return slice(0 if whole else prefix, None), prefix
    return slice(0, 1), prefix


def open_clip_subject(variant: str, dtype: torch.dtype) -> Subject:
    model: Any = seeded_model(dtype=dtype, **(STANDARD | CUSTOM)[variant])
    visual = written_out(model.visual)
    blocks = visual.transformer.resblocks
    return Subject(model, visual, blocks, blocks[-1].attn.out_proj)


def timm_subject(name: str) -> Subject:
    model = plain_model(name)
    reads = ReadsFeatures(written_out(model.visual))
    pool = getattr(reads.trunk, "attn_pool", None)
    blocks = reads.trunk.blocks
    return Subject(model, reads, blocks, blocks[-1].attn.proj if pool is None else pool.proj)


def pooled_subject(name: str) -> Subject:
    model: Any = shrunk_model(name)
    visual = written_out(model.visual)
    if hasattr(visual, "trunk"):
        return Subject(model, visual, visual.trunk.blocks, visual.trunk.attn_pool.proj)
    blocks, projection = visual.transformer.resblocks, visual.attn_pool.attn.out_proj
    # CoCa's tower also returns the tokens for its captions.
    return Subject(model, lambda pixels: visual(pixels)[0], blocks, projection)


def assert_exact(
    subject: Subject,
    name: str,
    dtype: torch.dtype,
    size: tuple[int, int] | None = None,
    layers: Any = None,
) -> None:
    """Explains two images, each with targets of its own, in one batch."""
    size = size or subject.tower.image_size
    tower = subject.tower.at(size)
    pixels = noise(2, 3, *size, seed=1).to(dtype)
    targets = F.normalize(noise(2, 3, tower.embedding_size, seed=2), dim=-1).to(dtype)
    maps, features = found_maps(tower, name, pixels, targets, layers)
    patches = size[0] // tower.patch_size[0] * (size[1] // tower.patch_size[1])
    assert maps.shape == (2, 3, patches)
    served = subject.visual(pixels.double())
    torch.testing.assert_close(features.double(), served, rtol=1e-4, atol=1e-4)
    expected = torch.stack(
        [
            torch.stack([subject.expected(name, image, target, layers) for target in own])
            for image, own in zip(pixels, targets, strict=True)
        ]
    )
    assert expected.max() > 0
    assert (maps - expected).abs().max() <= TOLERANCE[dtype] * expected.max()


@DTYPES
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("variant", STANDARD)
def test_maps_of_open_clip_towers_equal_the_definition(
    variant: str, name: str, dtype: torch.dtype
) -> None:
    assert_exact(open_clip_subject(variant, dtype), name, dtype)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("variant", CUSTOM)
def test_maps_of_blocks_without_a_closed_form_equal_the_definition(variant: str, name: str) -> None:
    assert_exact(open_clip_subject(variant, torch.float64), name, torch.float64)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("chefercam", [0, 1, 2]),
        ("chefercam", [1, 2]),
        ("agcam", [0, 1, 2]),
        ("agcam", [1, 2]),
        ("agcam", [0]),
        ("agcam", [0, 2]),
    ],
    ids=str,
)
@pytest.mark.parametrize("variant", ["class token", "average, norm before pooling", "custom block"])
def test_other_blocks_than_the_last_equal_the_definition(
    variant: str, name: str, layers: list[int]
) -> None:
    subject = open_clip_subject(variant, torch.float64)
    assert_exact(subject, name, torch.float64, layers=layers)


WITH_ROWS = [name for name in MODELS if not name.startswith(("swin", "fastvit"))]
POOLED = ["ViT-B-16-SigLIP", "PE-Core-B-16", "coca_ViT-B-32"]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("model", WITH_ROWS)
def test_maps_of_timm_towers_equal_the_definition(model: str, name: str) -> None:
    subject = timm_subject(model)
    side = MODELS[model]["img_size"]
    if name not in [method.name for method in methods_of(subject.tower)]:
        pytest.skip("refused; another test tells which models are")
    assert_exact(subject, name, torch.float64, (side, side))


@pytest.mark.parametrize("name", ["attention-cam", "chefercam", "grad-eclip", "gradcam"])
@pytest.mark.parametrize("model", POOLED)
def test_maps_of_poolers_equal_the_definition(model: str, name: str) -> None:
    assert_exact(pooled_subject(model), name, torch.float64)


def refused_by(tower: Tower) -> set[str]:
    return set(METHODS) - {method.name for method in methods_of(tower)}


def test_models_that_cannot_have_a_method_are_told_what_comes_nearest() -> None:
    refused = {name: refused_by(find_tower(plain_model(name))) for name in MODELS}
    windowed = dict.fromkeys(["swin_tiny_patch4_window7_224", "fastvit_sa12"], ROW_METHODS)
    pooled = {"vit_base_patch16_siglip_224": {"agcam"}}
    post_norm = {name: {"gradcam"} for name in MODELS if "rpn" in name}
    assert {name: names for name, names in refused.items() if names} == (
        windowed | pooled | post_norm
    )
    for name, names in refused.items():
        for method in names:
            with pytest.raises(InvalidOptionError, match=r"comes? nearest"):
                find_method(method, find_tower(plain_model(name)))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("options", [{}, {"pool_type": "avg"}], ids=["class token", "average"])
def test_a_batch_with_own_targets_equals_one_at_a_time(name: str, options: dict[str, Any]) -> None:
    explainer = seeded_explainer(dtype=torch.float64, **options)
    images = [picture(96, 64, seed) for seed in range(3)]
    vectors = F.normalize(noise(6, explainer.tower.embedding_size), dim=-1)
    targets = [vectors[:1], vectors[1:4], vectors[4:]]
    prepared = [explainer.prepare(image, fit="native") for image in images]
    assert prepared[0].geometry.grid == (3, 5)
    trace = explainer.trace(prepared, method=name)
    together = explainer.attribute(trace, targets)
    joined = Trace.join(trace.split()[::-1])
    backwards = explainer.attribute(joined, targets[::-1])[::-1]
    for image, own, found, again in zip(prepared, targets, together, backwards, strict=True):
        (alone,) = explainer.attribute(explainer.trace([image], method=name), [own])
        assert alone.maps.max() > 0
        np.testing.assert_allclose(found.maps, alone.maps, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(again.maps, alone.maps, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    "options",
    [{}, {"pool_type": "avg"}, {"scale_fc": True}],
    ids=["class token", "average", "no closed form"],
)
def test_half_precision_is_near_float32(
    name: str, options: dict[str, Any], dtype: torch.dtype
) -> None:
    vectors = F.normalize(noise(4, 24).float(), dim=-1)
    maps = []
    for each in (torch.float32, dtype):
        explainer = seeded_explainer(dtype=each, **options)
        (found,) = explainer.attribute(explainer.trace([picture()], method=name), vectors)
        assert np.isfinite(found.maps).all()
        maps.append(found.maps)
    exact, half = maps
    # The largest map of the targets: in a small one, rounding decides the sign of a head.
    strongest = exact.max((1, 2)).argmax()
    likeness = np.corrcoef(exact[strongest].ravel(), half[strongest].ravel())[0, 1]
    assert likeness > (0.999 if dtype == torch.float16 else 0.97)


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "fastvit_sa12"])
def test_gradcam_of_stages_equals_the_definition(name: str) -> None:
    model = plain_model(name)
    tower = find_tower(model)
    reads = ReadsFeatures(copy.deepcopy(model.visual))
    last = explained_blocks(reads.trunk)[-1]
    norm = getattr(last, "norm1", None) or last.norm
    size = tower.image_size
    pixels = noise(2, 3, *size, seed=1)
    targets = F.normalize(noise(2, 2, tower.embedding_size, seed=2), dim=-1)
    maps, features = found_maps(tower, "gradcam", pixels, targets)
    torch.testing.assert_close(features, reads(pixels))
    kept: list[Tensor] = []
    handle = norm.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    for image in range(2):
        kept.clear()
        # The weights may not require a gradient, so the pixels must: else there is no graph.
        features = reads(pixels[image : image + 1].requires_grad_())
        (activations,) = kept
        for target in range(2):
            score = F.normalize(features, dim=-1)[0] @ targets[image, target]
            (gradient,) = torch.autograd.grad(score, activations, retain_graph=True)
            last_axis = name.startswith("swin")
            order = (0, 1, 2) if last_axis else (1, 2, 0)
            tokens, slopes = (
                each.detach()[0].permute(order).flatten(0, 1) for each in (activations, gradient)
            )
            expected = (tokens @ slopes.mean(0)).relu()
            assert (maps[image, target] - expected).abs().max() <= 1e-9 * maps.max()
    assert maps.max() > 0
    handle.remove()


def test_grad_eclip_of_a_model_with_one_head_equals_the_authors_code() -> None:
    """Written after their function, which computes the last attention with one head."""
    model: Any = seeded_model(dtype=torch.float64, head_width=32)
    visual = model.visual
    pixels = noise(1, 3, 64, 64, seed=1)
    target = F.normalize(noise(visual.output_dim, seed=2), dim=0)
    maps, _ = found_maps(find_tower(model), "grad-eclip", pixels, target[None, None])
    tower = find_tower(model)
    with torch.no_grad():
        tokens = tower.embed(pixels)
        for block in visual.transformer.resblocks[:-1]:
            tokens = block(tokens)
    last = visual.transformer.resblocks[-1]
    query, key, value = F.linear(
        last.ln_1(tokens), last.attn.in_proj_weight, last.attn.in_proj_bias
    ).chunk(3, -1)
    weights = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
    output = (weights @ value).detach().requires_grad_()
    attended = tokens + last.attn.out_proj(output)
    final = attended + last.mlp(last.ln_2(attended))
    score = F.normalize(visual.ln_post(final[0, 0]) @ visual.proj, dim=-1) @ target
    (gradient,) = torch.autograd.grad(score, output)
    likeness = F.cosine_similarity(
        last.attn.out_proj(query)[0, :1], last.attn.out_proj(key)[0, 1:], dim=-1
    )
    likeness = (likeness - likeness.min()) / (likeness.max() - likeness.min())
    expected = ((gradient[0, :1] * value[0, 1:]).sum(-1) * likeness).relu()
    torch.testing.assert_close(maps[0, 0], expected)


@pytest.mark.parametrize("name", METHODS)
def test_another_score_than_the_served_one_is_refused(name: str) -> None:
    with pytest.raises(InvalidOptionError, match="score='cls'"):
        seeded_explainer().trace([picture()], method=name, score="mean")


@pytest.mark.parametrize("name", ["attention-cam", "grad-eclip", "gradcam"])
def test_more_than_the_last_block_is_refused(name: str) -> None:
    with pytest.raises(InvalidOptionError, match="layers=1"):
        seeded_explainer().trace([picture()], method=name, layers=2)


def test_more_blocks_than_the_pooler_are_refused() -> None:
    tower = find_tower(shrunk_model("ViT-B-16-SigLIP"))
    with pytest.raises(InvalidOptionError, match="the last block alone: use layers=1"):
        find_method("chefercam", tower).layers(tower, 2)


@pytest.mark.parametrize("name", METHODS)
def test_small_tiles_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = open_clip_subject("average, norm before pooling", torch.float64)
    monkeypatch.setitem(rows._TILE_ELEMENTS, "cpu", 900)
    assert_exact(subject, name, torch.float64)


@pytest.mark.parametrize("variant", ["class token", "custom block"])
def test_a_method_leaves_the_model_as_it_is(variant: str) -> None:
    model = seeded_model(**(STANDARD | CUSTOM)[variant])
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tower = find_tower(model)
    targets = F.normalize(noise(1, 2, tower.embedding_size).float(), dim=-1)
    for name in METHODS:
        maps, _ = found_maps(tower, name, noise(1, 3, 64, 64).float(), targets)
        assert not maps.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
