"""Small data sets in the published form of each kind, for `legrad evaluate`."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.support.pictures import picture

SIZE = (48, 32)
# Left, top, right, bottom of the object in picture number 0, 1, 2, ...
BOXES = ((4, 4, 20, 28), (24, 8, 44, 24), (10, 2, 30, 16))


def mask_of(number: int) -> NDArray[np.bool_]:
    """The object of a picture, [height, width]."""
    mask = np.zeros(SIZE[::-1], np.bool_)
    left, top, right, bottom = BOXES[number]
    mask[top:bottom, left:right] = True
    return mask


def save_picture(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(*SIZE, seed=number).save(path, "JPEG" if "J" in path.suffix.upper() else None)


def save_array(path: Path, array: NDArray[np.uint8], palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if palette:
        image.putpalette(list(range(256)) * 3)
    image.save(path)


def write_table(path: Path, rows: Sequence[Sequence[object]], delimiter: str = ",") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)


SYNSETS = ("n01440764", "n02123045", "n04254680")


def imagenet_s(root: Path) -> str:
    """Three classes; class ids are positions in sorted order, 1000 is ignored."""
    for number, synset in enumerate(SYNSETS):
        name = f"ILSVRC2012_val_0000029{number}"
        save_picture(root / "validation" / synset / f"{name}.JPEG", number)
        labels = mask_of(number).astype(np.int32) * (number + 1)
        labels[:2] = 1000
        stored = np.zeros((*labels.shape, 3), np.uint8)
        stored[..., 0], stored[..., 1] = labels % 256, labels // 256
        save_array(root / "validation-segmentation" / synset / f"{name}.png", stored)
    return f"imagenet-s:{root}"


def gtsegs(root: Path) -> str:
    """The layout of MATLAB 7.3: references to arrays stored columns first, ids in UTF-16."""
    import h5py

    root.mkdir(parents=True, exist_ok=True)
    path = root / "gtsegs_ijcv.mat"
    with h5py.File(path, "w") as file:
        references = file.create_group("#refs#")
        value = file.create_group("value")
        kind = h5py.special_dtype(ref=h5py.Reference)
        for name in ("img", "gt", "id"):
            value.create_dataset(name, (len(SYNSETS), 1), kind)
        for number, synset in enumerate(SYNSETS):
            pixels = np.asarray(picture(*SIZE, seed=number)).transpose()
            stored = references.create_dataset(f"img{number}", data=pixels)
            value["img"][number, 0] = stored.ref
            mask = mask_of(number).astype(np.uint8).transpose()
            truth = references.create_dataset(f"mask{number}", data=mask)
            cell = references.create_dataset(f"gt{number}", (1, 1), kind)
            cell[0, 0] = truth.ref
            value["gt"][number, 0] = cell.ref
            code = np.frombuffer(f"{synset}_{number}".encode("utf-16-le"), np.uint16)
            text = references.create_dataset(f"id{number}", data=code[:, None])
            value["id"][number, 0] = text.ref
    return f"gtsegs:{path}"


def imagenet(root: Path) -> str:
    for number, synset in enumerate(SYNSETS):
        save_picture(root / "val" / synset / f"ILSVRC2012_val_0000029{number}.JPEG", number)
    return f"imagenet:{root / 'val'}"


def openimages(root: Path) -> str:
    """Two classes in two pictures; one answer is unsure, one class has no positive point."""
    write_table(
        root / "oidv7-class-descriptions.csv",
        [("LabelName", "DisplayName"), ("/m/01", "Cat"), ("/m/02", "Tree"), ("/m/03", "Sky")],
    )
    votes = ["Source", "YesVotes", "NoVotes", "UnsureVotes", "TextLabel"]
    header = ["ImageId", "X", "Y", "Label", "EstimatedYesNo", *votes]
    rest = ("ih", 3, 0, 0, "")
    rows = [
        ("000a", 0.25, 0.5, "/m/01", "yes", *rest),
        ("000b", 1.0, 0.0, "/m/02", "yes", *rest),
        ("000a", 0.9, 0.9, "/m/01", "no", *rest),
        ("000a", 0.5, 0.5, "/m/02", "no", *rest),
        ("000b", 0.5, 0.5, "/m/01", "yes", *rest),
        ("000b", 0.4, 0.5, "/m/01", "unsure", *rest),
    ]
    write_table(root / "oidv7-val-annotations-point-labels.csv", [header, *rows])
    for number, name in enumerate(("000a", "000b")):
        save_picture(root / "validation" / f"{name}.jpg", number)
    return f"openimages-points:{root}"


def voc(root: Path) -> str:
    """A cat and a dog, each with a border of 255; the second picture has both."""
    names = ("2007_000033", "2007_000042")
    for number, name in enumerate(names):
        save_picture(root / "JPEGImages" / f"{name}.jpg", number)
        labels = mask_of(number).astype(np.uint8) * 8
        labels[mask_of(number) & ~np.roll(mask_of(number), 1, 1)] = 255
        if number:
            labels[28:, :10] = 12
        save_array(root / "SegmentationClass" / f"{name}.png", labels, palette=True)
    listed = root / "ImageSets" / "Segmentation" / "val.txt"
    listed.parent.mkdir(parents=True)
    listed.write_text("\n".join(names) + "\n")
    return f"voc:{root}"


def ade20k(root: Path) -> str:
    names = ("wall", "building, edifice", "sky")
    rows = [(place, 0.1, 10, 10, 1, name) for place, name in enumerate(names, 1)]
    write_table(
        root / "objectInfo150.txt", [("Idx", "Ratio", "Train", "Val", "Stuff", "Name"), *rows], "\t"
    )
    for number in range(2):
        name = f"ADE_val_0000000{number + 1}"
        save_picture(root / "images" / "validation" / f"{name}.jpg", number)
        labels = mask_of(number).astype(np.uint8) * 2
        labels[:3] = 3
        save_array(root / "annotations" / "validation" / f"{name}.png", labels)
    return f"ade20k:{root}"


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """COCO's run lengths of a mask: columns first, background first."""
    flat = mask.transpose().ravel()
    changes = np.flatnonzero(np.diff(flat.astype(np.int8))) + 1
    edges = np.concatenate([[0], changes, [flat.size]])
    lengths: list[int] = np.diff(edges).tolist()
    return [0, *lengths] if flat[0] else lengths


