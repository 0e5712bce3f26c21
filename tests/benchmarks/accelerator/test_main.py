"""Every part of `make accelerator`, small, on the CPU."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
import typer
from torch import nn

from benchmarks.accelerator import __main__ as program
from benchmarks.accelerator import accuracy, cards, launching, page, serving, speed
from benchmarks.accelerator.budget import Budget, TimeUp
from benchmarks.accelerator.findings import NUMBERS, Agreement, Findings, Serving, Speed
from benchmarks.accelerator.models import FAMILIES, explainer_of
from benchmarks.http import OUTPUTS
from benchmarks.servers import RunningServer
from legrad_engine.families.registry import families
from legrad_engine.models.image_model import ImageModel
from legrad_engine.targets.resolution import TargetResolver
from tests.support.running_server import Server
from tests.support.tiny_model import save_model

CPU = torch.device("cpu")
AGREEMENT = Agreement("timm-vit", "bfloat16", "all", "kernel, 2 graphs", 0.005, 0.9999, 1e-4)
SPEED = Speed("ViT-B-16", "bfloat16", 64, 0.01, 0.4, {1: {"off": 0.0120}, 8: {"off": 0.0150}})
SERVING = Serving(
    processes=4,
    answer="JSON",
    output=NUMBERS,
    images_per_second=900.0,
    p50=0.05,
    p99=0.09,
    busy={"device": 0.5, "pictures": 0.97, "event loop": 0.6, "load generator": 0.3},
)


def tiny() -> nn.Module:
    torch.manual_seed(0)
    return ImageModel(
        timm.create_model("vit_tiny_patch16_224", depth=2, embed_dim=48, img_size=64, num_classes=0)
    )


def findings() -> Findings:
    return Findings({"device": "cpu", "peak_flops": 1e9})


def aims(found: Findings) -> dict[str, str]:
    """The verdicts of a page, by the first word of each aim."""
    lines = page.render(found).partition("## Aims")[2].partition("##")[0].splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    return {row[0]: row[2] for row in rows[2:]}


def test_every_family_has_a_model() -> None:
    # B-cos models need an extra, which the script does not ask for.
    assert {*FAMILIES, "bcos-vit"} == {family.name for family in families()}


def test_agreement_is_measured_for_every_dtype() -> None:
    found = findings()
    dtypes = (torch.float32, torch.bfloat16)
    accuracy.measure(CPU, Budget(60), found, {"timm-vit": tiny}, dtypes)
    assert found.not_measured == []
    assert [(each.dtype, each.acceleration) for each in found.agreements] == [
        ("float32", "off"),
        ("bfloat16", "off"),
    ]
    assert {each.verdict for each in found.agreements} == {"met"}


@pytest.mark.slow
def test_every_family_agrees_in_float32() -> None:
    found = findings()
    accuracy.measure(CPU, Budget(200), found, dtypes=(torch.float32,))
    assert found.not_measured == []
    assert {each.family: each.verdict for each in found.agreements} == dict.fromkeys(
        FAMILIES, "met"
    )


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, "met"),
        ({"correlation": 0.98}, "missed"),
        ({"from_plain": 0.03}, "missed"),
        ({"from_plain": float("nan")}, "missed"),
        ({"dtype": "float32"}, "missed"),
        ({"dtype": "float32", "error": 1e-5}, "met"),
    ],
    ids=str,
)
def test_maps_that_differ_are_missed(change: dict[str, float], verdict: str) -> None:
    assert replace(AGREEMENT, **change).verdict == verdict  # type: ignore[arg-type]


def test_a_family_that_fails_is_told_and_the_next_one_is_measured() -> None:
    def broken() -> nn.Module:
        raise RuntimeError("no kernel image is available")

    found = findings()
    accuracy.measure(CPU, Budget(60), found, {"one": broken, "two": tiny}, (torch.float32,))
    assert found.not_measured == ["agreement of one: RuntimeError: no kernel image is available"]
    assert [each.family for each in found.agreements] == ["two"]


def test_float32_is_measured_without_tensor_float32() -> None:
    seen = []

    def noted() -> nn.Module:
        seen.append(torch.backends.cudnn.allow_tf32)
        return tiny()

    before = torch.backends.cudnn.allow_tf32
    accuracy.measure(CPU, Budget(60), findings(), {"timm-vit": noted}, (torch.float32,))
    assert before
    assert seen == [False]
    assert torch.backends.cudnn.allow_tf32


def test_speed_is_measured_for_every_batch() -> None:
    found = findings()
    speed.measure(CPU, torch.float32, 1e9, Budget(60), found, {"tiny": tiny}, (1, 2))
    assert found.not_measured == []
    assert [each.batch for each in found.speeds] == [1, 2]
    for each in found.speeds:
        assert each.forward > 0
        assert each.share_of_peak > 0
        assert each.ratios(1).keys() == each.ratios(8).keys() == {"off"}


def test_operations_of_the_attention_are_counted() -> None:
    width, layers, tokens = 64, 2, 17
    vision = {"image_size": 64, "patch_size": 16, "width": width, "head_width": 16}
    text = {"context_length": 8, "vocab_size": 100, "width": 16, "heads": 2, "layers": 1}
    model = open_clip.CLIP(8, {**vision, "layers": layers}, text).eval()
    counted = speed._flops(explainer_of(model, "counted"), CPU, torch.float32)
    # Projections and MLP, and the two products of the attention.
    assert counted > layers * (24 * tokens * width**2 + 4 * tokens**2 * width)


def test_targets_are_resolved_before_the_time_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve, calls = TargetResolver.resolve, []

    def counted(self: TargetResolver, *arguments: Any) -> Any:
        calls.append(arguments)
        return resolve(self, *arguments)

    monkeypatch.setattr(TargetResolver, "resolve", counted)
    speed.measure(CPU, torch.float32, 1e9, Budget(60), findings(), {"tiny": tiny}, (2,))
    assert len(calls) == 2


def test_results_are_fetched_one_call_behind() -> None:
    events: list[str] = []

    class Numbered:
        def __init__(self) -> None:
            self.number = sum(each.startswith("launch") for each in events)
            events.append(f"launch {self.number}")

        def finish(self) -> None:
            events.append(f"finish {self.number}")

    launching.run(Numbered, 3, CPU)
    assert events == ["launch 0", "launch 1", "finish 0", "launch 2", "finish 1", "finish 2"]


def test_speed_that_does_not_fit_the_time_is_told() -> None:
    found = findings()
    speed.measure(CPU, torch.float32, 1e9, Budget(0), found, {"tiny": tiny}, (1,))
    assert found.not_measured == ["speed of tiny, batch 1: no time left"]


@pytest.mark.slow
def test_a_running_service_is_driven_and_its_parts_are_watched(tmp_path: Path) -> None:
    found = findings()
    with Server(save_model(tmp_path, "tiny"), trace_cache_bytes=0, max_queue_cost=10_000) as server:
        running = RunningServer(server.url, server.pid)
        pictures = serving.encoded_pictures(8)
        assert len(set(pictures)) == 8
        serving.drive(running, 2, pictures, Budget(600), found, seconds=0.2)
    assert found.not_measured == []
    cases = [(each.output, each.answer) for each in found.servings]
    assert cases == [(output, answer) for output in OUTPUTS for answer in ("JSON", "multipart")]
    assert NUMBERS in OUTPUTS
    for each in found.servings:
        assert each.images_per_second > 0
        assert 0 < each.p50 <= each.p99
        assert all(share > 0 for part, share in each.busy.items() if part != "event loop")
    # Its time is told in hundredths of a second, of which one short load may not spend any.
    assert any(each.busy["event loop"] > 0 for each in found.servings)


def test_the_limit_is_the_busiest_part() -> None:
    assert SERVING.limit == "pictures"
    assert replace(SERVING, busy={"device": 0.5, "pictures": 0.6}).limit == "none alone"


def test_the_page_marks_every_aim() -> None:
    found = findings()
    found.speeds, found.servings, found.agreements = [SPEED], [SERVING], [AGREEMENT]
    found.engine_images_per_second = 1000.0
    assert list(aims(found).values()) == ["missed", "met", "met", "met"]
    found.engine_images_per_second = 2000.0
    assert list(aims(found).values())[2] == "missed"
    text = page.render(found)
    assert "| 64 | 10.00 | 6,400 | 40% | 1.20 | 1.50 |" in text
    assert "pictures 97%" in text


def test_a_page_of_nothing_says_that_nothing_was_measured(tmp_path: Path) -> None:
    found = findings()
    found.not_measured.append("speed: no time left")
    assert set(aims(found).values()) == {"not measured"}
    page.write(found, tmp_path / "page.md", tmp_path / "data.json")
    assert "- speed: no time left" in (tmp_path / "page.md").read_text()
    assert json.loads((tmp_path / "data.json").read_text())["speeds"] == []


def test_a_part_that_does_not_end_is_cut_and_the_next_one_runs() -> None:
    found, ran = findings(), []

    def endless(budget: Budget) -> None:
        while True:
            try:
                time.sleep(0.01)
            except Exception:  # a fallback of the engine must not swallow the end
                raise AssertionError from None

    def failing(budget: Budget) -> None:
        ran.append(budget.left)
        raise RuntimeError("broken")

    program.run(found, Budget(100), [("one", 0.001, endless), ("two", 0.5, failing)])
    assert found.not_measured == ["the rest of one: the time was over", "two: RuntimeError: broken"]
    assert 45 < ran[0] <= 49.95


def test_time_that_is_over_before_a_part_begins_ends_it_at_once() -> None:
    with pytest.raises(TimeUp), Budget(0).enforced():
        time.sleep(5)


def test_the_peak_is_that_of_the_card_or_measured() -> None:
    assert cards.stated_peak("NVIDIA H200", torch.bfloat16) == 989e12
    assert cards.stated_peak("NVIDIA L40S", torch.float16) == 362e12
    assert cards.stated_peak("NVIDIA L4", torch.float16) == 121e12
    assert cards.stated_peak("NVIDIA H200", torch.float32) is None
    described = cards.describe(CPU, torch.float32, side=64)
    assert described["peak_flops"] == described["measured_matrix_product_flops"]
    assert described["peak_source"] == "a large matrix product, measured"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_the_program_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended:
        program.main(tmp_path / "page.md", tmp_path / "data.json")
    assert ended.value.exit_code == 2
    assert "no CUDA device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
