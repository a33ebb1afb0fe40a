"""Which of the rules that --flush takes out can come back, which do, and where to."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from iptrec.names import Backend, Family

T = TypeVar("T")

_QUOTED: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_MATCH: Final = re.compile(r" -m (\S+)")
# What dies with the last rule that names it (net/netfilter/xt_recent.c, recent_mt_destroy).
_LOST: Final = {"recent": "its list of addresses goes with it"}
# What counts from the beginning again where a rule is made anew: a limit allows its burst once more.
_COUNTING: Final = ("connlimit", "hashlimit", "limit", "quota", "statistic")
# Legacy iptables makes all rules of a table anew at every change; what has a name survives that.
NAMED: Final = frozenset({"hashlimit"})


def extensions(line: str) -> set[str]:
    """The matches that a rule names, as iptables-save prints it."""
    return set(_MATCH.findall(_QUOTED.sub('""', line)))


def obstacle(names: Collection[str]) -> str | None:
    """Why a rule with these matches could not be put back as it was; None if it can."""
    return next((reason for name, reason in _LOST.items() if name in names), None)


def refusal(rule: str, family: Family, reason: str, backend: Backend = "legacy") -> str:
    """What is said instead of taking a rule out."""
    return (
        f"--flush could not put back {rule} in the {of_table(family, backend)}: {reason};"
        " record without --flush"
    )


def of_table(family: Family, backend: Backend) -> str:
    """A raw table, for humans."""
    return f"{family} raw table{' of nf_tables' if backend == 'nft' else ''}"


def started_again(names: Collection[str], family: Family, backend: Backend) -> str:
    """What is said of rules with these matches that were made anew, "" if they have counted nothing."""
    found = [one for one in _COUNTING if one in names]
    if not found:
        return ""
    return (
        f"rules of the {of_table(family, backend)} count from the beginning again, as at every time that they"
        f" are loaded: {', '.join(found)}"
    )


def places(
    there: Mapping[str, Sequence[T | None]], out: Mapping[str, Sequence[T]]
) -> dict[str, int | None]:
    """Judge each chain by what is in it now: at which of its rules those that are ``out`` go back.

    Rules are compared without their counters; None in ``there`` is one of our TRACE rules.

    - All of them are there: they never went, or are back already. The chain is left out of the answer.
    - One of ours is there: they take its place. What somebody put before or behind it stays there.
    - Others' rules alone are there: somebody replaced the chain. What he made of it stands, and they stay
      out: None.
    - Nothing is there: they go back, unless somebody replaced the other chain, and so the table. Nobody can
      tell whether he emptied this one or deleted our rule alone, and a rule too many is easier to mend
      than one that is lost.
    - The chain itself is gone: they stay out.
    """
    replaced = any(rules and None not in rules for rules in there.values())
    found: dict[str, int | None] = {}
    for chain, rules in out.items():
        now = there.get(chain)
        if now is None:
            found[chain] = None
        elif not _contains([one for one in now if one is not None], rules):
            found[chain] = _place(now, replaced=replaced)
    return found


def _place(now: Sequence[T | None], *, replaced: bool) -> int | None:
    if None in now:
        return now.index(None)
    return None if now or replaced else 0


def _contains(there: Sequence[T], rules: Sequence[T]) -> bool:
    """Whether rules are there in a row."""
    return any(there[at : at + len(rules)] == rules for at in range(len(there) - len(rules) + 1))
