"""The rows of a recording's tables; packets that read alike are made together."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Final

import numpy as np

from iptrec.decode import snapshots
from iptrec.decode.owners import NOBODY, Owner
from iptrec.names import FAMILIES
from iptrec.recording.hosts import hosts, of_namespace, parts
from iptrec.recording.rows import lost_events
from iptrec.rulesets.backends import timelines
from iptrec.rulesets.nft_places import is_our_table
from iptrec.rulesets.table_names import family_of
from iptrec.rulesets.targets import is_ours
from iptrec.rulesets.untraced import untraced
from iptrec.views.cells import Times
from iptrec.views.filed import Alike, Filed
from iptrec.views.packet_json import as_connection, as_ct, iso_time
from iptrec.views.tables import BY_NAME, OF_PACKETS
from iptrec.views.templates import Template

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from iptrec.answers.lookalikes import Shape, StepColumns
    from iptrec.answers.packets import Batch, Packets
    from iptrec.packets.ends import End
    from iptrec.packets.model import CtInfo, Traversal
    from iptrec.recording.rows import Recording
    from iptrec.views.tables import Row
    from iptrec.views.templates import Place, Values

    _Place = tuple[int, str, str, str, int, str]  # namespace, family, table, chain, number, spec

_PACKETS: Final = BY_NAME["packets"]
_NOTHING: Final = Template([""], [])  # has no lines


def rows(
    recording: Recording, packets: Packets, wanted: Collection[str]
) -> Iterator[tuple[str, Filed]]:
    """The rows of the wanted tables in batches, (table, rows); what is referred to comes first."""
    for name, made in _SMALL.items():
        if name in wanted:
            yield name, Filed.of(BY_NAME[name], made(recording))
    ids: dict[_Place, int] = {}
    if "rules" in wanted or "steps" in wanted:
        rules = list(_rules(recording))
        ids = {row[1:7]: row[0] for row in rules}
        if "rules" in wanted:
            yield "rules", Filed.of(BY_NAME["rules"], rules)
    chosen = [name for name in OF_PACKETS if name in wanted]
    if not chosen:
        return
    for batch in packets.batches(paths="packets" in chosen):
        filed = _of_packets(batch, ids, chosen)
        yield from ((name, some) for name, some in filed.items() if some.alike or some.odd)


def _of_packets(batch: Batch, ids: dict[_Place, int], wanted: Sequence[str]) -> dict[str, Filed]:
    """The rows of a batch's packets, of their steps and relations; packets that read alike together."""
    filed = {name: Filed(BY_NAME[name]) for name in wanted}
    odd = np.ones(len(batch.positions), np.bool_)

    def made(one: Traversal, position: int) -> dict[str, list[Row]]:
        namespace = batch.window.stream.namespace
        found = {
            "packets": [_packet(one, namespace, int(batch.paths[position]))],
            "steps": list(_steps(one, namespace, ids)) if "steps" in wanted else [],
            "related": [(one.number, other.kind, other.packet) for other in one.related],
        }
        return {name: some for name, some in found.items() if some and name in filed}

    for shape in batch.shapes():
        first = int(shape.positions[0])
        model = batch.traversal(first)
        varying = _varying(shape, model)
        if varying is not None:
            at = np.searchsorted(batch.positions, shape.positions)
            odd[at] = False
            for name, some in made(model, first).items():
                filed[name].alike.append(Alike(at, some, varying[name]))
    for place in np.flatnonzero(odd).tolist():
        position = int(batch.positions[place])
        for name, some in made(batch.traversal(position), position).items():
            filed[name].odd[place] = some
    return filed


def _varying(shape: Shape, model: Traversal) -> dict[str, list[dict[str, Values]]] | None:
    """What differs between the packets of a shape, of each of a packet's rows in each table.

    None where the first of them will not do as a model.
    """
    header = Template.of(
        model.header, (((name,), values) for name, values in shape.header.items()), json.dumps
    )
    changed = [
        Template.of(example.changed, _changes(step), json.dumps) if step.changed else _NOTHING
        for step, example in zip(shape.steps, model.steps, strict=True)
    ]
    if header is None or None in changed:
        return None
    return {
        "packets": [_packets_vary(shape, header)],
        "steps": [
            _step_varies(shape, step, one)
            for step, one in zip(shape.steps, changed, strict=True)
            if one is not None
        ],
        "related": [{"packet": shape.number, "other": one} for one in shape.related.values()],
    }


def _changes(step: StepColumns) -> Iterator[tuple[Place, Values]]:
    for name, change in step.changed.items():
        for side, values in enumerate(change):
            yield (name, side), values


def _packets_vary(shape: Shape, header: Template) -> dict[str, Values]:
    """What differs between the rows of a shape's packets."""
    iso = Times(shape.steps[0].time_ns)
    varying: dict[str, Values] = {
        name: values for name, values in shape.header.items() if name in _PACKETS.places
    }
    varying |= {
        "packet": shape.number, "time_ns": shape.steps[0].time_ns, "time": iso, "header": header,
    }  # fmt: skip
    if shape.ended_ns.any():
        varying["end_ns"] = shape.ended_ns
    if "hop_limit" in shape.header:
        varying["ttl"] = shape.header["hop_limit"]
    return varying


