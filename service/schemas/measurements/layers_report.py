"""The result of the measurement `layers_report`."""

from pydantic import Field

from service.schemas.measurements.base import Result


class DirectEffects(Result):
    """The similarity as a sum over the parts of the model (TextSpan)."""

    blocks: list[float] = Field(
        description="Direct effect of each block: the sum of its heads, attention biases and MLP.",
        examples=[[0.02, 0.09]],
    )
    heads: list[list[float]] = Field(
        description="For each block, the direct effect of each of its attention heads.",
        examples=[[[0.01, -0.02], [0.05, 0.03]]],
    )
    attention_biases: list[float] = Field(
        description="For each block, the direct effect of the biases behind its attention.",
        examples=[[0.01, 0.0]],
    )
    mlps: list[float] = Field(
        description="For each block, the direct effect of its MLP.", examples=[[0.02, 0.01]]
    )
    input: float = Field(
        description="Direct effect of the input of the first block.", examples=[0.04]
    )
    output_biases: float = Field(
        description="Direct effect of the biases of the model's last norm and projection.",
        examples=[0.16],
    )
    sum: float = Field(
        description="Sum of `blocks`, `input` and `output_biases`: the similarity.",
        examples=[0.31],
    )
    gap: float = Field(
        description="`sum` less the similarity that the model serves: 0 but for rounding, else the "
        "effects are not complete.",
        examples=[1.2e-07],
    )


class LayersReport(Result):
    """A target after every block of the model, from the first to the last."""

    similarities: list[float] = Field(
        description="Cosine between picture and target after each block, by the model's own last "
        "norm and head; after the last block it is the served similarity.",
        examples=[[0.08, 0.31]],
    )
    ranks: list[int] = Field(
        description="Rank of the target after each block among the targets of the request: 1 for "
        "the most similar; equal ones share their best rank.",
        examples=[[2, 1]],
    )
    direct_effects: DirectEffects | None = Field(
        description="The similarity as a sum over blocks and heads, with the method `textspan`; "
        "null with any other.",
        examples=[None],
    )
