"""Cores of a container: affinity, and quotas of control groups of both versions."""

import os
from pathlib import Path

import pytest

from service.settings import Settings
from service.settings.cores import available_cores, picture_processes

MANY = 64


@pytest.fixture(autouse=True)
def _many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(MANY)))


def cores(root: Path, own: str, files: dict[str, str]) -> float:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    groups = root / "own"
    groups.write_text(own)
    return available_cores(root, groups)


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        # In a container of its own namespace the file lies at the root.
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, MANY),
        # The path is that of the host.
        ("0::/kubepods/pod1/c1\n", {"cpu.max": "400000 100000\n"}, 4),
        # The lowest quota of the group and of those around it holds.
        (
            "0::/system.slice/legrad.service\n",
            {
                "cpu.max": "max 100000\n",
                "system.slice/cpu.max": "200000 100000\n",
                "system.slice/legrad.service/cpu.max": "800000 100000\n",
            },
            2,
        ),
        (
            "4:cpu,cpuacct:/docker/c1\n0::/\n",
            {
                "cpu,cpuacct/cpu.cfs_quota_us": "300000\n",
                "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        (
            "1:cpu:/\n",
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            MANY,
        ),
        ("1:cpu:/\n2:memory:/x\n", {}, MANY),
        ("0::/\n", {"cpu.max": "nonsense\n"}, MANY),
        ("", {"cpu.max": "100000 100000\n"}, MANY),
    ],
)
def test_the_quota_of_a_container_is_found(
    own: str, files: dict[str, str], expected: float, tmp_path: Path
) -> None:
    assert cores(tmp_path, own, files) == expected


def test_without_control_groups_the_affinity_holds(tmp_path: Path) -> None:
    assert available_cores(tmp_path, tmp_path / "missing") == MANY


def test_one_core_is_left_to_the_rest_but_one_process_is_needed() -> None:
    assert [picture_processes(each) for each in (0.5, 1, 1.9, 2, 3.5, 64)] == [1, 1, 1, 1, 2, 63]


def test_a_picture_may_take_what_the_largest_one_needs() -> None:
    small = {"max_image_pixels": 1_000_000, "max_drawn_pixels": 1_000_000}
    for changes, expected in (
        ({}, 88_000_000),
        ({"max_drawn_pixels": 10_000_000}, 144_000_000),
        ({"picture_max_bytes": 5}, 5),
    ):
        limits = Settings.model_validate(small | changes).picture_limits
        assert limits.max_bytes == expected
    assert Settings(picture_processes=3).picture_limits.processes == 3
