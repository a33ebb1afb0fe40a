"""Numbers and their names, as a recorder kept them in JSON; a stranger may have written anything there."""

from __future__ import annotations

import json


def load(content: bytes) -> dict[str, object]:
    """An object; empty where it is not one."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def names(found: object, *, digits: int, text: int) -> dict[int, str]:
    """Number -> name, cut to ``text`` characters; without what is not one, or has more ``digits``."""
    if not isinstance(found, dict):
        return {}
    return {
        int(number): name[:text].encode("utf-8", "backslashreplace").decode()
        for number, name in found.items()
        if isinstance(name, str)
        and number.isdecimal()
        and number.isascii()
        and len(number) <= digits
    }
