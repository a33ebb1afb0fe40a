"""What an event of a published schema can tell of a packet, by names of our own.

`ocsf` and `ecs` say where each of these goes. What is not known is None.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from iptrec.decode.headers import Texts
from iptrec.decode.packet import TCP_FLAGS
from iptrec.names import FAMILIES, HOOKS, PROTOCOL_NUMBERS
from iptrec.packets.model import decided_at
from iptrec.rulesets.table_names import plain
from iptrec.views.templates import Template

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeAlias

    from iptrec.answers.lookalikes import Shape
    from iptrec.answers.packets import Batch
    from iptrec.packets.model import Step, Traversal
    from iptrec.recording.rows import Facts
    from iptrec.views.templates import Values

    Value: TypeAlias = "str | int | None"
    Known: TypeAlias = "dict[str, Value]"

DENIED: Final = ("DROP", "REJECT")  # verdicts of rules and policies that stop a packet
_IANA: Final = {"icmpv6": "ipv6-icmp"}  # names of protocols, where ours are others than IANA's
_DIGITS: Final = 32  # of a digest, hexadecimal
_MS: Final = 10**6  # ns
_LOOPBACK: Final = "lo"
_INPUT, _OUTPUT = HOOKS.index("INPUT"), HOOKS.index("OUTPUT")
_BITS: Final = {names: bits for bits, names in enumerate(TCP_FLAGS)}
_HEADER: Final = {
    "src": "src", "dst": "dst", "sport": "sport", "dport": "dport", "length": "length", "ttl": "ttl",
    "hop_limit": "ttl", "flags": "flags", "type": "icmp_type", "code": "icmp_code",
}  # fmt: skip
_NAT: Final = (("src", "sport"), ("dst", "dport"))


def rule_digest(content: tuple[str | None, ...]) -> str:
    """The same for rules of equal (family, table, chain, text), whoever has them."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:_DIGITS]


def known(packet: Traversal, position: int, batch: Batch, facts: Facts, recording: str) -> Known:
    """What is known of a packet of a batch; ``recording``: the id of its recording, fit for a file's name."""
    outcome = batch.window.assembly.outcomes[batch.window.assembly.outcome[position]]
    hooks = {batch.window.resolver.places[one].hook for one in outcome.path}
    header = {_HEADER[name]: one for name, one in packet.header.items() if name in _HEADER}
    link = packet.link or {}
    proto = packet.header.get("proto")
    found: Known = {
        "packet": packet.number,
        "uid": f"{recording}:{packet.number}",
        "recording": recording,
        "time_ns": packet.time_ns,
        "time_ms": packet.time_ns // _MS,
        "time_estimated": int(packet.time_estimated),
        "host": facts.host or None,
        "iptrec": facts.iptrec,
        "kernel": _release(facts.kernel),
        "netns": packet.netns,
        "family": packet.family,
        "version": 4 if packet.family == FAMILIES[0] else 6,
        "in": packet.in_,
        "out": next((one.out for one in reversed(packet.steps) if one.out), packet.out),
        "direction": _direction(packet, hooks),
        "mac_src": link.get("src"),
        "mac_dst": link.get("dst"),
        "octets_src": _octets(link.get("src")),
        "octets_dst": _octets(link.get("dst")),
        "transport": _transport(proto),
        "proto_number": _protocol(proto),
        **header,
        "flag_bits": _BITS.get(str(header.get("flags"))),
        "mark": packet.steps[0].mark if packet.steps else None,
        "ct_id": _text(
            next((one.ct.id for one in packet.steps if one.ct and one.ct.id is not None), None)
        ),
        "verdict": packet.verdict,
        "reason": packet.reason,
        "complete": int(packet.complete),
        "ambiguous": int(packet.ambiguous),
        "steps": len(packet.steps),
        **_decision(packet),
        **_end(packet),
        "uid_of_socket": packet.uid,
        "gid_of_socket": packet.gid,
    }
    for names in _NAT:
        if any(name in step.changed for step in packet.steps for name in names):
            found |= {f"nat_{name}": _last(packet.steps, name, header.get(name)) for name in names}
    if packet.connection is not None:
        found["ct_id"] = str(packet.connection.id)
    return found


