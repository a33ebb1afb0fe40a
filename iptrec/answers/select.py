"""A caller's conditions as a `Selection`: the same words as the options of every command."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any, Final, TypedDict

from iptrec import arguments
from iptrec.answers.selection import ANY_TABLE, Selection
from iptrec.decode import drops
from iptrec.decode.rulesets.types import OF_IPTABLES
from iptrec.errors import Advice, UsageError
from iptrec.names import ANY
from iptrec.packets.ends import DISCARDED, WORDS
from iptrec.pcap.filter import PacketFilter
from iptrec.recording.hosts import hosts, parts
from iptrec.rulesets.table_names import BACKENDS, called

if TYPE_CHECKING:
    from datetime import datetime

    from iptrec.recording.rows import Recording

VERDICTS: Final = (
    "ACCEPT", "DROP", "REJECT", "QUEUE", "STOLEN", "REASSEMBLED", DISCARDED, "UNKNOWN",
)  # fmt: skip


class Select(TypedDict, total=False):
    """Conditions of which all hold for a packet that is selected; of several values in one, any.

    ``verdict``: how it ended, one of `VERDICTS`.
    ``chain``: (table, chain) that it passed. ``rule``: (table, chain, number from 1) that matched. ``iface``:
    an interface that it came in or went out by; "eth+" are those that begin so, "any" are all. Without it a
    packet is selected by the --iface of a recording that has others, too (see `by_its_interfaces`), but where
    ``packet`` is given. ``mark``: that it had somewhere, or (value, mask), 32 bits. ``uid``: the
    number of the user of its socket, which sent it or is to get it, where that is known.
    ``comm``, ``container``: the name of the process that holds its socket; its container's id or name or its
    pod's UID, of which the first four characters are enough. ``reason``: the word of its end behind the rules,
    sure or not: one of `WORDS`, or another of the kernel's that the recording has.
    ``since``, ``until``: when it began, ns since 1970 or a datetime with a time zone; the end not included.
    ``complete``: whether its trace is whole and certain. ``netns``: the namespace, as it was named when it was
    recorded; of several recordings also the host's name, or HOST/NAMESPACE. ``packet``: its number. ``path``:
    the number of its path.

    Numbers are all that have __index__, such as numpy's. A table's plain name means the tables of both
    backends; "legacy filter", "nft filter" that of one.
    """

    verdict: str | Collection[str]
    chain: tuple[str, str] | Collection[tuple[str, str]]
    rule: tuple[str, str, int] | Collection[tuple[str, str, int]]
    iface: str | Collection[str]
    mark: int | tuple[int, int]
    uid: int | Collection[int]
    comm: str | Collection[str]
    container: str | Collection[str]
    since: int | datetime
    until: int | datetime
    complete: bool
    netns: str | Collection[str]
    packet: int
    path: int
    reason: str | Collection[str]


def selection(recording: Recording, words: str | None, select: Select) -> Selection:
    """What a filter in tcpdump's language and conditions mean in this recording.

    Raises `UsageError` for what cannot be meant; `HostError` for a filter where libpcap is missing.
    """
    words = None if words is None else arguments.text("filter", words)
    for name in select:
        if name not in Select.__annotations__:
            known = ", ".join(Select.__annotations__)
            raise UsageError(f"{name} is not a condition; there are {known}")
    own = {} if "iface" in select or "packet" in select else _own_interfaces(recording)
    if own and not hosts(recording):
        select = {**select, "iface": recording.facts.interfaces}
    made: dict[str, Any] = {
        _FIELDS.get(name, name): _READ[name](Advice(f"--{name}", name), value)
        for name, value in select.items()
    }
    for name, named in (("chains", places), ("rules", rule_places)):
        if name in made:
            made[name] = named(recording, made[name])
    if "reasons" in made:
        made["reasons"] = _known(recording, Advice("--reason", "reason"), made["reasons"])
    if hosts(recording):
        made["recorded"] = tuple(own.items())
    return Selection(packet_filter=PacketFilter(words) if words else None, **made)


def _own_interfaces(recording: Recording) -> dict[int, frozenset[str]]:
    """By the number of a namespace those of the --iface of its recording, where that has others, too."""
    return {
        namespace.id: _interfaces("iface", one.facts.interfaces)
        for one in parts(recording)
        if by_its_interfaces(one)
        for namespace in one.namespaces
    }


def by_its_interfaces(recording: Recording) -> bool:
    """Whether it has packets of other interfaces than those of its --iface.

    By which one a packet is forwarded is not known where tracing begins: all that came in were recorded.
    """
    traced = [one for one in recording.streams if "all_incoming" in one.detail]
    return bool(traced and recording.facts.interfaces)


def _known(recording: Recording, name: arguments.Name, asked: frozenset[str]) -> frozenset[str]:
    """Words of ends, upper case, if packets of the recording can have each."""
    told = [drops.reasons(one.content) for one in recording.snapshots("drop-reasons")]
    reasons = {number: name for one in told for number, name in one.items()}
    others = {name.upper() for one in told for name in one.values()} - {*WORDS}
    found = frozenset(one.upper() for one in asked)
    for unknown in sorted(found - {*WORDS} - others):
        if reasons and drops.is_numbered(reasons, unknown):
            continue
        more = f", or another of the kernel's {len(others)}" if others else ""
        raise arguments.wrong(name, unknown, f"must be one of {', '.join(WORDS)}{more}")
    return found


def places(recording: Recording, named: Iterable[tuple[str, str]]) -> frozenset[tuple[str, str]]:
    """The same chains by the names of the recording's tables."""
    return frozenset((table, chain) for name, chain in named for table in tables(recording, name))


