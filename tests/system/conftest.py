"""Servers that the tests of this folder share."""

from collections.abc import Iterator

import pytest
from running_server import Server
from tiny_model import save_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A `NAME@PATH` reference to a model that computes in milliseconds."""
    return save_model(tmp_path_factory.mktemp("model"), "tiny")


@pytest.fixture(scope="session")
def server(tiny_model: str) -> Iterator[Server]:
    """A ready server with small limits, for every test that does not change it."""
    with Server(
        tiny_model,
        max_body_bytes=2_000_000,
        max_images=4,
        max_prompts=8,
    ) as started:
        started.wait_for_health()
        yield started
