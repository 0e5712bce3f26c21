"""A text model for tests of text encoders."""

from typing import Any

from torch import Tensor

from tests.support.architectures import seeded_model


class CountingModel:
    """A text model that remembers how many texts it was given."""

    def __init__(self) -> None:
        self.model: Any = seeded_model()
        self.texts = 0

    def encode_text(self, text: Tensor) -> Tensor:
        self.texts += len(text)
        encoded: Tensor = self.model.encode_text(text)
        return encoded
