"""Names of the ways to fit a picture to a model's input. Importing this module loads no NumPy."""

from typing import Literal

Fit = Literal["squash", "pad", "native"]
