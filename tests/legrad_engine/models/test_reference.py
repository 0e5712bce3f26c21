"""Models in one line: what is read, how it is named, what is refused before it is tried."""

import json
from pathlib import Path

import pytest
from huggingface_hub import constants

from legrad_engine import Explainer, models
from legrad_engine.errors import (
    LegradError,
    ModelLoadError,
    UnknownModelError,
    UnsupportedModelError,
)
from legrad_engine.models import ModelReference
from tests.support.architectures import config
from tests.support.hub_files import fill_cache
from tests.support.own_models import (
    TIMM_CONFIG,
    Weights,
    own_weights,
    settings_file,
    write_own_folder,
)


@pytest.fixture(scope="module")
def weights() -> Weights:
    return own_weights()


@pytest.fixture
def own_folder(tmp_path: Path, weights: Weights) -> Path:
    """What open_clip saves for the hub."""
    return write_own_folder(tmp_path / "My model", weights)


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and nothing else."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("text", "identity"),
    [
        ("hf-hub:Org/Repo.v1", "org-repo.v1"),
        ("local-dir:/a/b/My model/", "my-model"),
        ("timm:vit_tiny_patch16_224", "timm-vit_tiny_patch16_224"),
        (
            "timm:vit_tiny_patch16_224.augreg_in21k",
            "timm-vit_tiny_patch16_224.augreg_in21k",
        ),
        ("timm:vit_tiny_patch16_224@/a/b/Tuned.pth", "timm-vit_tiny_patch16_224-tuned"),
        ("timm:hf-hub:org/repo@v2", "timm-org-repo-v2"),
        ("timm:local-dir:/a/b@c/d", "timm-d"),
        ("local-dir:/a/b@c/x.json@d", "x.json-d"),
        ("transformers:openai/clip-vit-base-patch32", "openai-clip-vit-base-patch32"),
        ("transformers:org/repo@v2", "org-repo-v2"),
        ("transformers:/a/b@c/My model/", "my-model"),
        ("/a@b/own.json@w@2.pt", "own-w-2"),
    ],
)
def test_references_with_a_schema_are_read_and_named_safely(text: str, identity: str) -> None:
    reference = ModelReference.parse(text)
    assert reference.id == identity
    assert reference == ModelReference.parse(f" {text}\n")
    assert len({reference, ModelReference.parse(text)}) == 1


def test_a_message_can_be_freed_of_the_folders_of_this_machine(
    own_folder: Path, offline: Path
) -> None:
    (own_folder / "open_clip_model.safetensors").write_bytes(b"")
    settings_file(own_folder)
    fill_cache(offline, "org/own", {path.name: path.read_bytes() for path in own_folder.iterdir()})
    for text in (
        f"local-dir:{own_folder}/",
        f"timm:local-dir:{own_folder}",
        f"{own_folder}/own.json@{own_folder}/open_clip_model.safetensors",
        f"{own_folder}/missing.json@w.pt",
        f"ViT-B-16@{own_folder}/missing.pt",
        "hf-hub:org/own",
        f"transformers:{own_folder}",
        f"transformers:{own_folder}/missing",
    ):
        reference = ModelReference.parse(text)
        with pytest.raises(LegradError) as refusal:
            models.load(reference.name, reference.pretrained)
        assert str(own_folder.parent) not in reference.without_folders(str(refusal.value))
        assert str(own_folder.parent) not in reference.title


def test_a_name_of_no_letters_still_has_an_id() -> None:
    first, second = (ModelReference.parse(f"local-dir:/{name}") for name in ("模型", "模"))
    assert first.id.startswith("model-")
    assert first.id != second.id


@pytest.mark.parametrize(
    "text",
    [
        "hf-hub:",
        "local-dir:",
        "transformers:",
        "timm:",
        "timm:@w.pt",
        "timm:a@",
        "timm:hf-hub:",
        ".json@w.pt",
    ],
)
def test_a_schema_without_a_model_is_refused(text: str) -> None:
    with pytest.raises(UnknownModelError) as refusal:
        ModelReference.parse(text)
    assert refusal.value.field == "model"


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("hf-hub:a/b/c", UnknownModelError, "ORG/REPO"),
        ("hf-hub:org/own@v1", UnknownModelError, "ORG/REPO"),
        ("hf-hub:../../etc", UnknownModelError, "ORG/REPO"),
        ("timm:hf-hub:a b", UnknownModelError, "ORG/REPO"),
        ("local-dir:FOLDER/missing", UnknownModelError, "no folder"),
        ("local-dir:FOLDER/empty", UnknownModelError, "open_clip_config.json"),
        ("local-dir:FOLDER/no weights", ModelLoadError, "open_clip_model.safetensors"),
        ("local-dir:FOLDER/damaged", ModelLoadError, "JSON"),
        ("FOLDER/missing.json@w.pt", UnknownModelError, "no model config"),
        ("timm:no_such_model", UnknownModelError, "no_such_model"),
        ("timm:vit_tiny_patch16_224.nope", UnknownModelError, "augreg_in21k"),
        ("timm:vit_tiny_patch16_224@FOLDER/missing.pt", ModelLoadError, "no checkpoint"),
        ("timm:vit_huge_patch14_gap_224.in1k_ijepa", ModelLoadError, "https://"),
        ("timm:vit_base_patch16_gap_224", ModelLoadError, "no weights"),
        ("timm:local-dir:FOLDER/missing", UnknownModelError, "no folder"),
        ("timm:local-dir:FOLDER/empty", UnknownModelError, "config.json"),
        ("timm:local-dir:FOLDER/no weights", ModelLoadError, "model.safetensors"),
        ("transformers:FOLDER/missing", UnknownModelError, "no folder"),
        ("transformers:FOLDER/empty", UnknownModelError, "config.json"),
        ("transformers:FOLDER/no weights", ModelLoadError, "architectures"),
        ("transformers:a/b/c", UnknownModelError, "ORG/REPO"),
        ("transformers:./missing", UnknownModelError, "no folder"),
        ("transformers:~/missing", UnknownModelError, "no folder"),
    ],
)
def test_what_cannot_be_loaded_is_known_before_it_is_tried(
    text: str, error: type[Exception], says: str, tmp_path: Path
) -> None:
    for name, content in (("empty", None), ("no weights", json.dumps({"model_cfg": config()}))):
        (tmp_path / name).mkdir()
        if content is not None:
            (tmp_path / name / "open_clip_config.json").write_text(content)
            (tmp_path / name / "config.json").write_text(TIMM_CONFIG)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "open_clip_config.json").write_text("{")
    reference = ModelReference.parse(text.replace("FOLDER", str(tmp_path)))
    with pytest.raises(error, match=says) as refusal:
        reference.check()
    assert refusal.value.field == "model"  # type: ignore[attr-defined]
    with pytest.raises(error, match=says):
        models.load(reference.name, reference.pretrained)


