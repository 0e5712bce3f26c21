"""API keys for tests, as an operator would write them."""

import json
from typing import Any

from service.settings.keys import digest


def entry(name: str, key: str, *scopes: str, **limits: Any) -> dict[str, Any]:
    """Return one entry of the list of keys."""
    return {"name": name, "sha256": digest(key.encode()).hex(), "scopes": list(scopes), **limits}


def listed(*entries: dict[str, Any]) -> str:
    """Return the list of keys in the format of ``LEGRAD_API_KEYS``."""
    return json.dumps(entries)


def bearer(key: str) -> dict[str, str]:
    """Return the header that carries a key."""
    return {"Authorization": f"Bearer {key}"}
