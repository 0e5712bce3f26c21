"""Limits on batches: those that are set, and without them what suits device and model."""

import pytest

from service.batching import BatchLimits
from service.settings import Settings


def settings(**given: object) -> Settings:
    return Settings.model_validate(given)


def test_a_cpu_has_batches_of_sixteen() -> None:
    policy = settings().batch_policy("cpu")
    assert policy.max_images == 16
    assert policy.limits(16) == BatchLimits(16, 32.0, 128.0)


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_an_accelerator_may_have_far_larger_batches(device: str) -> None:
    policy = settings().batch_policy(device)
    assert (policy.max_images, policy.max_queue_cost) == (256, 2048.0)
    assert policy.limits(256).max_batch_cost == 512.0


@pytest.mark.parametrize(("found", "cost"), [(64, 128.0), (16, 32.0), (1, 32.0)])
def test_the_work_of_a_batch_follows_the_size_that_the_warm_up_found(
    found: int, cost: float
) -> None:
    assert settings().batch_policy("cuda").limits(found) == BatchLimits(found, cost, 2048.0)


def test_costs_follow_the_number_of_images_that_is_set() -> None:
    policy = settings(max_batch_images=64).batch_policy("cpu")
    assert policy.limits(64) == BatchLimits(64, 128.0, 512.0)
    small = settings(max_batch_images=1).batch_policy("cuda")
    assert small.limits(1) == BatchLimits(1, 32.0, 128.0)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_limits_that_are_set_hold_on_every_device(device: str) -> None:
    given = settings(max_batch_images=300, max_batch_cost=5.0, max_queue_cost=9.0, max_wait_ms=20)
    policy = given.batch_policy(device)
    assert policy.max_images == 300
    assert policy.limits(100) == BatchLimits(100, 5.0, 9.0, 0.02)
