"""The raw tables of legacy iptables: our TRACE rules out again, and what --flush takes out for a while.

All of a table is changed in one transaction of iptables-legacy-restore, or nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from iptrec.errors import HostError
from iptrec.kernel import iptables
from iptrec.kernel.legacy.digest import Tables
from iptrec.kernel.undo import flushed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from iptrec.names import Family

_TRIES: Final = 3
_OF_A_RECORDER: Final = re.compile(r'--comment "?iptrec:[0-9a-f-]{36}"? .*-j TRACE$')


def taken_out(family: Family) -> list[str]:
    """The rules that ``insert(flush=True)`` will take out, with counters, as `remove` puts them back.

    Raises `HostError` where iptables-save does not print what the kernel holds.
    """
    chains = rules(family)
    told = sum(map(len, chains.values()))
    with Tables(family) as tables:
        # A chain of the user's own has a head and an end, the built-in two have an end; the table has one.
        count = tables.entries("raw") - 2 * len(chains) + 1
    if told != count:
        raise HostError(
            f"the {family} raw table has {count} rules, {iptables.command_of(family, 'save')} prints {told}:"
            " --flush could not put them back; try again, or record without it"
        )
    return [
        line
        for chain in iptables.CHAINS
        for line in chains[chain]
        if not _OF_A_RECORDER.search(line)
    ]


def remove(
    family: Family,
    comment: str,
    put_back: Sequence[str] = (),
    made: Iterable[str] = (),  # noqa: ARG001 - there is nothing, see `made`
) -> list[str]:
    """Take out the rules with our comment, wherever they are by now, and put others back.

    ``put_back``: lines of `taken_out`; those that stay out are returned (`flushed.places`). Where they cannot
    go back, as a chain that they jump to is gone, all of them stay out.

    Raises `HostError` where rules of ours are still there afterwards.
    """
    kept = _exchange(family, comment, put_back)
    with Tables(family) as tables:
        left = comment in tables.ours("raw")
    if left:
        raise HostError(
            f"our TRACE rules are in the {family} raw table, and {iptables.command_of(family, 'save')} does not"
            " print them: mend that, then run iptrec cleanup"
        )
    return kept


def _exchange(family: Family, comment: str, put_back: Sequence[str]) -> list[str]:
    """Our rules for those that were there before, in one transaction; see `remove`."""
    for _ in range(_TRIES):  # somebody may change the table between the look and the deed
        chains = rules(family)
        ours = [
            f"-D {line.partition('-A ')[2]}"
            for rules in chains.values()
            for line in rules
            if _is_ours(line, comment)
        ]
        back, kept = _sorted(chains, comment, put_back)
        try:
            if ours or back:
                iptables.restore(family, [*ours, *back])
        except iptables.LockHeldError:
            raise
        except HostError as error:
            failure = error
        else:
            return kept
    if not back:
        raise failure
    iptables.restore(family, ours)
    return list(put_back)


def staying_out(family: Family, comment: str, lines: Iterable[str]) -> list[str]:
    """Those of `taken_out` that `remove` would leave out now."""
    return _sorted(rules(family), comment, lines)[1]


def append(family: Family, lines: Iterable[str]) -> list[str]:
    """Put lines of `taken_out` behind the rules that are there: all of them, or `HostError`."""
    iptables.restore(family, lines)
    return []


def readable(lines: Iterable[str]) -> list[str]:
    """Lines of `taken_out` for humans."""
    return list(lines)


def understood(line: str) -> bool:
    """Whether a line may be one of `taken_out`: iptables-restore judges what it says."""
    return isinstance(line, str)


def made(family: Family) -> list[str]:  # noqa: ARG001
    """Nothing that could be deleted again: a raw table that was loaded stays loaded."""
    return []


def rules(family: Family) -> dict[str, list[str]]:
    """The raw table: chain -> its rules with counters, as iptables-save prints them.

    Raises `HostError` where it prints none.
    """
    command, text = iptables.save(family, table="raw")
    lines = text.decode("utf-8", "surrogateescape").splitlines()
    if "*raw" not in lines or "COMMIT" not in lines:
        said = lines[0] if lines else "nothing"
        raise HostError(f"`{command}` prints no raw table but: {said.lstrip('# ')}")
    heads = [line[1:].partition(" ")[0] for line in lines if line.startswith(":")]
    chains: dict[str, list[str]] = {chain: [] for chain in (*iptables.CHAINS, *heads)}
    for chain, rules in _by_chain(line for line in lines if line.startswith("[")).items():
        chains.setdefault(chain, []).extend(rules)
    return chains


def _sorted(
    chains: Mapping[str, Sequence[str]], comment: str, put_back: Iterable[str]
) -> tuple[list[str], list[str]]:
    """Commands that put lines back, and the lines that stay out; see `flushed.places`."""
    out = _by_chain(put_back)
    there = {
        chain: [None if _is_ours(line, comment) else _bare(line) for line in chains[chain]]
        for chain in iptables.CHAINS
    }
    places = flushed.places(
        there, {chain: [_bare(line) for line in lines] for chain, lines in out.items()}
    )
    back: list[str] = []
    kept: list[str] = []
    for chain, place in places.items():
        if place is None:
            kept += out[chain]
            continue
        for position, line in enumerate(out[chain], place + 1):
            counters, _, rule = line.partition(" -A ")
            back.append(f"{counters} -I {chain} {position} {rule.partition(' ')[2]}")
    return back, kept


def _bare(line: str) -> str:
    """A rule without its counters."""
    return line.partition(" -A ")[2]


def _by_chain(lines: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in lines:
        chain = line.partition(" -A ")[2].partition(" ")[0]
        found.setdefault(chain, []).append(line)
    return found


def _is_ours(line: str, comment: str) -> bool:
    marks = f'--comment "{comment}"', f"--comment {comment} "
    return line.endswith("-j TRACE") and any(mark in line for mark in marks)