@pytest.mark.parametrize(
    "name", ["hf-hub:org/own", "local-dir:x", "timm:hf-hub:o/r", "transformers:o/r"]
)
def test_weights_beside_a_name_that_brings_its_own_are_refused(name: str) -> None:
    with pytest.raises(UnknownModelError, match="includes its weights"):
        Explainer.load(name, "w.pt")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("ViT-B/32", "ViT-B-32"),
        ("ViT-B/16@/models/tuned.pt", "ViT-B-16"),
        ("ViT-L/14", "ViT-L-14"),
        ("ViT-L/14@336px", "ViT-L-14-336"),
    ],
)
def test_openai_s_spelling_of_a_name_is_answered_with_open_clip_s(text: str, name: str) -> None:
    reference = ModelReference.parse(text)
    for attempt in (reference.check, lambda: Explainer.load(text)):
        with pytest.raises(UnknownModelError, match=f"is {name} here") as refusal:
            attempt()
        assert f"{name}-quickgelu/openai" in str(refusal.value)
        assert refusal.value.field == "model"
    ModelReference.parse(f"{name}-quickgelu/openai").check()


def test_the_current_folder_keeps_a_message_as_it_is() -> None:
    for name in ("transformers:.", "local-dir:.", "local-dir:own"):
        said = "own.json is damaged. See README.md."
        assert ModelReference(name).without_folders(said) == said


@pytest.mark.parametrize(
    "text", ["RN50/openai", "convnext_base@w.pt", "timm:resnet50", "timm:mixer_s32_224"]
)
def test_what_cannot_be_explained_is_refused_before_its_weights_are_looked_for(text: str) -> None:
    with pytest.raises(UnsupportedModelError, match="cannot be explained: ") as refused:
        ModelReference.parse(text).check()
    assert refused.value.field == "model"


def test_folders_that_only_a_config_names_are_not_told() -> None:
    reference = ModelReference("/models/own.json", "/weights/w.pt")
    said = "No /secret/place/tokenizer.json in '/models/own.json', see https://example.org/a/b."
    told = reference.without_folders(said)
    assert told == "No tokenizer.json in 'own.json', see https://example.org/a/b."


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("ViT-B-16-SigLIP/webli@/a/w.pt", ("ViT-B-16-SigLIP", "/a/w.pt", "webli")),
        ("ViT-B-16@/a/b/w.pt", ("ViT-B-16", "/a/b/w.pt", None)),
        ("/a/b.json@/a/w.pt", ("/a/b.json", "/a/w.pt", None)),
        ("timm:vit_tiny_patch16_224.augreg_in21k@/a/w.pt", (
            "timm:vit_tiny_patch16_224.augreg_in21k", "/a/w.pt", None
        )),
    ],
)  # fmt: skip
def test_a_checkpoint_may_name_the_tag_that_it_was_made_from(
    text: str, reference: tuple[str, str, str | None]
) -> None:
    assert ModelReference.parse(text) == ModelReference(*reference)
    assert ModelReference.of(text) == ModelReference(*reference)


@pytest.mark.parametrize(
    ("name", "pretrained", "reference"),
    [
        ("starter", None, ("starter",)),
        ("ViT-B-16", None, ("ViT-B-16",)),
        ("ViT-B-16", "openai", ("ViT-B-16", "openai")),
        ("ViT-B-16/openai", None, ("ViT-B-16", "openai")),
        ("ViT-B-16/openai", "/a/w.pt", ("ViT-B-16", "/a/w.pt", "openai")),
        ("a/b.json", None, ("a/b.json",)),
        ("a@b/c.json", "w.pt", ("a@b/c.json", "w.pt")),
        ("timm:deit_tiny_patch16_224", "w.pt", ("timm:deit_tiny_patch16_224", "w.pt")),
        ("timm:deit_tiny_patch16_224@w.pt", None, ("timm:deit_tiny_patch16_224", "w.pt")),
        ("local-dir:/a/b@c", None, ("local-dir:/a/b@c",)),
    ],
)
def test_a_reference_is_made_of_one_argument_or_of_two(
    name: str, pretrained: str | None, reference: tuple[str, ...]
) -> None:
    assert ModelReference.of(name, pretrained) == ModelReference(*reference)


def test_an_origin_that_is_no_tag_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"")
    with pytest.raises(UnknownModelError, match="webli"):
        ModelReference.parse(f"ViT-B-16-SigLIP/openai@{tmp_path}/w.pt").check()
    for text in ("ViT-B-16/@w.pt", "/openai@w.pt"):
        with pytest.raises(UnknownModelError, match="NAME/TAG"):
            ModelReference.parse(text)
