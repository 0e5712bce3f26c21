"""The hooks of pre-commit run the checks of `make lint`, with nothing fetched from elsewhere."""

import re
import subprocess
import sys
from typing import Any

import yaml

from tests.support.paths import ROOT

CONFIGURATION = ROOT / ".pre-commit-config.yaml"


def hooks() -> list[dict[str, Any]]:
    (repository,) = yaml.safe_load(CONFIGURATION.read_text())["repos"]
    assert repository["repo"] == "local"
    return list(repository["hooks"])


def checks() -> list[str]:
    """The targets that `make lint` consists of."""
    makefile = (ROOT / "Makefile").read_text()
    (names,) = re.findall(r"^LINTS := ((?:.*\\\n)*.*)$", makefile, re.M)
    assert re.search(r"^lint: \$\(LINTS\)$", makefile, re.M)
    return str(names).replace("\\\n", " ").split()


def test_every_check_of_lint_has_its_hook() -> None:
    assert len(checks()) >= 8
    assert [hook["entry"] for hook in hooks()] == [f"make {check}" for check in checks()]


def test_hooks_use_the_tools_that_make_installs() -> None:
    assert {hook["language"] for hook in hooks()} == {"system"}
    assert not any(hook["pass_filenames"] for hook in hooks())


def test_the_configuration_is_valid() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pre_commit", "validate-config", CONFIGURATION],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
