"""Runs the authors' own SigLIP correction in a process of its own and saves what it did.

Usage: ``run_siglip.py FOLDER OUTPUT``. The output is an ``.npz`` with the raw maps of one prompt
and of the correction prompt, summed over layers, and the finished map, with and without correction;
beside them the picture, both target vectors and the trunk's weights, named ``trunk.*``.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reference_package import import_reference

WIDTH, SIDE, PATCH = 64, 128, 16


def seeded_model() -> Any:
    """A SigLIP-like model of timm, small, with weights that make uneven maps."""
    import torch
    from open_clip.timm_model import TimmModel
    from timm.models.vision_transformer import VisionTransformer
    from torch import nn

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual = TimmModel("vit_base_patch16_siglip_224", 768, pool="map", proj="none")
            self.visual.trunk = VisionTransformer(
                img_size=SIDE,
                patch_size=PATCH,
                embed_dim=WIDTH,
                depth=3,
                num_heads=4,
                class_token=False,
                global_pool="map",
                num_classes=0,
            )
            self.logit_scale = nn.Parameter(torch.tensor(1.0))

        def encode_image(self, image: Any) -> Any:
            return self.visual(image)

    torch.manual_seed(3)
    model = Model().eval()
    with torch.no_grad():
        for parameter in model.visual.trunk.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return model


def main() -> None:
    folder, output = Path(sys.argv[1]), Path(sys.argv[2])
    wrapper, _ = import_reference(folder)
    import torch
    import torch.nn.functional as F
    from legrad import wrapper as code  # type: ignore[import-not-found]

    generator = torch.Generator().manual_seed(5)
    coarse = torch.randn(1, 3, 9, 9, generator=generator)
    image = F.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic")
    prompt, correction = F.normalize(torch.randn(2, 1, WIDTH, generator=generator), dim=-1)
    model = seeded_model()
    wrapped = wrapper(model, layer_index=-2)
    # Found in place, it is not encoded: that needs a tokenizer from the model hub.
    wrapped.empty_embedding = correction.t()

    summed = []
    min_max = code.min_max

    def remember(maps: Any) -> Any:
        summed.append(maps.detach().clone())
        return min_max(maps)

    code.min_max = remember
    plain = wrapped.compute_legrad_siglip(prompt, image, apply_correction=False)
    (raw,) = summed
    corrected = wrapped.compute_legrad_siglip(prompt, image, apply_correction=True)
    _, raw_correction, _ = summed
    arrays = {
        "raw": raw,
        "raw_correction": raw_correction,
        "plain": plain,
        "corrected": corrected,
        "image": image,
        "targets": torch.cat([prompt, correction]),
    }
    arrays |= {f"trunk.{name}": weight for name, weight in model.visual.trunk.state_dict().items()}
    np.savez(output, **{name: value.detach().numpy() for name, value in arrays.items()})


if __name__ == "__main__":
    main()
