"""Words of prompts: merging of tokens, templates, shares."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from open_clip import SimpleTokenizer
from torch import Tensor

from legrad_engine import Explainer
from legrad_engine.targets.text import TextEncoder
from legrad_engine.words.places import place_tokens
from legrad_engine.words.reader import PromptWords, WordReader
from tests.support.explicit_words import openclip_contributions

GALLERY = "service/web/gallery"


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer.load("starter", dtype="float64")


@pytest.fixture(scope="module")
def images(explainer: Explainer) -> Tensor:
    return explainer.embed_images([f"{GALLERY}/galaxies.webp", f"{GALLERY}/sky.webp"])


def encoder_of(explainer: Explainer) -> TextEncoder:
    assert isinstance(explainer.text, TextEncoder)
    return explainer.text


def read(
    explainer: Explainer, prompt: str, images: Tensor, templates: Sequence[str] | None = None
) -> list[PromptWords]:
    (found,) = explainer.text.words.read([prompt], templates, images)
    return found


def of_tokens(explainer: Explainer, text: str, image: Tensor) -> Tensor:
    tokens = encoder_of(explainer)._tokenize([text])
    return openclip_contributions(
        explainer.model, tokens, tokens.argmax(-1).tolist(), (0, 1), image
    )[0]


def test_words_are_the_sums_of_their_tokens_by_explicit_attention(
    explainer: Explainer, images: Tensor
) -> None:
    prompt = "a spaceship, a 猫 and a cat"
    for image, found in zip(images, read(explainer, prompt, images), strict=True):
        expected = of_tokens(explainer, prompt, image)
        tokens = encoder_of(explainer)._tokenize([prompt])[0].tolist()
        assert [word.text for word in found.words] == [
            "a", "spaceship", "a", "猫", "and", "a", "cat",
        ]  # fmt: skip
        # Start, a, space, ship, comma, a, three of the ideograph, and, a, cat, end.
        groups = [[1], [2, 3], [5], [6, 7, 8], [9], [10], [11]]
        if [word.tokens for word in found.words] == [1, 1, 1, 3, 1, 1, 1]:
            groups = [[1], [2], [4], [5, 6, 7], [8], [9], [10]]
        sums = [float(expected[group].sum()) for group in groups]
        assert np.allclose([word.contribution for word in found.words], sums, atol=1e-10)
        total = sum(word.contribution for word in found.words) + found.rest
        assert np.isclose(total, float(expected.sum()), atol=1e-10)
        assert tokens[groups[-1][-1] + 1] == max(tokens)


def test_shares_are_of_absolute_values_and_sum_to_one(explainer: Explainer, images: Tensor) -> None:
    for found in read(explainer, "a photo of a violin", images):
        assert np.isclose(sum(word.share for word in found.words), 1)
        absolute = [abs(word.contribution) for word in found.words]
        assert np.allclose(np.array(absolute) / sum(absolute), [w.share for w in found.words])


def test_repeated_words_have_contributions_of_their_own(
    explainer: Explainer, images: Tensor
) -> None:
    found = read(explainer, "a cat beside a cat", images)[0].words
    assert [(word.text, word.start) for word in found] == [
        ("a", 0), ("cat", 2), ("beside", 6), ("a", 13), ("cat", 15),
    ]  # fmt: skip
    assert found[1].contribution != found[4].contribution


def test_templates_are_averaged_and_their_words_are_the_rest(
    explainer: Explainer, images: Tensor
) -> None:
    templates = ["a photo of {}.", "{} on a table", "{}"]
    together = read(explainer, "a cat", images, templates)[0]
    each = [read(explainer, "a cat", images, [template])[0] for template in templates]
    for place in range(2):
        mean = np.mean([one.words[place].contribution for one in each])
        assert np.isclose(together.words[place].contribution, mean, atol=1e-12)
    assert np.isclose(together.rest, np.mean([one.rest for one in each]), atol=1e-12)
    whole = of_tokens(explainer, "a photo of a cat.", images[0])
    assert np.isclose(
        each[0].rest + sum(word.contribution for word in each[0].words), float(whole.sum())
    )


def test_a_token_of_two_words_is_divided_by_their_characters(
    explainer: Explainer, images: Tensor
) -> None:
    # The template continues the prompt's last word: one token for both.
    found = read(explainer, "rainbow", images, ["{}s"])[0]
    text = "rainbows"
    expected = of_tokens(explainer, text, images[0])
    inside = sum(
        float(expected[token.position])
        * token.place.shared(type(token.place)(0, 7))
        / (token.place.end - token.place.start)
        for token in place_tokens(encoder_of(explainer)._tokenizer, text)
    )
    assert np.isclose(found.words[0].contribution, inside, atol=1e-12)


def test_a_word_that_is_not_read_has_no_contribution(explainer: Explainer, images: Tensor) -> None:
    # The tokenizer reads "&amp;" as "&".
    found = {word.text: word for word in read(explainer, "R&amp;B cat", images)[0].words}
    assert (found["amp"].tokens, found["amp"].contribution, found["amp"].share) == (0, 0.0, 0.0)
    assert found["cat"].tokens == 1


def test_a_prompt_without_words_has_only_a_rest(explainer: Explainer, images: Tensor) -> None:
    found = read(explainer, "...!", images)[0]
    assert found.words == ()
    assert found.rest != 0


def test_many_prompts_are_read_as_each_alone(explainer: Explainer, images: Tensor) -> None:
    prompts = [f"a cat {'and a cat ' * (row % 4)}{row}" for row in range(70)]
    together = explainer.text.words.read(prompts, None, images)
    for row in (0, 3, 66, 69):
        alone = read(explainer, prompts[row], images)
        for one, other in zip(together[row], alone, strict=True):
            values = [[word.contribution for word in each.words] for each in (one, other)]
            assert np.allclose(values[0], values[1], atol=1e-12)


def test_the_cosine_falls_by_about_a_small_loss_of_attention(
    explainer: Explainer, images: Tensor
) -> None:
    """The contribution is a derivative: it foretells the effect of a slight change."""
    reader = explainer.text.words
    assert isinstance(reader, WordReader)
    text, step = "a photo of a violin", 1e-5
    model: Any = explainer.model
    block = model.transformer.resblocks[1]
    tokens = encoder_of(explainer)._tokenize([text])
    end = int(tokens.argmax())
    contributions = reader._tower.contributions(tokens, (1,), images[:1])[0, 0]
    position = int(contributions.abs().argmax())
    contribution = float(contributions[position])

    def cosine(factor: float) -> float:
        hidden = model.token_embedding(tokens) + model.positional_embedding
        hidden = model.transformer.resblocks[0](hidden, attn_mask=model.attn_mask)
        normalized = block.ln_1(hidden)
        _, weights = block.attn(
            normalized,
            normalized,
            normalized,
            attn_mask=model.attn_mask,
            average_attn_weights=False,
        )
        weights = weights.clone()
        weights[:, :, end, position] *= factor
        values = torch.nn.functional.linear(
            normalized, block.attn.in_proj_weight, block.attn.in_proj_bias
        ).chunk(3, -1)[2]
        heads = values.view(1, values.shape[1], block.attn.num_heads, -1).transpose(1, 2)
        output = block.attn.out_proj((weights @ heads).transpose(1, 2).flatten(2))
        attended = hidden + output
        result = attended + block.mlp(block.ln_2(attended))
        feature = model.ln_final(result)[0, end] @ model.text_projection
        return float(torch.nn.functional.normalize(feature, dim=0) @ images[0])

    with torch.no_grad():
        slope = (cosine(1 + step) - cosine(1 - step)) / (2 * step)
    assert abs(contribution) > 1e-4
    assert np.isclose(contribution, slope, rtol=1e-4)


def test_the_tokenizer_is_used_by_one_thread_at_a_time(
    explainer: Explainer, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = encoder_of(explainer)
    alone: list[bool] = []

    def noted(tokenizer: SimpleTokenizer, word: str) -> str:
        alone.append(encoder._tokenizing.locked())
        tokens: str = tokens_of(tokenizer, word)
        return tokens

    tokens_of = SimpleTokenizer.bpe
    monkeypatch.setattr(SimpleTokenizer, "bpe", noted)
    read(explainer, "a spaceship", images)
    assert alone
    assert all(alone)
