"""The options that say which packets are meant, the same for every command.

A command that takes them is decorated with `selection` and has a parameter ``chosen``: in its place typer
sees the options.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Final, cast, get_type_hints

import typer

from iptrec.cli.moments import moment
from iptrec.errors import UsageError

if TYPE_CHECKING:
    from iptrec.answers.select import Select
    from iptrec.api import Recording

ANY_TABLE: Final = ""  # of `iptrec.answers.selection`
_LONGEST: Final = 600  # TABLE/CHAIN/N; names of nf_tables have at most 255 bytes

GROUP: Final = "Which packets"  # of options in --help


def given(context: typer.Context, parameter: typer.CallbackParam, value: str) -> str:
    """What was typed of an option. Raises `UsageError` where nothing was: that would mean all packets."""
    source = context.get_parameter_source(parameter.name or "")
    if source is not None and source.name != "DEFAULT":
        require_all(parameter.opts[0], value)
    return value


def require_all(what: str, text: str) -> None:
    """Raise `UsageError` for an empty text, or a list A,B,... with an empty name in it."""
    if not all(one.strip() for one in text.split(",")):
        raise UsageError(f"{what} {text!r}: {'a name in it' if text.strip() else 'it'} is empty")


Chains = Annotated[
    str,
    typer.Option(
        "--chain",
        callback=given,
        rich_help_panel=GROUP,
        metavar="TABLE/CHAIN,...",
        help="Packets that pass one of these.",
    ),
]
Verdicts = Annotated[
    str,
    typer.Option(
        "--verdict",
        callback=given,
        rich_help_panel=GROUP,
        metavar="V,...",
        help="Packets that ended so: ACCEPT, DROP, DISCARDED, UNKNOWN, ...",
    ),
]
Utc = Annotated[bool, typer.Option("--utc", help="Times in UTC, not in the local zone (TZ).")]
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
                callback=given,
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
                callback=given,
                rich_help_panel=GROUP,
                metavar="A,B",
                help="Packets that come in or go out by one of these, eth+ or any. Without it those of"
                " record --iface, if that was given.",
            ),
        ],
        "",
    ),
    "verdict": (Verdicts, ""),
    "reason": (
        Annotated[
            str,
            typer.Option(
                "--reason",
                callback=given,
                rich_help_panel=GROUP,
                metavar="WORD,...",
                help="Packets with such an end behind the rules, also where it is only perhaps theirs:"
                " NO_SOCKET, IP_RPFILTER, ...",
            ),
        ],
        "",
    ),
    "netns": (
        Annotated[
            str,
            typer.Option(
                "--netns",
                callback=given,
                rich_help_panel=GROUP,
                metavar="NAME,...",
                help="Packets of these namespaces; of several recordings also HOST or HOST/NAMESPACE.",
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
                callback=given,
                rich_help_panel=GROUP,
                metavar="VALUE[/MASK]",
                help="Packets that had this mark somewhere.",
            ),
        ],
        "",
    ),
    "uid": (
        Annotated[
            str,
            typer.Option(
                "--uid",
                callback=given,
                rich_help_panel=GROUP,
                metavar="UID,...",
                help="Packets that sockets of these users sent or are to get, where that is known.",
            ),
        ],
        "",
    ),
    "comm": (
        Annotated[
            str,
            typer.Option(
                "--comm",
                callback=given,
                rich_help_panel=GROUP,
                metavar="NAME,...",
                help="Packets of sockets that processes of these names hold, where that is known.",
            ),
        ],
        "",
    ),
    "container": (
        Annotated[
            str,
            typer.Option(
                "--container",
                callback=given,
                rich_help_panel=GROUP,
                metavar="ID,...",
                help="Packets of sockets in these containers or pods: names, or how ids begin.",
            ),
        ],
        "",
    ),
    "since": (
        Annotated[
            str,
            typer.Option(
                "--since",
                callback=given,
                rich_help_panel=GROUP,
                metavar="TIME",
                help="From then on: 10:02, 2026-01-31T10:02:07.5, 10s after the start, -5s before the end.",
            ),
        ],
        "",
    ),
    "until": (
        Annotated[
            str,
            typer.Option(
                "--until",
                callback=given,
                rich_help_panel=GROUP,
                metavar="TIME",
                help="Before then, as --since.",
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
    "utc": (Utc, False),
}


@dataclass(frozen=True, slots=True)
class Chosen:
    """What was typed of a selection; ``more``: the recordings after the first one."""

    words: list[str] | None = None
    chain: str = ""
    rule: str = ""
    iface: str = ""
    verdict: str = ""
    reason: str = ""
    netns: str = ""
    complete: bool | None = None
    mark: str = ""
    uid: str = ""
    comm: str = ""
    container: str = ""
    since: str = ""
    until: str = ""
    packet: int | None = None
    path: int | None = None
    utc: bool = False
    more: tuple[str, ...] = ()

    @property
    def filter(self) -> str | None:
        """The filter, in tcpdump's language."""
        return " ".join(self.words or []) or None

    def of(self, recording: Recording) -> Select:
        """The conditions. Raises `UsageError` for what cannot be meant."""
        typed = {
            "chain": [*chains(self.chain)],
            "rule": [found for one in listed(self.rule) for found in rule(one)],
            "iface": listed(self.iface),
            "verdict": [verdict(one) for one in listed(self.verdict)],
            "reason": listed(self.reason),
            "netns": listed(self.netns),
            "complete": self.complete,
            "mark": _mark(self.mark) if self.mark else None,
            "uid": [_uid(one) for one in listed(self.uid)],
            "comm": listed(self.comm),
            "container": listed(self.container),
            "since": self._moment(recording, "--since", self.since),
            "until": self._moment(recording, "--until", self.until),
            "packet": self.packet,
            "path": self.path,
        }
        return cast("Select", {name: one for name, one in typed.items() if one not in (None, [])})

    def _moment(self, recording: Recording, option: str, text: str) -> int | None:
        return moment(recording, option, text, utc=self.utc) if text else None


