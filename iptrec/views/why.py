"""``iptrec why``: the decision in a sentence, then how it came to it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from iptrec.packets.ends import DISCARDED
from iptrec.views.escape import printable
from iptrec.views.packet_json import as_object, endpoint
from iptrec.views.reasons import because
from iptrec.views.style import styled, wrapped
from iptrec.views.text import NO_CHAIN, NOT_RECORDED, end_lines, end_words, kind
from iptrec.views.title import title

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.answers.origins import Origin
    from iptrec.answers.why import ExplainedStep, Explanation, Passed
    from iptrec.packets.model import Traversal
    from iptrec.views.text import Layout

FORMAT: Final = 1
_VERBS: Final = {
    "ACCEPT": "accepted", "DROP": "dropped", "REJECT": "rejected", "QUEUE": "handed to userspace",
    "STOLEN": "taken away", "REASSEMBLED": "put together with other fragments",
}  # fmt: skip
_FAINT: Final = "2"


def as_json(explanation: Explanation) -> str:
    """One JSON object, ASCII only; schemas/why-v1.schema.json describes it."""
    packet = as_object(explanation.packet)
    for step, explained in zip(packet["steps"], explanation.steps, strict=True):
        step["passed"] = [_passed(one) for one in explained.passed]
    origin = {} if explanation.origin is None else {"origin": as_origin(explanation.origin)}
    return json.dumps(
        {"format": FORMAT, "decision": decision(explanation.packet), **origin, "packet": packet},
        separators=(",", ":"),
    )


def as_origin(origin: Origin) -> dict[str, str]:
    """Whose the deciding rule is, as values of JSON: what is known."""
    return {name: one for name, one in asdict(origin).items() if one is not None}


def origin_lines(explanation: Explanation, width: int | None) -> Iterator[str]:
    """Whose the deciding rule is, and what changes it; none where nobody knows.

    All of it is our own text, see `answers.origins.Origin`.
    """
    origin = explanation.origin
    if origin is None:
        return
    source = f"({origin.source})"
    told = f"{origin.owner}; {origin.what}"
    if origin.switch is None:
        yield wrapped("  origin: ", f"{told} {source}", width)
        return
    yield wrapped("  origin: ", told, width)
    yield wrapped("  switch: ", f"{origin.switch} {source}", width)


def as_text(explanation: Explanation, layout: Layout, width: int | None = None) -> Iterator[str]:
    """Every step, and every rule that was passed over (``--all``).

    Lines without their newlines. ``width``: of the terminal, see `style.wrapped`.
    """
    yield title(explanation.packet, layout)
    if not explanation.steps:
        yield f"  {NO_CHAIN}"
    before = ""
    for explained in explanation.steps:
        step = explained.step
        chain = f"{printable(step.table)}/{printable(step.chain)}"
        if chain != before:
            yield f"  {chain}"
        before = chain
        for one in explained.passed:
            yield styled(row(*passed_over(one), width), _FAINT, colour=layout.colour)
        yield row(*met(explained), width)
    yield from end_lines(explanation.packet, layout, "  ")
    yield from origin_lines(explanation, width)


def row(number: str, text: str, width: int | None, columns: int = 5) -> str:
    """A rule, or several, behind its number."""
    return wrapped(f"    {number:<{columns}} ", text, width)


def passed_over(one: Passed) -> tuple[str, str]:
    """The number of a rule that did not match; its text, and why."""
    return f"#{one.number}", f"{printable(one.rule.spec)}  <- {because(one)}"


def met(explained: ExplainedStep) -> tuple[str, str]:
    """The number of a rule that matched, or which end of the chain it was; its text, and what came of it."""
    step = explained.step
    target = f"=> {printable(step.target or ('?' if step.spec is None else 'goes on'))}"
    if step.type == "unknown":
        return f"#{step.rule}", f"or the end: (not in the recorded ruleset)  {target}"
    if step.type == "match":
        return f"#{step.rule}", f"{printable(step.spec or '')}  malformed for its match  {target}"
    if step.type != "rule":
        return step.type, target
    unseen = "(not in the recorded ruleset)" if step.rule is None else NOT_RECORDED
    spec = unseen if step.spec is None else printable(step.spec)
    number = "#-" if step.rule is None else f"#{step.rule}"
    return number, f"{spec}  {target}{_marked(explained)}"


def decision(traversal: Traversal) -> str:
    """What became of the packet, by whom: one plain sentence."""
    header = traversal.header
    ends = " > ".join(
        endpoint(str(header.get(address) or "?"), header.get(port) or 0)
        for address, port in (("src", "sport"), ("dst", "dport"))
    )
    protocol = f" {proto}" if (proto := header.get("proto")) else ", protocol not known,"
    what = "" if "ethertype" in header else f"{protocol} {ends}"
    packet = f"Packet #{traversal.number} ({kind(traversal)}{what})"
    end = traversal.end
    if end is not None and traversal.verdict == DISCARDED:
        told = f"every rule let it pass; then the kernel discarded it: {end_words(end)}"
        return printable(f"{packet}: {told}.")
    verb = _VERBS.get(traversal.verdict)
    if verb is None:
        return printable(f"{packet}: no rule is known to have decided what became of it.")
    place = traversal.decided_by
    if place is None:
        return printable(f"{packet} was {verb}.")
    where = f"{place.table}/{place.chain}"
    if place.several:
        return printable(f"{packet} was {verb} by one of several equal rules of {where}.")
    if place.unlisted:
        return printable(f"{packet} was {verb} by a rule of {where} that was not recorded.")
    if place.rule is None:
        return printable(f"{packet} was {verb} by the policy of {where}.")
    spec = next(
        (
            step.spec
            for step in reversed(traversal.steps)
            if (step.table, step.chain, step.rule) == (place.table, place.chain, place.rule)
        ),
        None,
    )
    text = "whose text was not recorded" if spec is None else f"`{spec}`"
    return printable(f"{packet} was {verb} by {where} rule {place.rule}, {text}.")


def _marked(explained: ExplainedStep) -> str:
    """The mark that a rule set, and the one before."""
    if explained.mark is None or explained.mark[0] == explained.mark[1]:
        return ""
    return "  (mark {:#x} -> {:#x})".format(*explained.mark)


def _passed(one: Passed) -> dict[str, Any]:
    return {
        "rule": one.number,
        "spec": one.rule.spec,
        "fits": one.fits,
        "because": one.because,
    }
