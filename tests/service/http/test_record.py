"""Request ids that the server makes: random, and never the same twice."""

import re
import subprocess
import sys

import pytest

from service.http.record import record_of

PROGRAM = """
import os, sys
from service.http.record import record_of
def made():
    return record_of({"type": "http", "headers": []}).request_id
first = made()
child = os.fork()
# In one piece: the two processes write at the same time.
os.write(1, f"{made()}\\n".encode())
if child:
    os.waitpid(child, 0)
"""


def made() -> str:
    return record_of({"type": "http", "headers": []}).request_id


def test_no_two_requests_get_the_same_id() -> None:
    ids = [made() for _ in range(1000)]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in ids)


def test_a_forked_process_makes_ids_of_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True, check=True
    )
    ids = done.stdout.split()
    assert len(ids) == 2
    assert len(set(ids)) == 2


@pytest.mark.parametrize(
    ("given", "kept"),
    [(["mine"], True), (["mine", "mine"], False), (["mine", "other"], False), (["a b"], False)],
)
def test_a_valid_id_of_the_caller_is_kept_unless_it_is_sent_twice(
    given: list[str], kept: bool
) -> None:
    headers = [(b"x-request-id", each.encode()) for each in given]
    found = record_of({"type": "http", "headers": headers}).request_id
    assert (found == given[0]) is kept
