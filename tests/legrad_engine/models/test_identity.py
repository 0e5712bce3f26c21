"""The identity of a model changes with everything that its loader reads, and with nothing else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from legrad_engine.errors import ModelLoadError
from legrad_engine.models.identity import ModelIdentity
from legrad_engine.models.reference import ModelReference
from tests.support.hub_files import fill_cache


def weights_of(reference: str) -> str:
    found = ModelIdentity.of(ModelReference.parse(reference))
    assert found is not None
    return found.weights


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text("{}")
    (folder / "open_clip_model.safetensors").write_bytes(b"weights")
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.mark.parametrize("changed", ["CONFIG.json", "weights.pt"])
def test_an_overwritten_file_is_another_model(tmp_path: Path, changed: str) -> None:
    (tmp_path / "CONFIG.json").write_text("{}")
    (tmp_path / "weights.pt").write_bytes(b"first")
    reference = f"{tmp_path}/CONFIG.json@{tmp_path}/weights.pt"
    before = weights_of(reference)
    assert weights_of(reference) == before
    (tmp_path / changed).write_bytes(b"other")
    assert weights_of(reference) != before


def test_a_folder_of_transformers_may_be_below_the_home_folder(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(model_folder.parent))
    assert weights_of(f"transformers:~/{model_folder.name}") == weights_of(
        f"transformers:{model_folder}"
    )


@pytest.mark.parametrize("scheme", ["local-dir:", "timm:local-dir:", "transformers:"])
@pytest.mark.parametrize(
    ("name", "is_read"),
    [
        ("open_clip_config.json", True),
        ("open_clip_model.safetensors", True),
        ("tokenizer.json", True),
        ("merges.txt", True),
        ("training.log", False),
        ("readme.md", False),
    ],
)
def test_a_folder_is_known_by_the_files_that_a_loader_reads(
    model_folder: Path, scheme: str, name: str, is_read: bool
) -> None:
    before = weights_of(f"{scheme}{model_folder}")
    (model_folder / name).write_bytes(b"changed")
    assert (weights_of(f"{scheme}{model_folder}") != before) is is_read


def test_a_moved_model_is_the_same_one(model_folder: Path, tmp_path: Path) -> None:
    before = weights_of(f"local-dir:{model_folder}")
    model_folder.rename(tmp_path / "moved")
    assert weights_of(f"local-dir:{tmp_path / 'moved'}") == before


def test_a_tokenizer_folder_that_a_config_names_belongs_to_the_model(
    model_folder: Path, tmp_path: Path
) -> None:
    config, weights = tmp_path / "config.json", tmp_path / "weights.pt"
    config.write_text(json.dumps({"text_cfg": {"hf_tokenizer_name": str(model_folder)}}))
    weights.write_bytes(b"weights")
    before = weights_of(f"{config}@{weights}")
    (model_folder / "tokenizer.json").write_text('{"other": 1}')
    assert weights_of(f"{config}@{weights}") != before


@pytest.mark.parametrize("scheme", ["hf-hub:", "timm:hf-hub:"])
def test_a_repository_is_known_by_its_cached_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    reference = ModelReference.parse(f"{scheme}org/repo")
    assert ModelIdentity.of(reference) is None
    with pytest.raises(ModelLoadError, match="not in the cache"):
        ModelIdentity.of_loaded(reference, None)
    snapshot = fill_cache(tmp_path, "org/repo", {"config.json": b"{}"})
    assert weights_of(f"{scheme}org/repo") == f"org/repo@{snapshot.name}"
    (tmp_path / "models--org--repo" / "refs" / "main").write_text("b" * 40)
    assert weights_of(f"{scheme}org/repo") == f"org/repo@{'b' * 40}"
    assert weights_of(f"{scheme}org/repo@{snapshot.name}") == (
        f"org/repo@{snapshot.name}@{snapshot.name}"
    )


@pytest.mark.parametrize(
    ("reference", "repository"),
    [
        ("ViT-B-16/laion2b_s34b_b88k", "laion/CLIP-ViT-B-16-laion2B-s34B-b88K"),
        ("timm:vit_small_patch14_dinov2.lvd142m", "timm/vit_small_patch14_dinov2.lvd142m"),
    ],
)
def test_the_repository_of_a_tag_is_known_once_it_has_been_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str, repository: str
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    parsed = ModelReference.parse(reference)
    commit = fill_cache(tmp_path, repository, {"config.json": b"{}"}).name
    assert ModelIdentity.of(parsed) is None
    loaded = ModelIdentity.of_loaded(parsed, None)
    assert loaded.weights == f"{repository}@{commit}"
    assert ModelIdentity.of(parsed, [loaded.weights]) == loaded


def test_the_built_in_model_is_identified_without_torch() -> None:
    program = (
        "import sys; from legrad_engine.models.identity import ModelIdentity\n"
        "from legrad_engine.models.reference import ModelReference\n"
        "print(ModelIdentity.of(ModelReference.parse('starter')).weights)\n"
        "print(sorted({'torch', 'numpy', 'open_clip'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == f"{weights_of('starter')}\n[]\n", done.stderr
