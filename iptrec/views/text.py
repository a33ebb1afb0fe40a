"""``show --classic``: packets as text, in the layout of iptables-tracer.

`iptrec.views.show` is made of the same words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from iptrec.names import counted
from iptrec.packets.ends import DISCARDED
from iptrec.views.escape import printable
from iptrec.views.losses import HOLES
from iptrec.views.packet_json import as_ct, as_owner, endpoint, iso_time, nat, owner
from iptrec.views.style import styled
from iptrec.views.timestamps import LOCAL, Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from iptrec.decode.conntrack import Connection
    from iptrec.packets.ends import End
    from iptrec.packets.flows import Flow
    from iptrec.packets.model import (
        Arrival,
        Change,
        CtInfo,
        RelationKind,
        RulePlace,
        Step,
        Traversal,
    )
    from iptrec.packets.outcome import Unordered
    from iptrec.recording.rows import Loss

_STYLES: Final = {"ACCEPT": "32", "DROP": "31", "REJECT": "31", "DISCARDED": "31"}  # SGR colours
_ETHERTYPES: Final = {"0x0806": "arp"}
_UNCERTAIN: Final = "33"
_FAINT: Final = "2"
MARK: Final = "-->"  # at the margin, so that it is seen without colour
_RED: Final = "31"
NO_CHAIN: Final = "(no chain but iptrec's own saw it)"
NOT_RECORDED: Final = "(its text was not recorded)"

# JSON names of the header's fields -> the LOG target's, in the order in which they are printed
_FIELDS: Final = {
    "src": "SRC", "dst": "DST", "length": "LEN", "tos": "TOS", "ttl": "TTL", "hop_limit": "HOPLIMIT",
    "flow_label": "FLOWLBL", "id": "ID", "frag": "FRAG", "mf": "MF", "ext": "EXT", "proto": "PROTO",
    "sport": "SPT", "dport": "DPT", "type": "TYPE", "code": "CODE", "name": "NAME", "icmp_id": "ICMPID",
    "icmp_seq": "ICMPSEQ", "target": "TARGET", "group": "GROUP", "spi": "SPI", "vrid": "VRID",
    "priority": "PRIORITY", "flags": "FLAGS", "seq": "SEQ", "ack": "ACK",
    "window": "WINDOW", "csum": "CSUM", "truncated": "TRUNCATED",
}  # fmt: skip

_RELATIONS: Final[dict[RelationKind, str]] = {
    "looped-back": "the same packet as #{}, looped back",
    "answer-of-reject": "made by the REJECT of #{}",
    "copy": "a copy of #{}",
    "error-about": "an error about #{}",
    "carries": "carries #{}",
    "carried-by": "was carried by #{}",
    "reassembled": "put together from #{}",
}


_OWNERS: Final = ("uid", "gid", "comm", "pid", "cgroup", "container", "pod")
_WHOLE_ID, _SHORT_ID = 64, 12  # of a container, as docker ps and crictl ps have it


@dataclass(frozen=True, slots=True)
class Layout:
    """What is printed of each packet. `render` takes no notice of ``verbose`` and ``clock``."""

    colour: bool = False
    phys: bool = False
    ct: bool = False
    rules: bool = True
    iface_changes: bool = True
    verbose: bool = False
    clock: Clock = LOCAL


def render(traversal: Traversal, layout: Layout) -> str:
    """One packet, several lines, each with its newline."""
    lines = [_title(traversal, layout), header_line(traversal)]
    if traversal.connection is not None:
        lines.append(connection_line(traversal.connection))
    for step in traversal.steps:
        lines += step_lines(step, layout)
    lines += [f"\t{NO_CHAIN}"] if not traversal.steps else []
    lines += end_lines(traversal, layout)
    return "\n".join(lines) + "\n"


def holes(
    losses: Sequence[Loss], when: Callable[[int], str] = iso_time, host: str | None = None
) -> list[str]:
    """Lines between packets for what is missing there: times without tracing, and lost events together.

    ``when`` prints a time, ns since 1970. A time of both families is one line. ``host``: whose it is.
    """
    of_host = "".join(f", {word}" for word in whose(host, None))
    untraced = dict.fromkeys(
        (one.first_ns, one.last_ns, HOLES[one.how]) for one in losses if one.how in HOLES
    )
    lines = [
        f"-- not traced from {when(first)} to {when(last)}: {how}{of_host} --\n"
        for first, last, how in untraced
    ]
    lost = [one for one in losses if one.events or one.how == "enobufs"]
    if lost:
        count = sum(one.events or 0 for one in lost)
        what = f"{counted(count, 'event')} lost" if count else "events lost, not known how many,"
        first, last = (
            when(min(one.first_ns for one in lost)),
            when(max(one.last_ns for one in lost)),
        )
        lines.append(f"-- {what} from {first} to {last}{of_host} --\n")
    return lines


def _title(traversal: Traversal, layout: Layout) -> str:
    words = [
        f"#{traversal.number}",
        about(traversal) + iso_time(traversal.time_ns),
        kind(traversal),
    ]
    words += whose(traversal.host, traversal.netns)
    words.append(verdict(traversal, layout))
    if traversal.decided_by is not None:
        words.append(f"by {place_of(traversal.decided_by)}")
    return " ".join([*words, *remarks(traversal, layout, _time_of_day)])


def whose(host: str | None, netns: str | None) -> list[str]:
    """The host and the network namespace, where they have names."""
    named = ("host", host), ("netns", netns)
    return [f"{what}={printable(name)}" for what, name in named if name is not None]


def about(traversal: Traversal) -> str:
    """What stands before a time that is not the packet's own."""
    return "~" if traversal.time_estimated else ""


