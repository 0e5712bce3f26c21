"""The model in training: it computes open_clip's blocks, and mixes styles between pictures."""

import open_clip
import pytest
import torch

from tools.starter.learner import Learner, has_fast_bfloat16, mix_statistics, normalise


@pytest.fixture
def learner() -> Learner:
    torch.manual_seed(0)
    visual = open_clip.transformer.VisionTransformer(
        image_size=28,
        patch_size=14,
        width=32,
        layers=5,
        heads=2,
        mlp_ratio=2.0,
        ls_init_value=0.5,
        output_dim=16,
        pool_type="avg",
        final_ln_after_pool=True,
        no_ln_pre=True,
    )
    return Learner(visual, 3).eval()


def test_blocks_are_those_of_open_clip(learner: Learner) -> None:
    images = normalise(torch.rand(2, 3, 28, 28))
    tolerance = 0.05 if has_fast_bfloat16(images) else 1e-5
    with torch.no_grad():
        tokens = learner.visual._embeds(images)
        wanted = []
        for block in learner.visual.transformer.resblocks:
            tokens = block(tokens)
            wanted.append(tokens)
        earlier, last = learner.block_outputs(images, 2)

    assert earlier.dtype == last.dtype == torch.float32
    torch.testing.assert_close(earlier, wanted[-2], atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(last, wanted[-1], atol=tolerance, rtol=tolerance)


def test_a_picture_may_be_given_by_a_part_of_its_patches(learner: Learner) -> None:
    images = normalise(torch.rand(2, 3, 28, 28))
    kept = torch.tensor([[3, 1], [0, 2]])

    [last] = learner.block_outputs(images, 1, kept)

    assert last.shape == (2, 3, 32)
    # Which patches are dropped changes what the others see; all of them in another order does not.
    [whole] = learner.block_outputs(images, 1)
    [turned] = learner.block_outputs(images, 1, torch.tensor([[3, 2, 1, 0]] * 2))
    tolerance = 0.05 if has_fast_bfloat16(images) else 1e-5
    torch.testing.assert_close(turned[:, 1:].flip(1), whole[:, 1:], atol=tolerance, rtol=tolerance)
    assert not torch.allclose(last[:, 1:], whole.gather(1, kept[..., None].expand(-1, -1, 32) + 1))


def test_mixing_gives_a_picture_its_own_statistics_or_a_mixture_with_anothers() -> None:
    torch.manual_seed(1)
    tokens = torch.randn(64, 10, 8) * torch.rand(64, 1, 8) + torch.randn(64, 1, 8)

    mixed = mix_statistics(tokens)

    def standard(values: torch.Tensor) -> torch.Tensor:
        deviation, mean = torch.std_mean(values, 1, keepdim=True)
        return (values - mean) / deviation

    torch.testing.assert_close(standard(mixed), standard(tokens), atol=1e-3, rtol=1e-3)
    own = (mixed.mean(1) - tokens.mean(1)).abs().amax(1) < 1e-4
    assert 0.25 < own.float().mean() < 0.75
    low, high = tokens.mean(1).amin(0) - 1e-4, tokens.mean(1).amax(0) + 1e-4
    assert ((low <= mixed.mean(1)) & (mixed.mean(1) <= high)).all()


def test_first_blocks_and_the_embedding_of_patches_get_no_gradient(learner: Learner) -> None:
    learner.train()
    [last] = learner.block_outputs(normalise(torch.rand(2, 3, 28, 28)), 1)
    last.sum().backward()  # type: ignore[no-untyped-call]

    blocks = learner.visual.transformer.resblocks
    assert learner.visual.conv1.weight.grad is None
    assert all(p.grad is None for block in blocks[:3] for p in block.parameters())
    assert all(p.grad is not None for block in blocks[3:] for p in block.parameters())
