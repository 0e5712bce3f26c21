"""Checkpoints and names of other image models of the literature, which cannot be explained.

Their repositories save weights under names of their own. A checkpoint is recognised by names that
no supported model has. Importing this module loads no torch.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Foreign:
    """A model that is known and cannot be explained.

    Attributes:
        title: its name.
        source: authors, venue.
        reason: clause that completes "cannot be explained: it is TITLE, ...".
        nearest: reference of the nearest model that is explained.
        name: matches its names in references; None if they say nothing.
        weight: matches the name of a weight that it alone has.
    """

    title: str
    source: str
    reason: str
    nearest: str
    name: re.Pattern[str] | None
    weight: re.Pattern[str]

    @property
    def clause(self) -> str:
        """The reason with the nearest model."""
        return f"it is {self.title}, {self.reason}; the nearest that is explained is {self.nearest}"


FOREIGN: tuple[Foreign, ...] = (
    Foreign(
        title="FCViT",
        source="Ma et al., 2022, arXiv 2212.12552",
        reason="which mixes its patches by convolutions and a global mean: it has no attention",
        nearest="timm:swin_tiny_patch4_window7_224",
        name=re.compile(r"^fcvit"),
        weight=re.compile(r"(^|\.)token_mixer\.(gc\d|dw\d|spatial_att)\."),
    ),
    Foreign(
        title="SiT",
        source="Zong et al., ECCV 2022, arXiv 2111.12624",
        reason="which slims its tokens between blocks: those of later blocks are of no patch",
        nearest="timm:deit3_small_patch16_224",
        name=re.compile(r"^sit_"),
        weight=re.compile(r"^r?tsm\.\d+\."),
    ),
    Foreign(
        title="ViTAE",
        source="Xu et al., NeurIPS 2021, arXiv 2106.03348; Zhang et al., IJCV 2023",
        reason="whose blocks pass patches by their attention through convolutions (PCM): the score "
        "does not depend on the attention alone",
        nearest="timm:vit_small_patch16_224",
        name=re.compile(r"^vitae"),
        weight=re.compile(r"\.PCM\.\d+\."),
    ),
    Foreign(
        title="T2T-ViT",
        source="Yuan et al., ICCV 2021, arXiv 2101.11986",
        reason="whose tokens are folded of overlapping patches by attentions of their own",
        nearest="timm:vit_small_patch16_224",
        name=re.compile(r"^t2t_vit"),
        weight=re.compile(r"^tokens_to_token\."),
    ),
    Foreign(
        title="DynamicViT",
        source="Rao et al., NeurIPS 2021, arXiv 2106.02034",
        reason="which drops tokens between blocks: later blocks do not have every patch",
        nearest="timm:deit3_small_patch16_224",
        name=re.compile(r"^dynamic_?vit"),
        weight=re.compile(r"^score_predictor\.\d+\."),
    ),
    Foreign(
        title="CvT",
        source="Wu et al., ICCV 2021, arXiv 2103.15808",
        reason="whose keys are convolutions over patches: a weight is not of one patch",
        nearest="timm:swin_tiny_patch4_window7_224",
        name=re.compile(r"^cvt_"),
        weight=re.compile(r"\.conv_proj_[qkv]\."),
    ),
)


def refused_name(name: str) -> str | None:
    """Give the reason why a model of this name cannot be explained; None if it is not known."""
    lowered = name.lower().replace("-", "_")
    for each in FOREIGN:
        if each.name is not None and each.name.search(lowered):
            return each.clause
    return None


def refused_weights(names: Iterable[str]) -> str | None:
    """Give the reason why a checkpoint cannot be explained; None if it is not known.

    Args:
        names: names of its weights, without the prefixes of containers.
    """
    kept = list(names)
    for each in FOREIGN:
        if any(each.weight.search(name) for name in kept):
            return each.clause
    return None
