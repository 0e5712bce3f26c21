"""The report of the layers in an answer."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DirectEffects:
    """The similarity of a target as a sum over the parts of the model.

    Attributes:
        blocks: the direct effect of each block: its heads, its attention's biases and its MLP.
        heads: for each block, the direct effect of each attention head.
        attention_biases: for each block, that of the biases behind its attention.
        mlps: for each block, that of its MLP.
        input: that of the input of the first block.
        output_biases: that of the biases of the last norm and projection.
        sum: of ``blocks``, ``input`` and ``output_biases``.
        gap: ``sum`` less the served similarity, 0 but for rounding.
    """

    blocks: tuple[float, ...]
    heads: tuple[tuple[float, ...], ...]
    attention_biases: tuple[float, ...]
    mlps: tuple[float, ...]
    input: float
    output_biases: float
    sum: float
    gap: float


@dataclass(frozen=True)
class LayersReport:
    """A target after every block of the model, from the first to the last.

    Attributes:
        similarities: the cosine that the model's own last norm and head give after each block.
        ranks: after each block, 1 for the most similar target of the request.
        direct_effects: the similarity as a sum; None for methods other than ``textspan``.
    """

    similarities: tuple[float, ...]
    ranks: tuple[int, ...]
    direct_effects: DirectEffects | None
