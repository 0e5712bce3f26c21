"""Places of tokens and words in a text as it was typed."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import regex
from open_clip.tokenizer import (
    HFTokenizer,
    SigLipTokenizer,
    SimpleTokenizer,
    basic_clean,
    canonicalize_text,
)

from legrad_engine.errors import InvalidTargetError

# A word boundary of Unicode (UAX 29): apostrophes stay inside words, ideographs stand alone.
_BOUNDARY = regex.compile(r"\b", regex.VERSION1 | regex.WORD)
# Letters, digits, symbols and emoji; not space and punctuation alone.
_WORD = regex.compile(r"[^\s\p{P}\p{C}\p{M}]")


@dataclass(frozen=True, slots=True)
class Place:
    """A stretch of a text.

    Attributes:
        start: index of its first character.
        end: index behind its last one.
    """

    start: int
    end: int

    def shared(self, other: "Place") -> int:
        """Count the characters that both stretches have."""
        return max(0, min(self.end, other.end) - max(self.start, other.start))


@dataclass(frozen=True, slots=True)
class PlacedToken:
    """A token of a text.

    Attributes:
        position: index of the token in the ids of the text.
        place: the characters that it was made of, as they were typed.
    """

    position: int
    place: Place


def words_of(text: str) -> list[Place]:
    """Return the places of a text's words, in order.

    Words are divided at the word boundaries of Unicode (UAX 29), so that each ideograph and each
    emoji is a word. Punctuation is none.
    """
    found: list[Place] = []
    start = 0
    for part in _BOUNDARY.split(text):
        if _WORD.search(part):
            found.append(Place(start, start + len(part)))
        start += len(part)
    return found


def place_tokens(tokenizer: object, text: str) -> list[PlacedToken]:
    """Return the tokens that stand for characters of a text, in order.

    Tokens that were cut off because the text is too long are left out, and so are special tokens.

    Args:
        tokenizer: open_clip's tokenizer of the model.
        text: the text, as typed.

    Raises:
        InvalidTargetError: the tokenizer does not tell the places of its tokens.
    """
    if isinstance(tokenizer, SimpleTokenizer) and tokenizer.reduction_fn is None:
        cleaned = cleaned_by(tokenizer, text)
        # Behind the start token, and before the end token, which replaces the last one.
        places = _of_simple(tokenizer, cleaned)[: tokenizer.context_length - 2]
        placed = [PlacedToken(1 + index, place) for index, place in enumerate(places)]
    elif isinstance(tokenizer, (HFTokenizer, SigLipTokenizer)) and tokenizer.tokenizer.is_fast:
        cleaned = cleaned_by(tokenizer, text)
        placed = _of_hugging_face(tokenizer, cleaned)
    else:
        raise InvalidTargetError(
            f"The words of this model have no contributions: its tokenizer, a "
            f"{type(tokenizer).__name__}, does not tell the characters of each token.",
            field="words",
        )
    typed = _typed_places(text, cleaned)
    return [
        PlacedToken(token.position, _span(typed[token.place.start : token.place.end]))
        for token in placed
        if token.place.end > token.place.start
    ]


def cleaned_by(tokenizer: SimpleTokenizer | HFTokenizer | SigLipTokenizer, text: str) -> str:
    """Return a text as a tokenizer cleans it before it makes tokens."""
    if isinstance(tokenizer, SigLipTokenizer):
        return str(canonicalize_text(basic_clean(text)))
    return str(tokenizer.clean_fn(text))


def _of_simple(tokenizer: SimpleTokenizer, cleaned: str) -> list[Place]:
    places: list[Place] = []
    for match in regex.finditer(tokenizer.pat, cleaned):
        word = match.group()
        # The characters behind each byte of the word, because a token may be a part of a character.
        owners = [
            match.start() + index
            for index, character in enumerate(word)
            for _ in character.encode("utf-8")
        ]
        encoded = "".join(tokenizer.byte_encoder[byte] for byte in word.encode("utf-8"))
        used = 0
        for piece in tokenizer.bpe(encoded).split(" "):
            length = len(piece.removesuffix("</w>"))
            bytes_of = owners[used : used + length] or owners[-1:]
            places.append(Place(bytes_of[0], bytes_of[-1] + 1))
            used += length
    return places


def _of_hugging_face(tokenizer: HFTokenizer | SigLipTokenizer, cleaned: str) -> list[PlacedToken]:
    inner: Any = tokenizer.tokenizer
    by_hand = getattr(tokenizer, "tokenizer_mode", "") == "clips"
    context = tokenizer.context_length
    found = inner(
        cleaned,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        add_special_tokens=not by_hand,
        truncation=True,
        max_length=context - 3 if by_hand else context,
    )
    # Such a tokenizer puts a start token before the text itself.
    first = int(by_hand)
    return [
        PlacedToken(first + index, Place(*offsets))
        for index, (offsets, special) in enumerate(
            zip(found["offset_mapping"], found["special_tokens_mask"], strict=True)
        )
        if not special
    ]


def _typed_places(typed: str, cleaned: str) -> list[Place]:
    """Return for each character of a cleaned text the characters that it was made of."""
    before, after = map(_comparable, (typed, cleaned))
    if before == after:
        return [Place(index, index + 1) for index in range(len(cleaned))]
    kept = [index for index, _ in enumerate(before) if not _is_repeated_space(before, index)]
    squeezed = "".join(before[index] for index in kept)
    places: list[Place] = []
    matcher = difflib.SequenceMatcher(None, squeezed, after, autojunk=False)
    for tag, start, end, new_start, new_end in matcher.get_opcodes():
        count = new_end - new_start
        if tag == "equal" or (tag == "replace" and end - start == count):
            places += [Place(kept[index], kept[index] + 1) for index in range(start, end)]
        elif tag == "replace":
            places += [Place(kept[start], kept[end - 1] + 1)] * count
        elif tag == "insert":
            beside = kept[max(start - 1, 0)] if kept else 0
            places += [Place(beside, beside)] * count
    return places


def _is_repeated_space(text: str, index: int) -> bool:
    return text[index].isspace() and (index == 0 or text[index - 1].isspace())


def _comparable(text: str) -> str:
    """Return a text of the same length in lower case, with every space the same."""
    lowered = (character.lower() for character in text)
    return "".join(
        " " if original.isspace() else lower if len(lower) == 1 else original
        for original, lower in zip(text, lowered, strict=True)
    )


def _span(places: Sequence[Place]) -> Place:
    return Place(min(place.start for place in places), max(place.end for place in places))
