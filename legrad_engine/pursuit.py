"""What a target means beyond what its distractors mean: orthogonal matching pursuit.

After "prompt residuals" (arXiv 2606.14758): the part of a prompt's embedding that given distractors
do not explain.
"""

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
    left = target.to("cpu", torch.float64)
    candidates = distractors.to("cpu", torch.float64)
    basis = candidates.new_zeros(0, candidates.shape[1])
    available = torch.ones(len(candidates), dtype=torch.bool)
    limit = len(candidates) if atoms is None else atoms
    while len(basis) < limit and available.any() and left.norm() > rounding:
        correlations = (candidates @ left).abs().masked_fill(~available, -1)
        best = int(correlations.argmax())
        available[best] = False
        direction = candidates[best]
        # Twice is enough: what rounding left of the first pass goes in the second.
        for _ in range(2):
            direction = direction - basis.T @ (basis @ direction)
        length = direction.norm()
        if length <= rounding:
            continue
        direction = direction / length
        basis = torch.cat([basis, direction.unsqueeze(0)])
        left = left - direction * (direction @ left)
    return left
