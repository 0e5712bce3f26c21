"""Options of the Ray Serve deployment follow from the settings; what cannot hold is refused."""

import pytest

from legrad_engine.errors import InvalidOptionError
from service.cluster.values import (
    check_deployment,
    check_mode,
    check_settings,
    ineffective_fields,
    least_ongoing_requests,
    most_ongoing_requests,
    read_settings,
    shutdown_seconds,
    with_assigned_cores,
)
from service.settings import Settings

FIVE = 5  # Ray's own default of max_ongoing_requests.


def settings(**given: object) -> Settings:
    return Settings.model_validate(given)


@pytest.mark.parametrize("places", [1, 16, 256, 5000])
@pytest.mark.parametrize("batch", [1, 16, 300])
def test_a_replica_refuses_itself_before_ray_lets_requests_wait(places: int, batch: int) -> None:
    given = settings(max_requests_in_progress=places, max_batch_images=batch)
    # An eighth more is kept for callers that hold little.
    assert most_ongoing_requests(given) > places * 9 / 8
    assert most_ongoing_requests(given) > least_ongoing_requests(given) == 2 * batch


@pytest.mark.parametrize(("delay", "drain"), [(0, 30), (10, 30), (0.5, 600)])
def test_ray_kills_a_replica_only_after_its_delay_and_its_drain(delay: float, drain: float) -> None:
    given = settings(shutdown_delay_seconds=delay, drain_timeout_seconds=drain)
    chosen = shutdown_seconds(given)
    assert chosen > delay + drain + 5
    check_deployment(given, most_ongoing_requests(given), chosen)
    with pytest.raises(InvalidOptionError, match="LEGRAD_DRAIN_TIMEOUT_SECONDS"):
        check_deployment(given, most_ongoing_requests(given), delay + drain)


def test_too_few_requests_in_progress_for_a_batch_are_refused() -> None:
    given = settings(max_batch_images=16)
    check_deployment(given, 32, 1000)
    for ongoing in (FIVE, 31):
        with pytest.raises(InvalidOptionError, match=rf"max_ongoing_requests={ongoing}.* 32 "):
            check_deployment(given, ongoing, 1000)


@pytest.mark.parametrize("port", [0, 9000])
def test_an_address_for_operators_is_refused(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidOptionError, match="Ray Serve owns the sockets"):
        check_settings(settings(admin_port=port))
    monkeypatch.setenv("LEGRAD_ADMIN_PORT", str(port))
    with pytest.raises(InvalidOptionError, match=f"LEGRAD_ADMIN_PORT={port}"):
        read_settings()


def test_a_wrong_setting_is_named_as_by_legrad_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEGRAD_MAX_IMAGES", "many")
    with pytest.raises(InvalidOptionError, match="LEGRAD_MAX_IMAGES='many': write a whole number"):
        read_settings()


@pytest.mark.parametrize(
    "name",
    [
        "RAY_SERVE_ENABLE_HA_PROXY",
        "RAY_SERVE_ENABLE_DIRECT_INGRESS",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED",
    ],
)
def test_modes_in_which_replicas_listen_on_every_interface_are_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_mode({name: "0"})
    with pytest.raises(InvalidOptionError, match=rf"{name}=1.*0\.0\.0\.0"):
        check_mode({name: "1"})
    monkeypatch.setenv(name, "1")
    with pytest.raises(InvalidOptionError, match=name):
        read_settings()


def test_settings_of_sockets_are_named_as_without_effect() -> None:
    assert ineffective_fields(settings(max_images=3).model_fields_set) == []
    given = settings(max_connections=5, port=9000, host="127.0.0.1").model_fields_set
    assert ineffective_fields(given) == ["LEGRAD_HOST", "LEGRAD_PORT", "LEGRAD_MAX_CONNECTIONS"]
    given = settings(uds="/run/legrad.sock").model_fields_set
    assert ineffective_fields(given) == ["LEGRAD_UDS"]


@pytest.mark.parametrize(
    ("cores", "processes"), [(1.0, 1), (2.0, 1), (2.5, 1), (5.0, 4), (64.0, 63)]
)
def test_a_replica_has_picture_processes_for_its_own_cores(cores: float, processes: int) -> None:
    assert with_assigned_cores(settings(), cores).picture_limits.processes == processes
    assert with_assigned_cores(settings(picture_processes=7), cores).picture_processes == 7


def test_a_share_of_a_core_says_nothing_about_picture_processes() -> None:
    assert with_assigned_cores(settings(), 0.5).picture_processes is None