def _step_varies(shape: Shape, step: StepColumns, changed: Template) -> dict[str, Values]:
    """The same of the rows of one step."""
    varying: dict[str, Values] = {"packet": shape.number, "time_ns": step.time_ns}
    if changed.columns:
        varying["changed"] = changed
    if step.ct_id is not None:
        varying["ct_id"] = step.ct_id
    return varying


def _recording(recording: Recording) -> Iterator[Row]:
    for facts in {one.facts.uuid: one.facts for one in parts(recording)}.values():
        yield (
            facts.uuid, facts.iptrec, facts.kernel, facts.host, json.dumps(facts.command), facts.filter,
            facts.snaplen, facts.started_ns, iso_time(facts.started_ns), facts.stopped_ns,
            facts.stop_reason, int(facts.closed),
        )  # fmt: skip


def _hosts(recording: Recording) -> Iterator[Row]:
    for one in hosts(recording):
        for namespace in one.recording.namespaces:
            yield namespace.id, one.name, one.file, one.recording.facts.uuid


def _namespaces(recording: Recording) -> Iterator[Row]:
    return ((one.id, one.name, one.inode) for one in recording.namespaces)


def _streams(recording: Recording) -> Iterator[Row]:
    return ((one.id, one.namespace, one.kind, json.dumps(one.detail)) for one in recording.streams)


def _snapshots(recording: Recording) -> Iterator[Row]:
    for one in recording.snapshots():
        text = snapshots.shown(one.kind, one.content, one.media)
        said = snapshots.state(one.content, one.media), text
        yield one.id, one.namespace, one.kind, one.time_ns, one.after_ns, one.source, *said


def _losses(recording: Recording) -> Iterator[Row]:
    of_events = set(lost_events(recording))
    for number, one in enumerate(recording.losses, 1):
        lost = (one.events or 0) if one in of_events else 0
        yield number, one.stream, one.first_ns, one.last_ns, one.events, one.how, lost


_SMALL: Final = {
    "recording": _recording,
    "namespaces": _namespaces,
    "hosts": _hosts,
    "streams": _streams,
    "snapshots": _snapshots,
    "losses": _losses,
}


def _rules(recording: Recording) -> Iterator[Row]:
    """Each distinct rule of all states, numbered."""
    found: set[_Place] = set()
    for namespace in recording.namespaces:
        own = of_namespace(recording, namespace.id)
        ours = f"iptrec:{own.facts.uuid}"
        known = timelines(own, namespace.id)
        blind = {place: why for each in known for place, why in untraced(each, ours).items()}
        for family, each in itertools.product(FAMILIES, known):
            for table, timeline in each.loaded(family).items():
                for state in timeline.states if not is_our_table(table, ours) else ():
                    for chain in (state.chains or {}).values():
                        users = (rule for rule in chain.rules if not is_ours(rule, ours))
                        for number, rule in enumerate(users, 1):
                            key = (namespace.id, family, table, chain.name, number, rule.spec)
                            if key not in found:
                                found.add(key)
                                target = rule.target, rule.target_args, rule.comment
                                why = blind.get((family_of(table, family), table, chain.name))
                                yield len(found), *key, *target, why


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
        header.get("type"), header.get("code"), _mark(traversal), traversal.verdict,
        *((None, None, None) if decided is None else (decided.table, decided.chain, decided.rule)),
        int(traversal.complete), int(traversal.ambiguous), traversal.reason, json.dumps(header),
        connection, *_end(traversal.end), traversal.uid, traversal.gid, *_owner(traversal.owner),
    )  # fmt: skip


def _mark(traversal: Traversal) -> int | None:
    return traversal.steps[0].mark if traversal.steps else None


def _owner(found: Owner | None) -> tuple[str | int | None, ...]:
    found = found or NOBODY
    return found.pid, found.comm, found.cgroup, found.container, found.pod, found.uid


def _end(end: End | None) -> tuple[str | int | None, ...]:
    if end is None:
        return (None,) * 6
    return end.reason, end.where, end.source, end.text, end.time_ns, int(end.sure)


def _steps(traversal: Traversal, namespace: int, ids: dict[_Place, int]) -> Iterator[Row]:
    family = traversal.family
    for number, one in enumerate(traversal.steps, 1):
        rule = None
        if one.rule is not None and one.spec is not None:
            rule = ids.get((namespace, family, one.table, one.chain, one.rule, one.spec))
        yield (
            traversal.number, number, one.time_ns, one.table, one.chain, one.type, one.rule, rule,
            one.target, one.mark, one.in_, one.out, one.physin, one.physout,
            json.dumps(one.changed) if one.changed else None, *_ct(one.ct), int(one.time_estimated),
        )  # fmt: skip


def _ct(ct: CtInfo | None) -> tuple[int | None, str | None, str | None, str | None]:
    if ct is None:
        return None, None, None, None
    known = as_ct(ct)
    status = None if known["status"] is None else ",".join(known["status"])
    return ct.id, known["direction"], known["state"], status
