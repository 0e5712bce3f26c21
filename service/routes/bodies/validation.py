"""Validation of JSON bodies against the contract, with errors for people."""

from difflib import get_close_matches
from typing import TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from service.errors import LimitExceededError, MalformedBodyError
from service.routes.bodies.remembering import remember_short
from service.schemas.answers import MOST_ERRORS
from service.schemas.json_text import repeated_member, without_mark
from service.schemas.requests import FIELD_NAMES, HOMES, ExplainRequest
from service.schemas.targets import LIST_UNIONS, SINGLE_UNIONS

_MOST_VALUES = 100_000
_BEFORE_VALUES = (b",", b"[", b"{")
_LONGEST_NAME = max(map(len, FIELD_NAMES)) + 4

_repeated_member = remember_short(repeated_member)

_Model = TypeVar("_Model", bound=BaseModel)


def check_value_count(count: int) -> None:
    """Refuse a body with more values than any valid one.

    Raises:
        LimitExceededError: there are too many values.
    """
    if count > _MOST_VALUES:
        raise LimitExceededError(f"The body has more than {_MOST_VALUES} values.", field="body")


def validated(raw: bytes, model: type[_Model], names: frozenset[str] = FIELD_NAMES) -> _Model:
    """Parse and validate a JSON body.

    Args:
        raw: the JSON.
        model: the model that it must fit.
        names: every field name that the JSON may contain, for errors.

    Raises:
        MalformedBodyError: a member appears twice.
        ServiceError, RequestValidationError: see :func:`fitted`.
    """
    raw = without_mark(raw)
    read = fitted(raw, model, names)
    check_unique(raw)
    return read


def fitted(
    raw: bytes,
    model: type[_Model],
    names: frozenset[str] = FIELD_NAMES,
    within: tuple[str, ...] = (),
) -> _Model:
    """Parse and validate JSON in which no member appears twice.

    Args:
        raw: the JSON, without a byte order mark.
        model: the model that it must fit.
        names: every field name that the JSON may contain, for errors.
        within: path of the JSON in the body, for errors.

    Raises:
        RequestValidationError: the JSON is malformed, or does not fit.
        LimitExceededError: the JSON has too many values.
    """
    # Valid bodies have few values, such as pictures and prompts. A body of many short values would
    # cost a hundred times its size, because pydantic reports an error for each.
    check_value_count(sum(map(raw.count, _BEFORE_VALUES)))
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        raise RequestValidationError(
            [
                {
                    **each,
                    "loc": (*within, *_field_path(each["loc"], each["type"], names)),
                    "msg": _message(each["loc"], each["type"], each["msg"], names, within),
                }
                for each in error.errors(include_input=False)[:MOST_ERRORS]
            ]
        ) from error


def check_unique(text: bytes | str, within: tuple[str, ...] = ()) -> None:
    """Refuse JSON in which a member appears twice.

    Args:
        text: valid JSON.
        within: path of the JSON in the body, for the error.

    Raises:
        MalformedBodyError: a member appears twice.
    """
    repeated = _repeated_member(text)
    if repeated is not None:
        raise MalformedBodyError(
            f"{repeated[-1]!r} appears more than once, and only one of them could be used: write "
            "it once.",
            field=".".join(map(str, (*within, *repeated))),
        )


def _message(
    location: tuple[int | str, ...],
    kind: str,
    message: str,
    names: frozenset[str],
    within: tuple[str, ...],
) -> str:
    """Return the message of an error, reworded if pydantic's own does not help the caller."""
    if kind == "list_type":
        return "Write a list, in square brackets."
    if kind != "extra_forbidden":
        return message
    inside = [part for part in (*within, *location[:-1]) if isinstance(part, str)]
    return _hint(str(location[-1]), inside[-1] if inside else None, names)


def _hint(name: str, parent: str | None, names: frozenset[str]) -> str:
    """Return the message about a field that does not exist where it was written.

    Args:
        name: the field as it was written.
        parent: the object that it was written in; None for the top of the body.
        names: every field name that the body may contain.
    """
    # Errors and documentation write `output.max_side` for a field of an object.
    known = name.rpartition(".")[2]
    if known not in names:
        # A much longer name resembles none of them, and would take long to compare.
        similar = get_close_matches(known, sorted(names), 1) if len(name) <= _LONGEST_NAME else []
        if not similar:
            return "There is no such field."
        known = similar[0]
    home = HOMES.get(known)
    if home is not None and home != parent:
        form = f'{{"{home}": {{"{known}": ...}}}}'
        if name == known:
            return f"There is no such field here: it belongs in {home!r}; write {form}."
        return f"There is no such field: is it {known!r} in {home!r}? Then write {form}."
    if name != known:
        return f"There is no such field: is it {known!r}?"
    if known in ExplainRequest.model_fields:
        return f"There is no such field here: it belongs at the top of the body, not in {parent!r}."
    return "There is no such field here."


def _field_path(
    location: tuple[int | str, ...], kind: str, names: frozenset[str]
) -> tuple[int | str, ...]:
    """Return the location of an error in the body, without the names of union branches."""
    last = len(location) - 1
    return tuple(
        part
        for position, part in enumerate(location)
        if isinstance(part, int)
        or (kind == "extra_forbidden" and position == last)
        or (part in names and not _is_branch(location, position))
    )


def _is_branch(location: tuple[int | str, ...], position: int) -> bool:
    """Return whether a name in a location is a union branch; some fields have the same name."""
    if position == 0:
        return False
    if isinstance(location[position - 1], int):
        return location[position - 2] in LIST_UNIONS
    return location[position - 1] in SINGLE_UNIONS
