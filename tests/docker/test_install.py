"""The Dockerfile's steps of installation, carried out without an engine, and what they leave.

A fresh environment gets everything of the lock but torch and what only torch needs: those are
gigabytes, and are lent by the environment that runs this test. What is not shown: that they can be
fetched, and the base image.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

import pytest

from tests.support.answers import check_against_contract
from tests.support.paths import ROOT
from tests.support.pictures import base64_of
from tests.support.running_app import RunningApp
from tests.support.running_server import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NOBODY = "65534"
LENT = re.compile(r"(torch|torchvision|triton|cuda-.*|nvidia-.*)$")


def interpreter() -> str:
    """A Python of this version that every user may run: root's own home is closed to others."""
    for found in (sys._base_executable, f"/usr/bin/python3.{sys.version_info.minor}"):  # type: ignore[attr-defined]
        # Through a shell, because the first program may still be started with the old privileges.
        command = ["sh", "-c", f"{shlex.quote(found)} --version"]
        runs = subprocess.run([*as_nobody(), *command], capture_output=True, text=True)
        if runs.returncode == 0:
            return found
    raise AssertionError("No Python of this version can be run by a user who is not root.")


def as_nobody() -> list[str]:
    """What has a program run without privileges; a developer has none in the first place."""
    if os.geteuid():
        return []
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]


def lend_torch(environment: Path) -> None:
    """Makes torch and what only torch needs visible in an environment, and nothing else.

    Nothing that the lock for CPUs installs may be lent: pip would write into the lender.
    """
    (packages,) = environment.glob("lib/python*/site-packages")
    for lent in distributions():
        if not LENT.match(lent.metadata["Name"]):
            continue
        for top in {str(file).split("/")[0] for file in lent.files or ()} - {"..", "__pycache__"}:
            here = Path(str(lent.locate_file(top)))
            if here.exists() and not (packages / top).exists():
                (packages / top).symlink_to(here)


@pytest.fixture(scope="module")
def environment() -> Iterator[Path]:
    # pytest's own folders are closed to other users.
    with tempfile.TemporaryDirectory(prefix="legrad-installation-") as folder:
        Path(folder).chmod(0o755)
        made = Path(folder) / "environment"
        subprocess.run([interpreter(), "-m", "venv", "--without-pip", made], check=True)
        lend_torch(made)
        context = Path(folder) / "build"
        for name in copied_files():
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            (context / name).parent.mkdir(parents=True, exist_ok=True)
            copy(ROOT / name, context / name)
        for step in install_steps("cpu"):
            subprocess.run(
                [argument.replace("/opt/legrad", str(made)) for argument in step.split()],
                cwd=context,
                check=True,
                # Nothing answers there: what is lent need not be fetched. The image does have its
                # packages compiled, for it starts more often than it is made.
                env=own_environment()
                | {"TORCH_INDEX_URL": "http://127.0.0.1:9", "PIP_NO_COMPILE": "1"},
            )
        shutil.rmtree(context)
        yield made


def own_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    }


def stage(name: str) -> str:
    text = (ROOT / "docker" / "Dockerfile").read_text()
    (found,) = re.findall(rf"^FROM \S+ AS {name}\n(.*?)(?=^FROM|\Z)", text, re.M | re.S)
    return str(found)


def install_steps(target: str) -> list[str]:
    """What the Dockerfile runs to fill the environment."""
    steps = re.findall(r"^RUN (docker/install\.sh .*)$", stage(f"build-{target}"), re.M)
    assert len(steps) == 3
    return steps


def copied_files() -> list[str]:
    """What the Dockerfile copies before it runs them."""
    copies = re.findall(r"^COPY (.*) \S+$", stage("build") + stage("build-cpu"), re.M)
    return [name for copy in copies for name in copy.split()]


def test_an_installation_has_no_tools_that_install(environment: Path) -> None:
    assert not list(environment.glob("lib/python*/site-packages/pip"))
    assert not list((environment / "bin").glob("pip*"))


def test_an_installation_is_of_the_service_and_not_of_this_folder(environment: Path) -> None:
    found = subprocess.run(
        [environment / "bin/python", "-c", "import service; print(service.__file__)"],
        cwd=environment,
        env=own_environment(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert found.startswith(str(environment))


def test_an_installation_serves_as_a_user_who_may_write_nothing_but_temporary_files(
    environment: Path,
) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        Path(temporary).chmod(0o777)
        program = [
            *("env", "--unset=PYTHONPATH", f"--chdir={environment}"),
            *(f"HOME={temporary}", f"TMPDIR={temporary}", "PYTHONDONTWRITEBYTECODE=1"),
            *as_nobody(),
            str(environment / "bin/legrad"),
        ]
        before = tree(environment)
        with Server("starter", program=program) as server:
            server.wait_for_health()
            picture = (ROOT / "examples" / "stickers.png").read_bytes()
            answered = server.explain(
                {"image": {"b64": base64_of(picture)}, "prompts": ["a cat", "a pizza"]}
            )
            assert answered.status_code == 200
            check_against_contract(answered.json(), "ExplainResponse")
            check = subprocess.run(
                [*as_nobody(), environment / "bin/python", "-"],
                input=(ROOT / "docker" / "healthcheck.py").read_text(),
                env=own_environment() | {"LEGRAD_PORT": str(server.port)},
                text=True,
            )
            assert check.returncode == 0
            server.signal(signal.SIGTERM)
            assert server.wait() == 0
        assert tree(environment) == before


def test_the_health_check_fails_where_nothing_is_ready() -> None:
    check = subprocess.run(
        [sys.executable, ROOT / "docker" / "healthcheck.py"],
        env=os.environ | {"LEGRAD_PORT": "9"},
        capture_output=True,
    )
    assert check.returncode != 0


def test_the_health_check_finds_the_server_where_it_listens(
    running: RunningApp, tiny_model: str, tmp_path: Path
) -> None:
    uds = tmp_path / "legrad.sock"
    with RunningApp(tiny_model, uds=uds):
        for settings in (
            {"LEGRAD_PORT": str(running.port), "PORT": "9"},
            {"LEGRAD_PORT": "", "PORT": str(running.port)},
            {"LEGRAD_PORT": "9", "LEGRAD_UDS": str(uds)},
        ):
            check = subprocess.run(
                [sys.executable, ROOT / "docker" / "healthcheck.py"],
                env=os.environ | settings,
                capture_output=True,
                text=True,
            )
            assert check.returncode == 0, check.stderr


def tree(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))
