"""A recording as ordinary tables: what `iptrec export sqlite`, `export parquet` and `iptrec query` have.

One definition for all of them; schemas/tables-v1.md is made of it.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from iptrec.recording.kinds import SNAPSHOTS, STREAMS
from iptrec.rulesets.grammar import is_own
from iptrec.rulesets.history import timelines
from iptrec.rulesets.timeline import KINDS
from iptrec.views.json_lines import filled, times
from iptrec.views.packet_json import as_connection, iso_time

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from iptrec.answers.lookalikes import Shape
    from iptrec.answers.packets import Batch, Packets
    from iptrec.packets.model import Traversal
    from iptrec.recording.rows import Recording

    Row = tuple[Any, ...]
    _Place = tuple[int, str, str, str, int, str]  # namespace, family, table, chain, number, spec


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
    _text("table_name", "table: raw, mangle, nat, filter, security"),
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
            _text("content", "the text"),
        ),
        ("id",),
    ),
    Table(
        "losses",
        "Events that the kernel sent and that are not in the recording, and times without tracing.",
        (
            _number("id", "number"),
            _number("stream", "which stream", "streams(id)"),
            _number("first_ns", "it happened between this time"),
            _number("last_ns", "and this one"),
            _maybe(_number("events", "how many; NULL: not known")),
            _text("how", "sequence, enobufs, truncated, rules-gone, logger-switched"),
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
        ),
        ("id",),
        (("table_name", "chain", "rule"),),
    ),
    Table(
        "packets",
        "Traversals: a packet's way from the first traced rule to its end.",
        (
            _number("packet", "number, as iptrec show has it"),
            _number("time_ns", "arrival, or when the recorder received its first event"),
            _text("time", "the same, ISO 8601 in UTC"),
            _NAMESPACE,
            _text("family", "ipv4 or ipv6"),
            _number("path", "number of its way; equal numbers took the same way"),
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
            _number("mark", "firewall mark when it was first seen"),
            _text("verdict", "ACCEPT, DROP, REJECT, QUEUE, STOLEN, REASSEMBLED or UNKNOWN"),
            _maybe(_text("decided_table", "table of the rule or policy that decided")),
            _maybe(_text("decided_chain", "its chain")),
            _maybe(_number("decided_rule", "its number; NULL: the policy, or nobody known")),
            _number("complete", "1: seen from its first traced rule to its end"),
            _number("ambiguous", "1: it may have been otherwise"),
            _maybe(_text("reason", "why it is incomplete, ambiguous or UNKNOWN")),
            _text("header", "JSON object: all that is known of its headers"),
            _maybe(_text("connection", "JSON object: what connection tracking knew")),
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
            _text("type", "rule, return or policy"),
            _maybe(_number("rule", "number of the rule; NULL: the end of the chain")),
            _maybe(_number("rule_id", "the rule", "rules(id)")),
            _maybe(_text("target", "target of the rule, or verdict of the policy")),
            _number("mark", "firewall mark"),
            _maybe(_text("in_interface", "interface that it came in by")),
            _maybe(_text("out_interface", "interface that it goes out by")),
            _maybe(_text("physin", "bridge port that it came in by")),
            _maybe(_text("physout", "bridge port that it goes out by")),
            _maybe(_text("changed", "JSON object: field -> [before, now], where the packet changed")),
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
_OF_PACKETS: Final = ("packets", "steps", "related")
_PACKETS, _STEPS = BY_NAME["packets"], BY_NAME["steps"]


def rows(
    recording: Recording, packets: Packets, wanted: Collection[str]
) -> Iterator[tuple[str, list[Row]]]:
    """The rows of the wanted tables in batches, (table, rows); what is referred to comes first."""
    for name, made in _SMALL.items():
        if name in wanted:
            yield name, list(made(recording))
    ids: dict[_Place, int] = {}
    if "rules" in wanted or "steps" in wanted:
        rules = list(_rules(recording))
        ids = {row[1:7]: row[0] for row in rules}
        if "rules" in wanted:
            yield "rules", rules
    if not set(_OF_PACKETS) & set(wanted):
        return
    for batch in packets.batches():
        filed = zip(_OF_PACKETS, _of_packets(batch, ids, wanted), strict=True)
        yield from ((name, some) for name, some in filed if some and name in wanted)


def _of_packets(
    batch: Batch, ids: dict[_Place, int], wanted: Collection[str]
) -> tuple[list[Row], list[Row], list[Row]]:
    """The rows of a batch's packets, of their steps and relations; packets that read alike together."""
    paths, namespace = batch.paths, batch.window.stream.namespace
    packets: list[Row | None] = [None] * len(batch.positions)
    steps: list[Iterable[Row]] = [()] * len(batch.positions)
    related: list[Iterable[Row]] = [()] * len(batch.positions)
    for shape in batch.shapes():
        model = batch.traversal(int(shape.positions[0]))
        row = _packet(model, namespace, int(paths[shape.positions[0]]))
        at = np.searchsorted(batch.positions, shape.positions).tolist()
        _put(packets, at, _packets_alike(shape, model, row))
        if "steps" in wanted:
            _put(steps, at, _steps_alike(shape, model, list(_steps(model, namespace, ids))))
        if shape.related:
            _put(related, at, _related_alike(shape))
    for at, position in enumerate(batch.positions.tolist()):
        if packets[at] is None:
            one = batch.traversal(position)
            packets[at] = _packet(one, namespace, int(paths[position]))
            steps[at] = _steps(one, namespace, ids) if "steps" in wanted else ()
            related[at] = [(one.number, other.kind, other.packet) for other in one.related]
    return (
        [row for row in packets if row is not None],
        list(itertools.chain.from_iterable(steps)),
        list(itertools.chain.from_iterable(related)),
    )


