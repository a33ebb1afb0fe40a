"""What TRACE of legacy iptables writes into the log prefix: the place of one event in the rules.

The kernel prints ``TRACE: %s:%s:%s:%u `` (net/ipv4/netfilter/ip_tables.c, trace_packet; ip6_tables.c
likewise). Chain names may hold ':', so the table is taken from the left, type and number from the
right.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_MOST_RULES: Final = 2**31
_TRACE: Final = re.compile(
    rb"TRACE: (?P<table>[^:]+):(?P<chain>.+):(?P<type>rule|return|policy):(?P<rulenum>[1-9]\d{0,9})"
    rb"[ \0]*",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Prefix:
    """One event's place, in the kernel's words.

    ``rulenum`` counts from 1 and includes iptrec's own rules. ``type`` is "rule", "return" or
    "policy", and not to be believed: an unconditional rule is called "policy" in a built-in chain
    and "return" in a user's.
    """

    table: str
    chain: str
    type: str
    rulenum: int


def parse(prefix: bytes) -> Prefix | None:
    r"""Return the place that a log prefix names, None for a prefix that TRACE did not write.

    Trailing blanks and NULs do not matter. Bytes that are not UTF-8 become ``\xNN``.
    """
    found = _TRACE.fullmatch(prefix)
    if found is None or (rulenum := int(found["rulenum"])) >= _MOST_RULES:
        return None
    table, chain, type_ = (
        found[name].decode("utf-8", "backslashreplace") for name in ("table", "chain", "type")
    )
    return Prefix(table, chain, type_, rulenum)


def table(prefix: bytes) -> str | None:
    """The table alone, None for a prefix that does not begin like one of TRACE."""
    start, colon, _ = prefix.removeprefix(b"TRACE: ").partition(b":")
    if not (prefix.startswith(b"TRACE: ") and colon):
        return None
    return start.decode("utf-8", "backslashreplace")