NOTHING_TYPED: Final = Chosen()


def in_words(chosen: Chosen) -> str:
    """The options of a selection as they were typed, "" for none."""
    typed = {
        "chain": chosen.chain, "rule": chosen.rule, "iface": chosen.iface, "verdict": chosen.verdict,
        "reason": chosen.reason, "netns": chosen.netns, "mark": chosen.mark, "uid": chosen.uid,
        "comm": chosen.comm, "container": chosen.container, "since": chosen.since, "until": chosen.until,
    }  # fmt: skip
    words = [f"--{name} {value}" for name, value in typed.items() if value]
    if chosen.complete is not None:
        words.append("--complete" if chosen.complete else "--incomplete")
    return " ".join([*words, *filter(None, [chosen.filter])])


def selection(
    *,
    without: Collection[str] = (),
    first: Iterable[str] = (),
    several: bool = True,
    **instead: Any,  # noqa: ANN401 - a type, as typer takes it
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Give a command the options in the place of its parameter ``chosen``.

    ``without``: but these. ``first``: those that come first in its --help. ``several``: words after the first
    recording may be further ones. ``instead``: another type, with another help, of an option.
    """
    names = [name for name in dict.fromkeys([*first, *_OPTIONS]) if name not in without]
    options = {name: (instead.get(name, _OPTIONS[name][0]), _OPTIONS[name][1]) for name in names}

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        return _with_options(command, options, several=several)

    return decorate


def _with_options(
    command: Callable[..., int], options: dict[str, tuple[Any, Any]], *, several: bool
) -> Callable[..., int]:
    types = get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    for one in inspect.signature(command).parameters.values():
        if one.name != "chosen":
            parameters.append(one.replace(annotation=types[one.name]))
            continue
        parameters += [
            inspect.Parameter(name, one.POSITIONAL_OR_KEYWORD, annotation=kind, default=absent)
            for name, (kind, absent) in options.items()
        ]

    @functools.wraps(command)
    def run(**values: Any) -> int:  # noqa: ANN401 - what typer found
        typed = Chosen(**{name: values.pop(name) for name in options})
        if several:
            values["recording"], typed = with_more(values["recording"], typed)
        return command(**values, chosen=typed)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def with_more(recording: str, typed: Chosen) -> tuple[str, Chosen]:
    """The first recording; what was typed, with the others apart from the filter."""
    from iptrec.cli.several import split

    (first, *more), words = split(recording, typed.words or [])
    return first, replace(typed, words=words or None, more=tuple(more))


def chains(text: str) -> Iterator[tuple[str, str]]:
    """TABLE/CHAIN,..."""
    return (found for one in listed(text) for found in chain(one))


def chain(text: str) -> frozenset[tuple[str, str]]:
    """TABLE/CHAIN: the two names, once for each slash, as nft allows slashes in both; CHAIN of any table."""
    if text and "/" not in text and len(text) <= _LONGEST:
        return frozenset({(ANY_TABLE, text)})
    parts = text.split("/") if len(text) <= _LONGEST else []
    splits = (("/".join(parts[:at]), "/".join(parts[at:])) for at in range(1, len(parts)))
    found = frozenset(names for names in splits if all(names))
    if not found:
        raise UsageError(
            f"--chain {text!r}: expected TABLE/CHAIN, such as filter/FORWARD, or CHAIN"
        )
    return found


def rule(text: str) -> frozenset[tuple[str, str, int]]:
    """TABLE/CHAIN/N, as `chain`."""
    place, _, number = text.rpartition("/")
    known = number.isascii() and number.isdigit() and len(text) <= _LONGEST
    if not (known and all(place.partition("/"))):
        raise UsageError(f"--rule {text!r}: expected TABLE/CHAIN/N, such as filter/FORWARD/2")
    return frozenset((*names, int(number)) for names in chain(place))


def listed(text: str) -> list[str]:
    """A,B,..."""
    return [one for one in text.split(",") if one]


def verdict(text: str) -> str:
    """One of those that there are, upper case."""
    from iptrec.answers.select import VERDICTS

    if text.upper() not in VERDICTS:
        raise UsageError(f"--verdict {text!r}: must be one of {', '.join(VERDICTS)}")
    return text.upper()


def _uid(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(2**32))):
        raise UsageError(f"--uid {text!r}: expected the number of a user, such as 1000")
    return int(text)


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
