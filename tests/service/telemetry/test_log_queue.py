"""A log whose reader stalls, leaves or comes late: nothing waits for it, and losses are counted."""

import contextlib
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from service.telemetry.log_queue import LogQueue

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