def verdict(traversal: Traversal, layout: Layout) -> str:
    """How it ended."""
    certain = traversal.complete and not traversal.ambiguous
    style = _STYLES.get(traversal.verdict, _UNCERTAIN) if certain else _UNCERTAIN
    return styled(printable(traversal.verdict), style, colour=layout.colour)


def remarks(traversal: Traversal, layout: Layout, when: Callable[[int], str]) -> list[str]:
    """What is unsure of a packet, what it has to do with others, and which change of the rules decided."""
    words = []
    flaws = " and ".join(
        flaw
        for flaw, holds in (
            ("incomplete", not traversal.complete),
            ("ambiguous", traversal.ambiguous),
        )
        if holds
    )
    doubts = [doubt for doubt in (flaws, printable(traversal.reason or "")) if doubt]
    if doubts:
        words.append(styled(f"({': '.join(doubts)})", _UNCERTAIN, colour=layout.colour))
    words += [f"({_RELATIONS[one.kind].format(one.packet)})" for one in traversal.related]
    words += [
        styled(f"({order(one)})", _UNCERTAIN, colour=layout.colour) for one in traversal.unordered
    ]
    if traversal.altered_by is not None:
        change = _change(traversal.altered_by, when)
        words.append(styled(f"({change})", _UNCERTAIN, colour=layout.colour))
    return words


def order(one: Unordered) -> str:
    """That nobody knows in which order some chains were passed."""
    chains = " and ".join(map(printable, one.chains))
    return f"order not known at {one.hook}, of one priority: {chains}"


def mark(layout: Layout) -> str:
    """What stands at the margin where a packet was dropped or rejected."""
    return styled(MARK, _RED, colour=layout.colour)


def end_lines(traversal: Traversal, layout: Layout, indent: str = "\t") -> list[str]:
    """What became of the packet behind the rules; none where nothing is known of that."""
    end = traversal.end
    if end is None:
        return []
    discarded = traversal.verdict == DISCARDED
    line = f"end: {end_words(end)}"
    if discarded:
        return [f"{mark(layout)}{indent.strip(' ') or ' '}{line}"]
    return [indent + styled(line, "" if end.sure else _UNCERTAIN, colour=layout.colour)]


