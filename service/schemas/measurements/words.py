"""The result of the measurement `words`."""

from pydantic import Field

from service.schemas.measurements.base import Result


class WordContribution(Result):
    """A word of a text, as it was sent, and its contribution to the similarity."""

    text: str = Field(description="The word.", examples=["cat"])
    start: int = Field(description="Index of its first character in the text.", examples=[6])
    end: int = Field(description="Index behind its last character.", examples=[9])
    tokens: int = Field(
        description="Number of its tokens; 0 for a word that the model does not read.", examples=[1]
    )
    contribution: float = Field(
        description="Contribution to the similarity, negative where the word lowers it; the mean "
        "over the templates.",
        examples=[0.042],
    )
    share: float = Field(
        description="Its part of the absolute contributions of all words of the text, 0 to 1.",
        examples=[0.8],
    )


class TextWords(Result):
    """The words of one text."""

    text: str = Field(description="The text.", examples=["a red cat"])
    words: list[WordContribution] = Field(
        description="Its words, in order. They are divided at the word boundaries of Unicode: each "
        "ideograph and each emoji is a word, and punctuation is none.",
        examples=[
            [
                {
                    "text": "cat",
                    "start": 6,
                    "end": 9,
                    "tokens": 1,
                    "contribution": 0.042,
                    "share": 0.8,
                }
            ]
        ],
    )
    rest: float = Field(
        description="Contribution of all other tokens: punctuation, the words of templates, start, "
        "end and padding.",
        examples=[0.003],
    )
