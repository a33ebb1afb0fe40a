"""A packet as an event of OCSF: Network Activity, class 4001, with three of OCSF's profiles.

Names, types and numbers are those of version 1.8.0 (https://schema.ocsf.io/1.8.0/classes/network_activity);
tests/data/ocsf-1.8.0.json has those that stand here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from iptrec.packets.model import LOST
from iptrec.views.event_facts import DENIED
from iptrec.views.events import Field, Schema, constant, mapped

if TYPE_CHECKING:
    from collections.abc import Callable

    from iptrec.views.event_facts import Known, Value
    from iptrec.views.events import Kind

_UNKNOWN: Final = 0
_OTHER: Final = 99
_DIRECTIONS: Final = {"in": ("Inbound", 1), "out": ("Outbound", 2), "local": ("Local", 4)}


def _controlled(
    names: tuple[str, str], numbers: tuple[int, int]
) -> tuple[Callable[[Known], Value], ...]:
    """The name and number of what the rules did: let pass, deny, or a verdict that OCSF has no word for."""

    def number(known: Known) -> Value:
        verdict = known["verdict"]
        if verdict == "ACCEPT" or verdict in DENIED:
            return numbers[verdict != "ACCEPT"]
        return _UNKNOWN if verdict == "UNKNOWN" else _OTHER

    def name(known: Known) -> Value:
        verdict = known["verdict"]
        if verdict == "ACCEPT" or verdict in DENIED:
            return names[verdict != "ACCEPT"]
        return "Unknown" if verdict == "UNKNOWN" else verdict

    return name, number


_ACTION, _ACTION_ID = _controlled(("Allowed", "Denied"), (1, 2))
_DISPOSITION, _DISPOSITION_ID = _controlled(("Allowed", "Blocked"), (1, 2))


def _status(known: Known) -> int:
    """1: it passed, 2: it did not; 0 where that is not sure."""
    if known["ambiguous"]:
        return 0
    return 1 if known["verdict"] == "ACCEPT" else 2 if known["verdict"] in LOST else 0


def _status_name(known: Known) -> str:
    return ("Unknown", "Success", "Failure")[_status(known)]


def _rule_table(known: Known) -> Value:
    return known["table"] if known.get("rule_name") else None


def _policy_name(known: Known) -> Value:
    return known["decided"] if known.get("decided_by") == "policy" else None


def _with_host(value: Value) -> Callable[[Known], Value]:
    """Where the name of the host is known: nothing else tells which device it is."""
    return lambda known: None if known["host"] is None else value


def _kernel(known: Known) -> Value:
    return None if known["host"] is None else known.get("kernel")


def _os(value: Value) -> Callable[[Known], Value]:
    return lambda known: None if _kernel(known) is None else value


def _unmapped() -> tuple[Field, ...]:
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
        ("in_interface", "text", "interface that it came in by", "in"),
        ("out_interface", "text", "interface that it goes out by, as far as it is known", "out"),
        ("table", "text", "table of the rule or policy that decided", "table"),
        ("chain", "text", "its chain", "chain"),
        ("rule", "number", "its number in the chain, from 1", "rule"),
        ("target_args", "text", "options of its target", "target_args"),
        ("ttl", "number", "TTL or hop limit", "ttl"),
        ("icmp_type", "number", "type of ICMP", "icmp_type"),
        ("icmp_code", "number", "code of ICMP", "icmp_code"),
        ("mark", "number", "firewall mark when it was first seen", "mark"),
        ("end_reason", "text", "what became of it behind the rules: the kernel's word", "end_reason"),
        ("end_where", "text", "function of the kernel that did", "end_where"),
        ("end_source", "text", "how that is known: seen, asked or recorded", "end_source"),
        ("end_text", "text", "the same in plain words", "end_text"),
        ("end_ns", "number", "when, ns since 1970", "end_ns"),
        ("end_sure", "truth", "it can only be this packet and this end", "end_sure"),
        ("uid", "number", "user whose socket sent it or is to get it", "uid_of_socket"),
        ("gid", "number", "and the group", "gid_of_socket"),
        ("owner_pid", "number", "process that held its socket", "owner_pid"),
        ("owner_comm", "text", "and its name", "owner_comm"),
        ("owner_cgroup", "text", "control group of its socket", "owner_cgroup"),
        ("owner_container", "text", "container, by that", "owner_container"),
        ("owner_pod", "text", "UID of the pod, by that", "owner_pod"),
        ("owner_uid", "number", "user of its socket, by the lists of sockets", "owner_uid"),
    )  # fmt: skip
    return tuple(Field(f"unmapped.{name}", kind, about, of) for name, kind, about, of in fields)


_FIELDS: Final = (
    Field("time", "number", "ms since 1970, as OCSF has times; unmapped.time_ns has the rest", "time_ms"),
    Field("time_dt", "time", "the same, with ns", "time_ns"),
    Field("activity_id", "number", "6: traffic, of which an event is one packet", constant(6)),
    Field("activity_name", "text", "Traffic", constant("Traffic")),
    Field("category_uid", "number", "4", constant(4)),
    Field("category_name", "text", "Network Activity", constant("Network Activity")),
    Field("class_uid", "number", "4001", constant(4001)),
    Field("class_name", "text", "Network Activity", constant("Network Activity")),
    Field("type_uid", "number", "400106", constant(400106)),
    Field("type_name", "text", "Network Activity: Traffic", constant("Network Activity: Traffic")),
    Field("severity_id", "number", "1: a record, nothing to be alarmed at", constant(1)),
    Field("severity", "text", "Informational", constant("Informational")),
    Field("message", "text", "verdict, and who decided", "message"),
    Field("action_id", "number", "1 ACCEPT; 2 DROP, REJECT; 0 UNKNOWN; 99 other verdicts", _ACTION_ID),
    Field("action", "text", "Allowed, Denied, Unknown, or such a verdict", _ACTION),
    Field("disposition_id", "number", "1 ACCEPT; 2 DROP, REJECT; 0 UNKNOWN; 99 other verdicts",
          _DISPOSITION_ID),
    Field("disposition", "text", "Allowed, Blocked, Unknown, or such a verdict", _DISPOSITION),
    Field("status_id", "number", "1 ACCEPT; 2 DROP, REJECT, DISCARDED; 0 other verdicts, and of packets that"
          " are ambiguous", _status),
    Field("status", "text", "Success, Failure, Unknown", _status_name),
    Field("status_code", "text", "the verdict", "verdict"),
    Field("status_detail", "text", "why it is incomplete, ambiguous or UNKNOWN", "reason"),
    Field("metadata.version", "text", "of OCSF", constant("1.8.0")),
    Field("metadata.profiles", "texts", "host, datetime, security_control",
          constant("host,datetime,security_control")),
    Field("metadata.uid", "text", "recording and packet: the event's id, for ever", "uid"),
    Field("metadata.correlation_uid", "text", "the recording", "recording"),
    Field("metadata.sequence", "number", "number of the packet", "packet"),
    Field("metadata.product.name", "text", "iptrec", constant("iptrec")),
    Field("metadata.product.vendor_name", "text", "iptrec", constant("iptrec")),
    Field("metadata.product.version", "text", "version that recorded", "iptrec"),
    Field("device.hostname", "text", "host that recorded", "host"),
    Field("device.type_id", "number", "0: what kind of device it is, nobody told", _with_host(0)),
    Field("device.type", "text", "Unknown", _with_host("Unknown")),
    Field("device.os.name", "text", "Linux", _os("Linux")),
    Field("device.os.type_id", "number", "200", _os(200)),
    Field("device.os.type", "text", "Linux", _os("Linux")),
    Field("device.os.kernel_release", "text", "uname -r", _kernel),
    Field("src_endpoint.ip", "text", "source address, when it was first seen", "src"),
    Field("src_endpoint.port", "number", "source port", "sport"),
    Field("src_endpoint.mac", "text", "source of the Ethernet header", "mac_src"),
    Field("src_endpoint.proxy_endpoint.ip", "text", "source address that a rule gave it", "nat_src"),
    Field("src_endpoint.proxy_endpoint.port", "number", "and the source port", "nat_sport"),
    Field("dst_endpoint.ip", "text", "destination address, when it was first seen", "dst"),
    Field("dst_endpoint.port", "number", "destination port", "dport"),
    Field("dst_endpoint.mac", "text", "destination of the Ethernet header", "mac_dst"),
    Field("dst_endpoint.proxy_endpoint.ip", "text", "destination address that a rule gave it", "nat_dst"),
    Field("dst_endpoint.proxy_endpoint.port", "number", "and the destination port", "nat_dport"),
    Field("connection_info.protocol_num", "number", "IANA's number", "proto_number"),
    Field("connection_info.protocol_name", "text", "tcp, udp, icmp, ipv6-icmp, ...", "transport"),
    Field("connection_info.protocol_ver_id", "number", "4 or 6", "version"),
    Field("connection_info.direction_id", "number", "1 for this host, 2 from it, 4 by its loopback device; 0:"
          " forwarded, or not seen", mapped("direction", {k: v for k, (_, v) in _DIRECTIONS.items()}, 0)),
    Field("connection_info.direction", "text", "Inbound, Outbound, Local, Unknown",
          mapped("direction", {k: v for k, (v, _) in _DIRECTIONS.items()}, "Unknown")),
    Field("connection_info.tcp_flags", "number", "the byte of flags in TCP's header", "flag_bits"),
    Field("connection_info.uid", "text", "conntrack's id, where the kernel told it", "ct_id"),
    Field("traffic.bytes", "number", "bytes, from the IP header on", "length"),
    Field("traffic.packets", "number", "1", constant(1)),
    Field("firewall_rule.uid", "text", "digest of the rule that decided: equal on all hosts that have it",
          "rule_digest"),
    Field("firewall_rule.name", "text", "where it stands, such as filter/FORWARD rule 3", "rule_name"),
    Field("firewall_rule.category", "text", "its table", _rule_table),
    Field("firewall_rule.type", "text", "its target: DROP, DNAT, a chain", "target"),
    Field("firewall_rule.desc", "text", "its comment", "comment"),
    Field("firewall_rule.condition", "text", "the rule as iptables-save or nft prints it", "spec"),
    Field("policy.name", "text", "chain whose policy decided, where no rule did", _policy_name),
    *_unmapped(),
)  # fmt: skip
_NOTE: Final = (
    "What `export parquet LAKE/ --schema ocsf` and `export ndjson --schema ocsf` write: one event a "
    "packet, of the class Network Activity (4001), with the profiles host, datetime and security_control. "
    "Dotted names are objects in objects; in Parquet structs, as Amazon Security Lake has them. What is "
    "not known is absent, NULL in Parquet. A packet whose header was not recorded has no endpoints, of "
    "which OCSF wants one. What has no place in OCSF is in `unmapped`. OCSF is licensed under the Apache "
    "License 2.0."
)
OCSF: Final = Schema(
    "ocsf",
    "OCSF",
    "1.8.0",
    "https://github.com/ocsf/ocsf-schema, tag 1.8.0",
    "network_activity",
    _FIELDS,
    nested=True,
    time="unmapped.time_ns",
    number="unmapped.packet",
    note=_NOTE,
)
