"""The contents of the service's wheel."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.slow


def test_the_package_has_every_file_of_the_page(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("service", "legrad_engine"):
        # The weights are large, and have nothing to do with it.
        ignored = shutil.ignore_patterns("__pycache__", "*.safetensors")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", tmp_path, source],
        check=True,
        capture_output=True,
        timeout=250,
    )
    (wheel,) = tmp_path.glob("*.whl")
    packaged = set(zipfile.ZipFile(wheel).namelist())
    page = (source / "service" / "web").rglob("*")
    files = [path.relative_to(source) for path in page if path.is_file()]
    assert files
    assert {str(path) for path in files} <= packaged
    assert not any("legrad_client" in name for name in packaged)
