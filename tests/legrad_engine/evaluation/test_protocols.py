"""Protocols against the same figures computed in another way: torch, scikit-learn, loops."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import average_precision_score, jaccard_score, roc_auc_score

from legrad_engine import Explainer
from legrad_engine.evaluation.options import MapOptions
from legrad_engine.evaluation.protocols.base import Figure, Protocol
from legrad_engine.evaluation.protocols.wrong_prompt import absent_classes
from legrad_engine.evaluation.registry import find_protocol, open_data_set
from legrad_engine.evaluation.samples import Options
from legrad_engine.evaluation.subject import Batch, Subject
from tests.support.evaluation_data import WRITERS, save_picture

TEMPLATE = "a {}"


@pytest.fixture(scope="module")
def explainer(tiny_model: str) -> Explainer:
    return Explainer.load(tiny_model)


def batch_of(explainer: Explainer, kind: str, root: Path) -> Batch:
    data = open_data_set(WRITERS[kind](root) if kind in WRITERS else kind, Options())
    subject = Subject(explainer, data, MapOptions(templates=(TEMPLATE,)))
    return Batch(subject, [subject.case(each.key, each.load()) for each in data.entries()])


def figures(protocol: Protocol, batch: Batch, method: str = "legrad") -> dict[str, float | None]:
    found: list[Figure] = protocol.summarize(protocol.measure(batch, method))
    return {figure.name: figure.value for figure in found}


def enlarged(
    explainer: Explainer, picture: Image.Image, name: str, method: str = "legrad"
) -> np.ndarray:
    """A min-maxed map of the input's size, by torch."""
    (found,) = explainer.explain(picture, [name], templates=[TEMPLATE], method=method)
    maps = torch.from_numpy(found.maps)[None].double()
    (heatmap,) = F.interpolate(maps, size=(64, 64), mode="bilinear")[0].numpy()
    stretched: np.ndarray = (heatmap - heatmap.min()) / (heatmap.max() - heatmap.min())
    return stretched


def test_segmentation_equals_scikit_learn_over_all_pixels_of_the_data_set(
    explainer: Explainer, tmp_path: Path
) -> None:
    batch = batch_of(explainer, "voc", tmp_path)
    maps, truths, precisions = [], [], []
    for case in batch.cases:
        for each in case.sample.annotations:
            assert each.mask is not None
            assert each.ignored is not None
            mask, ignored = (
                np.asarray(Image.fromarray(plane).resize((64, 64), Image.Resampling.NEAREST))
                for plane in (each.mask, each.ignored)
            )
            heatmap = enlarged(explainer, case.sample.picture, each.name)
            maps.append((heatmap[~ignored], heatmap.mean()))
            truths.append(mask[~ignored])
            one_hot = np.concatenate([~truths[-1], truths[-1]])
            scores = np.concatenate([1 - maps[-1][0], maps[-1][0]])
            precisions.append(average_precision_score(one_hot, scores))
    found = figures(find_protocol("segmentation")(), batch)
    truth = np.concatenate(truths)
    for name in ("0.5", "mean"):
        predicted = np.concatenate(
            [values > (0.5 if name == "0.5" else mean) for values, mean in maps]
        )
        expected = jaccard_score(truth, predicted, average="macro")
        assert found[f"mIoU, threshold {name}"] == pytest.approx(expected, abs=2e-4)
        accuracy = float((truth == predicted).mean())
        assert found[f"pixel accuracy, threshold {name}"] == pytest.approx(accuracy, abs=2e-4)
    assert found["mAP"] == pytest.approx(np.mean(precisions), abs=1e-4)


