"""A recording as ordinary tables: what `iptrec export sqlite`, `export parquet` and `iptrec query` have.

One definition for all of them; schemas/tables-v1.md is made of it. `table_rows` fills them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from iptrec.recording.kinds import SNAPSHOTS, STREAMS

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """``references``: "TABLE(COLUMN)" that it is a foreign key of."""

    name: str
    type: Literal["INTEGER", "TEXT"]
    about: str
    required: bool = True
    references: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """``key``: the columns of the primary key. ``indexes``: columns that are searched by."""

    name: str
    about: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    indexes: tuple[tuple[str, ...], ...] = ()

    @property
    def places(self) -> dict[str, int]:
        """Where each column is in a row."""
        return {column.name: place for place, column in enumerate(self.columns)}


def _text(name: str, about: str, references: str | None = None, *, required: bool = True) -> Column:
    return Column(name, "TEXT", about, required, references)


def _number(
    name: str, about: str, references: str | None = None, *, required: bool = True
) -> Column:
    return Column(name, "INTEGER", about, required, references)


def _maybe(column: Column) -> Column:
    return Column(column.name, column.type, column.about, False, column.references)


_NAMESPACE: Final = _number("namespace", "of which network namespace", "namespaces(id)")
_PLACE: Final = (
    _text(
        "table_name",
        "table, such as filter or inet fw; in a recording of both backends legacy filter, nft filter",
    ),
    _text("chain", "chain"),
)

TABLES: Final = (
    Table(
        "recording",
        "The recording itself, one row.",
        (
            _text("uuid", "tags the TRACE rules of the recorder"),
            _text("iptrec", "version that recorded"),
            _text("kernel", "uname -srvm of the host"),
            _text("host", "name of the host"),
            _text("command", "JSON list: the recorder's command line"),
            _maybe(_text("filter", "filter in tcpdump's language; NULL: all packets")),
            _number("snaplen", "bytes of each packet that were kept"),
            _number("started_ns", "begin, ns since 1970"),
            _text("started", "begin, ISO 8601 in UTC"),
            _maybe(_number("stopped_ns", "end, ns since 1970; NULL: cut off")),
            _maybe(_text("stop_reason", "why it ended")),
            _number("closed", "1: ended cleanly; 0: cut off, or still running"),
        ),
        ("uuid",),
    ),
    Table(
        "namespaces",
        "Network namespaces that were recorded.",
        (
            _number("id", "number"),
            _maybe(_text("name", "as the user named it; NULL: where the recorder was started")),
            _number("inode", "inode of /proc/PID/ns/net"),
        ),
        ("id",),
    ),
    Table(
        "hosts",
        "Whose the namespaces are: of several recordings that are read as one; of one alone it is empty.",
        (
            _number("namespace", "number", "namespaces(id)"),
            _text("host", "name of the host; with that of the file where several hosts have one name"),
            _text("file", "name of the file"),
            _text("uuid", "of the recording", "recording(uuid)"),
        ),
        ("namespace",),
    ),
    Table(
        "streams",
        "Sequences of raw netlink messages.",
        (
            _number("id", "number"),
            _NAMESPACE,
            _text("kind", ", ".join(STREAMS)),
            _text("detail", "JSON object: receive buffer and the like"),
        ),
        ("id",),
    ),
    Table(
        "snapshots",
        "What a command printed, or a netlink dump returned, and from when on it held.",
        (
            _number("id", "number"),
            _NAMESPACE,
            _text("kind", ", ".join(SNAPSHOTS)),
            _number("time_ns", "it was seen so at this time"),
            _maybe(_number("after_ns", "and came to be so after this one; NULL: not known")),
            _text("source", "command line, or name of the dump"),
            _text("state", "whole; cut: too large; changed: meanwhile; why it was refused: EPERM, ..."),
            _text("content", "the text; of a list of the kernel's its values as JSON, 100,000 at most"),
        ),
        ("id",),
    ),
    Table(
        "losses",
        "What the kernel sent and is not in the recording, and times without tracing.",
        (
            _number("id", "number"),
            _number("stream", "which stream", "streams(id)"),
            _number("first_ns", "it was sent between this time, of the kernel where that is known"),
            _number("last_ns", "and this one"),
            _maybe(_number("events", "how many it is about; NULL: not known")),
            _text(
                "how",
                "sequence, enobufs, truncated, rules-gone, logger-switched; ring-full: reasons of drops, facts"
                " about senders are missing; overflow: events came beside the ring of the tap",
            ),
            _number("lost", "events of packets that are missing, as far as they are counted: to be summed up"),
        ),
        ("id",),
    ),
    Table(
        "rules",
        "Each rule that was in force at some time, also those that nothing hit.",
        (
            _number("id", "number of the row"),
            _NAMESPACE,
            _text("family", "ipv4 or ipv6"),
            *_PLACE,
            _number("rule", "number in its chain, from 1, the recorder's own rules left out"),
            _text("spec", "the rule as iptables-save prints it"),
            _maybe(_text("target", "DROP, DNAT, a chain; NULL: it only counts")),
            _maybe(_text("target_args", "options of the target")),
            _maybe(_text("comment", "-m comment")),
            _maybe(
                _text(
                    "untraced",
                    "before, beside: packets may pass it untraced, so that not all that hit it is known;"
                    " NULL: they are traced",
                )
            ),
        ),
        ("id",),
        (("table_name", "chain", "rule"),),
    ),
    Table(
        "packets",
        "Traversals: a packet's path from the first traced rule to its end.",
        (
            _number("packet", "number, as iptrec show has it"),
            _number("time_ns", "arrival, or when the kernel told of its first event"),
            _text("time", "the same, ISO 8601 in UTC"),
            _NAMESPACE,
            _text("family", "ipv4 or ipv6"),
            _number("path", "number of its path; equal numbers took the same path"),
            _maybe(_text("in_interface", "interface that it came in by; NULL: sent by this host")),
            _maybe(_text("out_interface", "interface that it goes out by, as far as it is known")),
            _maybe(_text("src", "source address, when it was first seen")),
            _maybe(_text("dst", "destination address, when it was first seen")),
            _maybe(_text("proto", "tcp, udp, icmp, ... or a number")),
            _maybe(_number("sport", "source port")),
            _maybe(_number("dport", "destination port")),
            _maybe(_number("length", "bytes, from the IP header on")),
            _maybe(_number("ttl", "TTL or hop limit")),
            _maybe(_text("flags", "TCP flags")),
            _maybe(_number("icmp_type", "type of ICMP")),
            _maybe(_number("icmp_code", "code of ICMP")),
            _maybe(_number("mark", "firewall mark when it was first seen; NULL where it has no steps")),
            _text("verdict", "ACCEPT, DROP, REJECT, QUEUE, STOLEN, REASSEMBLED, DISCARDED or UNKNOWN"),
            _maybe(_text("decided_table", "table of the rule or policy that decided")),
            _maybe(_text("decided_chain", "its chain")),
            _maybe(_number("decided_rule", "its number; NULL: the policy, or nobody known")),
            _number("complete", "1: seen from its first traced rule to its end"),
            _number("ambiguous", "1: it may have been otherwise"),
            _maybe(_text("reason", "why it is incomplete, ambiguous or UNKNOWN")),
            _text("header", "JSON object: all that is known of its headers"),
            _maybe(_text("connection", "JSON object: what connection tracking knew")),
            _maybe(_text("end_reason", "what became of it behind the rules: the kernel's word")),
            _maybe(_text("end_where", "function of the kernel that did")),
            _maybe(_text("end_source", "how that is known: seen, asked or recorded")),
            _maybe(_text("end_text", "the same in plain words")),
            _maybe(_number("end_ns", "when, ns since 1970; NULL: it was worked out")),
            _maybe(_number("end_sure", "1: it can only be this packet and this end")),
            _maybe(_number("uid", "user whose socket sent it or is to get it, as legacy iptables tells")),
            _maybe(_number("gid", "and the group")),
            _maybe(_number("owner_pid", "process that held its socket at the start, if it was one")),
            _maybe(_text("owner_comm", "and its name")),
            _maybe(_text("owner_cgroup", "control group of its socket")),
            _maybe(_text("owner_container", "the container's id or name, by its control group")),
            _maybe(_text("owner_pod", "and the pod's UID")),
            _maybe(_number("owner_uid", "user of its socket, by the lists of sockets")),
        ),
        ("packet",),
        (("time_ns",), ("verdict",), ("src",), ("dst",), ("path",)),
    ),
    Table(
        "steps",
        "The rules, returns and policies that packets met.",
        (
            _number("packet", "which packet", "packets(packet)"),
            _number("step", "from 1"),
            _number("time_ns", "when"),
            *_PLACE,
            _text("type", "rule, return or policy; match: dropped as malformed; unknown: a rule or the end"),
            _maybe(_number("rule", "number of the rule; NULL: the end of the chain")),
            _maybe(_number("rule_id", "the rule", "rules(id)")),
            _maybe(_text("target", "target of the rule, or verdict of the policy")),
            _maybe(_number("mark", "firewall mark; NULL where the text that was imported does not tell it")),
            _maybe(_text("in_interface", "interface that it came in by")),
            _maybe(_text("out_interface", "interface that it goes out by")),
            _maybe(_text("physin", "bridge port that it came in by")),
            _maybe(_text("physout", "bridge port that it goes out by")),
            _maybe(_text("changed", "JSON object: field -> [before, now], where the packet changed")),
            _maybe(_number("ct_id", "id of its connection, as the trace of nf_tables tells it")),
            _maybe(_text("ct_direction", "original or reply")),
            _maybe(_text("ct_state", "new, established, related or untracked, when it entered the base chain")),
            _maybe(_text("ct_status", "of the connection: confirmed, snat, dnat, assured, ...; empty: none")),
            _number("time_estimated", "1: not noted by the kernel, but between the times of others; else 0"),
        ),
        ("packet", "step"),
        (("table_name", "chain", "rule"), ("rule_id",)),
    ),
    Table(
        "related",
        "What a packet has to do with an earlier one.",
        (
            _number("packet", "which packet", "packets(packet)"),
            _text("kind", "looped-back, answer-of-reject, copy, error-about, carries, ..."),
            _number("other", "the earlier packet"),
        ),
        ("packet", "kind", "other"),
    ),
)  # fmt: skip
BY_NAME: Final = {table.name: table for table in TABLES}
OF_PACKETS: Final = ("packets", "steps", "related")  # of which each packet has some rows, or none


def described() -> str:
    """The tables and their columns as Markdown: schemas/tables-v1.md."""
    lines = ["# Tables", ""]
    for table in TABLES:
        lines += [
            f"## {table.name}",
            "",
            table.about,
            "",
            "| column | type | what |",
            "|---|---|---|",
        ]
        for column in table.columns:
            reference = f" → {column.references}" if column.references else ""
            kind = column.type + ("" if column.required else ", may be NULL")
            lines.append(f"| {column.name} | {kind} | {column.about}{reference} |")
        lines.append("")
    return "\n".join(lines)
