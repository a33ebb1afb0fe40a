"""Which of the rules that --flush took out go back, and where to."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

T = TypeVar("T")


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
