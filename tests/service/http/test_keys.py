"""The list of API keys: its validation, and the reload of a changed file."""

import asyncio
import hmac
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs
from typer.testing import CliRunner

from legrad_engine.errors import InvalidOptionError
from service.cli import app
from service.http.keys import KeyFile, KeyRing
from service.settings import Settings
from service.settings.keys import digest, new_key, read_keys
from tests.support.api_keys import bearer, entry, listed
from tests.support.running_app import RunningApp

GOOD = entry("asker", "a key", "explain")
HASH = GOOD["sha256"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not a JSON list of keys"),
        (json.dumps({HASH: GOOD}), "not a JSON list of keys"),
        (listed(GOOD | {"sha256": HASH[:-1]}), "entry 1, sha256"),
        (listed(GOOD | {"sha256": HASH.upper()}), "entry 1, sha256"),
        (listed(GOOD | {"sha256": "a key"}), "entry 1, sha256"),
        (listed(GOOD, entry("other", "other", "write")), "'explain', 'admin' or 'metrics'"),
        (listed(GOOD | {"scopes": []}), "entry 1, scopes"),
        (listed(GOOD | {"scopes": "explain"}), "entry 1, scopes"),
        (listed({"name": "asker", "key": "a key", "scopes": ["explain"]}), "entry 1, sha256"),
        (listed(GOOD | {"key": "a key"}), "entry 1, key"),
        (listed(GOOD | {HASH: "a key"}), "entry 1"),
        (listed(GOOD | {"name": "A key"}), "entry 1, name"),
        (listed(GOOD | {"max_concurrent": 0}), "entry 1, max_concurrent"),
        (listed(GOOD | {"max_cost_per_minute": 0}), "entry 1, max_cost_per_minute"),
        (listed(GOOD | {"max_concurrent": "4"}), "entry 1, max_concurrent"),
        (listed(GOOD | {"rate": "10"}), "entry 1, rate"),
        (listed(GOOD | {"rate": "0/second"}), "entry 1, rate"),
        (listed(GOOD | {"rate": "10/fortnight"}), "entry 1, rate"),
        (listed(GOOD)[:-2] + ', "scopes": ["admin"]}]', "entry 1, scopes: write it once"),
        (listed(GOOD, entry("asker", "other", "admin")), "entries 1 and 2 have the same name"),
        (listed(GOOD, entry("other", "a key", "admin")), "entries 1 and 2 have the same key"),
    ],
)
def test_a_wrong_list_is_refused_by_its_place_and_shows_no_key(text: str, said: str) -> None:
    with pytest.raises(InvalidOptionError) as refused:
        read_keys(text, "LEGRAD_API_KEYS")
    with pytest.raises(ValidationError) as at_start:
        Settings(api_keys=text)
    assert said in str(refused.value)
    for shown in (str(refused.value), str(at_start.value), repr(at_start.value)):
        assert HASH[:40] not in shown
        assert "a key" not in shown


def test_settings_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    for wrong in (
        {"api_keys": "[]", "api_keys_file": tmp_path},
        {"admin_host": "127.0.0.1"},
        {"port": 8000, "admin_port": 8000},
    ):
        with pytest.raises(ValidationError, match="LEGRAD_"):
            Settings.model_validate(wrong)


def test_every_entry_is_compared_whichever_key_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(first: bytes, second: bytes) -> bool:
        compared.append(second)
        return first == second

    monkeypatch.setattr(hmac, "compare_digest", compare)
    names = ["first", "second", "third"]
    ring = KeyRing(read_keys(listed(*(entry(name, name, "explain") for name in names)), "here"))
    for sent in (*names, "none of them"):
        compared.clear()
        found = ring.find(sent.encode())
        assert (found.name if found else None) == (sent if sent in names else None)
        assert compared == [digest(name.encode()) for name in names]


def test_an_empty_list_refuses_every_key(tiny_model: str) -> None:
    with RunningApp(tiny_model, api_keys="[]") as running:
        assert running.explain().status_code == 401
        assert running.client.get("/metrics", headers=bearer("any")).status_code == 401
        assert running.client.get("/health/ready").status_code == 200


def test_a_new_key_opens_the_scopes_of_its_entry(tiny_model: str) -> None:
    options = ["--scope", "metrics", "--scope", "explain", "--rate", "9/minute"]
    made = CliRunner().invoke(
        app, ["key", "ci", *options, "--max-concurrent", "2", "--max-cost-per-minute", "50"]
    )
    assert made.exit_code == 0, made.output
    key, written = made.stdout.splitlines()
    assert key not in written
    assert json.loads(written) == entry(
        "ci", key, "explain", "metrics", max_concurrent=2, rate="9/minute", max_cost_per_minute=50.0
    )
    with RunningApp(tiny_model, api_keys=f"[{written}]") as running:
        assert running.explain(None, **bearer(key)).status_code == 200
        assert running.client.get("/metrics", headers=bearer(key)).status_code == 200
    assert len({new_key() for _ in range(100)}) == 100


