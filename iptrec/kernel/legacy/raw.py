"""The raw tables of legacy iptables: our TRACE rules out again, and what --flush takes out for a while.

All of a table is changed in one transaction of iptables-legacy-restore, or nothing. A look and the change that
depends on it are one step under the xtables lock (`lock`).
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from iptrec.errors import HostError
from iptrec.kernel import iptables
from iptrec.kernel.iptables import OF_A_RECORDER, RefusedError, TraceRule, insertions, restore
from iptrec.kernel.legacy import lock
from iptrec.kernel.legacy.digest import Tables
from iptrec.kernel.undo import flushed
from iptrec.names import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from iptrec.names import Family

_TRIES: Final = 3


def insert_again(ours: Sequence[TraceRule]) -> None:
    """Put our rules in again where some of them may be left: in one step, which is seen as one change."""
    family = ours[0].family
    restore(family, [*_deletions(rules(family), ours[0].comment), *insertions(ours)])


def replace(ours: Sequence[TraceRule], expect: Callable[[list[str]], None]) -> None:
    """Put our rules of one family in place of those that are in its legacy raw chains.

    ``expect`` is called before with these, with counters, as `remove` puts them back. They are deleted one
    by one: what somebody adds meanwhile who does not take the lock stays, and a rule that iptables does not
    find again by what it printed is not taken out. Raises `HostError`.
    """
    family = ours[0].family
    with lock.held() as environment:
        out = _taken_out(family)
        expect(out)
        lines = [f"-D {_bare(line)}" for line in out]
        try:
            restore(family, [*lines, *insertions(ours)], environment=environment)
        except RefusedError as error:
            raise HostError(
                f"--flush cannot take a rule out of the {family} raw table: {error}; record without --flush"
            ) from None


def _deletions(chains: Mapping[str, Sequence[str]], comment: str) -> list[str]:
    """Commands that take out the rules with a comment."""
    return [
        f"-D {_bare(line)}"
        for lines in chains.values()
        for line in lines
        if _is_ours(line, comment)
    ]


def require_way_back(family: Family) -> None:
    """Raise `HostError` where `replace` could not put back what it would take out."""
    with lock.held():
        _taken_out(family)


def _taken_out(family: Family) -> list[str]:
    """The rules of the user in the chains that --flush is about, with counters.

    Raises `HostError` where iptables-save does not print what the kernel holds, and for those that could not
    be put back.
    """
    chains = rules(family)
    printed = sum(map(len, chains.values()))
    with Tables(family) as tables:
        # A chain of the user's own has a head and an end, the built-in two have an end; the table has one.
        count = tables.entries("raw") - 2 * len(chains) + 1
    if printed != count:
        save = iptables.command_of(family, "save")
        raise HostError(
            f"the {family} raw table has {counted(count, 'rule')}, {save} prints {printed}:"
            " --flush could not put them back; try again, or record without it"
        )
    found: list[str] = []
    for chain in iptables.CHAINS:
        users = [line for line in chains[chain] if not OF_A_RECORDER.search(line)]
        for place, line in enumerate(users, 1):
            if reason := flushed.obstacle(flushed.extensions(line)):
                raise HostError(flushed.refusal(f"rule {place} of {chain}", family, reason))
        found += users
    return found


def remove(
    family: Family,
    comment: str,
    put_back: Sequence[str] = (),
    made: Iterable[str] = (),  # noqa: ARG001 - there is nothing, see `made`
) -> list[str]:
    """Take out the rules with our comment, wherever they are by now, and put others back.

    ``put_back``: lines that `replace` reported; those that stay out are returned: where somebody replaced their
    chain (`flushed.places`), and those that iptables does not understand any more, as a chain that
    they jump to is gone. Where the kernel refuses what iptables understands all of them stay out.

    Raises `HostError` where rules of ours are still there afterwards.
    """
    alone: contextlib.AbstractContextManager[Mapping[str, str]] = contextlib.nullcontext({})
    if put_back:
        alone = lock.held()
    with alone as environment:
        kept = _exchange(family, comment, put_back, environment)
    with Tables(family) as tables:
        left = comment in tables.ours("raw")
    if left:
        raise HostError(
            f"our TRACE rules are in the {family} raw table, and {iptables.command_of(family, 'save')} does not"
            " print them: mend that, then run iptrec cleanup"
        )
    return kept


def _exchange(
    family: Family, comment: str, put_back: Sequence[str], environment: Mapping[str, str]
) -> list[str]:
    """Our rules for those that were there before, in one transaction; see `remove`."""
    understood = list(put_back)
    for _ in range(_TRIES):  # who does not take the lock may change the table after the look
        chains = rules(family)
        ours = _deletions(chains, comment)
        back, kept = _sorted(chains, comment, understood)
        try:
            if ours or back:
                restore(family, [*ours, *back], environment=environment)
        except lock.LockHeldError:
            raise
        except HostError as error:
            failure = error
            refused = _not_understood(family, put_back, environment)
            understood = [line for line in put_back if line not in refused]
        else:
            return [line for line in put_back if line in kept or line not in understood]
    if not put_back:
        raise failure
    restore(family, ours, environment=environment)
    return list(put_back)


def _not_understood(
    family: Family, lines: Sequence[str], environment: Mapping[str, str] | None = None
) -> set[str]:
    """Which of these lines iptables does not take any more. Nothing is changed for that."""
    found: set[str] = set()
    left = list(lines)
    while left:
        try:
            restore(family, left, environment=environment, dry=True)
        except RefusedError as error:
            found.add(left[error.at])
            left = left[error.at + 1 :]
        else:
            break
    return found


def made_anew(chains: Mapping[str, Sequence[str]], *, flush: bool) -> set[str]:
    """The matches of the raw table that lose what they counted when ours come and go."""
    names = {
        chain: {name for line in rules for name in flushed.extensions(line)}
        for chain, rules in chains.items()
    }
    out = set().union(*(names[chain] for chain in iptables.CHAINS if flush))
    return set().union(*names.values()) - flushed.NAMED | out


def matched(family: Family, comment: str) -> dict[str, int]:
    """Chain -> how many packets our rules in it have matched."""
    found: dict[str, int] = {}
    for chain, lines in rules(family).items():
        for line in lines:
            if _is_ours(line, comment):
                packets = int(line[1:].partition(":")[0])
                found[chain] = found.get(chain, 0) + packets
    return found


def staying_out(family: Family, comment: str, lines: Iterable[str]) -> list[str]:
    """Lines of `replace` that `remove` would leave out now."""
    return _sorted(rules(family), comment, lines)[1]


def append(family: Family, lines: Sequence[str]) -> list[str]:
    """Put lines of `replace` behind the rules that are there; those that are refused are returned."""
    refused = _not_understood(family, lines)
    understood = [line for line in lines if line not in refused]
    if not _taken(family, understood):  # by the kernel, which does not say which one it refuses
        refused.update(line for line in understood if not _taken(family, [line]))
    return [line for line in lines if line in refused]


def _taken(family: Family, lines: Sequence[str]) -> bool:
    """Whether the table was changed. Raises `LockHeldError`."""
    try:
        restore(family, lines)
    except lock.LockHeldError:
        raise
    except HostError:
        return False
    return True


def readable(lines: Iterable[str]) -> list[str]:
    """Lines of `replace` for humans."""
    return list(lines)


def understood(line: str) -> bool:
    """Whether a line may be one of `replace`: iptables-restore judges what it says."""
    return isinstance(line, str)


def made(family: Family) -> list[str]:  # noqa: ARG001
    """Nothing that could be deleted again: a raw table that was loaded stays loaded."""
    return []


def rules(family: Family) -> dict[str, list[str]]:
    """The raw table: chain -> its rules with counters, as iptables-save prints them.

    Raises `HostError` where it prints none.
    """
    command, text = iptables.save(family, table="raw")
    lines = text.decode("utf-8", "surrogateescape").split(
        "\n"
    )  # comments may hold others that end lines
    if "*raw" not in lines or "COMMIT" not in lines:
        said = lines[0] or "nothing"
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
        chain: [
            (position, None if _is_ours(line, comment) else _bare(line))
            for position, line in enumerate(chains[chain], 1)
            if _is_ours(line, comment) or not OF_A_RECORDER.search(line)
        ]
        for chain in iptables.CHAINS
    }
    places = flushed.places(
        {chain: [line for _, line in rules] for chain, rules in there.items()},
        {chain: [_bare(line) for line in lines] for chain, lines in out.items()},
    )
    back: list[str] = []
    kept: list[str] = []
    for chain, place in places.items():
        if place is None:
            kept += out[chain]
            continue
        position = there[chain][place][0] if there[chain] else 1
        for line in reversed(out[chain]):  # each before the one that was put there just now
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
