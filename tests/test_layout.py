"""The layout of the tree: tests mirror it, folders are small and files are short."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT, TESTS

MIRRORED = ("clients", "legrad_engine", "service", "tools")
MOST_MODULES = 14
MOST_LINES = 450
# Folders that commands of the Makefile write.
WRITTEN = {"build", "demo", "dist"}


def names_of(folder: Path) -> set[str]:
    """The names that a test of a folder may begin with: the folder's own and those in it.

    Where a folder is no package, but the project of one, those of the package count as well.
    """
    inner = [child for child in folder.iterdir() if (child / "__init__.py").is_file()]
    packages = inner if not (folder / "__init__.py").is_file() else []
    modules = [path for each in (folder, *packages) for path in each.glob("*.py")]
    return {path.stem.strip("_") for path in (folder, *inner, *modules)} - {"init"}


def mirrors(test: Path) -> bool:
    """Whether a test file is ``tests/FOLDER/test_NAME[_ASPECT].py`` of a name in that folder."""
    folder = ROOT / test.parent.relative_to(TESTS)
    tested = test.stem.removeprefix("test_")
    return folder.is_dir() and any(
        tested == name or tested.startswith(f"{name}_") for name in names_of(folder)
    )


def python_files() -> Iterator[Path]:
    """Every Python file that is written by hand."""
    for folder in ROOT.iterdir():
        if folder.is_dir() and not folder.name.startswith(".") and folder.name not in WRITTEN:
            yield from folder.rglob("*.py")


@pytest.mark.parametrize("package", MIRRORED)
def test_every_test_file_is_named_for_a_module_of_the_folder_that_it_mirrors(package: str) -> None:
    tests = list((TESTS / package).rglob("test_*.py"))
    assert tests
    assert [str(test.relative_to(ROOT)) for test in tests if not mirrors(test)] == []


def test_no_folder_of_the_service_has_many_modules() -> None:
    folders = {path.parent for path in (ROOT / "service").rglob("*.py")}
    modules = {
        str(folder.relative_to(ROOT)): len(
            [path for path in folder.glob("*.py") if path.stem != "__init__"]
        )
        for folder in folders
    }
    assert len(modules) > 10
    assert {name: count for name, count in modules.items() if count > MOST_MODULES} == {}


def test_no_python_file_is_long() -> None:
    lines = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in python_files()
    }
    assert len(lines) > 200
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}
