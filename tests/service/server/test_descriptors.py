"""A process with few file descriptors has fewer connections, and says so."""

import contextlib
import resource
import socket
from collections.abc import Iterator

import pytest

from service.__main__ import main
from service.server.descriptors import possible_connections, reserved_descriptors
from service.settings import Settings
from tests.support.raw_requests import LIVE
from tests.support.running_server import Server

_FEW = 64


def _main_with_few_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (_FEW, _FEW))
    main()


@pytest.mark.slow
def test_with_few_descriptors_connections_are_refused_with_a_word_and_others_served(
    tiny_model: str,
) -> None:
    with Server(tiny_model, program=_main_with_few_descriptors) as server:
        server.wait_for_health()
        with contextlib.ExitStack() as open_connections:
            for _ in range(2 * _FEW):
                open_connections.enter_context(
                    socket.create_connection((server.host, server.port), timeout=10)
                )
            # An answered connection is idle, and makes room for the next one.
            with contextlib.suppress(ConnectionError):
                last = socket.create_connection((server.host, server.port), timeout=10)
                last.sendall(LIVE)
                last.recv(100)
                last.close()
        server.wait_for_health()
        server.wait_for_log(lambda line: line["event"] == "connections refused")
        (warning,) = [line for line in server.log if line["event"] == "too few file descriptors"]
        assert warning["limit"] == _FEW
        assert 8 <= warning["max_connections"] < _FEW
        assert "LEGRAD_MAX_CONNECTIONS" in warning["remedy"]
        refusals = [line for line in server.log if line["event"] == "connections refused"]
        # A hundred in a moment, and one line.
        assert len(refusals) == 1
        assert refusals[0]["level"] == "warning"


@pytest.fixture
def limits() -> Iterator[tuple[int, int]]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_process_raises_its_own_limit_as_far_as_it_may(limits: tuple[int, int]) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, limits[1]))
    assert possible_connections(1_500, 40) == 1_500
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 1_500


def test_enough_descriptors_change_nothing(limits: tuple[int, int]) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, limits[1]))
    assert possible_connections(100, 40) == 100
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 2048


def test_descriptors_are_kept_for_the_connections_and_look_ups_of_fetches() -> None:
    without = Settings(url_max_fetches=100)
    fetching = Settings.model_validate({"url_hosts": "public", "url_max_fetches": 100})
    assert reserved_descriptors(fetching) - reserved_descriptors(without) == 200
