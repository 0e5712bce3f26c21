"""The parts of an attention that a tower tells, and the attention matrix that they make."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from legrad_engine.families import Tower, find_tower
from legrad_engine.families.attention import Attention, attention_of
from legrad_engine.families.pooler import PoolerHead
from tests.support.architectures import CUSTOM, STANDARD, seeded_model
from tests.support.plain_timm import MODELS, plain_model
from tests.support.shrunk_catalogue import shrunk_model

POOLED = ["ViT-B-16-SigLIP", "PE-Core-B-16", "coca_ViT-B-32"]


def noise(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def assert_explains_its_output(attention: Attention) -> None:
    weights = attention.weights()
    assert weights.shape == (*attention.output.shape[:3], attention.values.shape[2])
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    torch.testing.assert_close(weights @ attention.values, attention.output)
    row = attention.of_queries(slice(0, 1))
    torch.testing.assert_close(row.weights(), weights[:, :, :1])
    torch.testing.assert_close(row.output, attention.output[:, :, :1])


def assert_every_block_is_told(tower: Tower) -> None:
    rows, columns = tower.image_size
    with torch.no_grad():
        tokens = tower.embed(noise(2, 3, rows, columns))
        for index in range(tower.depth):
            assert_explains_its_output(tower.attend(tokens, index))
            attention, output = tower.run_block(tokens, index)
            assert_explains_its_output(attention)
            head = tower.served_head()
            if isinstance(head, PoolerHead):
                assert_explains_its_output(head.attend(output))
            tokens = output


@pytest.mark.parametrize("variant", STANDARD | CUSTOM)
def test_open_clip_towers_tell_queries_and_keys(variant: str) -> None:
    options = (STANDARD | CUSTOM)[variant]
    assert_every_block_is_told(find_tower(seeded_model(dtype=torch.float64, **options)))


@pytest.mark.parametrize("name", MODELS)
def test_timm_towers_tell_queries_keys_and_bias(name: str) -> None:
    tower = find_tower(plain_model(name))
    side = MODELS[name].get("img_size", 256)
    assert_every_block_is_told(tower.at((side, side)))


@pytest.mark.parametrize("name", POOLED)
def test_poolers_tell_queries_and_keys(name: str) -> None:
    tower = find_tower(shrunk_model(name))
    assert isinstance(tower.served_head(), PoolerHead)
    assert_every_block_is_told(tower)


SIZE = (2, 4, 6, 8)
CALLS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "named": lambda q, k, v: F.scaled_dot_product_attention(query=q, key=k, value=v),
    "scale": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=0.3),
    "bias of each head": lambda q, k, v: F.scaled_dot_product_attention(
        q, k, v, noise(4, 6, 6, seed=9)
    ),
    "bias of each key": lambda q, k, v: F.scaled_dot_product_attention(
        q, k, v, noise(1, 6, seed=9)
    ),
    "keys left out": lambda q, k, v: F.scaled_dot_product_attention(
        q, k, v, attn_mask=(torch.arange(6) != 2).expand(1, 1, 6, 6)
    ),
    "causal": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    "grouped queries": lambda q, k, v: F.scaled_dot_product_attention(
        q, k[:, :2], v[:, :2], enable_gqa=True
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_every_way_to_call_fused_attention_is_understood(call: str) -> None:
    inputs: list[Any] = [noise(*SIZE, seed=seed) for seed in range(3)]
    attention = attention_of(lambda: CALLS[call](*inputs))
    torch.testing.assert_close(attention.output, CALLS[call](*inputs))
    assert_explains_its_output(attention)


def test_the_parts_are_those_of_the_computation_and_no_copies() -> None:
    query, key, value = (noise(*SIZE, seed=seed) for seed in range(3))
    attention = attention_of(lambda: F.scaled_dot_product_attention(query, key, value))
    assert attention.queries is query
    assert attention.keys is key
    assert attention.values is value


def test_a_matrix_of_half_precision_is_computed_in_float32() -> None:
    parts = [noise(*SIZE, seed=seed).half() for seed in range(3)]
    attention = attention_of(lambda: F.scaled_dot_product_attention(parts[0], parts[1], parts[2]))
    assert attention.weights().dtype == torch.float32
