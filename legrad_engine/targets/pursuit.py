"""Residual of a target after its distractors, by orthogonal matching pursuit.

Source: "prompt residuals" (arXiv 2606.14758), the part of a prompt's embedding that the given
distractors do not explain.
"""

import numpy as np
import torch
from torch import Tensor


def residual(
    target: Tensor, distractors: Tensor, atoms: int | None = None, *, rounding: float = 1e-9
) -> Tensor:
    """Compute the part of a target that is orthogonal to the distractors that explain it best.

    Each step picks the distractor with the largest absolute correlation with the residual and fits
    the target by least squares on all picked distractors. The fit is kept as an orthonormal basis
    of the picked distractors, so subtracting the component along a new basis vector gives the new
    least-squares residual.

    Args:
        target: ``[e]``.
        distractors: ``[D, e]`` unit vectors; repeated or linearly dependent ones are allowed.
        atoms: largest number of distractors to pick; None for no limit.
        rounding: length below which a component of a unit vector is rounding noise. A distractor
            whose component orthogonal to the picked ones is shorter is skipped.

    Returns:
        float64 ``[e]`` on the CPU, not normalised: its norm is the share that is not explained.
    """
    # In this order: MPS has no float64.
    left = target.cpu().double().numpy().copy()
    candidates = distractors.cpu().double().numpy()
    limit = len(candidates) if atoms is None else min(atoms, len(candidates))
    basis = np.empty((limit, len(left)))
    available = np.ones(len(candidates), bool)
    picked = 0
    while picked < limit and available.any() and np.linalg.norm(left) > rounding:
        best = np.where(available, np.abs(candidates @ left), -1).argmax()
        available[best] = False
        direction = candidates[best]
        # The second pass removes the rounding error of the first.
        for _ in range(2):
            direction = direction - (basis[:picked] @ direction) @ basis[:picked]
        length = np.linalg.norm(direction)
        if length <= rounding:
            continue
        basis[picked] = direction / length
        left -= basis[picked] * (basis[picked] @ left)
        picked += 1
    return torch.from_numpy(left)
