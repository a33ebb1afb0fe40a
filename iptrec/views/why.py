"""``iptrec why``: the decision in a sentence, then how it came to it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from iptrec.views.escape import printable
from iptrec.views.packet_json import as_object, endpoint
from iptrec.views.style import styled
from iptrec.views.text import NOT_RECORDED, kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.answers.why import ExplainedStep, Explanation, Passed
    from iptrec.packets.model import Step, Traversal

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
    return json.dumps(
        {"format": FORMAT, "decision": decision(explanation.packet), "packet": packet},
        separators=(",", ":"),
    )


def as_text(explanation: Explanation, *, colour: bool) -> Iterator[str]:
    """Lines without their newlines."""
    packet = explanation.packet
    yield decision(packet)
    if packet.reason:
        yield f"({printable(packet.reason)})"
    before = ""
    for explained in explanation.steps:
        step = explained.step
        chain = f"{printable(step.table)}/{printable(step.chain)}"
        if chain != before:
            yield f"  {chain}"
        before = chain
        for one in explained.passed:
            yield styled(f"    #{one.number:<4} {_no(one)}", _FAINT, colour=colour)
        yield f"    {_met(step)}{_marked(explained)}"


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
    verb = _VERBS.get(traversal.verdict)
    if verb is None:
        return printable(f"{packet}: no rule is known to have decided what became of it.")
    place = traversal.decided_by
    if place is None:
        return printable(f"{packet} was {verb}.")
    where = f"{place.table}/{place.chain}"
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


def _no(one: Passed) -> str:
    """Why a rule did not match."""
    spec = printable(one.rule.spec)
    if one.fits is False:
        return f"{spec}  <- no: {printable(one.because or '')}"
    if one.fits is None:
        return f"{spec}  <- no: it depends on {printable(one.because or '')}"
    return f"{spec}  <- no, though all that is known of the packet fits"


def _met(step: Step) -> str:
    unknown = "?" if step.spec is None else "goes on"
    target = printable(step.target or unknown)
    if step.type == "rule":
        number = f"#{step.rule}" if step.rule is not None else "#-"
        unseen = "(not in the recorded ruleset)" if step.rule is None else NOT_RECORDED
        spec = unseen if step.spec is None else printable(step.spec)
        return f"{number:<5} {spec}  => {target}"
    if step.type == "unknown":
        return f"#{step.rule:<4} or the end: (not in the recorded ruleset)  => {target}"
    return f"{step.type}  => {target}"


def _marked(explained: ExplainedStep) -> str:
    """The mark that a rule set, and the one before."""
    if (
        explained.mark is None
        or explained.mark[0] == explained.mark[1]
        or explained.step.type != "rule"
    ):
        return ""
    return "  (mark {:#x} -> {:#x})".format(*explained.mark)


def _passed(one: Passed) -> dict[str, Any]:
    return {
        "rule": one.number,
        "spec": one.rule.spec,
        "fits": one.fits,
        "because": one.because,
    }
