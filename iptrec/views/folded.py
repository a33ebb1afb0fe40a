"""``why``: the decision, and what led to it, in a screenful however many rules there are."""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.answers.folds import Fold, Met, Section, Through, fold
from iptrec.names import counted
from iptrec.packets.model import LOST
from iptrec.views.escape import printable
from iptrec.views.reasons import numbered, ranges, together
from iptrec.views.style import styled, wrapped
from iptrec.views.text import NO_CHAIN, end_lines, mark
from iptrec.views.title import title
from iptrec.views.why import met, origin_lines, passed_over

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from iptrec.answers.why import ExplainedStep, Explanation, Passed
    from iptrec.views.text import Layout

SCREEN: Final = 22  # lines below the first one, which may have a date above
_FAINT: Final = "2"
_NAMES: Final = 4
_NUMBER: Final = 5  # columns of #1-#9
_MARGIN: Final = 3


class _Detail(NamedTuple):
    """How much is told, see `answers.folds.fold`.

    ``each``: of each chain that returned why its rules did not match, in a line of its own.
    """

    each: bool = False
    effects: bool = True
    callers: bool = True
    most: int = SCREEN


# One after the other, until it fits on the screen.
_DETAILS: Final = (
    _Detail(each=True),
    _Detail(),
    _Detail(most=4),
    _Detail(most=1),
    _Detail(callers=False, most=4),
    _Detail(callers=False, most=1),
    _Detail(effects=False, most=4),
    _Detail(effects=False, most=1),
)


def as_text(explanation: Explanation, layout: Layout, width: int | None = None) -> Iterator[str]:
    """Lines without their newlines. ``width``: of the terminal, see `style.wrapped`."""
    yield title(explanation.packet, layout)
    origin = list(origin_lines(explanation, width))
    lines: list[_Line] = [] if explanation.steps else [_Line("", f"  {NO_CHAIN}")]
    for each, effects, callers, most in _DETAILS if explanation.steps else ():
        parts = fold(explanation, effects=effects, callers=callers, most=most)
        lines = list(_parts(parts, each=each))
        if len(lines) + len(origin) <= SCREEN:
            break
    lost = explanation.packet.verdict in LOST
    for line in lines:
        text = wrapped(line.head, line.text, width)
        text = styled(text, _FAINT if line.faint else "", colour=layout.colour)
        yield mark(layout) + text[_MARGIN:] if lost and line.decided else text
    yield from end_lines(explanation.packet, layout, "  ")
    yield from origin


class _Line(NamedTuple):
    """A line behind its beginning, as wide as the terminal. ``faint``: it is a fold."""

    head: str
    text: str
    faint: bool = False
    decided: bool = False


def _parts(parts: Iterable[Section | Through], *, each: bool) -> Iterator[_Line]:
    for ending, group in itertools.groupby(parts, key=_ending):
        names = []
        for part in group:
            if isinstance(part, Section):
                yield _Line("", f"  {printable(part.table)}/{printable(part.chain)}")
                yield from _rows(part, each=each)
            else:
                names.append(_through(part))
        if names:
            yield _Line("  ", f"{', '.join(names)}{ending}", faint=True)


def _ending(part: Section | Through) -> str | None:
    """How a base chain let the packet go on; "" where it led to what is told next."""
    if isinstance(part, Section):
        return None
    number, (text,) = _met(part.steps[-1])
    return "" if part.leads else f": {number} {text}"


def _rows(part: Section, *, each: bool) -> Iterator[_Line]:
    rows = [(one, *_row(one, part, each=each)) for one in part.rows if not _is_usual_end(one)]
    columns = max([_NUMBER, *(len(number) for _, number, _ in rows if number.startswith("#"))])
    for one, number, (text, *more) in rows:
        faint, decided = isinstance(one, Fold), isinstance(one, Met) and one.decided
        head = f"{number:<{columns}}" if number.startswith("#") else number
        yield _Line(f"    {head} ", text, faint, decided)
        yield from (_Line(f"    {'':<{columns}}   ", another, faint) for another in more)


def _is_usual_end(one: Met | Fold) -> bool:
    """Whether it is an end of a chain which goes without saying: the packet went on."""
    if isinstance(one, Fold) or one.decided or one.last:
        return False
    step = one.step.step
    return step.type == "return" or (step.type == "policy" and step.target == "ACCEPT")


