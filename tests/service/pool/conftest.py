"""Models that the tests of this folder share."""

from pathlib import Path

import pytest

from legrad_engine import Explainer
from tests.support.tiny_model import save_model


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def models(folder: Path) -> list[str]:
    return [save_model(folder, f"pool-{letter}") for letter in "abc"]


@pytest.fixture(scope="session")
def size(models: list[str]) -> int:
    return Explainer.load(*models[0].split("@")).nbytes


@pytest.fixture(scope="session")
def broken(models: list[str], folder: Path) -> str:
    path = folder / "broken.safetensors"
    path.write_bytes(b"these are no weights")
    return f"{models[0].partition('@')[0]}@{path}"
