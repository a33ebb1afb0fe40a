"""The options that say which packets are meant, the same for every command.

A command that takes them is decorated with `selection` and has a parameter ``chosen``: in its place typer
sees the options.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, cast, get_type_hints

import typer

from iptrec.errors import UsageError

if TYPE_CHECKING:
    from iptrec.answers.select import Select
    from iptrec.api import Recording

_LONGEST: Final = 600  # TABLE/CHAIN/N; names of nf_tables have at most 255 bytes
_MOST_CHAINS: Final = 12  # that are named where another one was asked for
_UNITS: Final = {"ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}

GROUP: Final = "Which packets"  # of options in --help
Chains = Annotated[
    str,
    typer.Option(
        "--chain",
        rich_help_panel=GROUP,
        metavar="TABLE/CHAIN,...",
        help="Packets that pass one of these.",
    ),
]
Verdicts = Annotated[
    str,
    typer.Option(
        "--verdict",
        rich_help_panel=GROUP,
        metavar="V,...",
        help="Packets that ended so: ACCEPT, DROP, UNKNOWN, ...",
    ),
]
# In the order in which --help has them: type, and what it is if it is not given
_OPTIONS: Final[dict[str, tuple[Any, Any]]] = {
    "words": (
        Annotated[
            list[str] | None,
            typer.Argument(
                metavar="FILTER",
                help="Packets, in tcpdump's language (man pcap-filter). A packet fits as it came in, as it"
                " went out, or as it was at any rule between.",
            ),
        ],
        None,
    ),
    "chain": (Chains, ""),
    "rule": (
        Annotated[
            str,
            typer.Option(
                "--rule",
                rich_help_panel=GROUP,
                metavar="TABLE/CHAIN/N,...",
                help="Packets that one of these matched.",
            ),
        ],
        "",
    ),
    "iface": (
        Annotated[
            str,
            typer.Option(
                "--iface",
                "-i",
                rich_help_panel=GROUP,
                metavar="A,B",
                help="Packets that come in or go out by one of these, eth+ or any. Without it those of"
                " record --iface, if that was given.",
            ),
        ],
        "",
    ),
    "verdict": (Verdicts, ""),
    "netns": (
        Annotated[
            str,
            typer.Option(
                "--netns",
                rich_help_panel=GROUP,
                metavar="NAME,...",
                help="Packets of these namespaces.",
            ),
        ],
        "",
    ),
    "complete": (
        Annotated[
            bool | None,
            typer.Option(
                "--complete/--incomplete",
                rich_help_panel=GROUP,
                help="Packets whose trace is whole and certain, or not.",
            ),
        ],
        None,
    ),
    "mark": (
        Annotated[
            str,
            typer.Option(
                "--mark",
                rich_help_panel=GROUP,
                metavar="VALUE[/MASK]",
                help="Packets that had this mark somewhere.",
            ),
        ],
        "",
    ),
    "since": (
        Annotated[
            str,
            typer.Option(
                "--since",
                rich_help_panel=GROUP,
                metavar="TIME",
                help="From then on: 2026-01-31T10:02:07.5, 10s after the start, -5s before the end.",
            ),
        ],
        "",
    ),
    "until": (
        Annotated[
            str,
            typer.Option(
                "--until", rich_help_panel=GROUP, metavar="TIME", help="Before then, as --since."
            ),
        ],
        "",
    ),
    "packet": (
        Annotated[
            int | None,
            typer.Option("--packet", min=1, rich_help_panel=GROUP, help="This packet alone."),
        ],
        None,
    ),
    "path": (
        Annotated[
            int | None,
            typer.Option(
                "--path",
                min=1,
                rich_help_panel=GROUP,
                help="Packets of this path; see iptrec paths.",
            ),
        ],
        None,
    ),
}


@dataclass(frozen=True, slots=True)
class Chosen:
    """What was typed of a selection."""

    words: list[str] | None = None
    chain: str = ""
    rule: str = ""
    iface: str = ""
    verdict: str = ""
    netns: str = ""
    complete: bool | None = None
    mark: str = ""
    since: str = ""
    until: str = ""
    packet: int | None = None
    path: int | None = None

    @property
    def filter(self) -> str | None:
        """The filter, in tcpdump's language."""
        return " ".join(self.words or []) or None

    def of(self, recording: Recording) -> Select:
        """The conditions. Raises `UsageError` for what cannot be meant."""
        given = {
            "chain": [*chains(self.chain)],
            "rule": [found for one in listed(self.rule) for found in rule(one)],
            "iface": listed(self.iface),
            "verdict": [verdict(one) for one in listed(self.verdict)],
            "netns": listed(self.netns),
            "complete": self.complete,
            "mark": _mark(self.mark) if self.mark else None,
            "since": moment(recording, "--since", self.since) if self.since else None,
            "until": moment(recording, "--until", self.until) if self.until else None,
            "packet": self.packet,
            "path": self.path,
        }
        return cast("Select", {name: one for name, one in given.items() if one not in (None, [])})

    def require_chains(self, recording: Recording) -> None:
        """Raise `UsageError` for a chain that is not in the recording; asked where no packet was found."""
        require_chains(recording, self.chain)


