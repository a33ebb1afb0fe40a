"""A packet as an event of the Elastic Common Schema, as its own example of a firewall has it.

Names and types are those of version 9.4.0 (https://www.elastic.co/docs/reference/ecs);
tests/data/ecs-9.4.0.json has those that stand here. What ECS has no field for is under ``iptrec.``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from iptrec.views.event_facts import DENIED
from iptrec.views.events import Field, Schema, constant, mapped

if TYPE_CHECKING:
    from iptrec.views.event_facts import Known, Value
    from iptrec.views.events import Kind

_TYPES: Final[dict[Value, Value]] = {
    "ACCEPT": "connection,allowed",
    **dict.fromkeys(DENIED, "connection,denied"),
}
# ECS's page on categorization: that a firewall denied something is its success.
_OUTCOMES: Final[dict[Value, Value]] = {
    "ACCEPT": "success", **dict.fromkeys(DENIED, "success"), "DISCARDED": "failure", "REASSEMBLED": None,
}  # fmt: skip
_DIRECTIONS: Final[dict[Value, Value]] = {"in": "ingress", "out": "egress"}


def _outcome(known: Known) -> Value:
    """Absent where the word makes no sense: of a fragment that became part of a packet."""
    return "unknown" if known["ambiguous"] else _OUTCOMES.get(known["verdict"], "unknown")


def _action(known: Known) -> Value:
    return str(known["verdict"]).lower()


def _number(known: Known) -> Value:
    """IANA's, which ECS has as a keyword."""
    number = known.get("proto_number")
    return None if number is None else str(number)


def _own() -> tuple[Field, ...]:
    fields: tuple[tuple[str, Kind, str, str], ...] = (
        ("time_ns", "number", "the time, ns since 1970", "time_ns"),
        ("time_estimated", "truth", "the time is between those of others: the kernel did not note it",
         "time_estimated"),
        ("recording", "text", "id of the recording", "recording"),
        ("packet", "number", "number of the packet in it, as iptrec show prints it", "packet"),
        ("netns", "text", "network namespace, as the user named it", "netns"),
        ("verdict", "text", "ACCEPT, DROP, REJECT, ..., or UNKNOWN: as iptrec show has it", "verdict"),
        ("complete", "truth", "seen from its first traced rule to its end", "complete"),
        ("ambiguous", "truth", "it may have been otherwise", "ambiguous"),
        ("steps", "number", "how many rules, returns and policies it met", "steps"),
        ("decided.by", "text", "rule or policy", "decided_by"),
        ("decided.table", "text", "table of the rule or policy that decided", "table"),
        ("decided.chain", "text", "its chain", "chain"),
        ("decided.rule", "number", "its number in the chain, from 1", "rule"),
        ("decided.spec", "text", "the rule as iptables-save or nft prints it", "spec"),
        ("decided.target", "text", "its target: DROP, DNAT, a chain", "target"),
        ("decided.target_args", "text", "options of its target", "target_args"),
        ("ttl", "number", "TTL or hop limit", "ttl"),
        ("tcp_flags", "text", "flags of TCP, such as SYN,ACK", "flags"),
        ("icmp_type", "number", "type of ICMP", "icmp_type"),
        ("icmp_code", "number", "code of ICMP", "icmp_code"),
        ("mark", "number", "firewall mark when it was first seen", "mark"),
        ("ct_id", "text", "conntrack's id, where the kernel told it", "ct_id"),
        ("end.reason", "text", "what became of it behind the rules: the kernel's word", "end_reason"),
        ("end.where", "text", "function of the kernel that did", "end_where"),
        ("end.source", "text", "how that is known: seen, asked or recorded", "end_source"),
        ("end.text", "text", "the same in plain words", "end_text"),
        ("end.time", "time", "when", "end_ns"),
        ("end.sure", "truth", "it can only be this packet and this end", "end_sure"),
        ("socket.uid", "number", "user whose socket sent it or is to get it", "uid_of_socket"),
        ("socket.gid", "number", "and the group", "gid_of_socket"),
        ("owner.pid", "number", "process that held its socket", "owner_pid"),
        ("owner.comm", "text", "and its name", "owner_comm"),
        ("owner.cgroup", "text", "control group of its socket", "owner_cgroup"),
        ("owner.container", "text", "container, by that", "owner_container"),
        ("owner.pod", "text", "UID of the pod, by that", "owner_pod"),
        ("owner.uid", "number", "user of its socket, by the lists of sockets", "owner_uid"),
    )  # fmt: skip
    return tuple(Field(f"iptrec.{name}", kind, about, of) for name, kind, about, of in fields)


