"""Applications that several tests of this folder share."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import trustme

from legrad_engine.targets.classifier import Classifier
from tests.support.fetching_app import PICTURE, FetchingApp, trusting
from tests.support.picture_sites import answer, sends
from tests.support.running_app import RunningApp
from tests.support.target_questions import LABELS, SIZE, engine_of


@pytest.fixture(scope="package")
def classifying(tiny_model: str) -> Iterator[RunningApp]:
    """An application whose model has a classifier."""
    with RunningApp(tiny_model) as started:
        generator = torch.Generator().manual_seed(1)
        weight = torch.randn(len(LABELS), SIZE, generator=generator)
        engine_of(started).classifier = Classifier(weight, None, LABELS)
        yield started


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="package")
def fetching_shared(tiny_model: str, authority: trustme.CA) -> Iterator[FetchingApp]:
    with trusting(authority), FetchingApp(tiny_model, max_image_pixels=4_000_000) as started:
        yield started


@pytest.fixture(scope="package")
def impatient_shared(tiny_model: str) -> Iterator[FetchingApp]:
    with FetchingApp(tiny_model, url_timeout_seconds=2.0) as started:
        yield started


@pytest.fixture
def fetching(fetching_shared: FetchingApp) -> Iterator[FetchingApp]:
    """An application that fetches pictures; afterwards it must serve and leak no task."""
    with _unharmed(fetching_shared):
        yield fetching_shared


@pytest.fixture
def impatient(impatient_shared: FetchingApp) -> Iterator[FetchingApp]:
    """One that waits two seconds for a picture; afterwards it must serve and leak no task."""
    with _unharmed(impatient_shared):
        yield impatient_shared


@contextmanager
def _unharmed(shared: FetchingApp) -> Iterator[None]:
    with shared.site(sends(answer(PICTURE)), "good.example", address="9.9.9.9") as (url, _):
        assert shared.explain_url(url).status_code == 200
        loop = shared.network.loop
        assert loop is not None
        before = len(asyncio.all_tasks(loop))
        yield
        assert shared.explain_url(url).status_code == 200
        shared.eventually(lambda: len(asyncio.all_tasks(loop)) <= before)
