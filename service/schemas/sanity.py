"""The HTTP contract: the sanity check of a model by parameter randomisation."""

from pydantic import Field

from service.schemas.base import Contract


class RandomizedStage(Contract):
    """The heatmaps after one more part of the model was randomised."""

    stage: str = Field(
        description="The randomised part: `head`, then a block, the last one first, and at last "
        "`embedding`. All parts before it stay randomised.",
        examples=["block 5"],
    )
    similarity: float | None = Field(
        description="Mean rank correlation (Spearman) with the heatmaps of the intact model, -1 to "
        "1; null if no heatmaps could be compared.",
        examples=[0.21],
    )
    heatmaps: int = Field(
        description="Number of heatmaps that could be compared. Constant ones, and those that are "
        "not finite numbers, have no rank correlation.",
        examples=[24],
    )


class RandomizedMethod(Contract):
    """The check of one explanation method."""

    method: str = Field(description="The method.", examples=["legrad"])
    stages: list[RandomizedStage] = Field(
        description="The stages, from the top of the model down.",
        examples=[[{"stage": "block 5", "similarity": 0.21, "heatmaps": 24}]],
    )


class SanityCheck(Contract):
    """Result of `legrad check`: whether heatmaps change when the weights are randomised."""

    weights: str = Field(
        description="Identity of the checked weights.", examples=["blake2b:5f1c0d9a7e3b2846"]
    )
    version: str = Field(description="Version of the program that checked.", examples=["1.0.0"])
    pictures: int = Field(description="Number of pictures.", examples=[6])
    methods: list[RandomizedMethod] = Field(
        description="One entry for each checked method.",
        examples=[
            [
                {
                    "method": "legrad",
                    "stages": [{"stage": "block 5", "similarity": 0.21, "heatmaps": 24}],
                }
            ]
        ],
    )
