"""The model hub: what it gives is loaded; where it is out of reach that is said in seconds."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save

from legrad_engine import models
from legrad_engine.errors import LegradError, ModelLoadError, UnknownModelError
from tests.support.architectures import config
from tests.support.hub_files import fill_cache, hub_server
from tests.support.transformers_models import saved

pytestmark = pytest.mark.slow

TIMM_NAME = "vit_tiny_patch16_224"
TIMM_REPOSITORY = timm.models.get_pretrained_cfg(TIMM_NAME).hf_hub_id
NAMES = [
    ("ViT-B-32", "openai"),
    ("hf-hub:org/own", None),
    (f"timm:{TIMM_NAME}", None),
    ("timm:hf-hub:org/own", None),
    ("transformers:org/clip", None),
]
# Every load on a thread of its own, so that waiting for a silent hub is done once.
PROGRAM = """
import json, sys, time
from concurrent.futures import ThreadPoolExecutor
from legrad_engine.importing import frozen_after
with frozen_after():
    import open_clip, timm, torch  # only waiting for the hub is timed
    from legrad_engine import models

def attempt(name):
    started = time.monotonic()
    try:
        loaded = models.load(*name)
        told = loaded.name
        error = None
    except Exception as failure:
        told, error = str(failure), type(failure).__name__
    return {"seconds": time.monotonic() - started, "error": error, "told": told}

with ThreadPoolExecutor(8) as threads:
    for _ in range(2):  # the first load imports more, which would be timed, too
        answers = list(threads.map(attempt, json.loads(sys.argv[1])))
print(json.dumps(answers))
"""


def load_in_a_fresh_process(
    names: list[tuple[str, str | None]], cache: Path, endpoint: str
) -> list[dict[str, Any]]:
    # The hub's client reads its settings once, when it is imported.
    settings = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "TRANSFORMERS_")) and not name.lower().endswith("_proxy")
    }
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(names)],
        env={**settings, "HF_ENDPOINT": endpoint, "HF_HUB_CACHE": str(cache)},
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    answers: list[dict[str, Any]] = json.loads(finished.stdout.splitlines()[-1])
    return answers


def own_files() -> dict[str, bytes]:
    """A repository that open_clip and timm can both read, from small seeded models."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip = open_clip.CLIP(**config())
        vit = timm.create_model(TIMM_NAME, depth=2, embed_dim=48, num_heads=3, num_classes=5)
    arguments = {"depth": 2, "embed_dim": 48, "num_heads": 3}
    settings = {
        "architecture": TIMM_NAME,
        "num_classes": 5,
        "model_args": arguments,
        "pretrained_cfg": {"license": "mit", "mean": [0.1, 0.2, 0.3], "std": [1.0, 1.0, 1.0]},
    }
    return {
        "open_clip_config.json": json.dumps({"model_cfg": config()}).encode(),
        "open_clip_model.safetensors": save(clip.state_dict()),
        "config.json": json.dumps(settings).encode(),
        "model.safetensors": save(vit.state_dict()),
    }


@pytest.fixture(scope="module")
def clip_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A repository as transformers saves it."""
    folder = saved("CLIPModel", tmp_path_factory.mktemp("clip"))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def silent_hub() -> Iterator[str]:
    """The address of a hub that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("hub", ["silent", "refusing", "nowhere", "failing"])
def test_a_hub_out_of_reach_is_given_up_in_seconds(
    hub: str, silent_hub: str, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with hub_server({}, status=503) as failing_hub:
        endpoint = {
            "silent": silent_hub,
            "refusing": f"http://127.0.0.1:{port}",
            "nowhere": "http://model-hub.invalid",
            "failing": failing_hub,
        }[hub]
        answers = load_in_a_fresh_process(NAMES, tmp_path, endpoint)
    for answer in answers:
        assert answer["error"] == "ModelLoadError", answer
        assert "HF_HUB_CACHE" in answer["told"]
        assert "HF_HUB_OFFLINE=1" in answer["told"]
        assert "local-dir:" in answer["told"]
        assert "\n" not in answer["told"]
        assert answer["seconds"] < 20


def test_a_silent_hub_does_not_keep_cached_files_from_loading(
    silent_hub: str, clip_files: dict[str, bytes], tmp_path: Path
) -> None:
    fill_cache(tmp_path, "org/own", own_files())
    fill_cache(tmp_path, "org/clip", clip_files)
    names = [name for name in NAMES if "org/" in name[0]]
    for answer in load_in_a_fresh_process(names, tmp_path, silent_hub):
        assert answer["error"] is None, answer
        assert answer["seconds"] < 60


def test_a_hub_within_reach_is_loaded_from_and_then_not_needed(
    silent_hub: str, clip_files: dict[str, bytes], tmp_path: Path
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vit = timm.create_model(TIMM_NAME)
    served = {f"org/own/{name}": content for name, content in own_files().items()}
    served[f"{TIMM_REPOSITORY}/model.safetensors"] = save(vit.state_dict())
    served |= {f"org/clip/{name}": content for name, content in clip_files.items()}
    served["org/bare/README.md"] = b""
    names: list[tuple[str, str | None]] = [
        *NAMES[1:],
        ("hf-hub:org/bare", None),
        ("hf-hub:org/missing", None),
        ("transformers:org/bare", None),
        ("transformers:org/missing", None),
    ]
    with hub_server(served) as address:
        *loaded, bare, missing, plain, unknown = load_in_a_fresh_process(names, tmp_path, address)
    for (name, _), answer in zip(NAMES[1:], loaded, strict=True):
        assert (answer["error"], answer["told"]) == (None, name)
    assert bare["error"] == "UnknownModelError"
    assert "open_clip_config.json" in bare["told"]
    assert missing["error"] == "UnknownModelError"
    assert "org/missing" in missing["told"]
    assert plain["error"] == "UnknownModelError"
    assert "config.json" in plain["told"]
    assert unknown["error"] == "UnknownModelError"
    assert "org/missing" in unknown["told"]
    for answer in load_in_a_fresh_process(NAMES[1:], tmp_path, silent_hub):
        assert answer["error"] is None, answer


def test_offline_mode_asks_nothing_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for name in NAMES:
        with pytest.raises(ModelLoadError, match="HF_HUB_OFFLINE is set") as refusal:
            models.load(*name)
        assert refusal.value.field == "model"


def test_a_cached_repository_without_weights_is_not_loaded_at_random(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    files = {name: content for name, content in own_files().items() if name.endswith(".json")}
    fill_cache(tmp_path, "org/own", files)
    for name in ("hf-hub:org/own", "timm:hf-hub:org/own"):
        with pytest.raises(ModelLoadError, match="offline cache"):
            models.load(name)


def test_a_damaged_config_from_the_hub_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for content in (b"", b"{", b"3", b"{}", b'{"model_cfg": []}', b'{"architecture": "nope"}'):
        damaged = {"open_clip_config.json": content, "config.json": content}
        fill_cache(tmp_path, "org/own", {**own_files(), **damaged})
        for name in ("hf-hub:org/own", "timm:hf-hub:org/own"):
            with pytest.raises(LegradError) as refusal:
                models.load(name)
            assert isinstance(refusal.value, (ModelLoadError, UnknownModelError))
            assert "\n" not in str(refusal.value)
