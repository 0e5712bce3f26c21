"""The form of log entries: text for people at a terminal, JSON for programs."""

import json
import os
import pty
import subprocess
import sys

import pytest

PROGRAM = """
import logging, sys, structlog
from service.telemetry.logs import configure_logs
configure_logs("info", sys.argv[1])
log = structlog.get_logger("legrad.test")
log.debug("unimportant")
log.info("answered", status=200, model="starter")
logging.getLogger("library").warning("of a %s", "library")
try:
    prompt = "zebra5671"
    [prompt][1]
except IndexError:
    log.exception("failed")
"""


def log_of(form: str, *, terminal: bool) -> str:
    """Return what a program writes to standard error, which is a terminal or a pipe."""
    ours, theirs = pty.openpty() if terminal else os.pipe()
    with open(ours, "rb", buffering=0) as reader:  # noqa: PTH123
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, form], stderr=theirs)
        os.close(theirs)
        written = b""
        try:
            while part := reader.read(65_536):
                written += part
        except OSError:
            # Linux reports the end of a terminal as an error.
            pass
        assert process.wait(60) == 0
    return written.decode()


@pytest.mark.parametrize(("form", "terminal"), [("auto", False), ("json", False), ("json", True)])
def test_programs_get_one_object_per_line(form: str, terminal: bool) -> None:
    entries = [json.loads(line) for line in log_of(form, terminal=terminal).splitlines()]
    assert [entry["event"] for entry in entries] == ["answered", "of a library", "failed"]
    assert (entries[0]["status"], entries[0]["level"]) == (200, "info")
    assert entries[1]["logger"] == "library"
    assert "IndexError" in json.dumps(entries[2]["exception"])
    assert "zebra5671" not in json.dumps(entries)


@pytest.mark.parametrize(("form", "terminal"), [("auto", True), ("text", True), ("text", False)])
def test_people_get_text(form: str, terminal: bool) -> None:
    text = log_of(form, terminal=terminal)
    first = text.splitlines()[0]
    assert not first.startswith("{")
    assert "answered" in first
    assert "200" in first
    assert "starter" in first
    assert "of a library" in text
    assert "IndexError" in text
    assert "zebra5671" not in text.replace('prompt = "zebra5671"', "")
    assert "unimportant" not in text
    # Colours only where they are shown.
    assert ("\x1b[" in text) is terminal
