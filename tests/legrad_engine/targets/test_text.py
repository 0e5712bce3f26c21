"""Prompts become unit vectors, are kept, and are averaged over templates."""

import string
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import open_clip
import pytest
import torch
import torch.nn.functional as F

from legrad_engine.errors import InvalidOptionError, InvalidTargetError
from legrad_engine.targets import text
from legrad_engine.targets.templates import resolve_templates
from legrad_engine.targets.text import TextEncoder, encode_tokens
from tests.support.architectures import CONTEXT_LENGTH, EMBEDDING_SIZE, seeded_model, tokenizer
from tests.support.counting_text_model import CountingModel


@pytest.fixture
def model() -> CountingModel:
    return CountingModel()


@pytest.fixture
def encoder(model: CountingModel) -> TextEncoder:
    return TextEncoder(model, tokenizer(), torch.device("cpu"), cached_prompts=3)


def test_a_prompt_becomes_the_model_s_unit_vector(
    encoder: TextEncoder, model: CountingModel
) -> None:
    with torch.no_grad():
        expected = model.model.encode_text(tokenizer()(["a cat", "red"]), normalize=True)
    found = encoder.encode(["a cat", "red"])
    assert found.shape == (2, EMBEDDING_SIZE)
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("prompts", [["a"], ["a", "a cat on a sofa"], ["cat " * 14], ["", "red"]])
def test_leaving_out_the_padding_changes_no_feature(prompts: list[str]) -> None:
    model: Any = seeded_model().double()
    tokens = tokenizer()(prompts)
    with torch.no_grad():
        expected = model.encode_text(tokens)
        assert torch.allclose(encode_tokens(model, tokens), expected, atol=1e-12)


def test_a_prompt_is_encoded_once(encoder: TextEncoder, model: CountingModel) -> None:
    assert not encoder.is_cached("a cat")
    first = encoder.encode(["a cat", "red", "a cat"])
    assert model.texts == 2
    assert encoder.is_cached("a cat")
    again = encoder.encode(["red", "a cat"])
    assert model.texts == 2
    assert torch.equal(again, first[[1, 0]])


def test_templates_are_kept_apart(encoder: TextEncoder, model: CountingModel) -> None:
    plain = encoder.encode(["cat"])
    assert not encoder.is_cached("cat", ["a {}"])
    assert not torch.allclose(encoder.encode(["cat"], ["a {}"]), plain)
    assert model.texts == 2


def test_the_prompt_asked_longest_ago_is_forgotten_first(
    encoder: TextEncoder, model: CountingModel
) -> None:
    encoder.encode(["one", "two", "three"])
    encoder.encode(["one"])
    encoder.encode(["four"])
    assert not encoder.is_cached("two")
    assert all(encoder.is_cached(word) for word in ["one", "three", "four"])


def test_more_prompts_than_are_kept_are_all_encoded(encoder: TextEncoder) -> None:
    words = [f"word {index}" for index in range(10)]
    found = encoder.encode(words)
    assert torch.allclose(found, torch.cat([encoder.encode([word]) for word in words]), atol=1e-6)


def test_threads_share_an_encoder(encoder: TextEncoder) -> None:
    words = [f"word {index % 7}" for index in range(40)]
    expected = {word: encoder.encode([word]) for word in words}
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda word: encoder.encode([word]), words))
    for word, vector in zip(words, found, strict=True):
        assert torch.allclose(vector, expected[word], atol=1e-6)


def test_several_templates_give_the_normalised_mean_of_unit_vectors(encoder: TextEncoder) -> None:
    templates = ["a {}", "a photo of a {}", "{} in the rain"]
    texts = [template.replace("{}", "cat") for template in templates]
    mean = encoder.encode(texts).mean(0)
    assert mean.norm() < 0.999
    assert torch.allclose(
        encoder.encode(["cat"], templates)[0], F.normalize(mean, dim=0), atol=1e-6
    )


@pytest.mark.parametrize(
    ("templates", "expected"),
    [
        (None, ["{}"]),
        (["a {}!"], ["a {}!"]),
        ("simple", [template("{}") for template in open_clip.SIMPLE_IMAGENET_TEMPLATES]),
        ("openai", [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]),
    ],
    ids=repr,
)
def test_template_sets_are_open_clip_s(templates: Any, expected: list[str]) -> None:
    assert list(resolve_templates(templates)) == expected


def test_a_template_set_encodes_every_string_of_it(
    encoder: TextEncoder, model: CountingModel
) -> None:
    found = encoder.encode(["cat", "dog"], "simple")
    assert model.texts == 2 * len(open_clip.SIMPLE_IMAGENET_TEMPLATES)
    assert torch.allclose(found.norm(dim=1), torch.ones(2), atol=1e-6)


def test_braces_in_a_prompt_are_left_alone(encoder: TextEncoder) -> None:
    expected = encoder.encode(["a {0} {} of {x}"])
    assert torch.allclose(encoder.encode(["{0} {} of {x}"], ["a {}"]), expected, atol=1e-6)


@pytest.mark.parametrize("templates", ["imagenet", "", [], ["a"], ["{} {}"], [""]], ids=repr)
def test_templates_without_one_place_for_the_prompt_are_refused(
    encoder: TextEncoder, templates: Any
) -> None:
    with pytest.raises(InvalidOptionError) as refusal:
        encoder.encode(["cat"], templates)
    assert refusal.value.field == "templates"


