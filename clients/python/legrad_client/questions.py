"""Which word, which change: the answers about words and about changed regions."""

from dataclasses import dataclass

from legrad_client.shapes import Box


@dataclass(frozen=True)
class Word:
    """A word of a text, as it was sent.

    Attributes:
        text: the word.
        start: index of its first character in the text.
        end: index behind its last one.
        tokens: number of its tokens; 0 for a word that the model does not read.
        contribution: its contribution to the similarity, negative where it lowers it.
        share: its part of the absolute contributions of all words of the text, 0 to 1.
    """

    text: str
    start: int
    end: int
    tokens: int
    contribution: float
    share: float


@dataclass(frozen=True)
class TextWords:
    """The words of one text; ``rest`` is the contribution of all other tokens."""

    text: str
    words: tuple[Word, ...]
    rest: float


@dataclass(frozen=True)
class NewSimilarity:
    """The similarity of one target with a changed picture, and the change."""

    similarity: float
    change: float


@dataclass(frozen=True)
class Case:
    """One changed picture.

    Attributes:
        warmest_of: index of the target whose warmest region was changed; None for given regions.
        regions: the changed regions, in pixels of the original.
        targets: the new similarity of each target, in order.
    """

    warmest_of: int | None
    regions: tuple[Box, ...]
    targets: tuple[NewSimilarity, ...]


@dataclass(frozen=True)
class Counterfactual:
    """Similarities of a picture after a change of regions, ``blur`` or ``mean``."""

    change: str
    cases: tuple[Case, ...]
