"""Runs GradCAM of the package grad-cam in a process of its own and saves its raw maps.

Usage: ``run_gradcam.py FOLDER INPUT OUTPUT``. The input is an ``.npz`` with ``pixels`` of one image
and ``targets``; the output is an ``.npy`` of maps ``[P, rows, columns]``, rectified, not scaled.
"""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
import torch.nn.functional as F
import torchvision  # noqa: F401 # before the stand-ins, which it would find

from tests.support.architectures import seeded_model


def import_gradcam(folder: Path) -> Any:
    """Import the class alone: the package's own ``__init__`` needs much that is not called here."""
    package = ModuleType("pytorch_grad_cam")
    package.__path__ = [str(folder / "pytorch_grad_cam")]
    sys.modules["pytorch_grad_cam"] = package
    # What the drawing and the smoothing import, neither of which is called here.
    stand_ins = (
        "ttach",
        "cv2",
        "matplotlib",
        "matplotlib.pyplot",
        "matplotlib.lines",
        "sklearn",
        "sklearn.decomposition",
        "scipy",
        "scipy.ndimage",
    )
    for name in stand_ins:
        sys.modules[name] = MagicMock()
    from pytorch_grad_cam.grad_cam import GradCAM  # type: ignore[import-not-found]

    for name in stand_ins:
        del sys.modules[name]
    return GradCAM


def main() -> None:
    folder, source, output = map(Path, sys.argv[1:])
    gradcam = import_gradcam(folder)
    given = np.load(source)
    pixels = torch.from_numpy(given["pixels"])
    visual: Any = seeded_model(dtype=torch.float64).visual
    rows = pixels.shape[2] // 16

    def on_grid(tokens: Any) -> Any:
        return tokens[:, 1:].unflatten(1, (rows, -1)).permute(0, 3, 1, 2)

    layer = visual.transformer.resblocks[-1].ln_1
    maps = []
    with gradcam(visual, [layer], reshape_transform=on_grid) as cam:
        kept = cam.activations_and_grads
        for target in torch.from_numpy(given["targets"]):
            features = kept(pixels.clone().requires_grad_())
            (F.normalize(features, dim=-1)[0] @ target).backward()
            activations, gradients = (
                each[0].cpu().numpy()
                for each in (
                    cam.activations_and_grads.activations,
                    cam.activations_and_grads.gradients,
                )
            )
            (raw,) = cam.get_cam_image(pixels, layer, None, activations, gradients)
            maps.append(np.maximum(raw, 0))
    np.save(output, np.stack(maps))


if __name__ == "__main__":
    main()
