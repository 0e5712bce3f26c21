"""A server with the built-in model, and a browser that visits it."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.support.browser import Visitor, chromium
from tests.support.running_app import RunningApp
from tests.support.running_server import Server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium per file: while it runs, no other event loop can run on its thread."""
    with chromium() as started:
        yield started


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A ready server with the built-in model, shared by tests that leave its state unchanged."""
    with Server("starter") as started:
        started.wait_for_health()
        yield started


@pytest.fixture
def visitor(browser: Browser, server: Server) -> Iterator[Visitor]:
    """A visitor of the page; checks afterwards that no error and no foreign request occurred."""
    visiting = Visitor(browser, server.url, viewport={"width": 1280, "height": 900})
    yield visiting
    visiting.leave()
    assert visiting.complaints == []
    assert visiting.strangers == []


@pytest.fixture
def page_of_visitor(browser: Browser, running: RunningApp) -> Iterator[tuple[Visitor, Page]]:
    """A visitor without animations on the page of a model that computes in milliseconds."""
    visiting = Visitor(browser, f"http://{running.host}:{running.port}", reduced_motion="reduce")
    yield visiting, visiting.arrive()
    visiting.leave()
    assert visiting.complaints == []
