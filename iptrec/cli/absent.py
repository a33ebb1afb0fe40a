"""What was asked for and no packet has: names, with those that there are instead, or why none are known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Unpack

from iptrec.cli.selection import chain, listed, rule

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from iptrec.answers.paths import Path
    from iptrec.answers.select import Select
    from iptrec.api import Recording
    from iptrec.cli.selection import Chosen

NOTHING: Final = "no packet matches"
_MOST: Final = 12  # names
_OF_THIS_HOST: Final = ": those of this host's sockets alone are"


def nothing(recording: Recording, chosen: Chosen) -> str:
    """What to say where no packet fits: that, and each such name by which alone no packet would.

    Or that nothing was recorded that such packets are known by.

    Nothing, where all packets of an empty recording were asked for: that says what the recording lacks.
    """
    from iptrec.answers.traced import traced
    from iptrec.views.escape import printable

    if not (chosen.filter or chosen.of(recording) or traced(recording.rows)):
        return ""
    found = [NOTHING]
    if chosen.chain or chosen.rule:
        found += _chains(recording, chosen)
    if chosen.iface:
        found += _interfaces(recording, listed(chosen.iface))
    if chosen.reason:
        found += _reasons(recording, listed(chosen.reason))
    if chosen.uid:
        found += _users(recording, listed(chosen.uid))
    if chosen.comm or chosen.container:
        found += _owners(recording, listed(chosen.comm), listed(chosen.container))
    if chosen.netns:
        found += _namespaces(recording, listed(chosen.netns))
    return printable("; ".join(found))


def some(names: Collection[str]) -> str:
    """The first of them."""
    more = len(names) - _MOST
    shown = ", ".join(sorted(names)[:_MOST])
    return f"{shown} and {more} more" if more > 0 else shown


def _chains(recording: Recording, chosen: Chosen) -> Iterator[str]:
    asked = {one: chain(one) for one in listed(chosen.chain)}
    for one in listed(chosen.rule):
        asked[one.rpartition("/")[0]] = frozenset(place[:2] for place in rule(one))
    there = {f"{step.table}/{step.chain}" for one in _paths(recording) for step in one.steps}
    for name, meant in asked.items():
        if there and not _any(recording, chain=meant):
            yield f"none passes {name}, but {some(there)}"


def _interfaces(recording: Recording, asked: list[str]) -> Iterator[str]:
    pairs = recording.summary().interfaces
    there = {name for pair in pairs for name in pair if name}
    for one in asked:
        if there and not _any(recording, iface=one):
            yield f"none comes in or goes out by {one}, but {some(there)}"


def _reasons(recording: Recording, asked: list[str]) -> Iterator[str]:
    there = {one.end.reason for one in recording.packets() if one.end is not None}
    for one in asked:
        if one.upper() not in {reason.upper() for reason in there}:
            yield f"none ended by {one.upper()}" + (f", but {some(there)}" if there else "")
    if not there and (why := _not_recorded(recording, "drops")):
        yield f"what the kernel drops behind the rules was {why}"


def _users(recording: Recording, asked: list[str]) -> Iterator[str]:
    packets = recording.packets()
    users = {one.owner.uid if one.uid is None and one.owner else one.uid for one in packets}
    there = {str(one) for one in users if one is not None}
    if not there:
        yield f"of none is the user known{_without_owners(recording) or _OF_THIS_HOST}"
    for one in asked if there else ():
        if one not in there:
            yield f"none is of user {one}, but {some(there)}"


def _owners(recording: Recording, comms: list[str], containers: list[str]) -> Iterator[str]:
    owners = {one.owner for one in recording.packets() if one.owner is not None}
    if not owners:
        yield f"of none is it known whose it is{_without_owners(recording)}"
        return
    there = {one.comm for one in owners if one.comm}
    for one in comms:
        if one not in there:
            yield f"none is of a process {one}" + (f", but {some(there)}" if there else "")
    there = {one.container or one.pod or "" for one in owners} - {""}
    if containers and not there:
        yield "of no packet is it known that a container or pod has its socket"
    for one in containers if there else ():
        if not _any(recording, container=one):
            yield f"none is of container {one}, but {some(there)}"


def _without_owners(recording: Recording) -> str:
    """What was not recorded by which owners are known."""
    untold = {kind: _not_recorded(recording, kind) for kind in ("sockets", "senders")}
    missing = [kind for kind, why in untold.items() if why]
    if not missing:
        return ""
    return f": {' and '.join(missing)} were {untold[missing[-1]]}"


def _not_recorded(recording: Recording, kind: str) -> str:
    """That nothing of a kind was, and why; empty where it was."""
    details = [one.detail for one in recording.rows.streams if one.kind == kind]
    if any("not_recorded" not in one for one in details):
        return ""
    why = next((f" ({one['not_recorded']})" for one in details), "")
    return f"not recorded{why}"


def _namespaces(recording: Recording, asked: list[str]) -> Iterator[str]:
    from iptrec.recording.hosts import hosts

    there = {one.name for one in recording.namespaces if one.name is not None}
    there |= {one.name for one in hosts(recording.rows)}
    there |= {
        f"{one.name}/{each.name}"
        for one in hosts(recording.rows)
        for each in one.recording.namespaces
        if each.name is not None
    }
    for one in asked:
        if one not in there:
            yield f"{one} was not recorded" + (f", but {some(there)}" if there else "")


def _paths(recording: Recording) -> Iterator[Path]:
    """Those that packets took, whatever became of them behind."""
    packets, numbers = recording.packets().columns(), set[int]()
    for batch in packets.batches(objects=False):
        numbers.update(batch.paths[batch.positions].tolist())
    return (path for path, number in packets.book.paths.items() if number in numbers)


def _any(recording: Recording, **condition: Unpack[Select]) -> bool:
    """Whether any packet fits this alone."""
    batches = recording.packets(**condition).columns().batches(objects=False)
    return any(len(one.positions) for one in batches)
