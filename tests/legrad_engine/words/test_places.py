"""Places of tokens and words in texts as they were typed."""

from typing import Any

import pytest
from open_clip.tokenizer import SimpleTokenizer

from legrad_engine.errors import InvalidTargetError
from legrad_engine.words.places import place_tokens, words_of

CONTEXT = 24


def words(text: str) -> list[str]:
    return [text[word.start : word.end] for word in words_of(text)]


def tokens(text: str, tokenizer: object = None) -> list[tuple[int, str]]:
    placed = place_tokens(tokenizer or SimpleTokenizer(context_length=CONTEXT), text)
    return [(token.position, text[token.place.start : token.place.end]) for token in placed]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A  red   Cat, don't", ["A", "red", "Cat", "don't"]),
        ("state-of-the-art", ["state", "of", "the", "art"]),
        ("a cat and a cat", ["a", "cat", "and", "a", "cat"]),
        ("赤い猫とカメラ", ["赤", "い", "猫", "と", "カメラ"]),
        ("👩‍👩‍👧 🐱🐱", ["👩‍👩‍👧", "🐱", "🐱"]),
        ("cafe\u0301!", ["cafe\u0301"]),
        ("3 + 4", ["3", "+", "4"]),
        ("\u200b ... ", []),
    ],
)
def test_words_are_divided_as_unicode_does(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A  red   Cat", [(1, "A"), (2, "red"), (3, "Cat")]),
        ("\n a\tcat ", [(1, "a"), (2, "cat")]),
        ("a cat a cat", [(1, "a"), (2, "cat"), (3, "a"), (4, "cat")]),
        # Curly quotes are straightened, entities read and ligatures divided by the tokenizer.
        ("don\u2019t", [(1, "don"), (2, "\u2019t")]),
        ("R&amp;B cat", [(1, "R"), (2, "&"), (3, "B"), (4, "cat")]),
        ("ﬁsh cat", [(1, "ﬁsh"), (2, "cat")]),
        ("İs cat", [(1, "İ"), (2, "İ"), (3, "s"), (4, "cat")]),
        # Two tokens of one character.
        ("猫", [(1, "猫"), (2, "猫"), (3, "猫")]),
        ("🐱🐱", [(1, "🐱"), (2, "🐱")]),
    ],
)
def test_tokens_stand_where_their_characters_were_typed(
    text: str, expected: list[tuple[int, str]]
) -> None:
    assert tokens(text) == expected


def test_positions_are_those_of_the_ids() -> None:
    tokenizer = SimpleTokenizer(context_length=CONTEXT)
    text = "An unusually long-winded sentence about 猫 and 🐱."
    ids = tokenizer([text])[0].tolist()
    for position, piece in tokens(text, tokenizer):
        if piece.isascii():
            assert tokenizer.decode([ids[position]]).strip() in piece.lower()
    assert ids[len(tokens(text, tokenizer)) + 1] == tokenizer.eot_token_id


def test_tokens_that_are_cut_off_have_no_place() -> None:
    text = " ".join(["cat"] * 40)
    found = tokens(text)
    assert [position for position, _ in found] == list(range(1, CONTEXT - 1))


def _word_tokenizer() -> Any:
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    inner = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2, "cat": 3}, "<unk>")
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single="</s> $A </s>", special_tokens=[("</s>", 1)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.mark.parametrize(("mode", "first"), [("", 1), ("clips", 1)])
def test_tokenizers_of_transformers_tell_their_places(mode: str, first: int) -> None:
    from open_clip.tokenizer import HFTokenizer, get_clean_fn

    tokenizer = HFTokenizer.__new__(HFTokenizer)
    tokenizer.tokenizer = _word_tokenizer()
    tokenizer.clean_fn = get_clean_fn("whitespace")
    tokenizer.context_length = 8
    tokenizer.tokenizer_mode = mode
    found = tokens("A   Cat cat", tokenizer)
    assert found == [(first, "A"), (first + 1, "Cat"), (first + 2, "cat")]
    assert len(tokens(" ".join(["cat"] * 30), tokenizer)) < 8


def test_siglip_s_cleaning_is_followed() -> None:
    from open_clip.tokenizer import SigLipTokenizer

    tokenizer = SigLipTokenizer.__new__(SigLipTokenizer)
    tokenizer.tokenizer = _word_tokenizer()
    tokenizer.context_length = 8
    # It removes punctuation and capitals.
    assert tokens("A_red, CAT!", tokenizer) == [(1, "A"), (2, "red"), (3, "CAT")]


@pytest.mark.parametrize(
    "tokenizer", [object(), SimpleTokenizer(context_length=CONTEXT, reduction_mask="random")]
)
def test_a_tokenizer_without_places_is_refused_by_name(tokenizer: object) -> None:
    with pytest.raises(InvalidTargetError, match=type(tokenizer).__name__) as refused:
        place_tokens(tokenizer, "a cat")
    assert refused.value.field == "words"
