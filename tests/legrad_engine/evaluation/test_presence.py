"""Folders of pictures with and without things, for a presence calibration."""

from pathlib import Path

import pytest

from legrad_engine.evaluation.errors import DataSetError
from legrad_engine.evaluation.presence import PresencePair, read_pairs


def table(folder: Path, text: str) -> Path:
    (folder / "prompts.csv").write_text(text)
    return folder


def told(pairs: list[PresencePair]) -> set[tuple[str, str, bool]]:
    return {(pair.picture.name, pair.prompt, pair.shown) for pair in pairs}


def test_a_table_says_of_each_pair_whether_it_is_present(tmp_path: Path) -> None:
    rows = (
        "present,prompt,picture\nyes,a cat,1.png\nNO,a dog,1.png\n0,a cat,2.png\nTrue,a dog,2.png\n"
    )
    pairs = read_pairs(table(tmp_path, rows))

    assert told(pairs) == {
        ("1.png", "a cat", True),
        ("1.png", "a dog", False),
        ("2.png", "a cat", False),
        ("2.png", "a dog", True),
    }
    assert pairs[0].picture == tmp_path / "1.png"


def test_in_a_table_of_legrad_evaluate_other_prompts_are_absent(tmp_path: Path) -> None:
    rows = "picture,prompt,mask\n1.png,a cat,m1.png\n2.png,a dog,m2.png\n2.png,a cat,m3.png\n"

    assert told(read_pairs(table(tmp_path, rows))) == {
        ("1.png", "a cat", True),
        ("1.png", "a dog", False),
        ("2.png", "a dog", True),
        ("2.png", "a cat", True),
    }


def test_folders_name_prompts(tmp_path: Path) -> None:
    for place in ("a cat/with/1.jpg", "a cat/without/2.jpg", "dog/with/3.png", "dog/without/4.png"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_bytes(b"")
    (tmp_path / "dog" / "with" / "notes.txt").write_bytes(b"")

    assert told(read_pairs(tmp_path)) == {
        ("1.jpg", "a cat", True),
        ("2.jpg", "a cat", False),
        ("3.png", "dog", True),
        ("4.png", "dog", False),
    }


def test_a_repeated_row_counts_once_and_a_contradiction_is_refused(tmp_path: Path) -> None:
    header = "picture,prompt,present\n"
    again = table(tmp_path, header + "1.png,a cat,yes\n1.png,a cat,1\n")
    assert len(read_pairs(again)) == 1

    with pytest.raises(DataSetError, match="both"):
        read_pairs(table(tmp_path, header + "1.png,a cat,yes\n1.png,a cat,no\n"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("picture,prompt,present\n1.png,a cat,maybe\n", "Line 2.*maybe.*yes or no"),
        ("picture,prompt,present\n1.png,,yes\n", "Line 2.*empty"),
        ("picture,prompt,present\n1.png,a cat\n", "Line 2.*too few"),
        ("picture,present\n1.png,yes\n", "no column prompt"),
        ("picture,prompt,present\n", "no pictures"),
        ("", "no column"),
    ],
    ids=repr,
)
def test_a_faulty_table_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(DataSetError, match=reason):
        read_pairs(table(tmp_path, text))


def test_a_folder_of_another_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataSetError, match="no folder"):
        read_pairs(tmp_path / "nothing")
    with pytest.raises(DataSetError, match=r"neither a table prompts\.csv"):
        read_pairs(tmp_path)
    (tmp_path / "a cat" / "with").mkdir(parents=True)
    with pytest.raises(DataSetError, match="without"):
        read_pairs(tmp_path)
    (tmp_path / "a cat" / "without").mkdir()
    with pytest.raises(DataSetError, match="no pictures"):
        read_pairs(tmp_path)