def rule_places(
    recording: Recording, named: Iterable[tuple[str, str, int]]
) -> frozenset[tuple[str, str, int]]:
    """The same rules by the names of the recording's tables."""
    return frozenset(
        (table, chain, number) for name, chain, number in named for table in tables(recording, name)
    )


def tables(recording: Recording, name: str) -> frozenset[str]:
    """The recording's names for the tables that a name may mean.

    A plain name means the tables of both backends, "legacy filter" and "nft filter" that of one; "ip filter"
    is nft's own name for the latter, "nft inet fw" means "inet fw". Never empty: where no table can be meant,
    the name itself. `ANY_TABLE` stays what it is.
    """
    if name == ANY_TABLE:
        return frozenset({ANY_TABLE})
    return frozenset().union(*(_tables(one, name) for one in parts(recording)))


def _tables(recording: Recording, name: str) -> frozenset[str]:
    kinds = {one.kind for one in recording.streams}
    backend, _, rest = name.partition(" ")
    if backend not in BACKENDS:
        backend, rest = "", name
    family, _, table = rest.partition(" ")
    if backend != "legacy" and family in ("ip", "ip6") and table in OF_IPTABLES:
        backend, rest = "nft", table
    single = not {"nflog", "nftrace"} <= kinds
    meant = set()
    if backend != "nft" and " " not in rest and ("nflog" in kinds or "nftrace" not in kinds):
        meant.add(called("legacy", rest, single=single))
    if backend != "legacy" and "nftrace" in kinds:
        meant.add(called("nft", rest, single=single) if rest in OF_IPTABLES else rest)
    return frozenset(meant or {name})


def _verdicts(name: arguments.Name, value: object) -> frozenset[str]:
    found = frozenset(one.upper() for one in _texts(name, value))
    for unknown in sorted(found - {*VERDICTS}):
        arguments.one_of(name, unknown, VERDICTS)
    return found


def _texts(name: arguments.Name, value: object) -> frozenset[str]:
    return frozenset(one for (one,) in _several(name, value, (str,), "a text"))


def _interfaces(name: arguments.Name, value: object) -> frozenset[str]:
    found = _texts(name, value)
    return frozenset() if ANY in found else found


def _chains(name: arguments.Name, value: object) -> frozenset[Any]:
    return frozenset(_several(name, value, (str, str), '("filter", "FORWARD")'))


def _rules(name: arguments.Name, value: object) -> frozenset[Any]:
    return frozenset(_several(name, value, (str, str, int), '("filter", "FORWARD", 2)'))


def _uids(name: arguments.Name, value: object) -> frozenset[int]:
    return frozenset(one for (one,) in _several(name, value, (int,), "a number"))


def _several(
    name: arguments.Name, value: object, kinds: tuple[type, ...], example: str
) -> list[tuple[Any, ...]]:
    """The parts of one value, or of all of a collection; ``kinds``: of its parts."""
    if (one := _parts(value, kinds)) is not None:
        return [one]
    several = [*value] if isinstance(value, Collection) else []
    found = [one for each in several if (one := _parts(each, kinds)) is not None]
    if not found or len(found) < len(several):
        raise arguments.wrong(name, value, f"expected {example}, or several in a collection")
    return found


def _parts(value: object, kinds: tuple[type, ...]) -> tuple[Any, ...] | None:
    """The parts of a value, a single part being the thing itself; None where they are others."""
    parts = value if isinstance(value, tuple) and len(kinds) > 1 else (value,)
    if len(parts) != len(kinds):
        return None
    found = (
        arguments.integer(one) if kind is int else one if isinstance(one, kind) else None
        for one, kind in zip(parts, kinds, strict=True)
    )
    known = tuple(found)
    return None if None in known else known


_READ: Final = {
    "verdict": _verdicts, "chain": _chains, "rule": _rules, "iface": _interfaces, "mark": arguments.mark,
    "since": arguments.moment, "until": arguments.moment, "complete": arguments.yes_or_no, "netns": _texts,
    "packet": arguments.number, "path": arguments.number, "uid": _uids,
    "comm": _texts, "container": _texts, "reason": _texts,
}  # fmt: skip
_FIELDS: Final = {
    "verdict": "verdicts", "chain": "chains", "rule": "rules", "iface": "interfaces",
    "since": "since_ns", "until": "until_ns", "complete": "whole", "packet": "number", "uid": "uids",
    "comm": "comms", "container": "containers", "reason": "reasons",
}  # fmt: skip