_FIELDS: Final = (
    Field("@timestamp", "time", "arrival, or when the kernel told of its first event", "time_ns"),
    Field("ecs.version", "text", "of ECS", constant("9.4.0")),
    Field("message", "text", "verdict, and who decided", "message"),
    Field("event.kind", "text", "event", constant("event")),
    Field("event.category", "texts", "network", constant("network")),
    Field("event.type", "texts", "connection; allowed: ACCEPT; denied: DROP, REJECT",
          mapped("verdict", _TYPES, "connection")),
    Field("event.action", "text", "the verdict: accept, drop, reject, ...", _action),
    Field("event.outcome", "text", "success: the rules accepted, dropped or rejected it; failure: DISCARDED;"
          " unknown: other verdicts, and of packets that are ambiguous", _outcome),
    Field("event.reason", "text", "why it is incomplete, ambiguous or UNKNOWN", "reason"),
    Field("event.id", "text", "recording and packet: the event's id, for ever", "uid"),
    Field("event.sequence", "number", "number of the packet", "packet"),
    Field("event.module", "text", "iptrec", constant("iptrec")),
    Field("event.dataset", "text", "iptrec.packet", constant("iptrec.packet")),
    Field("event.provider", "text", "netfilter", constant("netfilter")),
    Field("host.name", "text", "host that recorded", "host"),
    Field("observer.type", "text", "firewall", constant("firewall")),
    Field("observer.hostname", "text", "host that recorded", "host"),
    Field("observer.product", "text", "iptrec", constant("iptrec")),
    Field("observer.version", "text", "version that recorded", "iptrec"),
    Field("observer.os.kernel", "text", "uname -r", "kernel"),
    Field("observer.ingress.interface.name", "text", "interface that it came in by", "in"),
    Field("observer.egress.interface.name", "text", "interface that it goes out by, as far as it is known",
          "out"),
    Field("rule.uuid", "text", "digest of the rule that decided: equal on all hosts that have it",
          "rule_digest"),
    Field("rule.id", "text", "where it stands on its host, such as filter/FORWARD:3", "rule_id"),
    Field("rule.name", "text", "the same in words: filter/FORWARD rule 3", "rule_name"),
    Field("rule.ruleset", "text", "table and chain of the rule or policy", "decided"),
    Field("rule.description", "text", "comment of the rule", "comment"),
    Field("source.address", "text", "source address, when it was first seen", "src"),
    Field("source.ip", "text", "the same", "src"),
    Field("source.port", "number", "source port", "sport"),
    Field("source.mac", "text", "source of the Ethernet header", "octets_src"),
    Field("source.nat.ip", "text", "source address that a rule gave it, if one did", "nat_src"),
    Field("source.nat.port", "number", "and the source port", "nat_sport"),
    Field("source.bytes", "number", "bytes, from the IP header on", "length"),
    Field("source.packets", "number", "1", constant(1)),
    Field("destination.address", "text", "destination address, when it was first seen", "dst"),
    Field("destination.ip", "text", "the same", "dst"),
    Field("destination.port", "number", "destination port", "dport"),
    Field("destination.mac", "text", "destination of the Ethernet header", "octets_dst"),
    Field("destination.nat.ip", "text", "destination address that a rule gave it", "nat_dst"),
    Field("destination.nat.port", "number", "and the destination port", "nat_dport"),
    Field("network.type", "text", "ipv4 or ipv6", "family"),
    Field("network.transport", "text", "tcp, udp, icmp, ipv6-icmp, ...", "transport"),
    Field("network.iana_number", "text", "IANA's number of that", _number),
    Field("network.direction", "text", "ingress: for this host; egress: from it",
          mapped("direction", _DIRECTIONS)),
    Field("network.bytes", "number", "as source.bytes", "length"),
    Field("network.packets", "number", "1", constant(1)),
    *_own(),
)  # fmt: skip
_NOTE: Final = (
    "What `export parquet LAKE/ --schema ecs` and `export ndjson --schema ecs` write: one event a packet. "
    "In NDJSON a dotted name is an object in an object; in Parquet it is the name of a column. What is "
    "not known is absent, NULL in Parquet: `event.created` is never there, since nobody noted when the "
    "recorder read an event. What ECS has no field for is under `iptrec.`. ECS is licensed under the "
    "Apache License 2.0."
)
ECS: Final = Schema(
    "ecs",
    "ECS",
    "9.4.0",
    "https://github.com/elastic/ecs, tag v9.4.0, generated/ecs/ecs_flat.yml",
    "events",
    _FIELDS,
    nested=False,
    time="iptrec.time_ns",
    number="iptrec.packet",
    note=_NOTE,
)
