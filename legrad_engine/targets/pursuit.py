"""What a target means beyond what its distractors mean: orthogonal matching pursuit.

After "prompt residuals" (arXiv 2606.14758): the part of a prompt's embedding that given distractors
do not explain.
"""

import numpy as np
import torch
from torch import Tensor


def residual(
    target: Tensor, distractors: Tensor, atoms: int | None = None, *, rounding: float = 1e-9
) -> Tensor:
    """The part of a target that is orthogonal to the distractors which explain it best.

    The distractor most correlated with what is left, in absolute value, is picked, the target is
    fitted anew by least squares on all that are picked, and so on. The fit is kept as an
    orthonormal basis of the picked distractors, so taking a new direction away from what is left is
    the new least-squares residual.

    Args:
        target: ``[e]``.
        distractors: ``[D, e]`` unit vectors; repeated or dependent ones do no harm.
        atoms: the most distractors to pick; None for as many as there is something to explain.
        rounding: the length below which a part of a unit vector is rounding noise: a distractor
            that adds no more to those already picked repeats them.

    Returns:
        float64 ``[e]`` on the CPU, not normalised: its norm is the share that is left.
    """
    left = target.to("cpu", torch.float64).numpy().copy()
    candidates = distractors.to("cpu", torch.float64).numpy()
    limit = len(candidates) if atoms is None else min(atoms, len(candidates))
    basis = np.empty((limit, len(left)))
    available = np.ones(len(candidates), bool)
    picked = 0
    while picked < limit and available.any() and np.linalg.norm(left) > rounding:
        best = np.where(available, np.abs(candidates @ left), -1).argmax()
        available[best] = False
        direction = candidates[best]
        # Twice is enough: what rounding left of the first pass goes in the second.
        for _ in range(2):
            direction = direction - (basis[:picked] @ direction) @ basis[:picked]
        length = np.linalg.norm(direction)
        if length <= rounding:
            continue
        basis[picked] = direction / length
        left -= basis[picked] * (basis[picked] @ left)
        picked += 1
    return torch.from_numpy(left)
