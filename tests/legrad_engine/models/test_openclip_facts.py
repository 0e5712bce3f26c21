"""Facts that only the weights of a checkpoint tell, or that nothing tells."""

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image

from legrad_engine import Explainer
from legrad_engine.errors import ModelLoadError
from legrad_engine.models.openclip_facts import fitting_architectures
from tests.support.architectures import disturb

PICTURE = Image.effect_mandelbrot((80, 60), (-2, -1, 1, 1), 40).convert("RGB")
NAME = "ViT-B-32"
METADATA = {
    "input_resolution": torch.tensor(64),
    "context_length": torch.tensor(77),
    "vocab_size": torch.tensor(49408),
}


def shrink(name: str, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> torch.nn.Module:
    """Replace an architecture by a small one; return a model of it with seeded weights."""
    settings = open_clip.get_model_config(name)
    settings["vision_cfg"] |= {"layers": 1, "width": 64, "image_size": 64}
    settings["text_cfg"] |= {"layers": 1, "width": 16, "heads": 2}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, settings)
    settings = {**settings, "text_cfg": {**settings["text_cfg"], **changes}}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: torch.nn.Module = open_clip.CLIP(**settings)
    disturb(model)
    return model.eval()


def warnings(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(each.getMessage() for each in caplog.records if each.levelname == "WARNING")


def test_the_state_dict_of_openai_s_torchscript_file_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original = shrink(f"{NAME}-quickgelu", monkeypatch)
    # OpenAI's file holds half-precision weights.
    state = {name: value.half() for name, value in original.state_dict().items()}
    torch.save({**state, **METADATA}, tmp_path / "openai.pt")
    explainer = Explainer.load(f"{NAME}-quickgelu@{tmp_path}/openai.pt")
    own = explainer.model.state_dict()
    assert all(torch.equal(own[name], value.float()) for name, value in state.items())
    assert warnings(caplog) == ""
    (explanation,) = explainer.explain(PICTURE, ["a cat"])
    assert explanation.maps.shape == (1, 2, 2)


def test_openai_s_weights_under_the_other_activation_are_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    state = shrink(NAME, monkeypatch).state_dict()
    torch.save({**state, **METADATA}, tmp_path / "w.pt")
    Explainer.load(f"{NAME}@{tmp_path}/w.pt")
    assert f"its answers are wrong. Use {NAME}-quickgelu" in warnings(caplog)


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        (f"{NAME}@PATH", f"use {NAME}-quickgelu@PATH; if not, name the tag"),
        (f"{NAME}/openai@PATH", f"{NAME}/openai was trained with a GELU that differs"),
        (f"{NAME}/laion2b_s34b_b79k@PATH", ""),
        (f"{NAME}-quickgelu@PATH", ""),
        (f"{NAME}-quickgelu/openai@PATH", ""),
        (f"{NAME}-quickgelu/laion400m_e32@PATH", ""),
    ],
)
def test_the_activation_of_a_checkpoint_is_asked_for_or_checked(
    reference: str,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in (NAME, f"{NAME}-quickgelu"):
        torch.save(shrink(name, monkeypatch).state_dict(), tmp_path / "w.pt")
    Explainer.load(reference.replace("PATH", str(tmp_path / "w.pt")))
    if says:
        assert says in warnings(caplog)
    else:
        assert warnings(caplog) == ""


def test_a_checkpoint_of_a_longer_context_reads_longer_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original = shrink(NAME, monkeypatch, context_length=100)
    torch.save(original.state_dict(), tmp_path / "long.pt")
    explainer = Explainer.load(f"{NAME}/laion2b_e16@{tmp_path}/long.pt")
    prompt = " ".join(["cat"] * 98)
    tokens = open_clip.SimpleTokenizer(context_length=100)([prompt])
    with torch.no_grad():
        expected = original.encode_text(tokens, normalize=True)  # type: ignore[operator]
    torch.testing.assert_close(explainer.text.encode([prompt]), expected)
    assert "reads 100 tokens" in warnings(caplog)


def test_position_embeddings_of_another_size_are_resampled_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    state = dict(shrink(NAME, monkeypatch).state_dict())
    state["visual.positional_embedding"] = torch.randn(17, 64)
    torch.save(state, tmp_path / "w.pt")
    Explainer.load(f"{NAME}/laion2b_e16@{tmp_path}/w.pt")
    assert "for 4 x 4 patches and are resampled to 2 x 2" in warnings(caplog)


def test_a_checkpoint_of_another_architecture_is_told_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shrink(NAME, monkeypatch)
    other = open_clip.get_model_config(NAME)
    other["vision_cfg"]["patch_size"] = 16
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-S-16", other)
    torch.save(open_clip.CLIP(**other).state_dict(), tmp_path / "w.pt")
    with pytest.raises(ModelLoadError, match=r"Its shapes are those of ViT-S-16\.$"):
        Explainer.load(f"{NAME}@{tmp_path}/w.pt")


def test_the_shapes_of_every_architecture_with_open_clip_s_towers_name_it() -> None:
    for name in ("ViT-B-16", "ViT-L-14", "ViT-B-32-quickgelu", "ViT-S-32-alt"):
        with torch.device("meta"):
            weights = open_clip.CLIP(**open_clip.get_model_config(name)).state_dict()
        assert name in fitting_architectures(weights)
    assert fitting_architectures({"head.weight": torch.zeros(1)}) == []
