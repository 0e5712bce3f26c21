"""Names of the ways to change a region of a picture. Importing this module loads no NumPy."""

from typing import Literal

Change = Literal["blur", "mean"]
