"""Models, applications and servers that the tests of several folders share."""

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog
from hypothesis import settings

from legrad_engine.importing import frozen_after

# Imported by the fixtures: torch is slow to import, and the process that only hands the tests to
# others needs none of it.
if TYPE_CHECKING:
    from tests.support.running_app import RunningApp
    from tests.support.running_server import Server

# A run of the tests is the same each time, however slow the machine. The other profile looks for
# new examples: `pytest --hypothesis-profile=explore`.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.register_profile("explore", max_examples=1000, deadline=None)
settings.load_profile("steady")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Import the test files without the garbage collector; leave what they made out of it."""
    with frozen_after():
        return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files with slow tests first, those with the longest timeouts before the others.

    Workers take whole files in this order, so none of them is left with a slow one at the end.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    timeouts: dict[Path, float] = {}
    for item in items:
        for mark in item.iter_markers("timeout"):
            timeouts[item.path] = max(timeouts.get(item.path, 0), *mark.args)
    items.sort(key=lambda item: (item.path not in slow, -timeouts.get(item.path, 0)))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the `NAME@PATH` reference of a model that computes in milliseconds."""
    from tests.support.tiny_model import save_model

    return save_model(tmp_path_factory.mktemp("model"), "tiny")


@pytest.fixture(scope="session", autouse=True)
def _launcher() -> Iterator[None]:
    """Let all applications in this process share one launcher of picture processes.

    Each would start one of its own otherwise, which takes more processor time than most tests.
    """
    from service.pictures.processes import Launcher

    launcher = Launcher.use()
    yield
    launcher.release()


@pytest.fixture(scope="session")
def running(tiny_model: str) -> Iterator["RunningApp"]:
    """An application with small limits, shared by all tests that leave its state unchanged."""
    from tests.support.running_app import RunningApp

    with RunningApp(
        tiny_model,
        max_body_bytes=2_000_000,
        max_images=4,
        max_prompts=8,
        max_texts=100,
        max_image_pixels=4_000_000,
        max_input_size=256,
        # Tests compare its maps with those of the engine, which decodes exactly.
        decoding="exact",
    ) as started:
        yield started


@pytest.fixture(scope="session")
def server(tiny_model: str) -> Iterator["Server"]:
    """A ready server process with small limits, shared by tests that leave its state unchanged."""
    from tests.support.running_server import Server

    with Server(
        tiny_model,
        max_body_bytes=2_000_000,
        max_images=4,
        max_prompts=8,
    ) as started:
        started.wait_for_health()
        yield started


@pytest.fixture(scope="session", autouse=True)
def _silent_logs() -> None:
    """Drop log entries: formatting them is slow, and tests of the log configure it themselves."""
    structlog.configure(
        processors=[structlog.processors.JSONRenderer()],
        logger_factory=structlog.ReturnLoggerFactory(),
    )
