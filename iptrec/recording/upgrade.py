"""Old rows as today's: one pure function a step of the format.

``STEPS[n]`` takes a table's name and a row of it (column name -> value) of format n and returns that
row in format n + 1. Nothing is rewritten in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

Row = dict[str, Any]
Step = Callable[[str, Row], Row]

_JSON_IN_1: Final = frozenset(
    ["nft", "raw-table", "links", "addresses", "routes", "ip-rules", "ipsets", "sysctls"]
)


def _with_media(table: str, row: Row) -> Row:
    """In format 1 a snapshot's kind alone says what it was written in."""
    if table != "snapshot":
        return row
    return row | {"media": "json" if row["kind"] in _JSON_IN_1 else "text"}


def _not_noted(table: str, row: Row) -> Row:
    """In format 2 nobody noted when the kernel sent a datagram."""
    return row | {"noted": 0} if table == "chunk" else row


def _alone(table: str, row: Row) -> Row:
    """Up to format 3 there is one recording in a file."""
    if table == "recording":
        return row | {"file": None}
    return row | {"recording": 1} if table == "namespace" else row


STEPS: Final[Mapping[int, Step]] = {1: _with_media, 2: _not_noted, 3: _alone}


def upgraded(version: int, table: str, row: Row, steps: Mapping[int, Step] = STEPS) -> Row:
    """A row of format ``version`` in the newest format."""
    while version in steps:
        row = steps[version](table, row)
        version += 1
    return row
