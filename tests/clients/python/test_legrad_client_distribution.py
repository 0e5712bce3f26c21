"""The distribution ``legrad-client``, installed into an empty environment as its README says."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
from PIL import Image

from tests.support.paths import ROOT
from tests.support.running_server import Server

pytestmark = pytest.mark.slow

SOURCE = ROOT / "clients" / "python"
MOST_BYTES = 100_000_000


def without_pythonpath() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the client and its dependencies in the locked versions, without pip."""
    folder = tmp_path_factory.mktemp("client")
    made = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", made], check=True)
    # Constraints must not have hashes: the client itself has none.
    pins = re.findall(r"^\S+==\S+", (ROOT / "requirements-dev.lock").read_text(), re.M)
    (folder / "constraints.txt").write_text("\n".join(pins))
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--python", made / "bin" / "python", "install"),
            *("--quiet", "--disable-pip-version-check", "--constraint"),
            *(folder / "constraints.txt", SOURCE),
        ],
        env=without_pythonpath(),
        check=True,
        timeout=250,
    )
    return made


def packages(environment: Path) -> Path:
    (found,) = environment.glob("lib/python*/site-packages")
    return found


def test_it_brings_no_torch_and_takes_less_than_100_mb(environment: Path) -> None:
    installed = {each.metadata["Name"] for each in distributions(path=[str(packages(environment))])}
    assert {"legrad-client", "httpx", "numpy", "pillow"} <= installed
    assert not installed & {"torch", "torchvision", "pydantic", "fastapi", "legrad-service"}
    size = sum(path.stat().st_size for path in environment.rglob("*") if not path.is_symlink())
    assert size < MOST_BYTES


def test_it_has_its_marker_of_types_and_its_licence(environment: Path) -> None:
    assert (packages(environment) / "legrad_client" / "py.typed").is_file()
    (licence,) = packages(environment).glob("legrad_client-*.dist-info/licenses/LICENSE")
    assert licence.read_text() == (ROOT / "LICENSE").read_text()


def test_the_five_lines_of_its_readme_work_against_a_server(
    environment: Path, server: Server, tmp_path: Path
) -> None:
    readme = (SOURCE / "README.md").read_text()
    assert "pip install ./clients/python" in readme
    (example,) = re.findall(r"^```python\n(.*?)^```", readme, re.M | re.S)
    assert sum(bool(line) for line in example.splitlines()) == 5
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    assert "http://localhost:8000" in example
    done = subprocess.run(
        [
            environment / "bin" / "python",
            "-c",
            example.replace("http://localhost:8000", server.url),
        ],
        cwd=tmp_path,
        env=without_pythonpath(),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(" (4, 4)\n")
    with (
        Image.open(tmp_path / "cat.jpg") as overlay,
        Image.open(ROOT / "examples" / "stickers.png") as original,
    ):
        assert overlay.size == original.size


def test_its_dependencies_are_those_of_the_design() -> None:
    project = tomllib.loads((SOURCE / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[<>=~!]", each)[0] for each in project["dependencies"]}
    assert names == {"httpx", "numpy", "pillow", "tenacity"}
