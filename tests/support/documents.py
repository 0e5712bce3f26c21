"""The code blocks of the documentation, and what they need to run in a test."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

from tests.support.paths import DOCS, ROOT

# The only reasons for which a block is not run: what no machine without a network has.
REASONS = {
    "needs a model hub",
    "needs a host of the internet",
    "needs a container engine",
    "needs a cluster",
    "needs Grafana",
}
_NOT_RUN = re.compile(r"<!-- not run: (.*?) -->")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        line: where it begins, from 1.
        language: the word behind the fence.
        text: what is in it.
        not_run: why it is not run, or None.
    """

    line: int
    language: str
    text: str
    not_run: str | None

    @property
    def commands(self) -> Iterator[str]:
        """The commands of a console block, each with its continued lines; output is left out."""
        command = ""
        for line in self.text.splitlines():
            if command or line.startswith("$ "):
                command += f"\n{line}" if command else line.removeprefix("$ ")
                if not _goes_on(command):
                    yield command
                    command = ""


def _goes_on(command: str) -> bool:
    """Whether the next line belongs to it: after a backslash, or inside quotes."""
    if command.endswith("\\"):
        return True
    try:
        shlex.split(command)
    except ValueError:
        return True
    return False


def pages() -> list[Path]:
    """The README, the guide for contributors and every page of the documentation."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
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
