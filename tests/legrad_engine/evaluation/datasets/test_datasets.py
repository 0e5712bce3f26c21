"""Every data set is read from its published form; damaged files are told by their names."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from legrad_engine.errors import InvalidOptionError, LegradError
from legrad_engine.evaluation.errors import DataSetError, SampleError
from legrad_engine.evaluation.registry import data_sets, open_data_set
from legrad_engine.evaluation.samples import DataSet, Options, Sample
from tests.support import evaluation_data as written
from tests.support.evaluation_data import BOXES, SIZE, WRITERS, mask_of, save_array, write_table
from tests.support.pictures import picture


def equal(found: NDArray[np.generic] | None, expected: NDArray[np.generic]) -> bool:
    return found is not None and np.array_equal(found, expected)


def opened(kind: str, root: Path, options: Options | None = None) -> DataSet:
    return open_data_set(WRITERS[kind](root), options or Options())


def samples(data: DataSet) -> dict[str, Sample]:
    return {entry.key: entry.load() for entry in data.entries()}


def names(found: Sequence[Sample]) -> list[list[str]]:
    return [[annotation.name for annotation in sample.annotations] for sample in found]


def test_every_kind_has_a_writer_here() -> None:
    # Tools of the project register further ones.
    published = {
        kind for kind, each in data_sets().items() if each.__module__.startswith("legrad_engine.")
    }
    assert published == set(WRITERS)


@pytest.mark.parametrize("kind", WRITERS)
def test_samples_are_listed_once_and_read_with_pictures_and_classes(
    kind: str, tmp_path: Path
) -> None:
    data = opened(kind, tmp_path / kind)
    found = samples(data)
    assert len(found) == len(data) >= 2
    for sample in found.values():
        assert sample.picture.size == SIZE
        for annotation in sample.annotations:
            assert data.classes[annotation.index] == annotation.name
            if "masks" in data.provides:
                assert annotation.mask is not None
                assert annotation.mask.shape == SIZE[::-1]
    for entry in data.entries():
        assert all(path.is_file() for path in entry.files)


def test_imagenet_s_counts_classes_in_sorted_order_and_ignores_1000(tmp_path: Path) -> None:
    data = opened("imagenet-s", tmp_path)
    found = list(samples(data).values())
    assert names(found) == [["tench"], ["tabby cat"], ["soccer ball"]]
    assert data.imagenet == {0: 0, 1: 281, 2: 805}
    for number, sample in enumerate(found):
        (annotation,) = sample.annotations
        expected = mask_of(number).copy()
        expected[:2] = False
        assert equal(annotation.mask, expected)
        assert annotation.ignored is not None
        assert annotation.ignored[:2].all()
        assert not annotation.ignored[2:].any()


def test_imagenet_s_refuses_a_part_of_its_class_folders(tmp_path: Path) -> None:
    reference = WRITERS["imagenet-s"](tmp_path / "ImageNetS50")
    with pytest.raises(DataSetError, match="3 folders of synsets in place of 50"):
        open_data_set(reference, Options())


def test_imagenet_s_refuses_masks_without_a_folder_of_pictures(tmp_path: Path) -> None:
    reference = WRITERS["imagenet-s"](tmp_path)
    shutil.rmtree(tmp_path / "validation" / "n02123045")
    with pytest.raises(DataSetError, match=r"no folder .*n02123045.* 3 synsets .* 1 are missing"):
        open_data_set(reference, Options())


def test_gtsegs_has_upright_pictures_masks_and_names_by_synset(tmp_path: Path) -> None:
    data = opened("gtsegs", tmp_path)
    found = list(samples(data).values())
    assert [each.annotations[0].index for each in found] == [0, 281, 805]
    for number, sample in enumerate(found):
        assert equal(sample.annotations[0].mask, mask_of(number))
        assert equal(np.asarray(sample.picture), np.asarray(picture(*SIZE, seed=number)))


def test_imagenet_folders_of_synsets_are_told_apart_among_all_1000_classes(
    tmp_path: Path,
) -> None:
    data = opened("imagenet", tmp_path)
    assert len(data.classes) == 1000
    assert [each.annotations[0].index for each in samples(data).values()] == [0, 281, 805]


def test_folders_of_other_names_are_the_classes(tmp_path: Path) -> None:
    for number, name in enumerate(("big_cat", "dog")):
        written.save_picture(tmp_path / name / "0.png", number)
    data = open_data_set(f"imagenet:{tmp_path}", Options())
    assert list(data.classes) == ["big cat", "dog"]
    assert not data.imagenet


def test_openimages_joins_points_by_picture_and_leaves_unsure_ones_out(tmp_path: Path) -> None:
    data = opened("openimages-points", tmp_path)
    found = samples(data)
    (cat,) = found["000a"].annotations
    assert cat.points is not None
    assert (cat.name, cat.points.positive.tolist()) == ("Cat", [[0.25, 0.5]])
    assert cat.points.negative == pytest.approx(np.array([[0.9, 0.9]]))
    assert names([found["000b"]]) == [["Tree", "Cat"]]
    # Only classes with a point are told apart.
    assert list(data.classes) == ["Cat", "Tree"]


def test_voc_reads_indices_behind_the_palette_and_ignores_borders(tmp_path: Path) -> None:
    first, second = samples(opened("voc", tmp_path)).values()
    assert names([first, second]) == [["cat"], ["cat", "dog"]]
    (cat,) = first.annotations
    border = mask_of(0) & ~np.roll(mask_of(0), 1, 1)
    assert equal(cat.mask, mask_of(0) & ~border)
    assert equal(cat.ignored, border)


def test_ade20k_counts_everything_outside_its_classes_as_background(tmp_path: Path) -> None:
    (first, _) = samples(opened("ade20k", tmp_path)).values()
    assert names([first]) == [["building", "sky"]]
    assert all(annotation.ignored is None for annotation in first.annotations)


def test_coco_reads_polygons_run_lengths_crowds_and_pictures_without_objects(
    tmp_path: Path,
) -> None:
    polygon, runs, empty = samples(opened("coco", tmp_path)).values()
    assert names([polygon, runs, empty]) == [["cat"], ["toothbrush"], []]
    assert equal(polygon.annotations[0].mask, mask_of(0))
    assert equal(runs.annotations[0].mask, mask_of(1))
    assert polygon.annotations[0].boxes == (tuple(map(float, BOXES[0])),)
    ignored = runs.annotations[0].ignored
    assert ignored is not None
    assert ignored[:2].all()
    assert not ignored[2:].any()


def test_coco_tells_the_classes_that_only_a_crowd_shows(tmp_path: Path) -> None:
    reference = WRITERS["coco"](tmp_path)
    path = Path(reference.removeprefix("coco:"))
    content = json.loads(path.read_text())
    content["annotations"][0]["iscrowd"] = 1
    path.write_text(json.dumps(content))
    crowd, runs, _ = samples(open_data_set(reference, Options())).values()
    assert (crowd.annotations, crowd.also_shown) == ((), ("cat",))
    assert (names([runs]), runs.also_shown) == ([["toothbrush"]], ())


def test_coco_without_masks_has_boxes(tmp_path: Path) -> None:
    reference = WRITERS["coco"](tmp_path)
    path = Path(reference.partition(":")[2])
    content = json.loads(path.read_text())
    for each in content["annotations"]:
        each["segmentation"] = []
    path.write_text(json.dumps(content))
    data = open_data_set(reference, Options())
    assert data.provides == {"boxes"}
    assert next(iter(samples(data).values())).annotations[0].mask is None


def test_a_folder_may_have_several_prompts_for_a_picture(tmp_path: Path) -> None:
    reference = WRITERS["folder"](tmp_path)
    rows = [
        ("picture", "prompt", "mask"),
        ("pictures/0.jpg", "a cat", "masks/0.png"),
        ("pictures/0.jpg", "a dog", "masks/1.png"),
    ]
    write_table(tmp_path / "prompts.csv", rows)
    (sample,) = samples(open_data_set(reference, Options())).values()
    assert names([sample]) == [["a cat", "a dog"]]


@pytest.mark.parametrize("text", ["voc", "nothing:here", "voc:"])
def test_a_wrong_kind_lists_the_known_ones(text: str) -> None:
    with pytest.raises(InvalidOptionError, match="ade20k, coco, folder"):
        open_data_set(text, Options())


@pytest.mark.parametrize("kind", WRITERS)
def test_a_missing_data_set_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    with pytest.raises(DataSetError, match="nowhere"):
        open_data_set(f"{kind}:{tmp_path / 'nowhere'}", Options())


def first_file(data: DataSet, place: int) -> Path:
    return next(data.entries()).files[place]


MASKED = ("imagenet-s", "voc", "ade20k", "folder")


@pytest.mark.parametrize("kind", [kind for kind in WRITERS if kind != "gtsegs"])
@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_a_picture_that_cannot_be_read_is_named(kind: str, damage: str, tmp_path: Path) -> None:
    data = opened(kind, tmp_path)
    path = first_file(data, 0)
    path.unlink()
    if damage == "damaged":
        path.write_bytes(b"no picture")
    with pytest.raises(SampleError, match=path.name):
        next(data.entries()).load()
    # The others can still be read.
    assert list(data.entries())[1].load().picture.size == SIZE


@pytest.mark.parametrize("kind", MASKED)
@pytest.mark.parametrize("damage", ["missing", "damaged", "size", "deep"])
def test_a_mask_that_does_not_fit_is_named(kind: str, damage: str, tmp_path: Path) -> None:
    data = opened(kind, tmp_path)
    path = first_file(data, 1)
    path.unlink()
    if damage == "damaged":
        path.write_bytes(b"\x89PNG\r\n\x1a\nno mask")
    elif damage == "size":
        save_array(path, np.zeros((5, 7, 3), np.uint8))
    elif damage == "deep":
        Image.fromarray(np.ones(SIZE[::-1], np.uint16)).save(path)
    with pytest.raises(SampleError, match=path.name):
        next(data.entries()).load()


def test_an_empty_mask_and_a_label_of_no_class_are_refused(tmp_path: Path) -> None:
    empty = opened("folder", tmp_path / "folder")
    save_array(first_file(empty, 1), np.zeros(SIZE[::-1], np.uint8))
    with pytest.raises(SampleError, match="is empty"):
        next(empty.entries()).load()
    strange = opened("voc", tmp_path / "voc")
    save_array(first_file(strange, 1), np.full(SIZE[::-1], 77, np.uint8))
    with pytest.raises(SampleError, match="label 77"):
        next(strange.entries()).load()


def rewritten(reference: str, change: object) -> str:
    path = Path(reference.partition(":")[2])
    content = json.loads(path.read_text())
    content["annotations"][0] |= change
    path.write_text(json.dumps(content))
    return reference


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1, 2, 3]],
        [[1, 2, 3, 4, float("nan"), 5]],
        "text",
        {"size": [3, 3], "counts": [9]},
        {"size": [SIZE[1], SIZE[0]], "counts": [5]},
        {"size": [SIZE[1], SIZE[0]], "counts": "~~"},
        {"counts": [1]},
    ],
    ids=str,
)
def test_a_damaged_coco_mask_is_named_by_its_annotation(
    segmentation: object, tmp_path: Path
) -> None:
    reference = rewritten(WRITERS["coco"](tmp_path), {"segmentation": segmentation})
    with pytest.raises(SampleError, match="Annotation 0 of"):
        next(open_data_set(reference, Options()).entries()).load()


@pytest.mark.parametrize(
    "change", [{"category_id": 5}, {"image_id": 99}, {"category_id": None}], ids=str
)
def test_a_coco_annotation_of_an_unknown_picture_or_class_is_refused(
    change: dict[str, object], tmp_path: Path
) -> None:
    reference = rewritten(WRITERS["coco"](tmp_path), change)
    with pytest.raises(DataSetError, match=r"instances_val2017\.json"):
        open_data_set(reference, Options())


@pytest.mark.parametrize(
    ("kind", "file", "content"),
    [
        ("coco", "annotations/instances_val2017.json", b"{"),
        ("coco", "annotations/instances_val2017.json", b"[]"),
        ("voc", "ImageSets/Segmentation/val.txt", b"2007_000033\n2007_000033\n"),
        ("voc", "ImageSets/Segmentation/val.txt", b"\xff\xfe\x00"),
        ("folder", "prompts.csv", b"picture,prompt\na,b\n"),
        ("folder", "prompts.csv", b"picture,prompt,mask\na,b\n"),
        ("folder", "prompts.csv", b"picture,prompt,mask\na,,c\n"),
        ("folder", "prompts.csv", b"picture,prompt,mask\na,b,c\na,b,d\n"),
        ("openimages-points", "oidv7-class-descriptions.csv", b"LabelName,DisplayName\n"),
        ("ade20k", "objectInfo150.txt", b"Idx\tName\n2\twall\n"),
        ("gtsegs", "gtsegs_ijcv.mat", b"MATLAB 5.0"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_damaged_list_is_refused_by_name(
    kind: str, file: str, content: bytes, tmp_path: Path
) -> None:
    reference = WRITERS[kind](tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(LegradError, match=Path(file).name):
        open_data_set(reference, Options())
