"""Errors of settings in one line each: the setting, its value, and the remedy."""

import os
from collections.abc import Mapping

from pydantic import ValidationError
from pydantic_core import ErrorDetails

_PREFIX = "LEGRAD_"
_SECRET = ("api_keys",)
_LONGEST_VALUE = 200
_REMEDIES = {
    "int_parsing": "write a whole number",
    "int_from_float": "write a whole number",
    "float_parsing": "write a number",
    "finite_number": "write a finite number",
    "bool_parsing": "write true or false",
    "too_short": "name at least one",
}
# Arguments of the engine that come from a setting of another name.
_FIELDS = {"model": "models", "models": "models", "device": "device", "presence": "presence"}


def in_lines(error: ValidationError, options: Mapping[str, str]) -> list[str]:
    """Return a line for each mistake.

    Args:
        error: from the constructor of the settings.
        options: options of the command line that were given, by the name of their field.
    """
    return [
        _line(str(each["loc"][0]), each, options) if each["loc"] else _reason(each)
        for each in error.errors(include_url=False)
    ]


def named(error: Exception, options: Mapping[str, str]) -> str:
    """Return the message of an error that a setting caused, with the name of the setting.

    Args:
        error: from the start of the server.
        options: see :func:`in_lines`.
    """
    field = _FIELDS.get(getattr(error, "field", None) or "")
    return str(error) if field is None else f"{_name(field, options)}: {error}"


def _line(field: str, mistake: ErrorDetails, options: Mapping[str, str]) -> str:
    name = _name(field, options)
    if field in _SECRET:
        return f"{name}: {_reason(mistake)}"
    value = str(mistake["input"]) if field in options else os.environ.get(name, mistake["input"])
    shown = repr(value)
    if len(shown) > _LONGEST_VALUE:
        shown = shown[:_LONGEST_VALUE] + "..."
    return f"{name}={shown}: {_reason(mistake)}"


def _reason(mistake: ErrorDetails) -> str:
    kind, message = mistake["type"], mistake["msg"]
    if kind in _REMEDIES:
        reason = _REMEDIES[kind]
    elif kind == "literal_error":
        reason = message.replace("Input should be", "write")
    else:
        reason = message.removeprefix("Value error, ").replace("Input should be", "it must be")
    return reason.rstrip(".") + "."


def _name(field: str, options: Mapping[str, str]) -> str:
    """Return the option or the variable that a setting came from."""
    if field in options:
        return options[field]
    wanted = f"{_PREFIX}{field}".upper()
    # Names of variables are not case sensitive.
    given = next((name for name in os.environ if name.upper() == wanted and os.environ[name]), None)
    if given is None and field == "port" and os.environ.get("PORT"):
        return "PORT"
    return given or wanted