@pytest.mark.parametrize(
    "arguments",
    [
        ["ci", "--scope", "write"],
        ["ci", "--scope", "admin", "--rate", "often"],
        ["A b", "--scope", "admin"],
    ],
)
def test_no_key_is_made_for_a_senseless_entry(arguments: list[str]) -> None:
    made = CliRunner().invoke(app, ["key", *arguments])
    assert made.exit_code == 2
    assert made.stdout == ""


class MountedSecret:
    """A file as Kubernetes mounts secrets: a link to a link that is swapped atomically."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._versions = 0
        self.path = folder / "keys.json"
        self.path.symlink_to("..data/keys.json")

    def write(self, content: str) -> None:
        self._versions += 1
        version = self._folder / f"..{self._versions}"
        version.mkdir()
        (version / "keys.json").write_text(content)
        # The time of change is the same: only the content differs.
        os.utime(version / "keys.json", (1, 1))
        (self._folder / "..new").symlink_to(version.name)
        (self._folder / "..new").rename(self._folder / "..data")

    def remove(self) -> None:
        (self._folder / "..data").unlink()


def test_the_file_is_taken_over_when_it_changes(tiny_model: str, tmp_path: Path) -> None:
    secret = MountedSecret(tmp_path)
    secret.write(listed(entry("asker", "older", "explain")))
    with RunningApp(tiny_model, api_keys_file=secret.path) as running:

        def status(key: str) -> int:
            return running.explain(None, **bearer(key)).status_code

        assert (status("older"), status("newer")) == (200, 401)
        secret.write(listed(entry("asker", "newer", "explain")))
        running.eventually(lambda: status("newer") == 200)
        assert status("older") == 401
        secret.write("[]")
        running.eventually(lambda: status("newer") == 401)


def test_the_file_is_taken_over_although_all_shared_threads_are_busy(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(listed(entry("asker", "older", "explain")))
    ring, released = KeyRing(()), threading.Event()

    async def newer_is_found() -> None:
        with ThreadPoolExecutor(1) as busy:
            asyncio.get_running_loop().set_default_executor(busy)
            busy.submit(released.wait, 60)
            try:
                async with KeyFile(path, ring, lambda _: None).watched(), asyncio.timeout(20):
                    path.write_text(listed(entry("asker", "newer", "explain")))
                    while ring.find(b"newer") is None:
                        await asyncio.sleep(0.01)
            finally:
                released.set()

    asyncio.run(newer_is_found())


def test_a_broken_file_keeps_the_earlier_keys_and_is_complained_of(
    tiny_model: str, tmp_path: Path
) -> None:
    secret = MountedSecret(tmp_path)
    watcher = entry("watcher", "watcher", "metrics")
    secret.write(listed(watcher, GOOD))
    with RunningApp(tiny_model, api_keys_file=secret.path) as running, capture_logs() as logs:
        running.client.headers.update(bearer("watcher"))
        breakages: list[Any] = [
            lambda: secret.write(listed(watcher, GOOD)[:-1]),
            secret.remove,
            lambda: secret.write(listed(watcher, GOOD | {"scopes": ["write"]})),
            lambda: secret.write(" " * 1_000_001),
        ]
        for number, break_it in enumerate(breakages, start=1):
            break_it()
            wait_for_complaints(running, logs, number)
            running.eventually(lambda: running.metric("legrad_key_file_broken") == 1)
            assert running.explain(None, **bearer("a key")).status_code == 200
        assert HASH not in repr(logs)
        secret.write(listed(watcher))
        running.eventually(lambda: running.metric("legrad_key_file_broken") == 0)
        assert running.explain(None, **bearer("a key")).status_code == 401
        assert len(complaints(logs)) == len(breakages)


def wait_for_complaints(running: RunningApp, logs: list[Any], number: int) -> None:
    running.eventually(lambda: len(complaints(logs)) == number)


def complaints(logs: list[Any]) -> list[str]:
    return [line["reason"] for line in logs if line["log_level"] == "error" and "reason" in line]


def test_a_server_does_not_start_without_its_file_of_keys(tiny_model: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with pytest.raises(InvalidOptionError, match="cannot be read: No such file"):
        RunningApp(tiny_model, api_keys_file=path)
    path.write_text("[{}]")
    with pytest.raises(InvalidOptionError, match="entry 1, name: Field required"):
        RunningApp(tiny_model, api_keys_file=path)


def test_a_new_hash_under_a_name_keeps_the_usage_of_the_name(
    tiny_model: str, tmp_path: Path
) -> None:
    path = tmp_path / "keys.json"
    path.write_text(listed(entry("asker", "older", "explain", rate="2/hour")))
    with RunningApp(tiny_model, api_keys_file=path) as running:
        for _ in range(2):
            assert running.client.get("/models", headers=bearer("older")).status_code == 200
        path.write_text(listed(entry("asker", "newer", "explain", rate="2/hour")))
        running.eventually(
            lambda: running.client.get("/models", headers=bearer("newer")).status_code == 429
        )
