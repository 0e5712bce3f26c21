"""The code blocks of the documentation, as tests run them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

from tests.support.paths import DOCS, ROOT

# The only accepted reasons for not running a block: it needs a thing that test machines lack.
REASONS = {
    "needs a model hub",
    "needs a host of the internet",
    "needs a container engine",
    "needs a cluster",
    "needs a data set",
    "needs Grafana",
    "needs an environment with Ray",
    "needs an object store",
    "needs a package index",
}
_NOT_RUN = re.compile(r"<!-- not run: (.*?) -->")


@dataclass(frozen=True)
class Block:
    """A fenced code block.

    Attributes:
        line: number of its first line, from 1.
        language: the word after the fence.
        text: its content.
        not_run: the reason why it is not run, or None.
    """

    line: int
    language: str
    text: str
    not_run: str | None

    @property
    def commands(self) -> Iterator[str]:
        """The commands of a console block, each with its continued lines, without their output."""
        command = ""
        for line in self.text.splitlines():
            if command or line.startswith("$ "):
                command += f"\n{line}" if command else line.removeprefix("$ ")
                if not _goes_on(command):
                    yield command
                    command = ""


def _goes_on(command: str) -> bool:
    """Return whether the next line belongs to the command: after a backslash, or inside quotes."""
    if command.endswith("\\"):
        return True
    try:
        shlex.split(command)
    except ValueError:
        return True
    return False


def pages() -> list[Path]:
    """Return the README, the guide for contributors and every page of the documentation."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    found = []
    reason: str | None = None
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type == "html_block":
            said = _NOT_RUN.search(token.content)
            reason = said[1] if said else None
        elif token.type == "fence":
            line = (token.map or [0])[0] + 1
            found.append(Block(line, token.info.strip(), token.content, reason))
            reason = None
        elif not token.type.endswith("_close"):
            reason = None
    return found