def end_words(end: End) -> str:
    """How a packet ended; with the kernel's own words, where it was seen."""
    return printable(f"{end.text}{f' ({end.kernels_words})' if end.source == 'seen' else ''}")


def kind(packet: Traversal | Arrival | Flow) -> str:
    """The packet's family; of a frame that is not IP what it is."""
    if "ethertype" not in packet.header:
        return packet.family
    ethertype = packet.header["ethertype"]
    return _ETHERTYPES.get(ethertype, f"ethertype {ethertype or '?'}")


def _change(change: Change, clock: Callable[[int], str]) -> str:
    when = clock(change.time_ns)
    where = f"{printable(change.table)}/{printable(change.chain)}"
    if change.kind == "policy":
        return f"the policy of {where} changed at {when}"
    if change.kind == "renamed":
        return f"{where} renamed to {printable(change.spec or '')} at {when}"
    return f"rule #{change.rule} of {where} {change.kind} at {when}"


def _time_of_day(time_ns: int) -> str:
    return iso_time(time_ns).partition("T")[2].removesuffix("Z") or str(time_ns)


def place_of(place: RulePlace) -> str:
    """Where it was decided."""
    return f"{printable(place.table)}/{printable(place.chain)} {place.what}"


def header_line(traversal: Traversal) -> str:
    """The packet as it came, with its link header."""
    words = [f"IN={printable(traversal.in_ or '')}", f"OUT={printable(traversal.out or '')}"]
    if traversal.link is not None:
        words += [f"MACSRC={traversal.link['src']}", f"MACDST={traversal.link['dst']}"]
    return " ".join([*words, *fields(traversal.header)])


def owner_words(traversal: Traversal) -> list[str]:
    """Whose socket sent it, or is to get it, in the words of the LOG target; and who holds that socket."""
    told: dict[str, Any] = {} if traversal.owner is None else as_owner(traversal.owner)
    told |= {name: one for name, one in owner(traversal).items() if one is not None}
    if told.get("cgroup") == "/":  # the root says nothing
        del told["cgroup"]
    if len(told.get("container", "")) == _WHOLE_ID:
        told["container"] = told["container"][:_SHORT_ID]
    return [f"{name.upper()}={_word(str(told[name]))}" for name in _OWNERS if name in told]


def _word(text: str) -> str:
    """One that nobody takes for two."""
    return printable(text).replace(" ", "\\x20")


def connection_line(connection: Connection) -> str:
    """Both directions as /proc/net/nf_conntrack has them, and what NAT does."""
    orig, reply = (
        f"{endpoint(flow.src, flow.sport)} > {endpoint(flow.dst, flow.dport)}"
        for flow in (connection.orig, connection.reply)
    )
    words = [f"CONNTRACK ID={connection.id} ORIG={orig} REPLY={reply}"]
    words += [f"[{kind.upper()} {to}]" for kind, to in nat(connection).items()]
    return " ".join(words)


def fields(header: dict[str, Any]) -> list[str]:
    """A packet's header in the words of the LOG target."""
    words = [
        _field(key, name, header[key])
        for key, name in _FIELDS.items()
        if header.get(key) is not None and header[key] is not False
    ]
    if "inner" in header:
        words.append(f"[{' '.join(fields(header['inner']))} ]")
    return words


def _field(key: str, name: str, value: Any) -> str:  # noqa: ANN401 - JSON
    if value is True:
        return name  # as MF and DF in the LOG target
    return f"({_value(key, value)})" if key == "name" else f"{name}={_value(key, value)}"


