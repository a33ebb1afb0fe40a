"""The options that say which packets are meant, the same for every command."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final

import typer

from iptrec.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from iptrec.answers.selection import Selection
    from iptrec.recording.reader import Reader

_VERDICTS: Final = ("ACCEPT", "DROP", "REJECT", "QUEUE", "STOLEN", "REASSEMBLED", "UNKNOWN")
_LONGEST: Final = 600  # TABLE/CHAIN/N; names of nf_tables have at most 255 bytes
_UNITS: Final = {"ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="FILTER",
        help="Packets, in tcpdump's language (man pcap-filter). A packet fits as it came in, as it went"
        " out, or as it was at any rule between.",
    ),
]
Interfaces = Annotated[
    str,
    typer.Option("--iface", metavar="A,B", help="Packets that come in or go out by one of these."),
]
Chains = Annotated[
    str, typer.Option("--chain", metavar="TABLE/CHAIN,...", help="Packets that pass one of these.")
]
RuleNumbers = Annotated[
    str,
    typer.Option("--rule", metavar="TABLE/CHAIN/N,...", help="Packets that one of these matched."),
]
Verdicts = Annotated[
    str,
    typer.Option(
        "--verdict", metavar="V,...", help="Packets that ended so: ACCEPT, DROP, UNKNOWN, ..."
    ),
]
Netns = Annotated[
    str, typer.Option("--netns", metavar="NAME,...", help="Packets of these namespaces.")
]
Whole = Annotated[
    bool | None,
    typer.Option(
        "--complete/--incomplete", help="Packets whose trace is whole and certain, or not."
    ),
]
Mark = Annotated[
    str,
    typer.Option("--mark", metavar="VALUE[/MASK]", help="Packets that had this mark somewhere."),
]
Since = Annotated[
    str,
    typer.Option(
        "--since",
        metavar="TIME",
        help="From then on: 2026-01-31T10:02:07.5, 10s after the start, -5s before the end.",
    ),
]
Until = Annotated[str, typer.Option("--until", metavar="TIME", help="Before then, as --since.")]
PathNumber = Annotated[
    int | None, typer.Option("--path", min=1, help="Packets of this path; see iptrec paths.")
]
Number = Annotated[int | None, typer.Option("--packet", min=1, help="This packet alone.")]


def make(
    reader: Reader,
    *,
    words: list[str] | None = None,
    interfaces: str = "",
    chains: str = "",
    rules: str = "",
    verdicts: str = "",
    netns: str = "",
    whole: bool | None = None,
    mark: str = "",
    since: str = "",
    until: str = "",
    number: int | None = None,
    path: int | None = None,
) -> Selection:
    """The selection that was asked for. Raises `UsageError` for what cannot be meant."""
    from iptrec.answers.selection import Selection
    from iptrec.pcap.filter import PacketFilter

    expression = " ".join(words or [])
    return Selection(
        packet_filter=PacketFilter(expression) if expression else None,
        interfaces=frozenset(listed(interfaces)),
        chains=places(reader, listed(chains)),
        rules=rule_places(reader, listed(rules)),
        verdicts=frozenset(verdict(one) for one in listed(verdicts)),
        netns=frozenset(listed(netns)),
        whole=whole,
        mark=_mark(mark) if mark else None,
        since_ns=moment(reader, "--since", since) if since else None,
        until_ns=moment(reader, "--until", until) if until else None,
        number=number,
        path=path,
    )


def places(reader: Reader, texts: Iterable[str]) -> frozenset[tuple[str, str]]:
    """TABLE/CHAIN each, by the names of the recording's tables."""
    return frozenset(
        (table, chain_name)
        for one in texts
        for name, chain_name in chain(one)
        for table in tables(reader, name)
    )


def rule_places(reader: Reader, texts: Iterable[str]) -> frozenset[tuple[str, str, int]]:
    """TABLE/CHAIN/N each, by the names of the recording's tables."""
    return frozenset(
        (table, chain_name, number)
        for one in texts
        for name, chain_name, number in rule(one)
        for table in tables(reader, name)
    )


def tables(reader: Reader, name: str) -> frozenset[str]:
    """The recording's names for the tables that a name may mean.

    A plain name means the tables of both backends, "legacy filter" and "nft filter" that of one; "ip filter"
    is nft's own name for the latter. Never empty: where no table can be meant, the name itself.
    """
    from iptrec.decode.rulesets.types import OF_IPTABLES

    kinds = {one.kind for one in reader.streams}
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


def chain(text: str) -> frozenset[tuple[str, str]]:
    """TABLE/CHAIN: the two names, once for each slash, as nft allows slashes in both."""
    parts = text.split("/") if len(text) <= _LONGEST else []
    splits = (("/".join(parts[:at]), "/".join(parts[at:])) for at in range(1, len(parts)))
    found = frozenset(names for names in splits if all(names))
    if not found:
        raise UsageError(f"--chain {text!r} is no TABLE/CHAIN, such as filter/FORWARD")
    return found


def moment(reader: Reader, option: str, text: str) -> int:
    """A time as epoch ns: absolute (UTC unless it says), after the start, or before the end with "-"."""
    if found := re.fullmatch(r"(-?)([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h)", text):
        distance = int(float(found[2]) * _UNITS[found[3]])
        if not found[1]:
            return reader.facts.started_ns + distance
        return _end(reader) - distance
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{option} {text!r} is no time; write 2026-01-31T10:02:07, 10s (after the start) or -5s"
            " (before the end)"
        ) from None
    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    return int(time.timestamp()) * 10**9 + time.microsecond * 1000


def _end(reader: Reader) -> int:
    """When the recording stopped, or what it has so far ends."""
    facts = reader.facts
    if facts.stopped_ns is not None:
        return facts.stopped_ns
    return max((int(chunk.received_ns[-1]) for chunk in reader.chunks()), default=facts.started_ns)


def listed(text: str) -> list[str]:
    """A,B,..."""
    return [one for one in text.split(",") if one]


def verdict(text: str) -> str:
    """One of those that there are, upper case."""
    if text.upper() not in _VERDICTS:
        raise UsageError(f"--verdict {text!r} is none of {', '.join(_VERDICTS)}")
    return text.upper()


def rule(text: str) -> frozenset[tuple[str, str, int]]:
    """TABLE/CHAIN/N, as `chain`."""
    place, _, number = text.rpartition("/")
    known = number.isascii() and number.isdigit() and len(text) <= _LONGEST
    if not (known and all(place.partition("/"))):
        raise UsageError(f"--rule {text!r} is no TABLE/CHAIN/N, such as filter/FORWARD/2")
    return frozenset((*names, int(number)) for names in chain(place))


def _mark(text: str) -> tuple[int, int]:
    value, _, mask = text.partition("/")
    try:
        numbers = int(value, 0), int(mask or "0xffffffff", 0)
    except ValueError:
        numbers = -1, -1
    if not all(0 <= number < 2**32 for number in numbers):
        raise UsageError(f"--mark {text!r} is no VALUE[/MASK] of 32 bits, such as 0x1/0xff")
    return numbers[0] & numbers[1], numbers[1]
