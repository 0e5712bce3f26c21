"""The lock files pin all dependencies, and installations use nothing but the locks.

If one of these tests fails after a change of pyproject.toml: run `make lock` and commit the locks.
"""

import re
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, distribution

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
CLIENT = tomllib.loads((ROOT / "clients" / "python" / "pyproject.toml").read_text())["project"]
# The extras in production images, as in the Makefile.
IMAGE_EXTRAS = [extra for extra in ("heif", "hf", "storage", "telemetry") if extra in EXTRAS]
FILES = (
    "requirements.lock",
    "requirements-cpu.lock",
    "requirements-ray.lock",
    "requirements-dev.lock",
)
ONLY_TORCH = re.compile(r"torch|torchvision|triton|(cuda|nvidia)-.*")

# Linux on x86-64 with Python 3.11, whatever these tests run on.
ENVIRONMENT = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.11.9",
    "python_version": "3.11",
    "sys_platform": "linux",
}


def pins(name: str) -> dict[str, str]:
    found = re.findall(r"^([a-z0-9.-]+)==([^\s;]+)", (ROOT / name).read_text(), re.M)
    assert found
    return dict(found)


def disagreements(requirements: list[str], pinned: dict[str, str]) -> list[str]:
    found = []
    for wanted in map(Requirement, requirements):
        if wanted.marker is not None and not wanted.marker.evaluate({**ENVIRONMENT, "extra": ""}):
            continue
        pin = pinned.get(canonicalize_name(wanted.name))
        if pin is None or not wanted.specifier.contains(pin, prereleases=True):
            found.append(f"{wanted} is locked to {pin}")
    return found


def test_the_lock_of_images_satisfies_pyproject() -> None:
    asked = PROJECT["dependencies"] + [each for extra in IMAGE_EXTRAS for each in EXTRAS[extra]]
    assert disagreements(asked, pins("requirements.lock")) == []


def test_the_lock_of_ray_clusters_is_that_of_images_with_more() -> None:
    asked = [each for extra in ("ray", "storage") for each in EXTRAS[extra]]
    cluster = pins("requirements-ray.lock")
    assert disagreements(asked, cluster) == []
    assert pins("requirements.lock").items() <= cluster.items()


def test_the_lock_for_development_satisfies_every_extra_and_agrees_with_that_of_images() -> None:
    asked = PROJECT["dependencies"] + [each for extra in EXTRAS.values() for each in extra]
    asked += CLIENT["dependencies"]
    development = pins("requirements-dev.lock")
    assert disagreements(asked, development) == []
    assert pins("requirements.lock").items() <= development.items()


def test_the_lock_without_torch_is_that_of_images_otherwise() -> None:
    whole = pins("requirements.lock")
    kept = {name: pin for name, pin in whole.items() if not ONLY_TORCH.fullmatch(name)}
    assert pins("requirements-cpu.lock") == kept
    assert {"torch", "torchvision"} <= whole.keys()


@pytest.mark.parametrize("name", FILES)
def test_what_the_locked_packages_need_is_locked(name: str) -> None:
    pinned = pins(name)
    missing = []
    known = 0
    for package, version in pinned.items():
        try:
            installed = distribution(package)
        except PackageNotFoundError:
            continue
        if installed.version != version:
            continue
        known += 1
        missing += [
            f"{package}: {line}" for line in disagreements(installed.requires or [], pinned)
        ]
    if name == "requirements-cpu.lock":
        missing = [line for line in missing if not ONLY_TORCH.search(line)]
    assert missing == []
    assert known


@pytest.mark.parametrize("name", FILES)
def test_every_pin_has_hashes_and_no_place_is_named(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert not re.search(r"^-", text, re.M)
    blocks = re.split(r"^(?=[a-z])", text, flags=re.M)[1:]
    assert len(blocks) == len(pins(name))
    for block in blocks:
        assert re.search(r"\n +--hash=sha256:[0-9a-f]{64}", block), block


@pytest.mark.parametrize(
    ("stamp", "lock"),
    [(".venv/.installed", "requirements.lock"), (".venv/.tools", "requirements-dev.lock")],
)
def test_make_installs_the_lock_and_resolves_nothing(stamp: str, lock: str) -> None:
    commands = subprocess.run(
        ["make", "--dry-run", "--always-make", stamp],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    where_locked, elsewhere = re.findall(r"; then (.*); else (.*); fi", commands)[0]
    installs = [each for each in where_locked.split("&&") if " pip install " in each]
    assert len(installs) == 2
    assert f"--no-deps --require-hashes --requirement {lock} " in installs[0]
    assert "--no-deps --no-build-isolation --editable" in installs[1]
    assert "--no-deps" not in elsewhere
