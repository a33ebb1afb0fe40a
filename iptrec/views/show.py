"""``show``: packets as text, in the layout of iptables-tracer made quieter.

What is zero, did not change or follows from what changed is left out (but for ``verbose``), and base chains
whose policy lets the packet go on share a line.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from iptrec.packets.model import LOST
from iptrec.views.escape import printable
from iptrec.views.text import (
    NO_CHAIN,
    changes,
    connection_line,
    ct_words,
    end_lines,
    fields,
    header_line,
    mark,
    met,
    owner_words,
    step_lines,
)
from iptrec.views.title import decider, title

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from iptrec.packets.model import Step, Traversal
    from iptrec.views.text import Layout


def as_text(traversal: Traversal, layout: Layout, steps: Sequence[Step] | None = None) -> str:
    """One packet, several lines, each with its newline; ``steps``: these alone."""
    steps = traversal.steps if steps is None else steps
    lines = [title(traversal, layout)]
    header = header_line(traversal) if layout.verbose else _header_line(traversal)
    lines.append(" ".join([header, *owner_words(traversal)]))
    if traversal.connection is not None:
        lines.append(connection_line(traversal.connection))
    if layout.verbose:
        lines += [line for step in steps for line in step_lines(step, layout)]
    else:
        lines += _step_lines(traversal, steps, layout)
    if not traversal.steps:
        lines.append(f"\t{NO_CHAIN}")
    lines += end_lines(traversal, layout)
    return "\n".join(lines) + "\n"


def _header_line(traversal: Traversal) -> str:
    ends = [f"IN={printable(traversal.in_ or '')}", f"OUT={printable(traversal.out or '')}"]
    return " ".join([*ends, *fields(_without_checksums(traversal.header))])


def _without_checksums(header: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in header.items() if name != "csum"}
    return kept | ({"inner": _without_checksums(kept["inner"])} if "inner" in kept else {})


def _step_lines(traversal: Traversal, steps: Sequence[Step], layout: Layout) -> Iterator[str]:
    last = decider(traversal)
    lost = traversal.verdict in LOST
    new = [
        (step, _new(step, before, layout), step is not last and _goes_on(step))
        for before, step in itertools.pairwise([None, *steps])
        if step is not None
    ]
    for alike, group in itertools.groupby(new, key=lambda one: one[2] and not one[1]):
        if alike:
            passed = [step for step, _, _ in group]
            yield f"\t{', '.join(map(_place, passed))} {_policy(passed[0], layout)}"
            continue
        for step, words, goes_on in group:
            where = " ".join([_place(step), *words])
            if goes_on:
                yield f"\t{where} {_policy(step, layout)}"
            else:
                yield f"{mark(layout) if lost and step is last else ''}\t{where}"
                yield from met(step, layout)


def _goes_on(step: Step) -> bool:
    """Whether it is a base chain's policy that lets the packet pass."""
    return step.type == "policy" and step.target == "ACCEPT"


def _policy(step: Step, layout: Layout) -> str:
    return " ".join(line.strip() for line in met(step, layout))


def _place(step: Step) -> str:
    return f"{printable(step.table)} {printable(step.chain)}"


def _new(step: Step, before: Step | None, layout: Layout) -> list[str]:
    """What is not as it was at the step before, or at the first one not nothing."""
    words = _mark_words(step, before)
    if layout.iface_changes and ("in" in step.changed or "out" in step.changed):
        words += [f"IN={printable(step.in_ or '')}", f"OUT={printable(step.out or '')}"]
    ports = (before.physin, before.physout) if before else (None, None)
    if layout.phys and ports != (step.physin, step.physout):
        words += [
            f"PHYSIN={printable(step.physin or '')}",
            f"PHYSOUT={printable(step.physout or '')}",
        ]
    if layout.ct and step.ct is not None and (before is None or before.ct != step.ct):
        words += ct_words(step.ct)
    return words + (changes(_telling(step.changed)) if step.changed else [])


def _mark_words(step: Step, before: Step | None) -> list[str]:
    if "mark" in step.changed:
        return [f"NFMARK=0x{step.mark:x} (was 0x{step.changed['mark'][0]:x})"]
    if step.mark is None:
        return []
    known = (before.mark if before else 0) or 0  # that of a step which is not shown may be another
    return [f"NFMARK=0x{step.mark:x}"] if step.mark != known else []


def _telling(changed: dict[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    """Without the checksum, unless it alone is another one."""
    others = changed.keys() - {"csum", "mark", "in", "out"}
    return {name: one for name, one in changed.items() if name != "csum" or not others}
