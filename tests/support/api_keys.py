"""API keys for tests, as an operator would write them."""

import json
from typing import Any

from service.settings.keys import digest


def entry(name: str, key: str, *scopes: str, **limits: Any) -> dict[str, Any]:
    """One entry of the list of keys."""
    return {"name": name, "sha256": digest(key.encode()).hex(), "scopes": list(scopes), **limits}


def listed(*entries: dict[str, Any]) -> str:
    """The list, as ``LEGRAD_API_KEYS`` has it."""
    return json.dumps(entries)


def bearer(key: str) -> dict[str, str]:
    """The header with which a key is sent."""
    return {"Authorization": f"Bearer {key}"}
