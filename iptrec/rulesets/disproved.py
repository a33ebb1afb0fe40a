"""Which tables of a file of iptables-save are not those that packets passed: these met places they do not have.

Whoever changes a rule replaces the whole table (net/ipv4/netfilter/ip_tables.c, do_replace). So one place that
a table does not have tells that all of its chains may have been others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from iptrec.decode import prefix
from iptrec.decode.rulesets import iptables_save
from iptrec.rulesets.legacy import may_say
from iptrec.rulesets.targets import STANDARD

if TYPE_CHECKING:
    from collections.abc import Iterable

    from iptrec.decode.prefix import Prefix
    from iptrec.decode.rulesets.types import Chain


def disproved(text: bytes, sites: Iterable[bytes]) -> dict[str, str]:
    """Names of tables, and what tells it of each; ``sites``: the prefixes of its family's events.

    Tables that the file does not have are none. Raises `RecordingError` for what is not of iptables-save.
    """
    tables = iptables_save.parse(text).tables
    found: dict[str, str] = {}
    last: dict[tuple[str, str], int] = {}
    for site in sorted(sites):
        said = prefix.parse(site)
        if said is None or said.table not in tables or said.table in found:
            continue
        chain = tables[said.table].get(said.chain)
        if chain is None or not may_say(said, chain):
            found[said.table] = _contradiction(said, chain)
            continue
        key = said.table, said.chain
        if key not in last:
            last[key] = _last(chain)
        # A policy is met behind it, too, where the chain ends to which a rule before goes (-g).
        gone = said.type == "policy" and any(rule.goto for rule in chain.rules[: last[key]])
        if not gone and said.rulenum > last[key]:
            met = f"{said.chain}:{said.type}:{said.rulenum}"
            found[said.table] = f"{met}, rule {last[key]} of the file lets nothing through to it"
    return found


def _last(chain: Chain) -> int:
    """The last number that can be met in a chain: no packet passes an unconditional verdict."""
    for number, rule in enumerate(chain.rules, 1):
        if not rule.conditional and rule.target in STANDARD:
            return number
    return len(chain.rules) + 1


def _contradiction(said: Prefix, chain: Chain | None) -> str:
    place = f"{said.chain}:{said.type}:{said.rulenum}"
    if chain is None:
        return f"{place}, the file has no such chain"
    if said.rulenum > len(chain.rules):
        rules = f"{len(chain.rules)} rule{'s' * (len(chain.rules) != 1)}"
        return f"{place}, the file has {rules} there"
    return f"{place}, which is not what rule {said.rulenum} of the file is"


def without(text: bytes, tables: Iterable[str]) -> bytes:
    """The file without some tables, but for a comment that tells of each."""
    kept, left_out = [], False
    for _, line in iptables_save.lines(text, "surrogateescape"):
        if line.startswith("*") and line[1:].strip() in tables:
            left_out = True
            kept.append(f"# {line.strip()}: left out by iptrec import, packets met other rules")
        if not left_out:
            kept.append(line)
        if line.strip() == "COMMIT":
            left_out = False
    return "".join(f"{one}\n" for one in kept).encode("utf-8", "surrogateescape")
