"""A packet in a line: number, time, how it ended, who sent it to whom, and who decided.

`title` stands above the steps of ``show``, `brief` stands alone (``show --brief``) and has what tcpdump tells
of a packet beside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from iptrec.packets.model import LOST, decided_at
from iptrec.views.escape import printable
from iptrec.views.packet_json import endpoint
from iptrec.views.text import MARK, about, end_words, kind, mark, place_of, remarks, verdict, whose

if TYPE_CHECKING:
    from iptrec.packets.ends import End
    from iptrec.packets.flows import Flow
    from iptrec.packets.model import Arrival, Step, Traversal
    from iptrec.views.text import Layout

_VERDICT: Final = 6  # letters of ACCEPT and REJECT


def title(traversal: Traversal, layout: Layout) -> str:
    """The line above the steps."""
    return _line(traversal, layout, verdict(traversal, layout), flow(traversal))


def brief(traversal: Traversal, layout: Layout) -> str:
    """The line that stands alone; what was dropped or rejected has a mark at the margin."""
    margin = mark(layout) if traversal.verdict in LOST else " " * len(MARK)
    ending = verdict(traversal, layout) + " " * max(0, _VERDICT - len(traversal.verdict))
    what = " ".join([flow(traversal), *_details(traversal.header)])
    return f"{margin} {_line(traversal, layout, ending, what, alone=True)}"


def decider(traversal: Traversal) -> Step | None:
    """The step that decided what became of the packet; None where that was not seen."""
    at = decided_at(traversal.decided_by, traversal.steps)
    return None if at is None else traversal.steps[at]


def flow(packet: Traversal | Arrival | Flow) -> str:
    """Protocol, addresses and ports as far as they are known: tcp 10.0.0.1:41242 > 10.0.0.2:1242."""
    header = packet.header
    if "ethertype" in header:
        return kind(packet)
    if header.get("src") is None:
        return f"{packet.family} {_flow(header, 'packet')}"
    return _flow(header, packet.family)


def ends(packet: Traversal | Arrival) -> list[str]:
    """The interfaces that it came in by and goes out by."""
    return [
        f"{name} {printable(value)}"
        for name, value in (("in", packet.in_), ("out", packet.out))
        if value
    ]


def _line(
    traversal: Traversal, layout: Layout, ending: str, what: str, *, alone: bool = False
) -> str:
    time = about(traversal) + layout.clock.time(traversal.time_ns)
    words = [f"#{traversal.number}", time, ending, what, *ends(traversal)]
    words += whose(traversal.host, traversal.netns)
    if traversal.decided_by is not None:
        words.append(f"by {place_of(traversal.decided_by)}{_spec(traversal, layout)}")
    elif traversal.end is not None:
        words += _behind_the_rules(traversal.end, alone=alone)
    return " ".join([*words, *remarks(traversal, layout, layout.clock.time)])


def _behind_the_rules(end: End, *, alone: bool) -> list[str]:
    """Who discarded it; ``alone``: also why, as no other line tells."""
    seen = end.source == "seen" and end.sure
    words = ["by the kernel"] if seen else []
    return [*words, f"({end_words(end)})"] if alone else words


def _spec(traversal: Traversal, layout: Layout) -> str:
    """What the rule says that decided."""
    step = decider(traversal) if layout.rules else None
    return "" if step is None or step.spec is None else f": {printable(step.spec)}"


def _flow(header: dict[str, Any], unknown: str) -> str:
    """``unknown``: what it is called where its protocol is not known."""
    protocol = header.get("proto")
    name = printable(str(protocol or unknown))
    source, target = (
        endpoint(printable(str(header.get(address) or "?")), header.get(port) or 0)
        for address, port in (("src", "sport"), ("dst", "dport"))
    )
    return f"{f'proto {name}' if name.isdigit() else name} {source} > {target}"


def _details(header: dict[str, Any]) -> list[str]:
    """What tcpdump tells beside: flags, or the kind of a message and what an error is about; the length."""
    words = [printable(str(header[key])) for key in ("flags", "name") if header.get(key)]
    words += [
        f"{name} {header[key]}"
        for key, name in (("icmp_id", "id"), ("icmp_seq", "seq"), ("frag", "frag"))
        if header.get(key) is not None
    ]
    if header.get("inner", {}).get("src"):
        words.append(f"[{_flow(header['inner'], 'packet')}]")
    if header.get("length") is not None:
        words.append(f"length {header['length']}")
    return words
