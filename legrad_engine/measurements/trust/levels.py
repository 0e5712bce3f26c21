"""Names in the measurement `trust`. Importing this module loads no torch."""

from typing import Literal

TrustLevel = Literal["free", "quick", "curves"]
"""How much is measured; each level includes those before it."""

Removal = Literal["dropped", "masked"]
"""How patches are removed: their tokens are left out, or their pixels become the mean colour."""

TrustScore = Literal["similarity", "probability"]
"""The score that is followed: the cosine, or a classifier's probability of a class."""
