"""``show --orphans``: events that belong to no packet, a line each."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from iptrec.views.escape import printable
from iptrec.views.packet_json import host, iso_time
from iptrec.views.text import fields, whose
from iptrec.views.timestamps import LOCAL, Clock

if TYPE_CHECKING:
    from iptrec.answers.orphans import Orphan

FORMAT: Final = 1


def as_json(orphan: Orphan) -> str:
    """One JSON object, ASCII only; schemas/orphans-v1.schema.json describes it."""
    return json.dumps(
        {
            "format": FORMAT,
            "time": iso_time(orphan.time_ns),
            **{name: one for name, one in asdict(orphan).items() if name != "host"},
            **host(orphan.host),
        },
        separators=(",", ":"),
    )


def as_text(orphan: Orphan, clock: Clock = LOCAL) -> str:
    """One line, without its newline."""
    if orphan.header is None:
        words = [clock.full(orphan.time_ns), *whose(orphan.host, None)]
        return " ".join([*words, "(a datagram that holds no event)"])
    prefix = "(no prefix)" if orphan.prefix is None else f"'{printable(orphan.prefix)}'"
    words = [clock.full(orphan.time_ns), *whose(orphan.host, None)]
    words += [orphan.hook or "(no hook)", prefix]
    words += [f"NFMARK=0x{orphan.mark:x}", *fields(orphan.header)]
    return " ".join(words)
