"""Values of the switch of accelerated parts. Importing it loads no torch."""

from typing import Literal

Acceleration = Literal["off", "kernel", "graphs", "all"]
