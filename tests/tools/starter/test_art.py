"""The rendered art: a folder with the art of other styles is refused."""

import json
from pathlib import Path

import pytest

from tests.support.art import NAMES, write_art
from tools.starter.art import sprites_of
from tools.starter.errors import StarterError
from tools.starter.styles import ALL_STYLES


def test_art_of_this_program_is_opened_without_fetching(tmp_path: Path) -> None:
    write_art(tmp_path)
    said: list[str] = []

    sprites = sprites_of(tmp_path, said.append)

    assert sprites.styles == ALL_STYLES
    assert [concept.name for concept in sprites.concepts] == list(NAMES)
    assert said == []


@pytest.mark.parametrize(
    "styles",
    [ALL_STYLES[:-1], ("of-before", *ALL_STYLES[1:]), ALL_STYLES[::-1]],
    ids=["fewer", "another", "reordered"],
)
def test_art_of_other_styles_is_refused_with_the_remedy(
    styles: tuple[str, ...], tmp_path: Path
) -> None:
    write_art(tmp_path)
    table = json.loads((tmp_path / "sprites.json").read_text())
    (tmp_path / "sprites.json").write_text(json.dumps(table | {"styles": styles}))

    with pytest.raises(StarterError, match=r"run `python -m tools\.starter art` again"):
        sprites_of(tmp_path, print)
