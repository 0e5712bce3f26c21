"""Base of the methods with a second path beside the model's own, through its last blocks.

In each of these blocks, attention of the method's own reads the model's path and adds its output
to the second path. The second path has no MLPs. At its end, every patch's features are compared
with the target.
"""

from abc import abstractmethod

from torch import Tensor

from legrad_engine.errors import InvalidOptionError
from legrad_engine.families.attention import Attention
from legrad_engine.families.base import Tower
from legrad_engine.methods.dense_features import DenseMethod, run_blocks


class DualPathMethod(DenseMethod):
    """Method with a second path. Its layers are the blocks that the second path goes through."""

    default_layers = 6
    takes_layers = "last-blocks"

    def refusal(self, tower: Tower) -> str | None:
        """See :meth:`Method.refusal`."""
        reason = super().refusal(tower)
        if reason is None and any(
            tower.attention_branch(index) is None for index in range(tower.depth)
        ):
            return (
                "its blocks do not add the attention's output to their input by themselves "
                "(nearest: maskclip and sclip)"
            )
        return reason

    def run(self, tower: Tower, tokens: Tensor, layers: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """See :meth:`DenseMethod.run`."""
        tokens = run_blocks(tower, tokens, layers[0])
        path = tokens
        for index in layers:
            branch = tower.attention_branch(index)
            if branch is None:
                raise InvalidOptionError("This model has no second path.", field="method")
            attention, output = tower.run_block(tokens, index)
            own = self.attend(attention, branch.before(tokens))
            path = path + branch.after(own.transpose(1, 2).flatten(2))
            tokens = output
        return path, tokens

    @abstractmethod
    def attend(self, attention: Attention, inputs: Tensor) -> Tensor:
        """Compute the second path's attention.

        Args:
            attention: the block's attention on the model's path.
            inputs: ``[B, N, d]``, the input of that attention, behind its norm.

        Returns:
            ``[B, heads, N, head_dim]``.
        """
