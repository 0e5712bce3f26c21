"""A backbone of random weights, in the form of the ONNX file that training starts from."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_WIDTH, _HIDDEN, _LAYERS, _GRID = 384, 1536, 9, 37


def write_backbone(path: Path) -> None:
    """Write the file; all blocks share their matrices, so that it is small."""
    from onnx import TensorProto, helper, numpy_helper, save

    generator = np.random.default_rng(0)

    def drawn(*shape: int) -> NDArray[np.float32]:
        return generator.normal(0, 0.02, shape).astype(np.float32)

    ones, zeros = np.ones(_WIDTH, np.float32), np.zeros(_WIDTH, np.float32)
    # Names and shapes are those of the export, see tools/starter/backbone.py.
    tensors = {
        "onnx::Concat_1957": drawn(1, 1, _WIDTH),
        "onnx::Reshape_1962": drawn(1, _GRID * _GRID, _WIDTH),
        "backbone.embeddings.cls_token": drawn(1, 1, _WIDTH),
        "backbone.embeddings.patch_embeddings.projection.weight": drawn(_WIDTH, 3, 14, 14),
        "backbone.embeddings.patch_embeddings.projection.bias": zeros,
        "square": drawn(_WIDTH, _WIDTH),
        "wider": drawn(_WIDTH, _HIDDEN),
        "narrower": drawn(_HIDDEN, _WIDTH),
    }
    matrices = {
        **{f"attention.attention.{part}": "square" for part in ("query", "key", "value")},
        "attention.output.dense": "square",
        "mlp.fc1": "wider",
        "mlp.fc2": "narrower",
    }
    nodes = []
    for number in range(_LAYERS):
        layer = f"encoder.layer.{number}"
        for name in ("norm1", "norm2"):
            tensors |= {
                f"backbone.{layer}.{name}.weight": ones,
                f"backbone.{layer}.{name}.bias": zeros,
            }
        for name in ("layer_scale1", "layer_scale2"):
            tensors[f"backbone.{layer}.{name}.lambda1"] = ones
        for name, matrix in matrices.items():
            tensors[f"backbone.{layer}.{name}.bias"] = np.zeros(
                tensors[matrix].shape[1], np.float32
            )
            node = f"/backbone/encoder/layer.{number}/{name.replace('.', '/')}/MatMul"
            nodes.append(helper.make_node("MatMul", ["x", matrix], ["y"], name=node))
    graph = helper.make_graph(
        nodes,
        "backbone",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    save(helper.make_model(graph), path)