@pytest.mark.parametrize("prompt", ["", " ", "\n\t"], ids=repr)
def test_a_blank_prompt_is_refused(encoder: TextEncoder, prompt: str) -> None:
    with pytest.raises(InvalidTargetError, match="empty"):
        encoder.encode(["cat", prompt])


def test_a_prompt_is_read_to_its_end_or_refused(encoder: TextEncoder) -> None:
    longest = " ".join(["cat"] * (CONTEXT_LENGTH - 2))
    assert not torch.allclose(encoder.encode([longest]), encoder.encode([longest[:-4]]))
    with pytest.raises(InvalidTargetError, match="shorten"):
        encoder.encode([longest + " cat"])


@pytest.mark.parametrize("prompt", ["кошка", "猫", "🐈", "ﬁancée", "قطة"])
def test_any_script_is_encoded(encoder: TextEncoder, prompt: str) -> None:
    assert torch.isfinite(encoder.encode([prompt])).all()


def test_a_refused_prompt_leaves_nothing_behind(encoder: TextEncoder, model: CountingModel) -> None:
    with pytest.raises(InvalidTargetError):
        encoder.encode(["cat", ""])
    assert model.texts == 0
    assert not encoder.is_cached("cat")


@pytest.fixture
def few_words(monkeypatch: pytest.MonkeyPatch) -> open_clip.SimpleTokenizer:
    monkeypatch.setattr(text, "_WORDS_REMEMBERED", 10)
    return open_clip.SimpleTokenizer(context_length=CONTEXT_LENGTH)


def test_the_tokenizer_does_not_remember_words_without_end(
    model: CountingModel, few_words: open_clip.SimpleTokenizer
) -> None:
    encoder = TextEncoder(model, few_words, torch.device("cpu"), cached_prompts=1)
    before = encoder.encode(["marmalade"])
    encoder.encode([f"{letter}word" for letter in string.ascii_lowercase])
    assert len(few_words.cache) <= 10
    encoder.encode(["something else"])
    assert torch.equal(encoder.encode(["marmalade"]), before)


def test_the_tokenizer_does_not_remember_the_words_of_refused_prompts(
    model: CountingModel, few_words: open_clip.SimpleTokenizer
) -> None:
    encoder = TextEncoder(model, few_words, torch.device("cpu"))
    words = [first + second for first in "abcdef" for second in string.ascii_lowercase]
    for start in range(0, len(words), 26):
        with pytest.raises(InvalidTargetError, match="shorten"):
            encoder.check(" ".join(words[start : start + 26]))
    assert len(few_words.cache) <= 10


def test_the_tokenizer_does_not_remember_long_words(model: CountingModel) -> None:
    words = open_clip.SimpleTokenizer(context_length=CONTEXT_LENGTH)
    encoder = TextEncoder(model, words, torch.device("cpu"))
    before = len(words.cache)
    with pytest.raises(InvalidTargetError, match="shorten"):
        encoder.check("marmalade" * 100)
    assert len(words.cache) == before


def test_without_the_cache_vectors_are_neither_looked_up_nor_kept(
    encoder: TextEncoder, model: CountingModel
) -> None:
    fresh = encoder.encode(["a cat"], cache=False)
    assert not encoder.is_cached("a cat")
    assert torch.equal(encoder.encode(["a cat"]), fresh)
    assert model.texts == 2
    assert torch.equal(encoder.encode(["a cat"], cache=False), fresh)
    assert model.texts == 3


LENGTHS = ["a", "a cat", "a red cat", "cat " * 14, "red " * 13, "a cat on a sofa"]


def test_texts_of_all_lengths_together_have_the_vectors_that_each_has_alone() -> None:
    model: Any = seeded_model()
    together, alone = (TextEncoder(model, tokenizer(), torch.device("cpu")) for _ in range(2))
    expected = torch.cat([alone.encode([text]) for text in LENGTHS])
    assert torch.allclose(together.encode(LENGTHS), expected, atol=1e-6)


def test_a_long_text_does_not_lengthen_the_short_ones() -> None:
    model: Any = seeded_model()
    shapes: list[tuple[int, ...]] = []
    model.token_embedding.register_forward_hook(
        lambda _module, inputs, _output: shapes.append(tuple(inputs[0].shape))
    )
    texts = [f"{color} {thing}" for color in ("a", "red") for thing in ("cat", "sofa")]
    TextEncoder(model, tokenizer(), torch.device("cpu")).encode([*texts, "cat " * 14])
    (rows, short), (one, long) = shapes
    assert (rows, one) == (4, 1)
    assert 2 * short < long


@pytest.mark.parametrize(
    "prompt",
    [
        "a cat<end_of_text> and a pizza",
        "a cat <END_OF_TEXT>",
        "&lt;end_of_text&gt;",
        "<start_of_text>a cat",
    ],
)
def test_a_text_is_not_cut_by_the_spelling_of_a_special_token(
    model: CountingModel, prompt: str
) -> None:
    encoder = TextEncoder(model, open_clip.SimpleTokenizer(), torch.device("cpu"))
    with pytest.raises(InvalidTargetError, match="begins or ends every text") as refusal:
        encoder.check(prompt)
    assert refusal.value.field == "prompts"
    with pytest.raises(InvalidTargetError) as refusal:
        encoder.check("a cat", [f"{{}} {prompt}"])
    assert refusal.value.field == "templates"
    encoder.check("a cat < end_of_text > and <|endoftext|>")