def changes(changed: dict[str, tuple[Any, Any]]) -> list[str]:
    """What is new in the packet, and what was there before, in the order of the header line."""
    words = [
        f"{name}={_value(key, changed[key][1])} (was {_value(key, changed[key][0])})"
        for key, name in _FIELDS.items()
        if key in changed
    ]
    if "inner" in changed:
        old, new = (inner or {} for inner in changed["inner"])
        inner = {
            key: (old.get(key), new.get(key)) for key in old | new if old.get(key) != new.get(key)
        }
        words.append(f"[{' '.join(changes(inner))} ]")
    return words


def _value(key: str, value: Any) -> str:  # noqa: ANN401 - JSON
    if value is None:
        return "(none)"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key == "tos":
        return f"{value:02x}"
    if key == "csum":
        return f"{value:04x}"
    if key == "spi":
        return f"0x{value:x}"
    if key == "proto":
        return printable(str(value)).upper()
    if isinstance(value, list):
        return printable(",".join(map(str, value)))
    return printable(str(value))


def step_lines(step: Step, layout: Layout) -> list[str]:
    """A step: where it was and how the packet was then; what it met there; what came of it."""
    words = [printable(step.table), printable(step.chain)]
    if step.mark is not None:
        words.append(f"NFMARK=0x{step.mark:x}")
    if layout.iface_changes and ("in" in step.changed or "out" in step.changed):
        words += [f"IN={printable(step.in_ or '')}", f"OUT={printable(step.out or '')}"]
    if layout.phys:
        words += [
            f"PHYSIN={printable(step.physin or '')}",
            f"PHYSOUT={printable(step.physout or '')}",
        ]
    if layout.ct and step.ct is not None:
        words += ct_words(step.ct)
    if step.changed:
        words += changes(step.changed)
    if "mark" in step.changed:
        words.append(f"(mark was 0x{step.changed['mark'][0]:x})")
    return ["\t" + " ".join(words), *met(step, layout)]


def met(step: Step, layout: Layout) -> list[str]:
    """What the packet met, and the target: a line each."""
    lines = []
    if step.type in ("rule", "match", "unknown"):
        lines.append("\t\t" + _rule(step, layout))
    elif step.type == "policy":
        lines.append("\t\tDEFAULT POLICY")
    lines.append("\t\t" + _target(step, layout))
    return lines


def ct_words(ct: CtInfo) -> list[str]:
    """What conntrack knew of the packet, as far as the trace tells it."""
    known = as_ct(ct)
    known["status"] = ",".join(known["status"] or ()) or None
    names = {"id": "CTID", "direction": "CTDIR", "state": "CTSTATE", "status": "CTSTATUS"}
    return [f"{name}={known[key]}" for key, name in names.items() if known[key] is not None]


def _rule(step: Step, layout: Layout) -> str:
    if step.type == "match":
        words = f": {printable(step.spec)}" if layout.rules and step.spec is not None else ""
        return f"MALFORMED FOR THE MATCH OF RULE (#{step.rule}){words}"
    # A text that was imported may tell a rule's words and not its number; ours have a comment.
    unnumbered = "MATCH RULE (iptrec's own)" if step.comment else "MATCH RULE"
    number = unnumbered if step.rule is None else f"MATCH RULE (#{step.rule})"
    if step.type == "unknown":
        return f"{number}, OR THE END: (not in the recorded ruleset)"
    if step.spec is None and step.rule is None:  # in an anonymous chain of nf_tables
        return "MATCH RULE: (not in the recorded ruleset)"
    if step.spec is None:
        return f"{number}: {NOT_RECORDED}"
    if layout.rules:
        return f"{number}: {printable(step.spec)}"
    return number + (f" /* {printable(step.comment)} */" if step.comment else "")


def _target(step: Step, layout: Layout) -> str:
    if step.target is None:
        return styled(
            "=> (goes on)" if step.spec is not None else "=> ?", _FAINT, colour=layout.colour
        )
    arguments = f": {printable(step.target_args)}" if step.target_args else ""
    return (
        "=> "
        + styled(printable(step.target), _STYLES.get(step.target, ""), colour=layout.colour)
        + arguments
    )