def varying(shape: Shape, recording: str) -> dict[str, Values]:
    """Those of `known` in which the packets of a shape may differ, a value a packet."""
    time_ns = shape.steps[0].time_ns
    found: dict[str, Values] = {
        "packet": shape.number,
        "uid": Template([f"{recording}:", ""], [shape.number]),
        "time_ns": time_ns,
        "time_ms": time_ns // _MS,
        **{_HEADER[name]: one for name, one in shape.header.items() if name in _HEADER},
        **{f"mac_{side}": one for side, one in shape.link.items() if side in ("src", "dst")},
    }
    for side in shape.link.keys() & {"src", "dst"}:
        column = shape.link[side]
        found[f"octets_{side}"] = Texts(
            [str(_octets(one)) for one in column.distinct], column.which
        )
    if isinstance(flags := found.get("flags"), Texts):
        found["flag_bits"] = np.array([_BITS[one] for one in flags.distinct])[flags.which]
    for names in _NAT:
        after = {name: found[name] for name in names if name in found}
        for step in shape.steps:
            after |= {name: step.changed[name][1] for name in names if name in step.changed}
        found |= {f"nat_{name}": values for name, values in after.items()}
    for step in reversed(shape.steps):
        if step.ct_id is not None:
            found["ct_id"] = Template(["", ""], [step.ct_id])
    if shape.ended_ns.any():
        found["end_ns"] = shape.ended_ns
    return found


def _decision(packet: Traversal) -> Known:
    """Who decided: a rule, a policy, or nobody known."""
    place = packet.decided_by
    if place is None:
        return {"message": packet.verdict}
    at = decided_at(place, packet.steps)
    step = None if at is None else packet.steps[at]
    found: Known = {
        "table": place.table,
        "chain": place.chain,
        "rule": place.rule,
        "decided": f"{place.table}/{place.chain}",
        "decided_by": "policy" if place.rule is None and not place.unlisted else "rule",
        "message": f"{packet.verdict} by {place.table}/{place.chain} {place.what}",
    }
    if place.rule is not None:
        found["rule_id"] = f"{place.table}/{place.chain}:{place.rule}"
        found["rule_name"] = f"{place.table}/{place.chain} rule {place.rule}"
    if step is None or place.rule is None or step.spec is None:
        return found
    return found | {
        "rule_digest": rule_digest((packet.family, plain(place.table), place.chain, step.spec)),
        "spec": step.spec,
        "comment": step.comment,
        "target": step.target,
        "target_args": step.target_args,
    }


def _end(packet: Traversal) -> Known:
    owner, end = packet.owner, packet.end
    found: Known = {}
    if end is not None:
        found |= {
            "end_reason": end.reason, "end_where": end.where, "end_source": end.source,
            "end_text": end.text, "end_ns": end.time_ns, "end_sure": int(end.sure),
        }  # fmt: skip
    if owner is not None:
        found |= {
            "owner_pid": owner.pid, "owner_comm": owner.comm, "owner_cgroup": owner.cgroup,
            "owner_container": owner.container, "owner_pod": owner.pod, "owner_uid": owner.uid,
        }  # fmt: skip
    return found


def _direction(packet: Traversal, hooks: set[int]) -> str | None:
    """As this host has it: in, out, or local by the loopback device; None: forwarded, or not seen."""
    if _LOOPBACK in {packet.in_, packet.out, *(one.out for one in packet.steps)}:
        return "local"
    if _OUTPUT in hooks:
        return "out"
    return "in" if _INPUT in hooks else None


def _last(steps: Iterable[Step], name: str, found: Value) -> Value:
    """What a field of the header was in the end; ``found``: at first."""
    for step in steps:
        if name in step.changed:
            found = step.changed[name][1]
    return found


def _protocol(proto: Any) -> int | None:  # noqa: ANN401 - as the header has it
    text = str(proto)
    return PROTOCOL_NUMBERS.get(text, int(text) if text.isascii() and text.isdigit() else None)


def _transport(proto: Any) -> str | None:  # noqa: ANN401 - as the header has it
    """The name of a protocol, where it has one."""
    text = str(proto)
    return None if proto is None or text.isdigit() else _IANA.get(text, text)


def _release(kernel: str) -> str | None:
    """The release in what uname -srvm printed; of what is not Linux nothing is known."""
    words = kernel.split(" ")
    return words[1] if words[0] == "Linux" and len(words) > 1 else None


def _octets(mac: str | None) -> str | None:
    """A MAC as RFC 7042 writes it."""
    return None if mac is None else mac.upper().replace(":", "-")


def _text(value: int | None) -> str | None:
    return None if value is None else str(value)
