"""Every code block of the README and the documentation does what it says."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from configparser import ConfigParser
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.__main__ import main
from service.settings import Settings
from tests.support.documents import REASONS, Block, blocks, pages
from tests.support.forked_program import ForkedProgram
from tests.support.paths import ROOT
from tests.support.pictures import data_url, encoded
from tests.support.protocol_clients import client_python
from tests.support.running_nginx import check_configuration
from tests.support.running_server import Server, environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

KEY = "a-key-of-the-documentation"
EVERY_SCOPE = [
    {
        "name": "reader",
        "sha256": sha256(KEY.encode()).hexdigest(),
        "scopes": ["explain", "admin", "metrics"],
    }
]
PAGES = {str(page.relative_to(ROOT)): page for page in pages() if blocks(page)}
# Before each command: an answer that is an error fails it.
PRELUDE = 'set -euo pipefail; curl() { command curl --fail-with-body --max-time 120 "$@"; }\n'


class Reader:
    """Somebody who types what a page says, in a folder that looks like a fresh clone."""

    def __init__(self, folder: Path, address: str, server: Server | None) -> None:
        self._folder = folder
        self._address = address
        self.server = server
        binaries = str(Path(sys.executable).parent)
        self._environment = environment() | {
            "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'clients/python'}",
            "KEY": KEY,
            "LEGRAD_CHECKS_DIR": str(folder / "checks"),
        }

    def read(self, block: Block) -> None:
        """Does what one block says."""
        if block.not_run is not None:
            assert block.not_run in REASONS, f"line {block.line}: {block.not_run!r} is no reason"
            if block.language in ("console", "bash"):
                for command in block.commands:
                    self._run(["bash", "-n", "-c", command], block)
            return
        text = block.text.replace("localhost:8000", self._address)
        match block.language:
            case "console":
                for command in block.commands:
                    self._type(command.replace("localhost:8000", self._address), block)
            case "python":
                if re.search(r"^(?:from|import) (?:kserve|tritonclient)", text, re.MULTILINE):
                    self._run([str(client_python()), "-c", text], block)
                else:
                    self._execute(text, block)
            case "javascript":
                self._run(["node", "--input-type=module", "--eval", text], block)
            case "json":
                self._send(json.loads(text.replace("data:image/jpeg;base64,...", self._picture)))
            case "yaml":
                assert yaml.safe_load(text) is not None
            case "ini":
                units = ConfigParser(strict=False)
                units.read_string(text)
                assert units.sections()
            case "nginx":
                check_configuration(self._folder, text)
            case "text":
                pass
            case other:
                raise AssertionError(f"line {block.line}: nobody knows how to run {other!r}")

    @property
    def _picture(self) -> str:
        return data_url(encoded())

    def _type(self, command: str, block: Block) -> None:
        if re.match(r"make\b", command):
            # What the targets do is tested by itself, or is these very tests.
            targets = command.partition("#")[0].split()
            self._run([targets[0], "--dry-run", *targets[1:]], block, ROOT)
        elif re.search(r"\blegrad serve\b", command):
            self._serve(command.partition(" #")[0].rstrip(), block)
        elif words := _plain_words(command):
            self._fork(main, words, block, command)
        else:
            self._run(["bash", "-c", PRELUDE + command], block)

    def _serve(self, command: str, block: Block) -> None:
        """Starts a server as the page says, but on a free port, and ends it once it listens."""
        words = shlex.split(command)
        start = words.index("legrad")
        variables = dict(word.split("=", 1) for word in words[:start] if word != "env")
        process = ForkedProgram(
            partial(_run_in, self._folder, main),
            [*words[start:], "--port", "0"],
            self._environment | variables,
        )
        said = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
        assert "Listening on" in said, f"line {block.line}: {command}\n{errors}"

    def _execute(self, program: str, block: Block) -> None:
        """Runs a Python program."""
        run = partial(exec, program, {"__name__": "__main__"})
        self._fork(run, ["program.py"], block, program)

    def _fork(
        self, run: Callable[[], object], arguments: list[str], block: Block, typed: str
    ) -> None:
        process = ForkedProgram(partial(_run_in, self._folder, run), arguments, self._environment)
        output, errors = process.communicate(timeout=240)
        assert process.wait() == 0, f"line {block.line}: {typed}\n{output}{errors}"

    def _run(self, command: list[str], block: Block, folder: Path | None = None) -> None:
        done = subprocess.run(
            command,
            cwd=folder or self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, f"line {block.line}: {command[-1]}\n{done.stdout}{done.stderr}"

    def _send(self, document: Any) -> None:
        """A request is sent, the settings of keys are read; of other JSON its form is enough."""
        if isinstance(document, dict) and {"prompts", "targets"} & set(document):
            assert self.server is not None
            answer = self.server.explain({"image": self._picture, **document})
            assert answer.status_code == 200, answer.text
        elif isinstance(document, list) and "sha256" in document[0]:
            for number, key in enumerate(document):
                key["sha256"] = sha256(str(number).encode()).hexdigest()
            assert Settings(api_keys=json.dumps(document))


def _plain_words(command: str) -> list[str]:
    """Return the words of a command that is `legrad` with arguments; none if it needs a shell."""
    if re.search(r"[$`*?~\\]", command):
        return []
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = list(lexer)
    plain = words[0] == "legrad" and not any(set(word) & set("();<>|&") for word in words)
    return words if plain else []


def _run_in(folder: Path, main: Callable[[], object]) -> None:
    os.chdir(folder)
    main()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a fresh clone has, after `make`, that pages speak of."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "service/web").mkdir(parents=True)
    (tmp_path / "service/web/gallery").symlink_to(ROOT / "service/web/gallery")
    return tmp_path


@pytest.fixture
def reader(request: pytest.FixtureRequest, folder: Path) -> Iterator[Reader]:
    text = PAGES[request.node.callspec.params["page"]].read_text()
    settings: dict[str, Any] = {"api_keys": json.dumps(EVERY_SCOPE)} if "$KEY" in text else {}
    if "localhost:8000" not in text and "```json" not in text:
        yield Reader(folder, "", None)
        return
    with Server("starter", **settings) as server:
        server.wait_for_health()
        yield Reader(folder, server.url.removeprefix("http://"), server)


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run_in_order(page: str, reader: Reader) -> None:
    for block in blocks(PAGES[page]):
        reader.read(block)


def test_every_block_says_what_it_is() -> None:
    nameless = [
        f"{page}:{block.line}"
        for page, path in PAGES.items()
        for block in blocks(path)
        if not block.language
    ]
    assert nameless == []


def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(
    tmp_path: Path,
) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    done = subprocess.run(
        [Path(sys.executable).with_name("zensical"), "build", "--strict", "-f", "mkdocs.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    built = list((tmp_path / "build" / "site").glob("*.html"))
    assert len(built) > 10
    for page in built:
        text = page.read_text()
        assert not re.search(r'<(?:script|link|img)[^>]+(?:src|href)="?https?://', text), page


def test_every_picture_of_a_page_is_there() -> None:
    missing = [
        f"{page.name}: {path}"
        for page in pages()
        for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text())
        if not (page.parent / path).is_file()
    ]
    assert missing == []


def test_every_test_that_a_page_names_exists() -> None:
    named = [
        (page.name, *each)
        for page in pages()
        for each in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page.read_text())
    ]
    assert len(named) > 20
    missing = [
        (page, path, name)
        for page, path, name in named
        if not (ROOT / path).is_file()
        or (name and f"\ndef {name}(" not in (ROOT / path).read_text())
    ]
    assert missing == []