def _put(rows: list[Any], places: list[int], values: Iterable[Any]) -> None:
    for place, value in zip(places, values, strict=False):
        rows[place] = value


def _packets_alike(shape: Shape, model: Traversal, row: Row) -> Iterable[Row]:
    """The rows of a shape's packets, of which one has this row; none where it will not do as a model."""
    header = shape.header
    told = [((name,), values) for name, values in header.items()]
    _, iso = times(shape.steps[0].time_ns)
    varying = {name: values for name, values in header.items() if name in _PACKETS.places}
    varying |= {
        "packet": shape.number.tolist(),
        "time_ns": shape.steps[0].time_ns.tolist(),
        "time": iso,
        "header": list(filled(model.header, told, json.dumps)),
    }
    if "hop_limit" in header:
        varying["ttl"] = header["hop_limit"]
    return _varied(_PACKETS, row, varying) if varying["header"] else ()


def _steps_alike(shape: Shape, model: Traversal, rows: list[Row]) -> Iterable[Iterable[Row]]:
    """The same for the rows of their steps, packet by packet."""
    columns = []
    packet = shape.number.tolist()
    for row, step, told in zip(rows, shape.steps, model.steps, strict=True):
        varying = {"packet": packet, "time_ns": step.time_ns.tolist()}
        if step.changed:
            changes = [
                ((name, side), values)
                for name, change in step.changed.items()
                for side, values in enumerate(change)
            ]
            varying["changed"] = list(filled(told.changed, changes, json.dumps))
        columns.append(_varied(_STEPS, row, varying))
    return zip(*columns, strict=True)


def _related_alike(shape: Shape) -> Iterable[Iterable[Row]]:
    number = shape.number.tolist()
    return zip(
        *(
            zip(number, itertools.repeat(kind, len(number)), other.tolist(), strict=True)
            for kind, other in shape.related.items()
        ),
        strict=True,
    )


