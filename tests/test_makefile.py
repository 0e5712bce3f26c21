"""Targets of the Makefile that run a program of this project more than once."""

import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT

GTSEGS = "evaluate MODEL gtsegs:some set.mat --protocol segmentation -o build/paper/segmentation"
IMAGENET = "evaluate MODEL imagenet:val --protocol perturbation -o build/paper/perturbation"


def paper_eval(folder: Path, *variables: str, statuses: str = "") -> tuple[int, list[str], str]:
    """Run `make paper-eval` with a program in place of `legrad`.

    Args:
        folder: where to write the program.
        variables: variables of make.
        statuses: exit statuses of the program by protocol, as cases of a shell.

    Returns:
        The exit status, the commands that were run, and the errors that were printed.
    """
    program, log = folder / "legrad", folder / "log"
    program.write_text(f'#!/bin/sh\necho "$@" >> {log}\ncase "$5" in {statuses} esac\n')
    program.chmod(0o755)
    # Without tools to install first.
    fixed = [f"BIN={folder}", "TOOLS=", "METHODS=legrad", "PAPER_MODEL=MODEL"]
    finished = subprocess.run(
        ["make", "--no-print-directory", "paper-eval", *fixed, *variables],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    ran = log.read_text().splitlines() if log.exists() else []
    told = [line.replace(" --method legrad", "") for line in ran]
    return finished.returncode, told, finished.stderr


@pytest.mark.parametrize(
    ("variables", "commands"),
    [
        (("GTSEGS=some set.mat", "IMAGENET=val"), [GTSEGS, IMAGENET]),
        (("GTSEGS=some set.mat",), [GTSEGS]),
        (("IMAGENET=val",), [IMAGENET]),
    ],
)
def test_the_paper_is_measured_on_the_data_that_are_given(
    tmp_path: Path, variables: tuple[str, ...], commands: list[str]
) -> None:
    status, ran, _ = paper_eval(tmp_path, *variables)
    assert (status, ran) == (0, commands)


def test_without_data_the_paper_is_not_measured_and_the_variables_are_told(tmp_path: Path) -> None:
    status, ran, told = paper_eval(tmp_path)
    assert (status, ran) == (2, [])
    assert "GTSEGS=gtsegs_ijcv.mat, IMAGENET=imagenet/val" in told


@pytest.mark.parametrize(
    ("statuses", "commands"),
    [
        ("segmentation) exit 1;;", [GTSEGS, IMAGENET]),
        ("perturbation) exit 1;;", [GTSEGS, IMAGENET]),
        # The command could not run, or was interrupted.
        ("segmentation) exit 2;;", [GTSEGS]),
        ("segmentation) exit 130;;", [GTSEGS]),
    ],
)
def test_failed_samples_of_one_data_set_do_not_keep_the_paper_from_the_other(
    tmp_path: Path, statuses: str, commands: list[str]
) -> None:
    status, ran, _ = paper_eval(tmp_path, "GTSEGS=some set.mat", "IMAGENET=val", statuses=statuses)
    assert status != 0
    assert ran == commands
