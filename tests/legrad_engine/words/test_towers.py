"""Contributions of tokens against explicit attention matrices and autograd in float64."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from legrad_engine.errors import InvalidTargetError
from legrad_engine.words.towers import text_tower_of
from tests.support.explicit_words import openclip_contributions

VISION = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16}
TEXT = {"context_length": 12, "vocab_size": 60, "width": 32, "heads": 2, "layers": 3}
# The greatest id ends a text, as in CLIP; 0 is the padding.
TOKENS = torch.tensor(
    [
        [58, 5, 9, 7, 59, 0, 0, 0, 0, 0, 0, 0],
        [58, 5, 59, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [58, 3, 3, 8, 30, 31, 32, 33, 34, 35, 36, 59],
    ]
)
ENDS = (4, 2, 11)
LAST = (11, 11, 11)
SCALED: dict[str, Any] = {
    "qk_norm": True,
    "scale_heads": True,
    "scale_attn_inner": True,
    "scale_attn": True,
    "scale_fc": True,
}


def clip(**text: Any) -> CLIP:
    return _ready(CLIP(16, dict(VISION), {**TEXT, **text}))


def custom(**text: Any) -> CustomTextCLIP:
    return _ready(CustomTextCLIP(16, dict(VISION), {**TEXT, **text}))


def _ready(model: Any) -> Any:
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = 0.3 * noise if parameter.ndim > 1 else parameter.data + 0.2 * noise
    return model.eval().double()


def _padding_masked() -> Any:
    model = custom(no_causal_mask=True, pad_id=0, pool_type="argmax")
    model.text.use_pad_mask = True
    return model


def unit(seed: int, length: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(length, generator=generator).double(), dim=0)


TOWERS: dict[str, tuple[Any, Sequence[int]]] = {
    "CLIP": (lambda: clip(), ENDS),
    "CLIP with layer scale": (lambda: clip(ls_init_value=0.5), ENDS),
    "CLIP by the id of its end token": (lambda: clip(pool_type="eos", eos_id=59), ENDS),
    "a text transformer of its own": (lambda: custom(), ENDS),
    "SigLIP": (lambda: custom(no_causal_mask=True, pool_type="last", proj_bias=True), LAST),
    "a padding mask": (lambda: _padding_masked(), ENDS),
    "the first token": (lambda: custom(no_causal_mask=True, pool_type="first"), (0, 0, 0)),
    "CoCa": (lambda: custom(embed_cls=True), (12, 12, 12)),
    "norms and scales within the attention": (lambda: custom(**SCALED), ENDS),
    "no projection": (lambda: custom(width=16, proj_type="none"), ENDS),
}


def text_of(model: Any) -> Any:
    return model if isinstance(model, CLIP) else model.text


@pytest.mark.parametrize("name", TOWERS)
def test_contributions_are_those_of_explicit_attention(name: str) -> None:
    make, ends = TOWERS[name]
    model = make()
    images = torch.stack([unit(1), unit(2)])
    with torch.no_grad():
        found = text_tower_of(model).contributions(TOKENS, (1, 2), images)
    assert found.shape == (3, 2, 12)
    for place, image in enumerate(images):
        expected = openclip_contributions(text_of(model), TOKENS, ends, (1, 2), image)
        assert expected.abs().max() > 1e-4
        assert torch.allclose(found[:, place], expected, atol=1e-12)


@pytest.mark.parametrize("name", ["CLIP", "SigLIP", "norms and scales within the attention"])
def test_float32_agrees_with_float64(name: str) -> None:
    model = TOWERS[name][0]()
    with torch.no_grad():
        exact = text_tower_of(model).contributions(TOKENS, (1, 2), unit(1)[None])
        model.float()
        single = text_tower_of(model).contributions(TOKENS, (1, 2), unit(1)[None].float())
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), exact, atol=1e-5)


def test_a_causal_text_has_no_contribution_behind_its_end() -> None:
    with torch.no_grad():
        found = text_tower_of(clip()).contributions(TOKENS, (1, 2), unit(1)[None])[:, 0]
    assert (found[0, 5:] == 0).all()
    assert (found[0, :5] != 0).all()


def test_one_text_has_the_same_contributions_alone_as_among_others() -> None:
    tower = text_tower_of(clip())
    with torch.no_grad():
        together = tower.contributions(TOKENS, (1, 2), unit(1)[None])
        for row in range(3):
            alone = tower.contributions(TOKENS[row : row + 1], (1, 2), unit(1)[None])
            assert torch.allclose(alone[0], together[row], atol=1e-12)


def test_nothing_is_left_on_the_model() -> None:
    model = clip()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    grads = [parameter.requires_grad for parameter in model.parameters()]
    with torch.no_grad():
        text_tower_of(model).contributions(TOKENS, (2,), unit(1)[None])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [parameter.requires_grad for parameter in model.parameters()] == grads
    assert all(parameter.grad is None for parameter in model.parameters())


def _hugging_face(kind: str, pooler: str) -> Any:
    transformers = pytest.importorskip("transformers")
    from open_clip.hf_model import HFTextEncoder

    config = transformers.AutoConfig.for_model(
        kind,
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=20,
        pad_token_id=0,
    )
    encoder = HFTextEncoder("", 16, config=config, pooler_type=pooler, proj_type="linear")
    model = nn.Module()
    model.text = encoder
    return _ready(model)


@pytest.mark.parametrize(
    ("kind", "pooler"),
    [
        ("roberta", "mean_pooler"),
        ("xlm-roberta", "mean_pooler"),
        ("bert", "cls_pooler"),
        ("bert", "cls_last_hidden_state_pooler"),
    ],
)
def test_hugging_face_contributions_are_those_of_explicit_attention(kind: str, pooler: str) -> None:
    model = _hugging_face(kind, pooler)
    image = unit(4)
    with torch.no_grad():
        found = text_tower_of(model).contributions(TOKENS, (1, 2), image[None])[:, 0]
    text, mask = model.text, (TOKENS != 0).long()
    text.transformer.set_attn_implementation("eager")
    out = text.transformer(
        input_ids=TOKENS, attention_mask=mask, output_attentions=True, output_hidden_states=True
    )
    expected = torch.zeros(TOKENS.shape, dtype=torch.float64)
    for index in (1, 2):
        hidden = out.hidden_states[index + 1]
        if pooler == "mean_pooler":
            pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        elif pooler == "cls_pooler":
            pooled = text.transformer.pooler(hidden)
        else:
            pooled = hidden[:, 0]
        cosine = F.normalize(text.proj(pooled), dim=-1) @ image
        weights = out.attentions[index]
        (gradient,) = torch.autograd.grad(cosine.sum(), weights, retain_graph=True)
        expected += (weights * gradient).sum((1, 2)).detach()
    assert expected.abs().max() > 1e-4
    assert torch.allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: clip(pool_type="none"), "pools by 'none'"),
        (lambda: custom(scaled_cosine_attn=True), "scaled cosine"),
        (lambda: _hugging_face("roberta", "max_pooler"), "maximum"),
        (lambda: nn.Linear(1, 1), "Linear"),
    ],
)
def test_other_text_halves_are_refused_by_name(make: Any, reason: str) -> None:
    with pytest.raises(InvalidTargetError, match=reason) as refused:
        text_tower_of(make())
    assert refused.value.field == "words"


def test_a_text_half_of_transformers_of_another_type_is_refused_by_name() -> None:
    transformers = pytest.importorskip("transformers")
    from open_clip.hf_model import HFTextEncoder

    config = transformers.AutoConfig.for_model(
        "mt5", d_model=32, d_kv=16, num_layers=1, num_heads=2, d_ff=32, vocab_size=60
    )
    config.is_encoder_decoder = False
    encoder = HFTextEncoder.__new__(HFTextEncoder)
    nn.Module.__init__(encoder)
    encoder.config = config
    model = nn.Module()
    model.text = encoder
    with pytest.raises(InvalidTargetError, match="'mt5'"):
        text_tower_of(model)


def test_the_text_half_of_the_built_in_transformer_class_is_known() -> None:
    assert text_tower_of(custom()).depth == TEXT["layers"]
    assert isinstance(custom().text, TextTransformer)