# The maps of CLIP Surgery depend on the other targets that are asked for.
@pytest.mark.parametrize("method", ["legrad", "clip-surgery"])
def test_perturbation_equals_a_loop_over_black_pixels(
    explainer: Explainer, tmp_path: Path, method: str
) -> None:
    classes = ["cat", "dog", "tree"]
    for number, name in enumerate(classes * 2):
        save_picture(tmp_path / name / f"{number}.png", number)
    batch = batch_of(explainer, f"imagenet:{tmp_path}", tmp_path)
    vectors = explainer.text.encode(classes, [TEMPLATE])
    mean, std = (
        torch.tensor(value).view(3, 1, 1)
        for value in (explainer.preprocessing.mean, explainer.preprocessing.std)
    )

    def guess(image: torch.Tensor) -> int:
        features = explainer.model.encode_image(((image - mean) / std)[None])  # type: ignore[operator]
        return int((features @ vectors.T).argmax())

    curves: dict[str, list[list[bool]]] = {}
    with torch.no_grad():
        for case in batch.cases:
            pixels = torch.from_numpy(case.prepared.pixels.copy()).permute(2, 0, 1) / 255
            truth = case.sample.annotations[0].index
            for name, class_ in (("predicted", guess(pixels)), ("target", truth)):
                heatmap = enlarged(explainer, case.sample.picture, classes[class_], method).ravel()
                for test, order in (("positive", -heatmap), ("negative", heatmap)):
                    curve = []
                    for tenth in range(10):
                        # Equal pixels in reading order, which the default sort does not keep.
                        ranked = np.argsort(order, kind="stable")
                        black = ranked[: tenth * heatmap.size // 10]
                        changed = pixels.clone()
                        changed.view(3, -1)[:, black] = 0
                        curve.append(guess(changed) == truth)
                    curves.setdefault(f"{test} AUC, {name} class", []).append(curve)
    found = figures(find_protocol("perturbation")(), batch, method)
    for name, rows in curves.items():
        mean_curve = np.mean(rows, 0)
        assert found[name] == pytest.approx(np.trapezoid(mean_curve, dx=0.1), abs=1e-6)
        assert found["accuracy"] == mean_curve[0]


def test_wrong_prompts_are_absent_repeatable_and_measured_raw(
    explainer: Explainer, tmp_path: Path
) -> None:
    batch = batch_of(explainer, "voc", tmp_path)
    data = batch.subject.data_set
    right: list[tuple[float, float, float]] = []
    wrong: list[tuple[float, float, float]] = []
    for case in batch.cases:
        absent = absent_classes(data, case)
        assert absent == absent_classes(data, case)
        shown = [each.name for each in case.sample.annotations]
        names = [data.classes[index] for index in absent]
        assert not set(shown) & set(names)
        assert len(set(names)) == len(names)
        for wanted, values in ((shown, right), (names, wrong)):
            (found,) = explainer.explain(case.sample.picture, wanted, templates=[TEMPLATE])
            values += [(each.mean(), each.max(), (each**2).mean()) for each in found.maps]
    found_figures = figures(find_protocol("wrong-prompt")(), batch)
    truth = [1] * len(right) + [0] * len(wrong)
    for place, name in enumerate(("mean", "maximum", "energy")):
        expected = roc_auc_score(truth, [values[place] for values in right + wrong])
        assert found_figures[f"AUROC of the raw {name}"] == pytest.approx(expected)


def test_a_class_without_an_annotation_of_its_own_is_not_drawn_as_absent(
    explainer: Explainer, tmp_path: Path
) -> None:
    batch = batch_of(explainer, "voc", tmp_path)
    case, classes = batch.cases[0], batch.subject.data_set.classes
    absent = absent_classes(batch.subject.data_set, case)
    others = tuple(name for index, name in enumerate(classes) if index != absent[0])
    sample = replace(case.sample, annotations=case.sample.annotations[:1], also_shown=others)
    assert absent_classes(batch.subject.data_set, replace(case, sample=sample)) == absent[:1]


def test_pixels_that_a_data_set_ignores_do_not_count_in_localisation(
    explainer: Explainer, tmp_path: Path
) -> None:
    batch = batch_of(explainer, "folder", tmp_path)
    case = batch.cases[0]
    (annotation, *_) = case.sample.annotations
    assert annotation.mask is not None

    def measured(ignored: np.ndarray | None) -> dict[str, float | None]:
        sample = replace(case.sample, annotations=(replace(annotation, ignored=ignored),))
        alone = Batch(batch.subject, [replace(case, sample=sample)])
        return figures(find_protocol("localisation")(), alone)

    # With nothing else to look at, every map is right.
    assert measured(~annotation.mask)["pointing"] == 1
    assert measured(~annotation.mask)["mass accuracy"] == pytest.approx(1)
    assert measured(~annotation.mask)["rank accuracy"] == 1
    assert measured(None)["mass accuracy"] != pytest.approx(1)


def test_points_are_counted_by_class_in_both_readings(explainer: Explainer, tmp_path: Path) -> None:
    batch = batch_of(explainer, "openimages-points", tmp_path)
    counts = {name: np.zeros(4) for name in batch.subject.data_set.classes}
    for case in batch.cases:
        for each in case.sample.annotations:
            assert each.points is not None
            heatmap = enlarged(explainer, case.sample.picture, each.name)
            for answer, points in ((1, each.points.positive), (0, each.points.negative)):
                for x, y in points:
                    value = heatmap[min(int(y * 64), 63), min(int(x * 64), 63)] > 0.5
                    counts[each.name][2 * answer + int(value)] += 1
    foreground, both = [], []
    for true_negative, false_positive, false_negative, true_positive in counts.values():
        wrong = false_positive + false_negative
        foreground.append(true_positive / (true_positive + wrong))
        parts = [foreground[-1]]
        if true_negative + wrong:
            parts.append(true_negative / (true_negative + wrong))
        both.append(np.mean(parts))
    found = figures(find_protocol("open-vocabulary")(), batch)
    assert found["p-mIoU, foreground"] == pytest.approx(np.mean(foreground))
    assert found["p-mIoU, both"] == pytest.approx(np.mean(both))


def test_a_random_order_gains_nothing_over_itself(explainer: Explainer, tmp_path: Path) -> None:
    """On a constant picture no order of pixels changes anything."""
    batch = batch_of(explainer, "folder", tmp_path)
    grey = Image.new("RGB", batch.cases[0].sample.picture.size, (122, 116, 104))
    sample = batch.cases[0].sample
    case = batch.subject.case("grey", type(sample)(grey, sample.annotations))
    found = figures(find_protocol("faithfulness")(), Batch(batch.subject, [case]), "random")
    for score in ("probability", "cosine"):
        assert found[f"insertion, {score}, less random"] == pytest.approx(0, abs=1e-2)
        assert found[f"ROAD, {score}"] == pytest.approx(0, abs=2e-2)


def test_insertion_and_deletion_are_those_of_the_faithfulness_protocol(
    explainer: Explainer, tmp_path: Path
) -> None:
    batch = batch_of(explainer, "folder", tmp_path)
    alone = Batch(batch.subject, batch.cases[:1])
    expected = figures(find_protocol("faithfulness")(), alone)
    found = figures(find_protocol("insertion-deletion")(), alone)
    for score in ("probability", "cosine"):
        for name in ("insertion", "deletion"):
            for figure in (f"{name}, {score}", f"{name}, {score}, less random"):
                assert found[figure] == pytest.approx(expected[figure], abs=1e-6)


def test_protocols_of_one_batch_share_the_trace_of_a_method(
    explainer: Explainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = batch_of(explainer, "voc", tmp_path)
    traced: list[str] = []
    trace = explainer.trace

    def counted(*arguments: Any, **options: Any) -> Any:
        traced.append(options["method"])
        return trace(*arguments, **options)

    monkeypatch.setattr(explainer, "trace", counted)
    sizes = len({case.prepared.geometry.input_size for case in batch.cases})
    for method in ("legrad", "maskclip"):
        for protocol in ("segmentation", "localisation", "wrong-prompt"):
            find_protocol(protocol)().measure(batch, method)
    assert traced == ["legrad"] * sizes + ["maskclip"] * sizes


def test_changed_pictures_are_scored_by_the_scorer(
    explainer: Explainer, tiny_model: str, tmp_path: Path
) -> None:
    data = open_data_set(WRITERS["folder"](tmp_path), Options())
    half = Explainer.load(tiny_model, dtype="bfloat16")
    options = MapOptions(templates=(TEMPLATE,))
    subject = Subject(explainer, data, options, half)
    images = [subject.case(each.key, each.load()).prepared for each in data.entries()]
    exact = Subject(explainer, data, options).features(images)
    found = subject.features(images)
    assert torch.equal(found, half.trace(images, layers=1).features.float())
    assert not torch.equal(found, exact)
    np.testing.assert_allclose(found, exact, atol=0.05 * float(exact.abs().max()))