NOTHING_TYPED: Final = Chosen()


def selection(
    *,
    without: Collection[str] = (),
    first: Iterable[str] = (),
    **instead: Any,  # noqa: ANN401 - a type, as typer takes it
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Give a command the options in the place of its parameter ``chosen``.

    ``without``: but these. ``first``: those that come first in its --help. ``instead``: another type, with
    another help, of an option.
    """
    names = [name for name in dict.fromkeys([*first, *_OPTIONS]) if name not in without]
    given = {name: (instead.get(name, _OPTIONS[name][0]), _OPTIONS[name][1]) for name in names}

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        return _with_options(command, given)

    return decorate


def _with_options(
    command: Callable[..., int], given: dict[str, tuple[Any, Any]]
) -> Callable[..., int]:
    types = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    for one in inspect.signature(command).parameters.values():
        if one.name != "chosen":
            parameters.append(one.replace(annotation=types[one.name]))
            continue
        parameters += [
            inspect.Parameter(name, one.POSITIONAL_OR_KEYWORD, annotation=kind, default=absent)
            for name, (kind, absent) in given.items()
        ]

    @functools.wraps(command)
    def run(**values: Any) -> int:  # noqa: ANN401 - what typer found
        typed = Chosen(**{name: values.pop(name) for name in given})
        return command(**values, chosen=typed)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def chains(text: str) -> Iterator[tuple[str, str]]:
    """TABLE/CHAIN,..."""
    return (found for one in listed(text) for found in chain(one))


def chain(text: str) -> frozenset[tuple[str, str]]:
    """TABLE/CHAIN: the two names, once for each slash, as nft allows slashes in both."""
    parts = text.split("/") if len(text) <= _LONGEST else []
    splits = (("/".join(parts[:at]), "/".join(parts[at:])) for at in range(1, len(parts)))
    found = frozenset(names for names in splits if all(names))
    if not found:
        raise UsageError(f"--chain {text!r}: expected TABLE/CHAIN, such as filter/FORWARD")
    return found


def rule(text: str) -> frozenset[tuple[str, str, int]]:
    """TABLE/CHAIN/N, as `chain`."""
    place, _, number = text.rpartition("/")
    known = number.isascii() and number.isdigit() and len(text) <= _LONGEST
    if not (known and all(place.partition("/"))):
        raise UsageError(f"--rule {text!r}: expected TABLE/CHAIN/N, such as filter/FORWARD/2")
    return frozenset((*names, int(number)) for names in chain(place))


def require_chains(recording: Recording, typed: str) -> None:
    """Raise `UsageError` for a chain that no recorded ruleset has; it names those that there are.

    ``typed``: TABLE/CHAIN,... Nothing is said where the recording does not tell all its rulesets.
    """
    from iptrec.answers import chains as known

    there = known.recorded(recording.rows) if typed else None
    if not there:
        return
    for text in listed(typed):
        names = chain(text)
        if not known.is_possible(recording.rows, names, there):
            tables = {name for name, _ in names}
            nearest = sorted(there, key=lambda one: (one[0] not in tables, one))
            told = ", ".join("/".join(one) for one in nearest[:_MOST_CHAINS])
            more = f" and {len(there) - _MOST_CHAINS:,} more" if len(there) > _MOST_CHAINS else ""
            raise UsageError(f"--chain {text!r}: not in this recording; there are {told}{more}")


def moment(recording: Recording, option: str, text: str) -> int:
    """A time as epoch ns: absolute (UTC unless it says), after the start, or before the end with "-"."""
    if found := re.fullmatch(r"(-?)([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h)", text):
        distance = int(float(found[2]) * _UNITS[found[3]])
        return recording.end_ns - distance if found[1] else recording.facts.started_ns + distance
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{option} {text!r} is not a time; write 2026-01-31T10:02:07, 10s (after the start) or -5s"
            " (before the end)"
        ) from None
    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    return int(time.timestamp()) * 10**9 + time.microsecond * 1000


def listed(text: str) -> list[str]:
    """A,B,..."""
    return [one for one in text.split(",") if one]


def verdict(text: str) -> str:
    """One of those that there are, upper case."""
    from iptrec.answers.select import VERDICTS

    if text.upper() not in VERDICTS:
        raise UsageError(f"--verdict {text!r}: must be one of {', '.join(VERDICTS)}")
    return text.upper()


def _mark(text: str) -> tuple[int, int]:
    value, _, mask = text.partition("/")
    try:
        numbers = int(value, 0), int(mask or "0xffffffff", 0)
    except ValueError:
        numbers = -1, -1
    if not all(0 <= number < 2**32 for number in numbers):
        raise UsageError(f"--mark {text!r}: expected VALUE[/MASK] of 32 bits, such as 0x1/0xff")
    if numbers[0] & ~numbers[1]:
        raise UsageError(
            f"--mark {text!r}: the value has bits that the mask leaves out, so nothing can match"
        )
    return numbers
