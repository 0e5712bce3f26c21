"""Names of the scores that LeGrad can explain. Importing this module loads no torch."""

from typing import Literal, get_args

Score = Literal["mean", "cls", "pooler"]
SCORES: tuple[Score, ...] = get_args(Score)
