"""``iptrec rules``: the ruleset with what hit it."""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from iptrec.views.escape import printable
from iptrec.views.info import UNTRACED
from iptrec.views.packet_json import iso_time

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.answers.path_counts import Count
    from iptrec.answers.rules import RuleCount, TableCount
    from iptrec.rulesets.untraced import Why

FORMAT: Final = 1
_WIDTH: Final = 80
_INDENT: Final = 30


def as_json(table: TableCount) -> Iterator[str]:
    """One JSON object a chain, ASCII only; schemas/rules-v1.schema.json describes it."""
    for chain, (policy, rules) in table.chains.items():
        yield json.dumps(
            {
                "format": FORMAT,
                "family": table.family,
                "table": table.table,
                "chain": chain,
                "policy": policy,
                "end": _count(table.policies[chain]),
                "untraced": table.untraced.get(chain),
                "rules": [_rule(one) for one in rules],
            },
            separators=(",", ":"),
        )


def as_text(table: TableCount) -> Iterator[str]:
    """Lines of at most 80 columns (a word that is longer excepted), without their newlines."""
    yield f"*{printable(table.table)} ({table.family})"
    for chain, (policy, rules) in table.chains.items():
        end = table.policies[chain]
        yield f":{printable(chain)} {policy or '-'} [{end.packets}:{end.bytes}]"
        for one in rules:
            yield from _lines(one, table.untraced.get(chain))


def _lines(one: RuleCount, untraced: Why | None) -> list[str]:
    assert one.rule is not None  # noqa: S101 - policies are printed with their chains
    count = one.count
    counted = f"{count.packets:,}" if count.packets else "-" if untraced is None else "?"
    when = f"{_clock(count.first_ns)}" if count.packets else ""
    number = "gone" if one.number is None else f"#{one.number}"
    head = f"{number:>5} {counted:>8} {when:<12}  "
    text = printable(one.rule.spec)
    if count.packets:
        text += f"  (to {_clock(count.last_ns)}, {count.bytes:,} bytes)"
    if one.unreachable is not None:
        text += f"  (never reached: #{one.unreachable} ends the chain)"
    if untraced is not None:
        text += f"  (not traced: {UNTRACED[untraced]})"
    return textwrap.wrap(
        text, _WIDTH, initial_indent=head, subsequent_indent=" " * _INDENT,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _rule(one: RuleCount) -> dict[str, Any]:
    assert one.rule is not None  # noqa: S101 - policies are printed with their chains
    return {
        "rule": one.number,
        "spec": one.rule.spec,
        "unreachable_after": one.unreachable,
        **_count(one.count),
    }


def _count(count: Count) -> dict[str, Any]:
    found = asdict(count)
    for name in ("first_ns", "last_ns", "example"):
        found[name] = found[name] if count.packets else None
    return found


def _clock(time_ns: int) -> str:
    text = iso_time(time_ns).partition("T")[2]
    return text[:12] if text else str(time_ns)
