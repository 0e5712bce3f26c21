"""The map of the repository on the development page is complete, and its names exist."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.documents import blocks
from tests.support.paths import ROOT

PAGE = ROOT / "docs/development.md"
GUIDE = ROOT / "CONTRIBUTING.md"
# Folders on a line of the map: path, spaces, what is in it.
_LINE = re.compile(r"^([\w./-]+/) {2,}(\S.*)$")
_NAMED = re.compile(r"`([\w.-]+(?:/[\w.-]+)*\.(?:py|md|toml|ya?ml|json|js))(?:::(\w+))?`")
# Roots whose packages, or whose folders of files, the map must have.
_PACKAGES = ("service", "legrad_engine", "clients", "tools", "benchmarks")
_FOLDERS = (".ci", "clients", "docker", "docs", "examples", "tests", "tools")
# Never committed, or data beside the pages and models that use it.
_LEFT_OUT = {"__pycache__", "build", "secrets", "images"}


def the_map() -> dict[str, str]:
    trees = [block.text for block in blocks(PAGE) if block.language == "text"]
    lines = [_LINE.match(line) for tree in trees for line in tree.splitlines()]
    return {line[1]: line[2] for line in lines if line is not None}


def folders() -> Iterator[str]:
    """Every folder of the repository that a person may look for."""
    for root in _PACKAGES:
        yield f"{root}/"
        for package in sorted((ROOT / root).rglob("__init__.py")):
            folder = package.parent.relative_to(ROOT)
            if _LEFT_OUT.isdisjoint(folder.parts):
                yield f"{folder}/"
    for root in _FOLDERS:
        yield f"{root}/"
        for folder in sorted((ROOT / root).iterdir()):
            if folder.is_dir() and folder.name not in _LEFT_OUT:
                yield f"{folder.relative_to(ROOT)}/"


def test_every_folder_is_on_the_map() -> None:
    missing = sorted(set(folders()) - set(the_map()))
    assert missing == [], "docs/development.md has no line for these folders"


def test_every_folder_of_the_map_exists() -> None:
    entries = the_map()
    assert len(entries) > 30
    assert [path for path in entries if not (ROOT / path).is_dir()] == []


@pytest.mark.parametrize("page", [PAGE, GUIDE], ids=[PAGE.name, GUIDE.name])
def test_every_file_and_name_of_the_guides_exists(page: Path) -> None:
    named = _NAMED.findall(page.read_text())
    assert len(named) > 15
    missing = []
    for path, name in named:
        file = ROOT / path
        defined = rf"^\s*(?:async def|def|class) {name}\b|^{name}\b.* = "
        if not file.is_file() or (name and not re.search(defined, file.read_text(), re.MULTILINE)):
            missing.append(f"{path}::{name}" if name else path)
    assert missing == []


def test_the_walk_passes_each_layer() -> None:
    """One request, from the socket to the map and back, through every layer of the design."""
    walk = PAGE.read_text().partition("## One request")[2]
    passed = [path.split("/")[1] for path, _ in _NAMED.findall(walk) if path.startswith("service/")]
    layers = ("server", "http", "routes", "explaining", "pool", "batching", "pictures")
    assert [layer for layer in layers if layer not in passed] == []
    first = [passed.index(layer) for layer in ("server", "http", "routes", "explaining", "pool")]
    assert first == sorted(first)
