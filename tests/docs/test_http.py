"""The HTTP guide: its defaults, options and errors are those of the contract."""

import json
import re

from pydantic import BaseModel

from service.errors import ServiceError
from service.http import problems
from service.schemas.requests import ExplainOptions, OutputOptions
from tests.support.documents import blocks
from tests.support.paths import DOCS

PAGE = DOCS / "http.md"
TEXT = PAGE.read_text()
SECTIONS: dict[str, type[BaseModel]] = {"options": ExplainOptions, "output": OutputOptions}


def section(title: str) -> str:
    """Return the text below a heading of the second level."""
    return TEXT.partition(f"\n## {title}")[2].partition("\n## ")[0]


def test_the_defaults_are_those_of_the_contract() -> None:
    (block,) = (each for each in blocks(PAGE) if each.text in section("Defaults"))
    assert json.loads(block.text) == {
        name: model().model_dump(mode="json") for name, model in SECTIONS.items()
    }


def test_every_option_is_described_and_no_other() -> None:
    described = {
        "options": section("Computation: `options`"),
        "output": section("Response format: `output`"),
    }
    for name, text in described.items():
        found = set(re.findall(r"\*\*`(\w+)`\*\*", text))
        assert found == set(SECTIONS[name].model_fields), name


def test_every_error_is_in_a_table() -> None:
    named = {kind.code for kind in problems._KINDS.values() if kind.code is not None}
    with_code = [error for error in problems._KINDS if hasattr(error, "code")]
    codes = named | {str(getattr(error, "code")) for error in with_code}  # noqa: B009
    codes |= {*problems._HTTP_CODES.values(), "invalid-request"}
    codes |= {each.code for each in vars(problems).values() if isinstance(each, problems.Problem)}
    assert len(codes) > 35
    assert {error for error in ServiceError.__subclasses__() if error in problems._KINDS}
    tables = section("Errors") + (DOCS / "urls.md").read_text()
    documented = set(re.findall(r"`([a-z]+(?:-[a-z]+)*)`", tables))
    assert sorted(codes - documented) == []


def test_every_error_of_the_table_exists() -> None:
    row = re.compile(r"^\| [\d, ]+ \| (.*?) \|", re.MULTILINE)
    documented = {code for cell in row.findall(section("Errors")) for code in cell.split(", ")}
    known = {getattr(error, "code", None) or kind.code for error, kind in problems._KINDS.items()}
    known |= {*problems._HTTP_CODES.values(), "invalid-request"}
    known |= {each.code for each in vars(problems).values() if isinstance(each, problems.Problem)}
    assert sorted(documented - {f"`{code}`" for code in known}) == []