def coco(root: Path) -> str:
    """A mask as polygon, one as run lengths, a crowd, and a picture without an object."""

    def about(number: int) -> dict[str, Any]:
        left, top, right, bottom = BOXES[number]
        return {
            "id": number,
            "image_id": 10 + number,
            "bbox": [left, top, right - left, bottom - top],
        }

    left, top, right, bottom = BOXES[0]
    outline = [left, top, right, top, right, bottom, left, bottom]
    crowd = np.zeros(SIZE[::-1], np.bool_)
    crowd[:2] = True
    size = [SIZE[1], SIZE[0]]
    content = {
        "images": [
            {
                "id": 10 + number,
                "file_name": f"00000000{number}.jpg",
                "width": SIZE[0],
                "height": SIZE[1],
            }
            for number in range(3)
        ],
        "categories": [{"id": 17, "name": "cat"}, {"id": 90, "name": "toothbrush"}],
        "annotations": [
            {**about(0), "category_id": 17, "iscrowd": 0, "segmentation": [outline]},
            {
                **about(1),
                "category_id": 90,
                "iscrowd": 0,
                "segmentation": {"size": size, "counts": run_lengths(mask_of(1))},
            },
            {
                **about(1),
                "category_id": 90,
                "iscrowd": 1,
                "segmentation": {"size": size, "counts": run_lengths(crowd)},
            },
        ],
    }
    for number in range(3):
        save_picture(root / "val2017" / f"00000000{number}.jpg", number)
    path = root / "annotations" / "instances_val2017.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))
    return f"coco:{path}"


def folder(root: Path) -> str:
    rows: list[tuple[str, str, str]] = [("picture", "prompt", "mask")]
    for number, prompt in enumerate(("a cat", "a dog", "a bird")):
        save_picture(root / "pictures" / f"{number}.jpg", number)
        save_array(root / "masks" / f"{number}.png", mask_of(number).astype(np.uint8) * 255)
        rows.append((f"pictures/{number}.jpg", prompt, f"masks/{number}.png"))
    write_table(root / "prompts.csv", rows)
    return f"folder:{root}"


WRITERS: dict[str, Callable[[Path], str]] = {
    "imagenet-s": imagenet_s,
    "gtsegs": gtsegs,
    "imagenet": imagenet,
    "openimages-points": openimages,
    "voc": voc,
    "ade20k": ade20k,
    "coco": coco,
    "folder": folder,
}
