"""``show --json``: one line a traversal; schemas/show-v1.schema.json describes it."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from iptrec.decode.conntrack import DIRECTIONS, OTHER_STATUS, STATES, STATUS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from iptrec.decode.conntrack import Connection
    from iptrec.decode.owners import Owner
    from iptrec.packets.ends import End
    from iptrec.packets.model import CtInfo, RulePlace, Step, Traversal
    from iptrec.packets.outcome import Unordered

FORMAT: Final = 1
_END: Final = ("source", "reason", "text", "where", "time_ns", "sure")


def line(traversal: Traversal) -> str:
    """The traversal as a JSON object on one line, ASCII only."""
    return dumped(as_object(traversal))


def dumped(value: dict[str, Any]) -> str:
    """A JSON object on one line."""
    return json.dumps(value, separators=(",", ":"))


def as_place(place: RulePlace | None) -> dict[str, Any] | None:
    """Where a decision was made, as values of JSON."""
    if place is None:
        return None
    return {"table": place.table, "chain": place.chain, "rule": place.rule}


def as_object(traversal: Traversal) -> dict[str, Any]:
    """The traversal as values of JSON."""
    return {
        "format": FORMAT,
        "packet": traversal.number,
        "time": iso_time(traversal.time_ns),
        "time_ns": traversal.time_ns,
        **_estimated(traversal),
        "family": traversal.family,
        **host(traversal.host),
        "netns": traversal.netns,
        "in": traversal.in_,
        "out": traversal.out,
        "link": traversal.link,
        "header": traversal.header,
        "verdict": traversal.verdict,
        "decided_by": as_place(traversal.decided_by),
        "complete": traversal.complete,
        "ambiguous": traversal.ambiguous,
        "reason": traversal.reason,
        "related": [{"kind": one.kind, "packet": one.packet} for one in traversal.related],
        **({} if traversal.end is None else {"end": as_end(traversal.end)}),
        **unordered(traversal.unordered),
        "altered_by": None if traversal.altered_by is None else asdict(traversal.altered_by),
        "connection": traversal.connection and as_connection(traversal.connection),
        **{name: one for name, one in owner(traversal).items() if one is not None},
        **({} if traversal.owner is None else {"owner": as_owner(traversal.owner)}),
        "steps": [_step(step) for step in traversal.steps],
    }


def as_end(end: End) -> dict[str, Any]:
    """What became of a packet behind the rules."""
    return {name: getattr(end, name) for name in _END}


def unordered(chains: Iterable[Unordered]) -> dict[str, Any]:
    """Chains of both backends whose order is not known; nothing where there are none."""
    found = [one._asdict() for one in chains]
    return {"unordered": found} if found else {}


def host(name: str | None) -> dict[str, str]:
    """The host, where several recordings are read as one; else nothing."""
    return {} if name is None else {"host": name}


def _estimated(one: Traversal | Step) -> dict[str, bool]:
    """That its time is not its own; nothing where it is."""
    return {"time_estimated": True} if one.time_estimated else {}


def owner(traversal: Traversal) -> dict[str, int | None]:
    """Whose socket sent it, or is to get it."""
    return {"uid": traversal.uid, "gid": traversal.gid}


def as_owner(found: Owner) -> dict[str, Any]:
    """Who holds a packet's socket, as values of JSON: what is known."""
    return {name: one for name, one in asdict(found).items() if one is not None}


def iso_time(time_ns: int) -> str:
    """ISO 8601 in UTC with nanoseconds; the plain number where no calendar reaches."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"
    except (ValueError, OverflowError, OSError):
        return str(time_ns)


def as_connection(connection: Connection) -> dict[str, Any]:
    """A connection and what NAT makes of it."""
    translation = nat(connection)
    return {
        "id": connection.id,
        "orig": asdict(connection.orig),
        "reply": asdict(connection.reply),
        "nat": translation or None,
        "mark": connection.mark,
        "zone": connection.zone,
    }


def as_ct(ct: CtInfo) -> dict[str, Any]:
    """What conntrack knew of a packet, by the names of the kernel's numbers."""
    direction = next((name for name, one in DIRECTIONS.items() if one == ct.direction), None)
    return {
        "id": ct.id,
        "direction": direction,
        "state": next((name for name, bit in STATES.items() if bit == ct.state), None),
        "status": None if ct.status is None else _status(ct.status),
    }


def _status(bits: int) -> list[str]:
    return [name for name, bit in (STATUS | OTHER_STATUS).items() if bits & bit]


def nat(connection: Connection) -> dict[str, str]:
    """What NAT does to the connection: "dnat", "snat" -> the new address and port."""
    orig, reply = connection.orig, connection.reply
    found = {}
    if (orig.dst, orig.dport) != (reply.src, reply.sport):
        found["dnat"] = endpoint(reply.src, reply.sport)
    if (orig.src, orig.sport) != (reply.dst, reply.dport):
        found["snat"] = endpoint(reply.dst, reply.dport)
    return found


def endpoint(address: str, port: int) -> str:
    """As iptables writes it."""
    if not port:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _step(step: Step) -> dict[str, Any]:
    backend = {} if step.backend is None else {"backend": step.backend}
    ct = {} if step.ct is None else {"ct": as_ct(step.ct)}
    return {
        **backend,
        "time_ns": step.time_ns,
        **_estimated(step),
        "table": step.table,
        "chain": step.chain,
        "type": step.type,
        "rule": step.rule,
        "spec": step.spec,
        "comment": step.comment,
        "target": step.target,
        "target_args": step.target_args,
        "mark": step.mark,
        "in": step.in_,
        "out": step.out,
        "physin": step.physin,
        "physout": step.physout,
        **ct,
        "changed": {name: list(change) for name, change in step.changed.items()},
    }
