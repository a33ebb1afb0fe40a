"""``iptrec rules``: the ruleset with what hit it."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from iptrec.answers.path_counts import Count
from iptrec.decode.nft_changes import ANONYMOUS_CHAIN
from iptrec.views.escape import printable
from iptrec.views.info import UNTRACED
from iptrec.views.packet_json import host
from iptrec.views.style import wrapped
from iptrec.views.text import NOT_RECORDED, whose
from iptrec.views.timestamps import LOCAL, Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from iptrec.answers.rules import RuleCount, TableCount
    from iptrec.rulesets.untraced import Why

FORMAT: Final = 1
_HEADS: Final = ("num", "pkts", "bytes", "first", "last")
_NUMBERS: Final = 3  # of these are numbers, the others times
_UNSURE: Final = "rules that cannot be told: they changed just then, or were not known"
_ANONYMOUS: Final = "rules of an anonymous chain, which nft does not number"


def as_json(table: TableCount) -> Iterator[str]:
    """One JSON object a chain, ASCII only; schemas/rules-v1.schema.json describes it."""
    for chain, (policy, rules) in table.chains.items():
        yield json.dumps(
            {
                "format": FORMAT,
                **host(table.host),
                **({} if table.netns is None else {"netns": table.netns}),
                "family": table.family,
                "table": table.table,
                "chain": chain,
                "policy": policy,
                "end": _count(table.policies[chain]),
                "unsure": _count(table.unsure.get(chain, Count())),
                "untraced": table.untraced.get(chain),
                "renamed_from": table.renamed.get(chain, []),
                "rules": [_rule(one) for one in rules],
            },
            separators=(",", ":"),
        )


def as_text(
    tables: Sequence[TableCount], clock: Clock = LOCAL, day: str = "", width: int | None = None
) -> Iterator[str]:
    """Lines without their newlines, a rule each, in columns with heads.

    ``day``: the `Clock.day` that the first line tells; times on another one have their date and zone.
    ``width``: of the terminal, see `style.wrapped`.
    """
    lines = [line for table in tables for line in _lines(table, partial(clock.on, day))]
    widths = [
        max(map(len, column))
        for column in zip(_HEADS, *(cells for cells, _ in lines if cells), strict=True)
    ]
    if day:
        yield f"# {day}"
    for cells, text in [(_HEADS, "rule"), *lines]:
        yield wrapped(_row(cells, widths), text, width) if cells else text


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Numbers to the right, times to the left, and where the rule begins."""
    columns = [cell.rjust(width) for cell, width in zip(cells[:_NUMBERS], widths, strict=False)]
    columns += [
        cell.ljust(width) for cell, width in zip(cells[_NUMBERS:], widths[_NUMBERS:], strict=True)
    ]
    return "  ".join([*columns, ""])


def _lines(table: TableCount, when: Callable[[int], str]) -> Iterator[tuple[Sequence[str], str]]:
    """The cells of each line, none of a table's or a chain's, and its text."""
    yield (), f"*{_name(table)}"
    for chain, (policy, rules) in table.chains.items():
        end = table.policies[chain]
        before = ", ".join(map(printable, table.renamed.get(chain, ())))
        renamed = f"  (renamed, was {before})" if before else ""
        yield (), f":{printable(chain)} {policy or '-'} [{end.packets}:{end.bytes}]{renamed}"
        untraced = table.untraced.get(chain)
        for one in rules:
            none = "-" if untraced is None else "?"
            number = "gone" if one.number is None else f"#{one.number}"
            yield _cells(number, one.count, when, none), _text(one, untraced)
        if chain in table.unsure:
            text = _ANONYMOUS if chain.startswith(ANONYMOUS_CHAIN) else _UNSURE
            yield _cells("?", table.unsure[chain], when), text


def _name(table: TableCount) -> str:
    """With the family, unless the name begins with it."""
    name = printable(table.table)
    name = name if name.startswith(f"{table.family} ") else f"{name} ({table.family})"
    return " ".join([name, *whose(table.host, table.netns)])


def _text(one: RuleCount, untraced: Why | None) -> str:
    assert one.rule is not None  # noqa: S101 - policies are printed with their chains
    words = [printable(one.rule.spec) if one.rule.listed else NOT_RECORDED]
    if one.unreachable:
        words.append(f"(never reached: #{one.unreachable} ends the chain)")
    if untraced is not None:
        words.append(f"(not traced: {UNTRACED[untraced]})")
    return "  ".join(words)


def _cells(
    number: str, count: Count, when: Callable[[int], str], none: str = "-"
) -> tuple[str, ...]:
    """In the order of the heads; ``none``: what stands for no packet."""
    if not count.packets:
        return number, none, "", "", ""
    times = when(count.first_ns), when(count.last_ns)
    return number, f"{count.packets:,}", f"{count.bytes:,}", *times


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
