"""Plain ViTs inside the checkpoints of self-supervised training, found by rule.

DINO and iBOT keep the encoder under ``backbone.``, MoCo v3 under ``base_encoder.``, both with a
projection head; so do programs that add a regulariser to them, such as Semantic Graph Consistency
(SGC, arXiv 2406.12944). MAE keeps a decoder beside it. Those parts serve training alone.
"""

import logging
import re
from collections.abc import Mapping

from torch import Tensor

# The student of MoCo v3 is what its authors evaluate.
_ENCODERS = ("backbone.", "base_encoder.")
_STEM = "patch_embed.proj.weight"
_TRAINING_ONLY = re.compile(
    # Projection heads of DINO and iBOT, MoCo v3 and MSN; the decoder of MAE.
    r"^(head\.(\d+|mlp|last_layer)(\.|$)|fc\.(fc|bn)\d\.|decoder_|mask_token$)"
)

_logger = logging.getLogger(__name__)


def encoder_of(weights: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Return the weights of the encoder, without the parts that serve training alone.

    Args:
        weights: of a checkpoint, by name.
        where: the checkpoint, for the log.
    """
    found = dict(weights)
    for prefix in _ENCODERS:
        if _STEM not in weights and prefix + _STEM in weights:
            found = {
                name.removeprefix(prefix): value
                for name, value in weights.items()
                if name.startswith(prefix)
            }
            break
    kept = {name: value for name, value in found.items() if not _TRAINING_ONLY.search(name)}
    left_out = len(weights) - len(kept)
    if left_out:
        _logger.info("%s: %d weights that serve training alone are left out", where, left_out)
    return kept


def pools_by_average(weights: Mapping[str, Tensor]) -> bool:
    """Tell whether a fine-tuned MAE pools its patches: its norm comes after pooling."""
    return "fc_norm.weight" in weights and "norm.weight" not in weights
