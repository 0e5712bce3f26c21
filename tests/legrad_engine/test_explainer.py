"""What the explainer promises of batches, traces, threads and the model it was given."""

import io
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from legrad_engine import Explainer, Explanation, Trace
from legrad_engine.errors import (
    ImageDecodeError,
    InvalidOptionError,
    InvalidTargetError,
    UnsupportedModelError,
)
from legrad_engine.images.decoding import ImageSource
from tests.support.architectures import EMBEDDING_SIZE, seeded_explainer

PROMPTS = ["a cat", "two dogs on a sofa", "red"]


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return seeded_explainer()


def photograph(width: int = 64, height: int = 64, seed: int = 0) -> Image.Image:
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def test_a_picture_may_be_an_array(explainer: Explainer) -> None:
    picture = photograph()
    expected = explainer.explain(picture, PROMPTS)
    assert_same(explainer.explain(np.asarray(picture), PROMPTS), expected)
    assert_same(explainer.explain([np.asarray(picture)], PROMPTS), expected)
    embeddings = explainer.embed_images([np.asarray(picture), picture])
    torch.testing.assert_close(embeddings[0], embeddings[1])


def unit_vectors(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, EMBEDDING_SIZE, generator=generator), dim=-1)


def assert_same(found: list[Explanation], expected: list[Explanation]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        scale = np.abs(other.maps).max()
        np.testing.assert_allclose(one.maps / scale, other.maps / scale, atol=1e-5)
        np.testing.assert_allclose(one.similarities, other.similarities, atol=1e-5)
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)
        assert one.geometry == other.geometry


