"""Checkpoints by URI are downloaded once, whole, and only with the right checksum."""

import hashlib
import http.server
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import fsspec
import numpy as np
import pytest
from huggingface_hub import constants

from legrad_engine import Explainer
from legrad_engine.errors import ModelLoadError, UnknownModelError
from legrad_engine.models import ModelReference
from legrad_engine.models.identity import ModelIdentity
from legrad_engine.models.remote_weights import RemoteWeights, fetched
from legrad_engine.models.size import weights_bytes
from tests.support.http_servers import http_server
from tests.support.object_store import object_store
from tests.support.pictures import picture

pytest.importorskip("aiohttp")

_ZEROS = "0" * 64


class _Files(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; counts requests; cuts files named `cut` in the middle."""

    requests: list[str]

    def do_GET(self) -> None:
        self.requests.append(self.path)
        if "cut" in self.path:
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"x" * 1000)
            self.wfile.flush()
            self.connection.close()
            return
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, list[str]]]:
    requests: list[str] = []
    handler = type("Handler", (_Files,), {"requests": requests})
    with http_server(partial(handler, directory=str(folder))) as address:
        yield address, requests


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "legrad" / "weights"


def checksum_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def whole_files(volume: Path) -> list[str]:
    return [path.name for path in volume.rglob("*") if path.is_file()]


def left_behind(partial: Path, minutes: float) -> None:
    """Write a part of a download that had its last byte some minutes ago."""
    partial.write_bytes(b"w")
    then = time.time() - 60 * minutes
    os.utime(partial, (then, then))


def test_a_model_loads_its_weights_by_uri_once(tiny_model: str, volume: Path) -> None:
    config, _, weights = tiny_model.partition("@")
    file = Path(weights)
    with serving(file.parent) as (address, requests):
        text = f"{config}@{address}/{file.name}#sha256={checksum_of(file)}"
        reference = ModelReference.parse(text)
        assert ModelIdentity.of(reference) is None
        size = weights_bytes(reference)
        remote = Explainer.load(reference)
        asked = len(requests)
        again = Explainer.load(text)
        assert len(requests) == asked
    local = Explainer.load(config, weights)
    source = picture(90, 60)
    for explainer in (remote, again):
        (found,), (same,) = (each.explain(source, ["a cat"]) for each in (explainer, local))
        np.testing.assert_array_equal(found.maps, same.maps)
    assert whole_files(volume) == [file.name]
    identity = ModelIdentity.of(reference)
    of_local = ModelIdentity.of(ModelReference.parse(tiny_model))
    assert identity is not None
    assert of_local is not None
    assert identity.weights == of_local.weights
    assert size == remote.nbytes
    assert reference.id == ModelReference.parse(tiny_model).id
    assert address not in reference.without_folders(f"{file.name} is damaged")


def test_another_checksum_is_refused_and_nothing_is_kept(tmp_path: Path, volume: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(b"other weights")
    with (
        serving(tmp_path) as (address, _),
        pytest.raises(ModelLoadError, match=r"has the checksum sha256=.*, not 0000"),
    ):
        fetched(f"{address}/weights.pt#sha256={_ZEROS}")
    assert whole_files(volume) == []


def test_a_download_that_breaks_off_is_refused_and_nothing_is_kept(
    tmp_path: Path, volume: Path
) -> None:
    with (
        serving(tmp_path) as (address, _),
        pytest.raises(ModelLoadError, match="could not be downloaded"),
    ):
        fetched(f"{address}/cut.pt#sha256={_ZEROS}")
    assert whole_files(volume) == []


def test_a_file_that_is_missing_is_refused_like_a_local_one(tmp_path: Path, volume: Path) -> None:
    with (
        serving(tmp_path) as (address, _),
        pytest.raises(ModelLoadError, match="There is no checkpoint at"),
    ):
        fetched(f"{address}/absent.pt#sha256={_ZEROS}")


def test_a_server_that_is_away_is_refused(volume: Path, tmp_path: Path) -> None:
    with serving(tmp_path) as (address, _):
        pass
    with pytest.raises(ModelLoadError, match="could not be downloaded"):
        fetched(f"{address}/weights.pt#sha256={_ZEROS}")


def test_a_download_that_is_no_checkpoint_is_refused_like_a_local_one(
    tiny_model: str, tmp_path: Path, volume: Path
) -> None:
    (tmp_path / "weights.pt").write_bytes(b"no weights")
    config = tiny_model.partition("@")[0]
    checksum = checksum_of(tmp_path / "weights.pt")
    with serving(tmp_path) as (address, _), pytest.raises(ModelLoadError, match="damaged"):
        Explainer.load(f"{config}@{address}/weights.pt#sha256={checksum}")


def test_a_folder_that_cannot_be_written_is_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").write_text("a file, no folder")
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    with pytest.raises(ModelLoadError, match="set HF_HOME"):
        fetched(f"http://127.0.0.1:9/weights.pt#sha256={_ZEROS}")


def test_a_download_that_another_machine_may_be_writing_is_left_alone(
    tmp_path: Path, volume: Path
) -> None:
    (tmp_path / "weights.pt").write_bytes(b"w")
    with serving(tmp_path) as (address, _):
        uri = f"{address}/weights.pt#sha256={checksum_of(tmp_path / 'weights.pt')}"
        folder = RemoteWeights.parse(uri).path.parent
        folder.mkdir(parents=True)
        left_behind(folder / "live.partial", minutes=59)
        fetched(uri)
    assert sorted(whole_files(volume)) == ["live.partial", "weights.pt"]


def test_a_full_disk_is_an_error_that_says_so(
    tmp_path: Path, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights.pt").write_bytes(b"w" * 1_000_000)

    def on_a_full_disk(suffix: str, dir: Path) -> tuple[int, str]:
        partial = dir / f"1{suffix}"
        partial.symlink_to("/dev/full")
        return os.open(os.devnull, os.O_RDONLY), str(partial)

    monkeypatch.setattr(tempfile, "mkstemp", on_a_full_disk)
    with (
        serving(tmp_path) as (address, _),
        pytest.raises(ModelLoadError, match=r"No space left.* check its free space"),
    ):
        fetched(f"{address}/weights.pt#sha256={_ZEROS}")
    assert whole_files(volume) == []


def test_weights_may_be_in_an_object_store(tiny_model: str, volume: Path) -> None:
    config, _, weights = tiny_model.partition("@")
    file = Path(weights)
    checksum = checksum_of(file)
    with object_store():
        store = fsspec.filesystem("s3")
        store.mkdir("models")
        store.put_file(weights, f"models/shop/{file.name}")
        uri = f"s3://models/shop/{file.name}"
        explainer = Explainer.load(f"{config}@{uri}#sha256={checksum}")
        with pytest.raises(ModelLoadError, match=r"There is no checkpoint at 's3://models/absent"):
            fetched(f"s3://models/absent.pt#sha256={checksum}")
        with pytest.raises(ModelLoadError, match="has the checksum"):
            fetched(f"{uri}#sha256={_ZEROS}")
    assert explainer.nbytes == Explainer.load(config, weights).nbytes
    assert whole_files(volume) == [file.name]
    # Once it is there, the store is asked no more.
    assert fetched(f"{uri}#sha256={checksum}").read_bytes() == file.read_bytes()


_FETCH = "import sys; from legrad_engine.models.remote_weights import fetched; "
_FETCH += "print(fetched(sys.argv[1]))"


def test_processes_that_fetch_at_once_share_one_download(tmp_path: Path, volume: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "weights.pt").write_bytes(b"w" * 3_000_000)
    environment = {**os.environ, "HF_HOME": str(volume.parents[1])}
    with serving(source) as (address, requests):
        uri = f"{address}/weights.pt#sha256={checksum_of(source / 'weights.pt')}"
        path = RemoteWeights.parse(uri).path
        path.parent.mkdir(parents=True)
        # A process that was killed has left it.
        left_behind(path.parent / "killed.partial", minutes=61)
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", _FETCH, uri], env=environment, stdout=subprocess.PIPE
            )
            for _ in range(3)
        ]
        paths = {process.communicate()[0].decode().strip() for process in processes}
        downloads = [each for each in requests if each == "/weights.pt"]
    assert paths == {str(path)}
    assert path.read_bytes() == b"w" * 3_000_000
    assert len(downloads) == 1
    assert whole_files(volume) == ["weights.pt"]


@pytest.mark.parametrize(
    ("checkpoint", "told"),
    [
        ("s3://bucket/w.pt", "needs the checksum"),
        ("s3://bucket/w.pt#sha256=12", "needs the checksum"),
        ("s3://bucket/w.pt#md5=d41d8cd98f00b204e9800998ecf8427e", "needs the checksum"),
        (f"s3://bucket#sha256={_ZEROS}", "should name a file"),
        (f"s3://bucket/..#sha256={_ZEROS}", "should name a file"),
        (f"ftp://host/w.pt#sha256={_ZEROS}", "should begin with s3://"),
        (f"file:///w.pt#sha256={_ZEROS}", "should begin with s3://"),
        (f"http://example.com/w.pt#sha256={_ZEROS}", "http is for this machine alone"),
        (f"http://10.0.0.1/w.pt#sha256={_ZEROS}", "http is for this machine alone"),
        (f"https://user:secret@host/w.pt#sha256={_ZEROS}", "holds credentials"),
        (f"https://host/w.pt?token=secret#sha256={_ZEROS}", "holds credentials"),
        (f"https://[host/w.pt#sha256={_ZEROS}", "is not a URI"),
    ],
)
def test_an_invalid_uri_is_refused_when_it_is_read(checkpoint: str, told: str) -> None:
    reads: list[Callable[[], ModelReference]] = [
        lambda: ModelReference.parse(f"ViT-B-16@{checkpoint}"),
        lambda: ModelReference.parse(f"timm:vit_tiny_patch16_224@{checkpoint}"),
        lambda: ModelReference.of("ViT-B-16", checkpoint),
    ]
    for read in reads:
        with pytest.raises(UnknownModelError, match=told) as refused:
            read()
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "text",
    ["local-dir:s3://bucket/model", "transformers:gs://bucket/model", "s3://bucket/w.safetensors",
     f"s3://bucket/config.json@s3://bucket/w.pt#sha256={_ZEROS}", "timm:local-dir:https://h/m"],
)  # fmt: skip
def test_folders_and_configs_by_uri_are_refused_with_the_way_out(text: str) -> None:
    with pytest.raises(UnknownModelError, match="only a checkpoint may be one"):
        ModelReference.parse(text)
