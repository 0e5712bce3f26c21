"""A log whose reader stalls, leaves or comes late: nothing waits for it, and losses are counted."""

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from service.telemetry.log_queue import LogQueue, cut_json

# Longer than a pipe holds.
LINE = "x" * 1000
LINES = 500
PIPE_LINES = 64


def log(handler: LogQueue, text: str) -> None:
    handler.handle(logging.LogRecord("test", logging.INFO, "", 0, text, None, None))


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for descriptor in (reading, writing):
        with contextlib.suppress(OSError):
            os.close(descriptor)


def lines_in(descriptor: int, count: int) -> list[str]:
    with open(descriptor, closefd=False) as stream:
        return [stream.readline().rstrip("\n") for _ in range(count)]


def test_a_reader_that_stalls_costs_lines_and_no_time(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    handler = LogQueue(writing, most_lines=100)
    for number in range(LINES):
        log(handler, f"{number} {LINE}")
    handler.wait_until_written(0.05)
    assert LINES - 100 - 2 * PIPE_LINES - 1 <= handler.dropped <= LINES - 100
    kept = lines_in(reading, LINES - handler.dropped)
    numbers = [int(line.partition(" ")[0]) for line in kept]
    assert numbers == sorted(numbers)
    assert numbers[:100] == list(range(100))
    log(handler, "after it")
    assert lines_in(reading, 1) == ["after it"]


def test_long_lines_that_nobody_reads_take_a_few_megabytes(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    handler = LogQueue(writing)
    long = "x" * 60_000
    for number in range(LINES):
        log(handler, f"{number} {long}")
    # The thread holds one line, and the pipe less than two.
    kept = LINES - handler.dropped
    assert (kept - 3) * len(long) <= 4_000_000
    numbers = [int(line.partition(" ")[0]) for line in lines_in(reading, kept)]
    assert numbers[:60] == list(range(60))
    handler.wait_until_written(10)
    log(handler, "after it")
    assert lines_in(reading, 1) == ["after it"]


def test_a_line_that_is_much_too_long_is_cut_and_says_so(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    log(LogQueue(writing), f"begins {'x' * 300_000} ends")
    (line,) = lines_in(reading, 1)
    assert line.startswith("begins xxx")
    assert line.endswith("(cut after 16384 of 300012 characters)")
    assert len(line) < 20_000


def test_a_cut_line_of_json_is_json(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    log(LogQueue(writing, cut=cut_json), json.dumps({"event": '"\\\n' * 100_000}))
    (line,) = lines_in(reading, 1)
    found = json.loads(line)
    assert found["event"] == "log line cut"
    assert found["characters"] > 300_000
    assert found["beginning"].startswith('{"event": ')
    assert len(line) < 50_000


def test_every_line_is_written_once_for_a_reader_that_is_slow(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    os.set_blocking(writing, False)
    handler = LogQueue(writing)
    for number in range(LINES):
        log(handler, f"{number} {LINE}")
    assert lines_in(reading, LINES) == [f"{number} {LINE}" for number in range(LINES)]
    handler.wait_until_written(10)
    assert handler.dropped == 0


def test_lines_for_a_reader_that_has_left_are_counted(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    os.close(reading)
    handler = LogQueue(writing)
    for _ in range(3):
        log(handler, LINE)
    handler.wait_until_written(10)
    assert handler.dropped == 3


def test_an_entry_that_cannot_be_rendered_is_counted_and_written_nowhere_else(
    pipe: tuple[int, int], capfd: pytest.CaptureFixture[str]
) -> None:
    reading, writing = pipe
    handler = LogQueue(writing)
    handler.handle(logging.LogRecord("test", logging.INFO, "", 0, "%d", ("no number",), None))
    log(handler, "after it")
    assert lines_in(reading, 1) == ["after it"]
    assert handler.dropped == 1
    assert capfd.readouterr().err == ""


def test_threads_log_side_by_side(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    handler = LogQueue(writing)

    def work(name: int) -> None:
        for number in range(100):
            log(handler, f"{name} {number}")

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    lines = lines_in(reading, 800)
    for thread in threads:
        thread.join()
    for name in range(8):
        own = [line.partition(" ")[2] for line in lines if line.startswith(f"{name} ")]
        assert own == [str(number) for number in range(100)]


PROGRAM = """
import sys, threading, structlog
from service.telemetry.logs import configure_logs, dropped_lines
configure_logs("info", "json")
log = structlog.get_logger("legrad.test")
failed = threading.Thread(target=lambda: 1 / 0, name="worker")
failed.start()
failed.join()
for number in range(20_000):
    log.info("line", number=number)
print(dropped_lines())
"""


def test_a_process_ends_although_nobody_reads_its_log() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.wait(60) == 0
    printed, kept = process.communicate()
    assert int(printed) > 10_000
    assert '"event": "thread failed"' in kept.splitlines()[0]
    assert "ZeroDivisionError" in kept.splitlines()[0]