def _varied(table: Table, row: Row, varying: dict[str, list[Any]]) -> Iterable[Row]:
    """A row of a table many times, with other values in some columns."""
    count = len(varying["packet"])
    return zip(
        *(
            varying.get(column.name) or itertools.repeat(value, count)
            for column, value in zip(table.columns, row, strict=True)
        ),
        strict=True,
    )


def _recording(recording: Recording) -> Iterator[Row]:
    facts = recording.facts
    yield (
        facts.uuid, facts.iptrec, facts.kernel, facts.host, json.dumps(facts.command), facts.filter,
        facts.snaplen, facts.started_ns, iso_time(facts.started_ns), facts.stopped_ns,
        facts.stop_reason, int(facts.closed),
    )  # fmt: skip


def _namespaces(recording: Recording) -> Iterator[Row]:
    return ((one.id, one.name, one.inode) for one in recording.namespaces)


def _streams(recording: Recording) -> Iterator[Row]:
    return ((one.id, one.namespace, one.kind, json.dumps(one.detail)) for one in recording.streams)


def _snapshots(recording: Recording) -> Iterator[Row]:
    for one in recording.snapshots():
        text = one.content.decode("utf-8", "backslashreplace")
        yield one.id, one.namespace, one.kind, one.time_ns, one.after_ns, one.source, text


def _losses(recording: Recording) -> Iterator[Row]:
    for number, one in enumerate(recording.losses, 1):
        yield number, one.stream, one.first_ns, one.last_ns, one.events, one.how


_SMALL: Final = {
    "recording": _recording,
    "namespaces": _namespaces,
    "streams": _streams,
    "snapshots": _snapshots,
    "losses": _losses,
}


def _rules(recording: Recording) -> Iterator[Row]:
    """Each distinct rule of all states, numbered."""
    own = f"iptrec:{recording.facts.uuid}"
    found: set[_Place] = set()
    for namespace in recording.namespaces:
        known = timelines(recording, namespace.id)
        for family, each in itertools.product(KINDS, known):
            for table, timeline in each.loaded(family).items():
                for state in timeline.states:
                    for chain in (state.chains or {}).values():
                        users = (rule for rule in chain.rules if not is_own(rule, own))
                        for number, rule in enumerate(users, 1):
                            key = (namespace.id, family, table, chain.name, number, rule.spec)
                            if key not in found:
                                found.add(key)
                                told = rule.target, rule.target_args, rule.comment
                                yield len(found), *key, *told


def _packet(traversal: Traversal, namespace: int, path: int) -> Row:
    header, decided = traversal.header, traversal.decided_by
    connection = None
    if traversal.connection is not None:
        connection = json.dumps(as_connection(traversal.connection))
    flags = header.get("flags")
    return (
        traversal.number, traversal.time_ns, iso_time(traversal.time_ns), namespace,
        traversal.family, path, traversal.in_, traversal.out, header.get("src"), header.get("dst"),
        None if header.get("proto") is None else str(header["proto"]),
        header.get("sport"), header.get("dport"), header.get("length"),
        header.get("ttl", header.get("hop_limit")),
        ",".join(map(str, flags)) if isinstance(flags, list) else flags,
        header.get("type"), header.get("code"), traversal.steps[0].mark, traversal.verdict,
        *((None, None, None) if decided is None else (decided.table, decided.chain, decided.rule)),
        int(traversal.complete), int(traversal.ambiguous), traversal.reason, json.dumps(header),
        connection,
    )  # fmt: skip


def _steps(traversal: Traversal, namespace: int, ids: dict[_Place, int]) -> Iterator[Row]:
    family = traversal.family
    for number, one in enumerate(traversal.steps, 1):
        rule = None
        if one.rule is not None and one.spec is not None:
            rule = ids.get((namespace, family, one.table, one.chain, one.rule, one.spec))
        yield (
            traversal.number, number, one.time_ns, one.table, one.chain, one.type, one.rule, rule,
            one.target, one.mark, one.in_, one.out, one.physin, one.physout,
            json.dumps(one.changed) if one.changed else None,
        )  # fmt: skip


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
