"""Why rules did not match, in words: of one rule, and of many at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from iptrec.answers.folds import reason
from iptrec.answers.why import PERHAPS
from iptrec.views.escape import printable

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    from iptrec.answers.why import Passed
    from iptrec.matching.facts import Clause

# What nobody can tell afterwards, by the modules of iptables and the first words of nft.
_REMEMBERED: Final = {
    "connection tracking": (
        "cluster", "connbytes", "connlabel", "connmark", "conntrack", "ct", "helper", "state",
    ),
    "a limit": ("connlimit", "hashlimit", "limit", "quota", "rateest"),
    "chance": ("jhash", "numgen", "statistic", "symhash"),
    "the members of a set": ("add", "delete", "dynset", "recent", "set", "update"),
    "the socket": ("cgroup", "owner", "skgid", "skuid", "socket"),
    "the routes": ("addrtype", "fib", "rpfilter", "rt"),
}  # fmt: skip
_OF_MODULE: Final = {module: what for what, modules in _REMEMBERED.items() for module in modules}
_ALL_FITS: Final = "although all that is known of the packet fits"
_VALUES: Final = 48  # characters of what the rules of a fold compare with
_REASONS: Final = 4
_RANGES: Final = 4


def because(one: Passed) -> str:
    """Why a rule did not match."""
    clause, remark = one.judgement.clause, one.judgement.remark
    if clause is None:
        return f"did not match {_fitting(one)}"
    words = printable(clause.words)
    told = printable(remark)
    if one.fits is False:
        return f"no: {words} ({told})" if told else f"no: {words}"
    on = depends(clause)
    words = f"depends on {on}: {words}" if on else f"depends on {words}"
    return f"did not match ({words}; {told})" if told else f"did not match ({words})"


def _fitting(one: Passed) -> str:
    return f"({PERHAPS})" if one.perhaps else _ALL_FITS


def depends(clause: Clause) -> str | None:
    """What a condition depends on that only the kernel knew; None where there is no word for it."""
    named = clause.value.startswith("@") or clause.asks.endswith(("map", "vmap"))
    return "the members of a set" if named else _OF_MODULE.get(clause.module)


def together(passed: Sequence[Passed]) -> str:
    """Why several rules did not match; with their numbers where it was not for the same reason."""
    return _of_all(passed) if len(_alike(passed)) == 1 else numbered(passed)


def numbered(passed: Sequence[Passed]) -> str:
    """Why several rules did not match, with their numbers."""
    alike = _alike(passed)
    told = len(alike) if len(alike) <= _REASONS + 1 else _REASONS  # the last is not one for others
    most = sorted(alike[:told], key=lambda rules: rules[0].number)
    said = [f"{_numbers(rules)} {_of_all(rules)}" for rules in most]
    if rest := [one for rules in alike[told:] for one in rules]:
        said.append(f"{_numbers(rest)} did not match for other reasons")
    return "; ".join(said)


def _numbers(rules: Sequence[Passed]) -> str:
    return ranges(one.number for one in rules)


def ranges(numbers: Iterable[int]) -> str:
    """Numbers of rules: #1-#3, #7; of many the first and the last."""
    found: list[list[int]] = []
    for number in sorted(set(numbers)):
        if found and number == found[-1][-1] + 1:
            found[-1][1:] = [number]
        else:
            found.append([number])
    if len(found) > _RANGES:
        return f"{sum(one[-1] - one[0] + 1 for one in found):,} of #{found[0][0]}-#{found[-1][-1]}"
    return ", ".join("-".join(f"#{end}" for end in one) for one in found)


def _alike(passed: Sequence[Passed]) -> list[list[Passed]]:
    """By their reasons, the most frequent first."""
    found: dict[Hashable, list[Passed]] = {}
    for one in passed:
        found.setdefault(reason(one), []).append(one)
    return sorted(found.values(), key=len, reverse=True)


def _of_all(rules: Sequence[Passed]) -> str:
    """Why rules with the same reason did not match."""
    said = _reason(rules)
    return f"no, {said}" if rules[0].fits is False else f"did not match {said}"


def _reason(rules: Sequence[Passed]) -> str:
    first = rules[0]
    clause, remark = first.judgement.clause, first.judgement.remark
    if clause is None:
        return _fitting(first)
    if first.fits is None:
        return f"(depends on {depends(clause) or printable(clause.asks)})"
    clauses = (one.judgement.clause for one in rules)
    values = ", ".join(dict.fromkeys(one.value for one in clauses if one is not None))
    asks = " ".join(filter(None, (clause.asks, values if len(values) <= _VALUES else "")))
    return printable(f"{asks} ({remark})" if remark else asks)
