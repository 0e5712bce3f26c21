"""Text halves and tokenizers that come from the transformers package."""

import contextlib
import json
import string
import sys
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from huggingface_hub import constants
from open_clip.tokenizer import HFTokenizer
from safetensors.torch import save_file

from legrad_engine import Explainer, models
from legrad_engine.errors import InvalidTargetError, ModelLoadError
from legrad_engine.models import ModelReference, openclip_models
from legrad_engine.targets.text import TextEncoder
from legrad_engine.words.bounds import bound_in
from tests.support.architectures import config, seeded_model
from tests.support.hub_files import fill_cache
from tests.support.word_tokenizer import WORDS, write_slow_tokenizer, write_tokenizer

CONTEXT = 8


def settings_with_tokenizer(name: str = "org/words", **text: Any) -> dict[str, Any]:
    settings = config()
    settings["text_cfg"] |= {
        "context_length": CONTEXT,
        "vocab_size": len(WORDS),
        "hf_tokenizer_name": name,
        "pool_type": "last",
        **text,
    }
    return settings


def write_model(folder: Path, settings: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": settings}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_file(open_clip.CLIP(**settings).state_dict(), folder / "open_clip_model.safetensors")


def test_a_token_that_ends_a_text_is_refused_within_one(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    tokenizer = HFTokenizer(str(tmp_path), context_length=CONTEXT)
    assert bound_in(tokenizer, "a cat") is None
    for token in ("<pad>", "</s>"):
        assert bound_in(tokenizer, f"a {token} cat") == token
    encoder = TextEncoder(seeded_model(), tokenizer, torch.device("cpu"))  # type: ignore[arg-type]
    with pytest.raises(InvalidTargetError, match="contains '</s>'"):
        encoder.check("a cat</s> on the sofa")


def test_unknown_characters_do_not_end_a_text(tmp_path: Path) -> None:
    write_slow_tokenizer(tmp_path)
    tokenizer = HFTokenizer(str(tmp_path), context_length=CONTEXT)
    assert tokenizer.tokenizer.pad_token == "<unk>"
    assert bound_in(tokenizer, "a cat, 9 lives") is None


def test_a_missing_package_is_named_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path, settings_with_tokenizer())
    monkeypatch.setitem(sys.modules, "transformers", None)
    for text in ("ViT-B-16-SigLIP/webli", f"local-dir:{tmp_path}"):
        reference = ModelReference.parse(text)
        with pytest.raises(ModelLoadError, match=r"pip install 'legrad-service\[hf\]'") as refusal:
            reference.check()
        assert refusal.value.field == "model"
        with pytest.raises(ModelLoadError, match=r"pip install 'legrad-service\[hf\]'"):
            models.load(reference.name, reference.pretrained)


def test_a_folder_s_own_tokenizer_is_read_as_open_clip_reads_it(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    write_model(tmp_path, settings_with_tokenizer())
    explainer = Explainer.load(f"local-dir:{tmp_path}")
    assert isinstance(explainer.text, TextEncoder)
    theirs = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    texts = ["a cat", "a red cat on the sofa"]
    assert torch.equal(explainer.text._tokenizer(texts), theirs(texts))
    with torch.no_grad():
        expected = explainer.model.encode_text(theirs(texts), normalize=True)  # type: ignore[operator]
    assert torch.allclose(explainer.text.encode(texts), expected, atol=1e-6)


def test_a_prompt_that_the_text_half_would_cut_is_refused(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    write_model(tmp_path, settings_with_tokenizer())
    text = Explainer.load(f"local-dir:{tmp_path}").text
    text.check(" ".join(["cat"] * (CONTEXT - 1)))
    with pytest.raises(InvalidTargetError, match=f"8 tokens.*reads {CONTEXT - 1}"):
        text.check(" ".join(["cat"] * CONTEXT))
    with pytest.raises(InvalidTargetError, match="empty"):
        text.check(" ")


def test_a_slow_tokenizer_does_not_remember_words_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("legrad_engine.targets.text._WORDS_REMEMBERED", 10)
    write_slow_tokenizer(tmp_path)
    slow = HFTokenizer(str(tmp_path), context_length=CONTEXT)
    model: Any = seeded_model()
    encoder = TextEncoder(model, slow, torch.device("cpu"))
    words = [first + second for first in string.ascii_lowercase for second in "xyz"]
    with pytest.raises(InvalidTargetError, match="shorten"):
        encoder.check(" ".join(words))
    assert 0 < len(slow.tokenizer.cache) <= 10


def test_a_hub_tokenizer_is_read_from_the_offline_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    write_model(tmp_path, settings_with_tokenizer())
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    fill_cache(tmp_path / "cache", "org/own", files)
    with pytest.raises(ModelLoadError, match="HF_HUB_CACHE"):
        Explainer.load("hf-hub:org/own")
    (tmp_path / "words").mkdir()
    write_tokenizer(tmp_path / "words")
    fill_cache(
        tmp_path / "cache",
        "org/words",
        {path.name: path.read_bytes() for path in (tmp_path / "words").iterdir()},
    )
    text = Explainer.load("hf-hub:org/own").text
    with pytest.raises(InvalidTargetError, match=f"reads {CONTEXT - 1}"):
        text.check("cat " * CONTEXT)


def test_a_folder_without_its_tokenizer_is_refused_with_what_to_do(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    write_model(tmp_path, settings_with_tokenizer())
    with pytest.raises(ModelLoadError, match="copy them beside the config") as refusal:
        Explainer.load(f"local-dir:{tmp_path}")
    assert "\n" not in str(refusal.value)


def test_a_config_cannot_have_a_tokenizer_s_own_code_run(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    marker = tmp_path / "executed"
    (tmp_path / "evil.py").write_text(
        f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n"
        "from transformers import PreTrainedTokenizerFast as Evil\n"
    )
    declared = json.loads((tmp_path / "tokenizer_config.json").read_text())
    declared |= {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": [None, "evil.Evil"]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(declared))
    settings = settings_with_tokenizer(tokenizer_kwargs={"trust_remote_code": True})
    write_model(tmp_path, settings)
    with contextlib.suppress(ModelLoadError):
        Explainer.load(f"local-dir:{tmp_path}")
    assert not marker.exists()


def test_a_text_half_that_brings_its_own_code_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    marker = tmp_path / "executed"
    tower = tmp_path / "tower"
    tower.mkdir()
    (tower / "evil.py").write_text(f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n")
    declared = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModel": "evil.M"}}
    (tower / "config.json").write_text(json.dumps(declared))
    settings = settings_with_tokenizer()
    settings["text_cfg"] = {"context_length": CONTEXT, "hf_model_name": str(tower)}
    (tmp_path / "own.json").write_text(json.dumps(settings))
    with pytest.raises(ModelLoadError, match="code of its own"):
        Explainer.load(str(tmp_path / "own.json"))
    assert not marker.exists()


def test_a_text_half_from_transformers_is_loaded_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    write_tokenizer(tmp_path)
    roberta = transformers.RobertaConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=32, pad_token_id=0,
    )  # fmt: skip
    settings = settings_with_tokenizer()
    settings["text_cfg"] = {
        "context_length": CONTEXT,
        "hf_model_name": "org/roberta",
        "hf_tokenizer_name": "org/words",
        "hf_proj_type": "mlp",
        "hf_pooler_type": "mean_pooler",
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": settings}))
    with pytest.raises(ModelLoadError, match="open_clip_model"):
        Explainer.load(f"local-dir:{tmp_path}")
    save_file({"a": torch.zeros(1)}, tmp_path / "open_clip_model.safetensors")
    with pytest.raises(ModelLoadError, match=r"org/roberta.*offline cache"):
        Explainer.load(f"local-dir:{tmp_path}")
    fill_cache(
        tmp_path / "cache", "org/roberta", {"config.json": roberta.to_json_string().encode()}
    )
    with pytest.raises(ModelLoadError, match="missing"):
        Explainer.load(f"local-dir:{tmp_path}")
    built = openclip_models.build(settings)
    save_file(
        {name: value.clone() for name, value in built.state_dict().items()},
        tmp_path / "open_clip_model.safetensors",
    )
    explainer = Explainer.load(f"local-dir:{tmp_path}")
    assert explainer.text.encode(["a cat", "a red cat"]).shape == (2, 24)
