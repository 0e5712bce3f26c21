"""Processor time is told apart by threads and child processes; a held lock is seen."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.processor_time import ProcessorTime, lock_share

SPINS = """
import subprocess, sys, threading, time
def spin(seconds):
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass
go, end = threading.Event(), threading.Event()
spent = threading.Barrier(4)
def work(seconds):
    go.wait()
    spin(seconds)
    spent.wait()
    end.wait()
names = {"picture-0": 0.3, "batcher-model": 0.2, "log": 0.1}
threads = [threading.Thread(target=work, args=(s,), name=n) for n, s in names.items()]
for thread in threads:
    thread.start()
child = subprocess.Popen([sys.executable, "-c", "while input(): sum(range(3_000_000)); print(1)"],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
print("ready", flush=True)
input()
go.set()
spent.wait()
child.stdin.write("go\\n")
child.stdout.readline()
print("done", flush=True)
input()
end.set()
child.kill()
"""
HOLDS_THE_LOCK = """
print("ready", flush=True)
while True:
    sum(range(1000))
"""
SLEEPS = """
print("ready", flush=True)
input()
"""


@contextmanager
def program(text: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", text]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert line(process) == "ready"
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def proceed(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def test_processor_time_belongs_to_the_thread_or_child_that_spent_it() -> None:
    with program(SPINS) as process:
        time_of = ProcessorTime(process.pid)
        before = time_of.read()
        proceed(process)
        assert line(process) == "done"
        after = time_of.read()
        proceed(process)
    spent = {name: after[name] - before.get(name, 0.0) for name in after}
    # At least what they were told to spend; a kernel that counts in ticks may tell more.
    assert spent["others"] >= 0.05
    assert spent["model"] >= 0.15
    # The thread, and the child beside it.
    assert spent["pictures"] > 0.3
    assert spent["pictures"] > spent["model"] > spent["others"] > spent["event loop"]


def test_a_program_that_computes_in_python_holds_the_lock_and_one_that_waits_does_not() -> None:
    with program(HOLDS_THE_LOCK) as busy, program(SLEEPS) as idle:
        shares = [lock_share(each.pid, 1, lambda: None)[0] for each in (busy, idle)]
    assert shares[0] > 0.5
    assert shares[1] < 0.1
