"""Whether what a caller sent fits the contract, and where it does not."""

from difflib import get_close_matches
from typing import TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from service.errors import LimitExceededError
from service.http.problems import MOST_ERRORS, invalid
from service.schemas.requests import FIELD_NAMES, HOMES
from service.schemas.targets import LIST_UNIONS, SINGLE_UNIONS

_MOST_VALUES = 100_000
_BEFORE_VALUES = (b",", b"[", b"{")
_LONGEST_NAME = max(map(len, FIELD_NAMES)) + 4

_Model = TypeVar("_Model", bound=BaseModel)


def check_value_count(count: int) -> None:
    """Refuses a body of more values than any good one has.

    Raises:
        LimitExceededError: there are too many.
    """
    if count > _MOST_VALUES:
        raise LimitExceededError(f"The body has more than {_MOST_VALUES} values.", field="body")


def validated(
    raw: bytes,
    model: type[_Model],
    names: frozenset[str] = FIELD_NAMES,
    within: tuple[str, ...] = (),
) -> _Model:
    """A JSON body, or a part of one, that fits the contract.

    Args:
        raw: the JSON.
        model: what it must be.
        names: every field name that the JSON may hold, for errors.
        within: where the part is in the body, for errors.

    Raises:
        RequestValidationError: it is not JSON, or does not fit.
        LimitExceededError: it has too many values.
    """
    # Pictures and prompts are long strings. A body of many short values is none, and each of its
    # mistakes would cost a hundred times its size to report.
    check_value_count(sum(map(raw.count, _BEFORE_VALUES)))
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        raise RequestValidationError(
            [
                {
                    **each,
                    "loc": (*within, *_as_sent(each["loc"], each["type"], names)),
                    "msg": _said(each["loc"], each["type"], each["msg"], names, within),
                }
                for each in error.errors(include_input=False)[:MOST_ERRORS]
            ]
        ) from error


def _said(
    location: tuple[int | str, ...],
    kind: str,
    message: str,
    names: frozenset[str],
    within: tuple[str, ...],
) -> str:
    """What to do about a mistake, where the library's words leave it open."""
    if kind == "list_type":
        return "Write a list, in square brackets."
    if kind != "extra_forbidden":
        return message
    name = str(location[-1])
    home = HOMES.get(name)
    if len(location) == 1 and not within and home is not None:
        return f"There is no such field here: it belongs in {home!r}."
    # Nothing that is much longer resembles a name, and comparing it would take long.
    similar = get_close_matches(name, sorted(names), 1) if len(name) <= _LONGEST_NAME else []
    return f"There is no such field{f': is it {similar[0]!r}?' if similar else '.'}"


def _as_sent(
    location: tuple[int | str, ...], kind: str, names: frozenset[str]
) -> tuple[int | str, ...]:
    """The place of a mistake in the body, without the branches of unions that were tried."""
    last = len(location) - 1
    return tuple(
        part
        for position, part in enumerate(location)
        if isinstance(part, int)
        or (kind == "extra_forbidden" and position == last)
        or (part in names and not _is_branch(location, position))
    )


def _is_branch(location: tuple[int | str, ...], position: int) -> bool:
    """Whether a name is the kind of a target, which some fields are called as well."""
    if position == 0:
        return False
    if isinstance(location[position - 1], int):
        return location[position - 2] in LIST_UNIONS
    return location[position - 1] in SINGLE_UNIONS
