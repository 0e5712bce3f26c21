"""The result of the measurement `counterfactual`."""

from pydantic import Field

from legrad_engine.images.change_kinds import Change
from service.schemas.boxes import Box
from service.schemas.measurements.base import Result

_BOX = {"left": 120, "top": 80, "right": 410, "bottom": 300}
_NEW = {"similarity": 0.21, "change": -0.1}


class NewSimilarity(Result):
    """The similarity of a target with the changed picture."""

    similarity: float = Field(description="The new similarity.", examples=[0.21])
    change: float = Field(
        description="The new similarity less that of the picture as it is.", examples=[-0.1]
    )


class CounterfactualCase(Result):
    """One changed picture."""

    warmest_of: int | None = Field(
        description="Index of the target whose warmest region was changed; null for regions that "
        "the request gives.",
        examples=[0],
    )
    regions: list[Box] = Field(
        description="The changed regions, in original pixels.", examples=[[_BOX]]
    )
    targets: list[NewSimilarity] = Field(
        description="The new similarity of each target, in order.", examples=[[_NEW]]
    )


class CounterfactualResult(Result):
    """Similarities of the picture after a change of regions."""

    change: Change = Field(description="How the regions were changed.", examples=["blur"])
    cases: list[CounterfactualCase] = Field(
        description="One case with all regions of the request changed; or one for the warmest "
        "region of each target, but none for a target whose heatmap is constant.",
        examples=[[{"warmest_of": 0, "regions": [_BOX], "targets": [_NEW]}]],
    )
