"""A caller's conditions as a `Selection`: the same words as the options of every command."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypedDict, TypeGuard

from iptrec.answers.selection import Selection
from iptrec.decode.rulesets.types import OF_IPTABLES
from iptrec.errors import UsageError
from iptrec.pcap.filter import PacketFilter

if TYPE_CHECKING:
    from iptrec.recording.rows import Recording

VERDICTS: Final = ("ACCEPT", "DROP", "REJECT", "QUEUE", "STOLEN", "REASSEMBLED", "UNKNOWN")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class Select(TypedDict, total=False):
    """Conditions of which all hold for a packet that is selected; of several values in one, any.

    ``verdict``: how it ended, one of ACCEPT, DROP, REJECT, QUEUE, STOLEN, REASSEMBLED, UNKNOWN.
    ``chain``: (table, chain) that it passed. ``rule``: (table, chain, number from 1) that matched. ``iface``:
    an interface that it came in or went out by. ``mark``: that it had somewhere, or (value, mask).
    ``since``, ``until``: when it began, ns since 1970 or a datetime with a time zone; the end not included.
    ``complete``: whether its trace is whole and certain. ``netns``: the namespace, as it was named when it was
    recorded. ``packet``: its number. ``path``: the number of its path.

    A table's plain name means the tables of both backends; "legacy filter", "nft filter" that of one.
    """

    verdict: str | Collection[str]
    chain: tuple[str, str] | Collection[tuple[str, str]]
    rule: tuple[str, str, int] | Collection[tuple[str, str, int]]
    iface: str | Collection[str]
    mark: int | tuple[int, int]
    since: int | datetime
    until: int | datetime
    complete: bool
    netns: str | Collection[str]
    packet: int
    path: int


def selection(recording: Recording, words: str | None, select: Select) -> Selection:
    """What a filter in tcpdump's language and conditions mean in this recording.

    Raises `UsageError` for what cannot be meant; `HostError` for a filter where libpcap is missing.
    """
    if not isinstance(words, str | None):
        raise UsageError(f"filter={words!r}: expected a text")
    for name in select:
        if name not in Select.__annotations__:
            known = ", ".join(Select.__annotations__)
            raise UsageError(f"{name} is not a condition; there are {known}")
    made: dict[str, Any] = {
        _FIELDS.get(name, name): _READ[name](name, value) for name, value in select.items()
    }
    for name, named in (("chains", places), ("rules", rule_places)):
        if name in made:
            made[name] = named(recording, made[name])
    return Selection(packet_filter=PacketFilter(words) if words else None, **made)


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
    is nft's own name for the latter. Never empty: where no table can be meant, the name itself.
    """
    kinds = {one.kind for one in recording.streams}
    backend, _, rest = name.partition(" ")
    if backend not in ("legacy", "nft"):
        backend, rest = "", name
    family, _, plain = rest.partition(" ")
    if backend != "legacy" and family in ("ip", "ip6") and plain in OF_IPTABLES:
        backend, rest = "nft", plain
    meant = set()
    if backend != "nft" and " " not in rest and ("nflog" in kinds or "nftrace" not in kinds):
        meant.add(rest)
    if backend != "legacy" and "nftrace" in kinds:
        meant.add(f"nft {rest}" if "nflog" in kinds and rest in OF_IPTABLES else rest)
    return frozenset(meant or {name})


def _verdicts(name: str, value: object) -> frozenset[str]:
    found = frozenset(one.upper() for one in _texts(name, value))
    if unknown := sorted(found - {*VERDICTS}):
        raise UsageError(f"{name}={unknown[0]!r}: must be one of {', '.join(VERDICTS)}")
    return found


def _texts(name: str, value: object) -> frozenset[str]:
    return frozenset(_several(name, value, (str,), "a text"))


def _chains(name: str, value: object) -> frozenset[Any]:
    kinds, example = ((str, str), '("filter", "FORWARD")')
    return frozenset(_several(name, value, kinds, example))


def _rules(name: str, value: object) -> frozenset[Any]:
    kinds, example = ((str, str, int), '("filter", "FORWARD", 2)')
    return frozenset(_several(name, value, kinds, example))


def _several(name: str, value: Any, kinds: tuple[type, ...], example: str) -> list[Any]:  # noqa: ANN401
    """One value, or all of a collection; ``kinds``: of its parts, of a single part the thing itself."""

    def one(candidate: object) -> bool:
        parts = candidate if isinstance(candidate, tuple) else (candidate,)
        return len(parts) == len(kinds) and all(map(_is_a, parts, kinds))

    if one(value):
        return [value]
    if isinstance(value, Collection) and value and all(map(one, value)):
        return list(value)
    raise UsageError(f"{name}={value!r}: expected {example}, or several in a collection")


def _is_a(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _is_number(value: object) -> TypeGuard[int]:
    return _is_a(value, int)


def _mark(name: str, value: object) -> tuple[int, int]:
    parts = value if isinstance(value, tuple) else (value, 0xFFFFFFFF)
    if len(parts) != 2 or not all(_is_number(one) and 0 <= one < 2**32 for one in parts):  # noqa: PLR2004
        raise UsageError(f"{name}={value!r}: expected 32 bits, or (value, mask), e.g. (0x1, 0xff)")
    return parts[0] & parts[1], parts[1]


def _moment(name: str, value: object) -> int:
    if isinstance(value, datetime) and value.tzinfo is not None:
        return (value - _EPOCH) // _MICROSECOND * 1000
    if not _is_number(value):
        raise UsageError(
            f"{name}={value!r}: expected ns since 1970, or a datetime with a time zone"
        )
    return value


def _number(name: str, value: object) -> int:
    if not _is_number(value):
        raise UsageError(f"{name}={value!r}: expected a number")
    return value


def _yes_or_no(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{name}={value!r}: must be True or False")
    return value


_READ: Final = {
    "verdict": _verdicts, "chain": _chains, "rule": _rules, "iface": _texts, "mark": _mark,
    "since": _moment, "until": _moment, "complete": _yes_or_no, "netns": _texts,
    "packet": _number, "path": _number,
}  # fmt: skip
_FIELDS: Final = {
    "verdict": "verdicts", "chain": "chains", "rule": "rules", "iface": "interfaces",
    "since": "since_ns", "until": "until_ns", "complete": "whole", "packet": "number",
}  # fmt: skip
