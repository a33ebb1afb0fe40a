"""``iptrec rules``: the ruleset with what hit it."""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from iptrec.answers.path_counts import Count
from iptrec.names import counted
from iptrec.views.escape import printable
from iptrec.views.info import UNTRACED
from iptrec.views.timestamps import LOCAL, Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from iptrec.answers.rules import RuleCount, TableCount
    from iptrec.rulesets.untraced import Why

FORMAT: Final = 1
_WIDTH: Final = 80
_INDENT: Final = 30
_UNSURE: Final = "rules that cannot be told: they changed just then, or were not known"


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
                "unsure": _count(table.unsure.get(chain, Count())),
                "untraced": table.untraced.get(chain),
                "rules": [_rule(one) for one in rules],
            },
            separators=(",", ":"),
        )


def as_text(table: TableCount, clock: Clock = LOCAL, day: str = "") -> Iterator[str]:
    """Lines of at most 80 columns (a word that is longer excepted), without their newlines.

    ``day``: the `Clock.day` that is known; times on another one have their date and zone.
    """
    when = partial(clock.on, day)
    yield f"*{printable(table.table)} ({table.family})"
    for chain, (policy, rules) in table.chains.items():
        end = table.policies[chain]
        yield f":{printable(chain)} {policy or '-'} [{end.packets}:{end.bytes}]"
        for one in rules:
            yield from _rule_lines(one, table.untraced.get(chain), when)
        if chain in table.unsure:
            yield from _lines("?", table.unsure[chain], _UNSURE, when)


def _rule_lines(one: RuleCount, untraced: Why | None, when: Callable[[int], str]) -> list[str]:
    assert one.rule is not None  # noqa: S101 - policies are printed with their chains
    more = f"  (never reached: #{one.unreachable} ends the chain)" if one.unreachable else ""
    more += f"  (not traced: {UNTRACED[untraced]})" if untraced is not None else ""
    number = "gone" if one.number is None else f"#{one.number}"
    return _lines(
        number,
        one.count,
        printable(one.rule.spec),
        when,
        more,
        none="-" if untraced is None else "?",
    )


def _lines(
    number: str,
    count: Count,
    text: str,
    when: Callable[[int], str],
    more: str = "",
    *,
    none: str = "-",
) -> list[str]:
    packets = f"{count.packets:,}" if count.packets else none
    first = when(count.first_ns) if count.packets else ""
    head = f"{number:>5} {packets:>8} {first:<12}  "
    if count.packets:
        text += f"  (to {when(count.last_ns)}, {counted(count.bytes, 'byte')})"
    text += more
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