def _row(one: Met | Fold, part: Section, *, each: bool) -> tuple[str, list[str]]:
    """The numbers of rules, and what is told of them, in a line or more."""
    if isinstance(one, Met):
        return _met(one.step)
    if len(one.passed) == 1 and not one.went_on:
        number, text = passed_over(one.passed[0])
        return number, [text]
    if len(one.went_on) == 1 and not one.passed:
        return _met(one.went_on[0])
    return _label(one, part), list(_folded(one, part, each=each))


def _met(one: ExplainedStep) -> tuple[str, list[str]]:
    """Without its target where the text of the rule ends in it."""
    number, text = met(one)
    target = one.step.target
    if target is None or one.step.type != "rule" or one.step.spec is None:
        return number, [text]
    printed = printable(target)
    words = rf" (-[jg] |jump |goto ){re.escape(printed)}(?= |$)|(^| )(?i:{re.escape(printed)})$"
    spec = printable(one.step.spec)
    if re.search(words, f" {spec}"):
        text = text.replace(f"  => {printed}", "", 1)
    return number, [text]


def _label(row: Fold, part: Section) -> str:
    """The numbers of the rules of a fold."""
    own = (one.step.rule for one in row.went_on if _is_of(one, part))
    numbers = [*(one.number for one in row.passed), *(one for one in own if one is not None)]
    ends = dict.fromkeys([min(numbers), max(numbers)] if numbers else [])
    return "-".join(f"#{end}" for end in ends)


def _is_of(one: ExplainedStep, part: Section) -> bool:
    return (one.step.table, one.step.chain) == (part.table, part.chain)


def _folded(row: Fold, part: Section, *, each: bool) -> Iterator[str]:
    inner = [one for one in row.went_on if not _is_of(one, part)]
    called = {one.step.chain for one in inner}
    own = (one.step for one in row.went_on if _is_of(one, part))
    logged = sum(step.target not in called for step in own)
    words = [together(row.passed)] if row.passed else []
    words += [f"{counted(logged, 'rule')} matched and went on"] if logged else []
    if inner and each:
        first, *more = _returned_each(inner)
        yield "; ".join([*words, first])
        yield from more
    else:
        yield "; ".join([*words, *([_returned(inner)] if inner else [])])


def _returned(steps: Sequence[ExplainedStep]) -> str:
    """The chains that were called and that returned."""
    chains = list(dict.fromkeys(one.step.chain for one in steps))
    passed = [rule for one in steps for rule in one.passed]
    if not passed:
        return f"went through {_named(chains)}"
    if len(chains) == 1:
        return f"went through {printable(chains[0])}: {numbered(passed)}"
    return f"went through {_named(chains)}, where {counted(len(passed), 'rule')} did not match"


def _returned_each(steps: Sequence[ExplainedStep]) -> Iterator[str]:
    """The same, with a line for each chain that passed over rules."""
    passed: dict[str, list[Passed]] = {}
    for one in steps:
        passed.setdefault(one.step.chain, []).extend(one.passed)
    if len(passed) == 1:
        yield _returned(steps)
        return
    yield f"went through {_named(list(passed))}"
    for chain, rules in passed.items():
        if rules:
            yield f"{printable(chain)}: {numbered(rules)}"


def _named(chains: Sequence[str], between: str = ", ") -> str:
    more = len(chains) - _NAMES
    names = between.join(map(printable, chains[:_NAMES]))
    return f"{names} and {more:,} more" if more > 0 else names


def _through(part: Through) -> str:
    """A base chain that let the packet go on, or the chains that led to what is told next."""
    first, last = part.steps[0].step, part.steps[-1].step
    if last.type == "policy":
        own = [one for one in part.steps if one.step.chain == last.chain]
        inner = [one for one in part.steps if one.step.chain != last.chain]
        numbers = [rule.number for one in own for rule in one.passed]
        words = [f"{ranges(numbers)} did not match"] if numbers else []
        words += [_returned(inner)] if inner else []
        chains = [last.chain]
    else:
        count = sum(len(one.passed) for one in part.steps)
        words = [f"{counted(count, 'rule')} did not match"] if count else []
        chains = list(dict.fromkeys(one.step.chain for one in part.steps))
    name = f"{printable(first.table)}/{_named(chains, ' > ')}"
    return f"{name} ({'; '.join(words)})" if words else name
