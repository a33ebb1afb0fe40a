"""``why``: the decision, and what led to it, in a screenful however many rules there are."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Final

from iptrec.answers.folds import Fold, Met, Section, Through, fold
from iptrec.names import counted
from iptrec.views.escape import printable
from iptrec.views.reasons import each, ranges, together
from iptrec.views.style import styled
from iptrec.views.title import LOST, mark, title
from iptrec.views.why import met, passed_over, row

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from iptrec.answers.why import ExplainedStep, Explanation
    from iptrec.views.text import Layout

SCREEN: Final = 22  # lines below the first one, which may have a date above
_FAINT: Final = "2"
_NAMES: Final = 4
# What is folded, one after the other, until it fits on the screen.
_CHOICES: Final = ((True, SCREEN), (True, 4), (True, 1), (False, 4), (False, 1))


def as_text(explanation: Explanation, layout: Layout) -> Iterator[str]:
    """Lines without their newlines."""
    yield title(explanation.packet, layout)
    lines: list[str] = []
    for effects, most in _CHOICES:
        lines = list(_parts(fold(explanation, effects=effects, most=most), explanation, layout))
        if len(lines) <= SCREEN:
            break
    yield from lines


def _parts(
    parts: Iterable[Section | Through], explanation: Explanation, layout: Layout
) -> Iterator[str]:
    lost = explanation.packet.verdict in LOST
    for ending, group in itertools.groupby(parts, key=_ending):
        names = []
        for part in group:
            if isinstance(part, Section):
                yield from _section(part, layout, lost=lost)
            else:
                names.append(_through(part.steps))
        if names:
            yield styled(f"  {', '.join(names)}: {ending}", _FAINT, colour=layout.colour)


def _ending(part: Section | Through) -> str | None:
    """How a base chain let the packet go on."""
    if isinstance(part, Section):
        return None
    return " ".join(met(part.steps[-1]))


def _section(part: Section, layout: Layout, *, lost: bool) -> Iterator[str]:
    yield f"  {printable(part.table)}/{printable(part.chain)}"
    rows = [(one, *_row(one, part)) for one in part.rows if not _is_usual_end(one)]
    width = max([5, *(len(number) for _, number, _ in rows if number.startswith("#"))])
    for one, number, text in rows:
        decided = lost and isinstance(one, Met) and one.decided
        line = row(number, text, width if number.startswith("#") else 0)
        style = _FAINT if isinstance(one, Fold) else ""
        yield f"{mark(layout) if decided else '   '} {styled(line, style, colour=layout.colour)}"


def _is_usual_end(one: Met | Fold) -> bool:
    """Whether it is an end of a chain which goes without saying: the packet went on."""
    if isinstance(one, Fold) or one.decided:
        return False
    step = one.step.step
    return step.type == "return" or (step.type == "policy" and step.target == "ACCEPT")


def _row(one: Met | Fold, part: Section) -> tuple[str, str]:
    """The numbers of rules, and what is told of them."""
    if isinstance(one, Met):
        return _met(one.step)
    if len(one.passed) == 1 and not one.went_on:
        return passed_over(one.passed[0])
    if len(one.went_on) == 1 and not one.passed:
        return _met(one.went_on[0])
    return _label(one, part), "; ".join(_folded(one, part))


def _met(one: ExplainedStep) -> tuple[str, str]:
    """Without its target where the text of the rule ends in it."""
    number, text = met(one)
    target = one.step.target
    if target is None or one.step.type != "rule" or one.step.spec is None:
        return number, text
    printed = printable(target)
    words = rf" (-[jg] |jump |goto ){re.escape(printed)}(?= |$)|(^| )(?i:{re.escape(printed)})$"
    spec = printable(one.step.spec)
    return number, text.replace(f"  => {printed}", "", 1) if re.search(words, f" {spec}") else text


def _label(row: Fold, part: Section) -> str:
    """The numbers of the rules of a fold."""
    own = (one.step.rule for one in row.went_on if _is_of(one, part))
    numbers = [*(one.number for one in row.passed), *(one for one in own if one is not None)]
    ends = dict.fromkeys([min(numbers), max(numbers)] if numbers else [])
    return "-".join(f"#{end}" for end in ends)


def _is_of(one: ExplainedStep, part: Section) -> bool:
    return (one.step.table, one.step.chain) == (part.table, part.chain)


def _folded(row: Fold, part: Section) -> Iterator[str]:
    if row.passed:
        yield together(row.passed)
    inner = [one for one in row.went_on if not _is_of(one, part)]
    logged = sum(
        one.step.target not in {called.step.chain for called in inner}
        for one in row.went_on
        if _is_of(one, part)
    )
    if inner:
        yield _returned(inner)
    if logged:
        yield f"{counted(logged, 'rule')} matched and went on"


def _returned(steps: Sequence[ExplainedStep]) -> str:
    """The chains that were called and that returned."""
    chains = list(dict.fromkeys(one.step.chain for one in steps))
    passed = [rule for one in steps for rule in one.passed]
    if not passed:
        return f"returned from {_named(chains)}"
    if len(chains) == 1:
        return f"returned from {printable(chains[0])}: {each(passed)}"
    return f"returned from {_named(chains)}, where {counted(len(passed), 'rule')} did not match"


def _named(chains: Sequence[str]) -> str:
    more = len(chains) - _NAMES
    names = ", ".join(map(printable, chains[:_NAMES]))
    return f"{names} and {more:,} more" if more > 0 else names


def _through(steps: Sequence[ExplainedStep]) -> str:
    """A base chain that let the packet go on."""
    base = steps[0].step
    own = [one for one in steps if one.step.chain == base.chain]
    inner = [one for one in steps if one.step.chain != base.chain]
    numbers = [rule.number for one in own for rule in one.passed]
    words = [f"{ranges(numbers)} did not match"] if numbers else []
    words += [_returned(inner)] if inner else []
    name = f"{printable(base.table)}/{printable(base.chain)}"
    return f"{name} ({'; '.join(words)})" if words else name
