"""Figures that papers report, to print beside ours."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Published:
    """One figure of a paper.

    Attributes:
        model: the model, as a reference of this program.
        data: kind of the data set.
        protocol: name of the protocol.
        method: name of the method.
        figure: name of the figure within the protocol.
        value: the figure, times 100.
        source: where it is from.
    """

    model: str
    data: str
    protocol: str
    method: str
    figure: str
    value: float
    source: str


_LEGRAD = "LeGrad, arXiv 2404.03214"
_B16 = "ViT-B-16/laion2b_s34b_b88k"
_SEGMENTATION = ("pixel accuracy, threshold 0.5", "mIoU, threshold 0.5", "mAP")
_PERTURBATION = ("negative AUC, predicted class", "positive AUC, predicted class")


def _rows(
    data: str,
    protocol: str,
    figures: tuple[str, ...],
    values: dict[str, tuple[float, ...]],
) -> list[Published]:
    return [
        Published(_B16, data, protocol, method, figure, value, _LEGRAD)
        for method, row in values.items()
        for figure, value in zip(figures, row, strict=False)
    ]


PUBLISHED: tuple[Published, ...] = (
    *_rows(
        "gtsegs",
        "segmentation",
        _SEGMENTATION,
        {
            "legrad": (77.52, 58.66, 82.49),
            "textspan": (73.01, 40.26, 81.4),
            "gradcam": (70.27, 44.50, 70.30),
            "chefercam": (69.21, 47.47),
            "raw-attention": (65.67, 43.83, 76.05),
            "rollout": (60.63, 40.64),
        },
    ),
    *_rows(
        "imagenet",
        "perturbation",
        _PERTURBATION,
        {
            "legrad": (50.24, 15.06),
            "textspan": (50.92, 15.10),
            "chefercam": (47.91, 18.66),
            "raw-attention": (46.97, 20.23),
            "gradcam": (32.01, 36.52),
        },
    ),
)


def published_figure(
    model: str, data: str, protocol: str, method: str, figure: str
) -> Published | None:
    """Return the published figure of a measurement, or None if no paper reports it."""
    wanted = (model, data, protocol, method, figure)
    for each in PUBLISHED:
        if (each.model, each.data, each.protocol, each.method, each.figure) == wanted:
            return each
    return None
