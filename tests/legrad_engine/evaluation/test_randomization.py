"""Parameter randomisation: the cascade, its stages, and an intact original."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from legrad_engine import Explainer
from legrad_engine.errors import InvalidOptionError
from legrad_engine.evaluation.randomization import EMBEDDING, HEAD, SEED, randomize
from legrad_engine.models.image_model import ImageModel
from tests.support.architectures import seeded_explainer
from tests.support.measured_trust import PROMPTS, prepared
from tests.support.plain_timm import plain_model


def test_blocks_are_randomised_from_the_last_one_down_on_a_copy() -> None:
    explainer = seeded_explainer(dtype=torch.float64)
    before = copy.deepcopy(explainer.model.state_dict())
    images = prepared(explainer, 1, 2)
    resolved = explainer.resolver.resolve(PROMPTS, 2)
    found = randomize(explainer, images, resolved, ["legrad", "rollout"])
    names = [HEAD, "block 2", "block 1", "block 0", EMBEDDING]
    assert {name: [each.stage for each in stages] for name, stages in found.items()} == {
        "legrad": names,
        "rollout": names,
    }
    after = explainer.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    # The first stage by hand.
    twin = copy.deepcopy(explainer.model)
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name in ("proj", "ln_post.weight", "ln_post.bias"):
            parameter = twin.get_submodule("visual").get_parameter(name)
            order = torch.randperm(parameter.numel(), generator=generator)
            parameter.copy_(parameter.flatten()[order].view_as(parameter).clone())
    randomized = Explainer(twin, None, name="twin", preprocessing=explainer.preprocessing)
    vectors = [each.vectors for each in resolved]
    pairs = zip(
        explainer.attribute(explainer.trace(images), vectors),
        randomized.attribute(randomized.trace(images), vectors),
        strict=True,
    )
    expected = np.mean(
        [
            spearmanr(one.maps[row].ravel(), other.maps[row].ravel()).statistic
            for one, other in pairs
            for row in range(2)
        ]
    )
    assert found["legrad"][0].similarity == pytest.approx(expected)
    assert expected < 0.999
    assert found["legrad"][0].heatmaps == 2 * len(images)


def test_maps_that_overflow_are_not_compared_and_not_counted() -> None:
    explainer = seeded_explainer()
    images = prepared(explainer, 1, 2)
    resolved = explainer.resolver.resolve(["a cat"], 2)
    whole = randomize(explainer, images, resolved, ["legrad"])["legrad"][0]
    endless = dataclasses.replace(
        resolved[1], vectors=torch.full_like(resolved[1].vectors, torch.inf)
    )
    found = randomize(explainer, images, [resolved[0], endless], ["legrad"])["legrad"][0]
    assert (whole.heatmaps, found.heatmaps) == (2, 1)
    assert found.similarity is not None


@pytest.mark.parametrize("name", ["eva02_tiny_patch14_224", "swin_tiny_patch4_window7_224"])
def test_other_families_are_randomised_too(name: str) -> None:
    explainer = Explainer(ImageModel(plain_model(name).visual), None, name="plain")
    (image,) = prepared(explainer)
    own = explainer.embed_images([image])
    stages = randomize(explainer, [image], explainer.resolver.resolve(own, 1), ["legrad"])
    assert [each.stage for each in stages["legrad"]] == [HEAD, "block 1", "block 0", EMBEDDING]
    assert all(each.similarity is not None for each in stages["legrad"])


def test_a_method_that_the_model_does_not_offer_is_refused() -> None:
    explainer = seeded_explainer()
    with pytest.raises(InvalidOptionError, match="is unknown"):
        randomize(
            explainer, prepared(explainer), explainer.resolver.resolve(["a cat"], 1), ["gradcan"]
        )