def everything_about(model: nn.Module) -> dict[str, Any]:
    """All that patching a model could change, in a form that compares by value."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "requires_grad": {name: value.requires_grad for name, value in model.named_parameters()},
        "gradients": {name: value.grad for name, value in model.named_parameters()},
        "identities": {name: id(value) for name, value in model.named_parameters()},
        "training": {name: module.training for name, module in model.named_modules()},
        "attributes": {name: sorted(vars(module)) for name, module in model.named_modules()},
        "hooks": {
            name: [len(getattr(module, hook)) for hook in hooks]
            for name, module in model.named_modules()
        },
    }


@pytest.mark.parametrize("vision", [{}, {"scale_heads": True}], ids=["closed form", "general"])
def test_the_model_is_never_patched(vision: dict[str, Any]) -> None:
    explainer = seeded_explainer(**vision)
    model: Any = explainer.model
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        encoded = model.encode_image(pixels)
    before = everything_about(model)

    explainer.explain([photograph()], PROMPTS, layers="all")
    explainer.explain([photograph(200, 100)], PROMPTS, layers="all", size=96, fit="native")
    explainer.explain([photograph(200, 100)], PROMPTS, score="cls", size=128)

    after = everything_about(model)
    for name, value in before.pop("state").items():
        assert torch.equal(value, after["state"][name]), name
    after.pop("state")
    assert after == before
    with torch.no_grad():
        assert torch.equal(model.encode_image(pixels), encoded)


def test_a_model_that_trains_elsewhere_is_explained_without_gradients_left_behind() -> None:
    explainer = seeded_explainer(scale_fc=True)
    for parameter in explainer.model.parameters():
        parameter.requires_grad_(True)
    trace = explainer.trace([photograph()], layers="all")
    explainer.attribute(trace, PROMPTS)
    assert not any(tensor.requires_grad for tensor in [trace.embeddings])
    assert not any(
        getattr(block, name).requires_grad
        for block in trace.blocks
        for name in type(block).__dataclass_fields__
    )
    assert all(parameter.grad is None for parameter in explainer.model.parameters())


def test_two_threads_at_two_resolutions_agree_with_sequential_runs() -> None:
    sizes, rounds = (64, 160), 6
    quiet = seeded_explainer()
    expected = {size: quiet.explain([photograph()], PROMPTS, size=size) for size in sizes}
    shared, barrier = seeded_explainer(), Barrier(len(sizes))

    def explain_repeatedly(size: int) -> list[list[Explanation]]:
        barrier.wait()
        return [shared.explain([photograph()], PROMPTS, size=size) for _ in range(rounds)]

    with ThreadPoolExecutor(len(sizes)) as threads:
        found = dict(zip(sizes, threads.map(explain_repeatedly, sizes), strict=True))
    for size in sizes:
        for explanations in found[size]:
            assert_same(explanations, expected[size])


@pytest.mark.parametrize("score", ["mean", "cls"])
def test_a_batch_equals_its_images_one_by_one(explainer: Explainer, score: Any) -> None:
    images = [photograph(seed=seed) for seed in range(5)]
    prompts = [PROMPTS[: 1 + seed % 3] for seed in range(5)]
    together = explainer.explain(images, prompts, score=score)
    alone = [
        explainer.explain(image, words, score=score)[0]
        for image, words in zip(images, prompts, strict=True)
    ]
    assert [len(explanation.maps) for explanation in together] == [1, 2, 3, 1, 2]
    assert_same(together, alone)


def test_pictures_of_mixed_shapes_are_explained_in_one_call_in_their_order(
    explainer: Explainer,
) -> None:
    sizes = [(64, 64), (200, 70), (70, 200), (64, 64), (300, 105)]
    images = [photograph(*size, seed) for seed, size in enumerate(sizes)]
    together = explainer.explain(images, PROMPTS, fit="native")
    assert [explanation.geometry.image_size for explanation in together] == sizes
    assert len({explanation.grid for explanation in together}) == 3
    for explanation in together:
        assert explanation.maps.shape == (len(PROMPTS), *explanation.grid)
    assert_same(together, [explainer.explain(i, PROMPTS, fit="native")[0] for i in images])


def test_no_pictures_give_no_explanations(explainer: Explainer) -> None:
    assert explainer.explain([], PROMPTS) == []


def test_a_picture_may_come_as_bytes_or_path(explainer: Explainer, tmp_path: Any) -> None:
    buffer = io.BytesIO()
    photograph().save(buffer, "PNG")
    (tmp_path / "picture.png").write_bytes(buffer.getvalue())
    sources: list[ImageSource] = [photograph(), buffer.getvalue(), str(tmp_path / "picture.png")]
    first, *others = explainer.explain(sources, PROMPTS)
    assert_same(others, [first, first])


def test_one_trace_serves_later_targets(explainer: Explainer) -> None:
    images = [photograph(seed=seed) for seed in range(3)]
    trace = explainer.trace(images)
    for prompts in (PROMPTS[:1], PROMPTS, [PROMPTS[:2], PROMPTS[2:], PROMPTS]):
        assert_same(explainer.attribute(trace, prompts), explainer.explain(images, prompts))


def test_targets_may_be_vectors_shared_or_each_image_s_own(explainer: Explainer) -> None:
    trace = explainer.trace([photograph(seed=seed) for seed in range(2)])
    shared = explainer.attribute(trace, unit_vectors(3))
    assert_same(explainer.attribute(trace, [unit_vectors(3), unit_vectors(3)]), shared)
    words = explainer.attribute(trace, explainer.text.encode(PROMPTS))
    assert_same(words, explainer.attribute(trace, PROMPTS))


@pytest.mark.parametrize("vision", [{}, {"scale_heads": True}], ids=["closed form", "general"])
def test_traces_split_join_and_select_without_loss(vision: dict[str, Any]) -> None:
    explainer = seeded_explainer(**vision)
    trace = explainer.trace([photograph(seed=seed) for seed in range(4)], layers="all")
    whole = explainer.attribute(trace, PROMPTS)
    parts = trace.split()
    assert [len(part) for part in parts] == [1, 1, 1, 1]
    assert sum(part.nbytes for part in parts) == trace.nbytes
    assert_same([explainer.attribute(part, PROMPTS)[0] for part in parts], whole)
    assert_same(explainer.attribute(Trace.join(parts), PROMPTS), whole)
    order = [2, 0, 3]
    chosen = [whole[image] for image in order]
    assert_same(explainer.attribute(trace.select(order), PROMPTS), chosen)
    rejoined = Trace.join([parts[image] for image in order])
    assert_same(explainer.attribute(rejoined, PROMPTS), chosen)


@pytest.mark.parametrize("layers", [[0], [-1], [0, 1]])
def test_the_map_of_selected_layers_is_that_of_a_trace_of_them(
    explainer: Explainer, layers: list[int]
) -> None:
    images = [photograph(seed=seed) for seed in range(2)]
    indices = explainer.resolve_layers(layers)
    part = explainer.trace(images, layers="all").select_layers(indices[::-1])
    assert part.layers == indices
    expected = explainer.explain(images, PROMPTS, layers=layers)
    assert_same(explainer.attribute(part, PROMPTS), expected)


def test_the_maps_of_single_layers_add_up_to_the_whole(explainer: Explainer) -> None:
    trace = explainer.trace([photograph()], layers="all")
    (whole,) = explainer.attribute(trace, PROMPTS)
    parts = [
        explainer.attribute(trace.select_layers([layer]), PROMPTS)[0].maps for layer in trace.layers
    ]
    assert len(parts) > 1
    np.testing.assert_allclose(sum(parts), whole.maps, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("layers", [[], [5], [0, 5]])
def test_only_traced_layers_are_selected(explainer: Explainer, layers: list[int]) -> None:
    with pytest.raises(InvalidOptionError, match="traced blocks"):
        explainer.trace([photograph()], layers=1).select_layers(layers)


def test_a_split_trace_holds_no_memory_of_its_batch(explainer: Explainer) -> None:
    part = explainer.trace([photograph(seed=seed) for seed in range(4)]).split()[0]
    held = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in [
            part.embeddings,
            *(
                getattr(block, name)
                for block in part.blocks
                for name in type(block).__dataclass_fields__
            ),
        ]
    }
    assert sum(held.values()) <= part.nbytes


@pytest.mark.parametrize(
    "options", [{"layers": 1}, {"score": "cls"}, {"size": 96}], ids=["layers", "score", "size"]
)
def test_traces_of_different_questions_do_not_join(
    explainer: Explainer, options: dict[str, Any]
) -> None:
    one, other = explainer.trace([photograph()]), explainer.trace([photograph()], **options)
    with pytest.raises(InvalidOptionError):
        Trace.join([one, other])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "vision",
    [
        {},
        {"pool_type": "avg"},
        {"scale_heads": True},
        {"width": 768, "head_width": 64, "layers": 2},
    ],
    ids=["class token", "average", "general path", "full width"],
)
def test_half_precision_maps_correlate_with_single(
    vision: dict[str, Any], dtype: torch.dtype
) -> None:
    single = seeded_explainer(**vision)
    half = seeded_explainer(dtype=dtype, **vision)
    images = [photograph(seed=seed) for seed in range(2)]
    for one, other in zip(
        half.explain(images, PROMPTS), single.explain(images, PROMPTS), strict=True
    ):
        assert one.maps.dtype == np.float32
        np.testing.assert_allclose(one.similarities, other.similarities, atol=0.05)
        for found, expected in zip(one.maps, other.maps, strict=True):
            assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] >= 0.99


def test_sizes_and_layers_are_reported(explainer: Explainer) -> None:
    assert explainer.own_size == (64, 64)
    assert explainer.resolve_layers() == (1, 2)
    assert explainer.resolve_layers("all") == (0, 1, 2)
    assert explainer.resolve_layers([-1, 0, 2, 2]) == (0, 2)
    weights = [*explainer.model.parameters(), *explainer.model.buffers()]
    assert explainer.nbytes == sum(weight.nelement() * weight.element_size() for weight in weights)


@pytest.mark.parametrize(
    "layers", [0, -1, 4, True, False, [], "last", "", [3], [-4], [0, 99]], ids=repr
)
def test_layers_that_the_model_lacks_are_refused(explainer: Explainer, layers: Any) -> None:
    with pytest.raises(InvalidOptionError) as refusal:
        explainer.explain([photograph()], PROMPTS, layers=layers)
    assert refusal.value.field == "layers"


@pytest.mark.parametrize("options", [{"size": 65}, {"size": 0}, {"size": -64}], ids=str)
def test_sizes_that_are_not_whole_patches_are_refused(
    explainer: Explainer, options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidOptionError) as refusal:
        explainer.explain([photograph()], PROMPTS, **options)
    assert refusal.value.field == "size"


def test_the_class_token_score_of_an_averaged_tower_is_refused() -> None:
    explainer = seeded_explainer(pool_type="avg")
    with pytest.raises(InvalidOptionError, match="averages its patches") as refusal:
        explainer.explain([photograph()], PROMPTS, score="cls")
    assert refusal.value.field == "score"
    with pytest.raises(InvalidOptionError):
        explainer.resolve_score("cls")


@pytest.mark.parametrize("score", ["max", ""], ids=repr)
def test_a_score_that_does_not_exist_is_refused(explainer: Explainer, score: Any) -> None:
    with pytest.raises(InvalidOptionError) as refusal:
        explainer.explain([photograph()], PROMPTS, score=score)
    assert refusal.value.field == "score"


@pytest.mark.parametrize("heads", ["EACH", "head", None])
def test_maps_of_unknown_heads_are_refused(explainer: Explainer, heads: Any) -> None:
    with pytest.raises(InvalidOptionError, match="use one of mean, each") as refusal:
        explainer.explain([photograph()], ["a cat"], method="raw-attention", heads=heads)
    assert refusal.value.field == "heads"


@pytest.mark.parametrize("factor", [10, 0, 0.9])
def test_vectors_that_are_not_of_unit_length_are_refused(
    explainer: Explainer, factor: float
) -> None:
    vectors = explainer.text.encode(["a cat", "a dog"])
    explainer.explain([photograph()], vectors)
    with pytest.raises(InvalidTargetError, match="length 1") as refusal:
        explainer.explain([photograph()], torch.stack([vectors[0], factor * vectors[1]]))
    assert refusal.value.field == "targets"


def test_a_trace_takes_one_input_size(explainer: Explainer) -> None:
    with pytest.raises(InvalidOptionError, match="one input size"):
        explainer.trace([photograph(), photograph(200, 70)], fit="native")
    with pytest.raises(InvalidOptionError):
        explainer.trace([])


@pytest.mark.parametrize("option", [{"size": 64}, {"fit": "pad"}], ids=repr)
def test_a_trace_refuses_options_that_prepared_pictures_cannot_follow(
    explainer: Explainer, option: Any
) -> None:
    prepared = explainer.prepare(photograph(), **option)
    assert explainer.trace([prepared]).geometries == (prepared.geometry,)
    with pytest.raises(InvalidOptionError, match="no effect on a prepared picture") as refusal:
        explainer.trace([photograph(), prepared], **option)
    assert refusal.value.field == next(iter(option))


@pytest.mark.parametrize(
    "prompts",
    [[], "a cat", [""], ["  \n"], ["a cat", ""], ["word " * 50], [["a cat"], ["red"]], [[]]],
    ids=lambda prompts: repr(prompts)[:30],
)
def test_prompts_that_cannot_be_asked_are_refused(explainer: Explainer, prompts: Any) -> None:
    with pytest.raises(InvalidTargetError) as refusal:
        explainer.explain([photograph()], prompts)
    assert refusal.value.field == "prompts"


@pytest.mark.parametrize(
    "vectors",
    [
        torch.ones(2, EMBEDDING_SIZE + 1),
        torch.ones(EMBEDDING_SIZE),
        torch.ones(0, EMBEDDING_SIZE),
        [torch.ones(2, 3)],
    ],
    ids=["too long", "no list", "none", "too short"],
)
def test_vectors_of_the_wrong_shape_are_refused(explainer: Explainer, vectors: Any) -> None:
    trace = explainer.trace([photograph()])
    with pytest.raises(InvalidTargetError) as refusal:
        explainer.attribute(trace, vectors)
    assert refusal.value.field == "targets"


def test_something_that_is_no_picture_is_refused(explainer: Explainer) -> None:
    with pytest.raises(ImageDecodeError):
        explainer.explain([b"not a picture"], PROMPTS)


@pytest.mark.parametrize(
    "vision",
    [
        {"attentional_pool": "cascade"},
        {"attentional_pool": "parallel"},
        {"pool_type": "none"},
        {"scaled_cosine_attn": True},
    ],
    ids=str,
)
def test_towers_that_no_family_knows_are_refused(vision: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedModelError):
        seeded_explainer(**vision)
