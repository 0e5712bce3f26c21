"""Measure one input with `grad-cam` and `quantus`, in a process of their own."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch


class FirstChannel(torch.nn.Module):
    """A model whose single output is the mean of the first channel."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, :1].mean((2, 3))


def main(folder: Path) -> None:
    import quantus  # type: ignore[import-not-found]
    from pytorch_grad_cam.metrics import road  # type: ignore[import-not-found]
    from quantus.functions.perturb_func import (  # type: ignore[import-not-found]
        noisy_linear_imputation,
    )

    given = np.load(folder / "inputs.npz")
    pixels, heatmap, mask = given["pixels"], given["heatmap"], given["mask"]
    imputer = road.NoisyLinearImputer(noise=0)
    order = np.argsort(-heatmap, axis=None)
    imputed: dict[str, Any] = {}
    for percent in range(10, 100, 10):
        missing = order[: percent * order.size // 100]
        kept = np.ones(order.size, np.float32)
        kept[missing] = 0
        imputed[f"grad_cam {percent}"] = imputer(
            torch.from_numpy(pixels), torch.from_numpy(kept.reshape(heatmap.shape))
        ).numpy()
        imputed[f"quantus {percent}"] = noisy_linear_imputation(
            pixels.copy(), missing, noise=0
        ).reshape(pixels.shape)
    np.savez(folder / "imputed.npz", **imputed)
    # Its classes make their own imputer, whose noise is no argument.
    road.NoisyLinearImputer.__init__.__defaults__ = (0.0, road.neighbors_weights)
    combined = road.ROADCombined()(
        torch.from_numpy(pixels)[None],
        heatmap[None],
        [lambda output: output[0]],
        FirstChannel(),
    )
    batch: dict[str, Any] = {
        "model": None,
        "x_batch": pixels[None],
        "y_batch": np.array([0]),
        "a_batch": heatmap[None, None],
        "s_batch": mask[None, None],
    }
    options: dict[str, Any] = {"abs": False, "normalise": False, "disable_warnings": True}
    figures = {
        "road": float(combined[0]),
        "mass": float(quantus.RelevanceMassAccuracy(**options)(**batch)[0]),
        "rank": float(quantus.RelevanceRankAccuracy(**options)(**batch)[0]),
        "pointing": bool(quantus.PointingGame(**options)(**batch)[0]),
    }
    (folder / "figures.json").write_text(json.dumps(figures))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
