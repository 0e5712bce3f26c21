"""The result of the measurement `trust`."""

from pydantic import Field

from legrad_engine.measurements.trust.levels import Removal, TrustLevel, TrustScore
from service.schemas.measurements.base import Result


class TrustAgreement(Result):
    """How the map of a target agrees with other maps; correlations are of ranks, -1 to 1."""

    blocks: float | None = Field(
        description="Mean rank correlation (Spearman) between the maps of the explained blocks, -1 "
        "to 1; null with one block, or for a method without maps of single blocks.",
        examples=[0.82],
    )
    neutral: float | None = Field(
        description="Rank correlation with the map of the neutral prompt `a photo`: near 1, the "
        "map shows little that is the target's own; null for a model without texts, or a method "
        "whose map does not depend on the target.",
        examples=[0.31],
    )
    others: float | None = Field(
        description="Highest rank correlation with the map of another target of this request; null "
        "without one, or for a method whose map does not depend on the target.",
        examples=[0.12],
    )
    positive_share: float | None = Field(
        description="Share of positive values in the absolute sum of the gradient with respect to "
        "the attention, 0 to 1; null for a method that rectifies no such gradient.",
        examples=[0.58],
    )
    margin: float | None = Field(
        description="Similarity less the highest similarity of another target of this request; "
        "null without one.",
        examples=[0.07],
    )
    neutral_margin: float | None = Field(
        description="Similarity less that of the neutral prompt `a photo`; null for a model "
        "without texts.",
        examples=[0.05],
    )


class TrustPerturbation(Result):
    """Loss of a score without some of the patches, and agreement with a mirrored picture."""

    score: TrustScore = Field(
        description="The score that is followed: `similarity`, the cosine; or `probability`, a "
        "classifier's own probability of the class.",
        examples=["similarity"],
    )
    removal: Removal = Field(
        description="How patches are removed: `dropped`, their tokens are left out of all blocks; "
        "or `masked`, their pixels become the mean colour, in architectures that need every token.",
        examples=["dropped"],
    )
    warmest: float = Field(
        description="Score lost without the warmest fifth of the patches; below 0 if it rises.",
        examples=[0.08],
    )
    coldest: float = Field(
        description="Score lost without the coldest fifth; below 0 if it rises.",
        examples=[-0.01],
    )
    random: float = Field(
        description="Score lost without a random fifth: one draw, the same for all targets and all "
        "images of one patch grid; below 0 if the score rises.",
        examples=[0.02],
    )
    flip_agreement: float | None = Field(
        description="Rank correlation of the map with that of the mirrored image, mirrored back, "
        "-1 to 1; null for a constant map.",
        examples=[0.91],
    )


class TrustCurves(Result):
    """How the score follows the whole order of the map, beside a random order."""

    deletion: float = Field(
        description="Area under the score while 0 to 0.9 of the patches are removed, warmest "
        "first, less that of a random order: below 0 is good.",
        examples=[-0.04],
    )
    insertion: float = Field(
        description="Area under the score while 0.1 to 1 of the patches are shown, warmest first, "
        "less that of a random order: above 0 is good.",
        examples=[0.05],
    )
    saco: float | None = Field(
        description="Salience-guided faithfulness coefficient (SaCo) of 10 groups of patches, -1 "
        "to 1: whether warmer groups matter more; null if all groups are equally warm.",
        examples=[0.62],
    )


class Trust(Result):
    """Numbers about how far the map of a target can be trusted."""

    level: TrustLevel = Field(description="How much was measured.", examples=["free"])
    agreement: TrustAgreement = Field(
        description="Agreement with other maps: no further forward pass.",
        examples=[
            {
                "blocks": 0.82,
                "neutral": 0.31,
                "others": 0.12,
                "positive_share": 0.58,
                "margin": 0.07,
                "neutral_margin": 0.05,
            }
        ],
    )
    perturbation: TrustPerturbation | None = Field(
        None,
        description="With `quick` and `curves`: the score without some of the patches, and the map "
        "of the mirrored image; else null, and for an image of a single patch.",
        examples=[
            {
                "score": "similarity",
                "removal": "dropped",
                "warmest": 0.08,
                "coldest": -0.01,
                "random": 0.02,
                "flip_agreement": 0.91,
            }
        ],
    )
    curves: TrustCurves | None = Field(
        None,
        description="With `curves`: the score along the whole order of the map; else null, and for "
        "an image of a single patch.",
        examples=[{"deletion": -0.04, "insertion": 0.05, "saco": 0.62}],
    )
