"""What Wireshark is told about our interface: the sentences of extcap(4).

A sentence is a line, "arg {number=0}{call=--netns}{display=Network namespace}{type=selector}". Nothing can be
quoted: a brace in a value may end it (extcap_parser.c), and a line that is not UTF-8 is passed over.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from iptrec.names import BACKEND_CHOICES, DROPS_CHOICES
from iptrec.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

INTERFACE: Final = "iptrec"
SNAPLEN, MIN_SNAPLEN, MAX_SNAPLEN = 256, 64, 65535  # bytes
_FAMILIES: Final = ("both", "ipv4", "ipv6")
_LEVELS: Final = ("error", "warning", "info", "debug")
_DISPLAY: Final = "netfilter trace: which rule ate my packet"
# Each packet says whether it has an Ethernet header: there is one interface of pcapng for each kind. Wireshark
# shows one number before it captures. sshdump and ciscodump name this one, LINKTYPE_USER0, for the same reason.
_DLT: Final = 147
_UNSAYABLE: Final = re.compile(r"[{}\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Choice:
    """A value of a selector, and what is shown for it."""

    value: str
    display: str

    @property
    def sayable(self) -> bool:
        """Whether a sentence can hold it, so that it comes back as it is."""
        return not (_UNSAYABLE.search(self.value) or _UNSAYABLE.search(self.display))


@dataclass(frozen=True, slots=True)
class _Argument:
    """An option in the dialog. ``more``: of its sentence. The first of ``choices`` is the default."""

    call: str
    display: str
    kind: str
    tooltip: str
    more: str = ""
    choices: Sequence[Choice] = ()


HERE: Final = Choice("", "this one")


def interfaces() -> Iterator[str]:
    """Which there are: ours."""
    yield f"extcap {{version={__version__}}}{{display=iptrec}}"
    yield f"interface {{value={INTERFACE}}}{{display={_DISPLAY}}}"


def link_types() -> Iterator[str]:
    """What its packets begin with."""
    yield (
        f"dlt {{number={_DLT}}}{{name={INTERFACE}}}"
        "{display=Ethernet or raw IP, whichever each packet had}"
    )


def config(namespaces: Iterable[Choice]) -> Iterator[str]:
    """The options of a capture; ``namespaces`` beside the present one."""
    for number, one in enumerate(_arguments(namespaces)):
        yield (
            f"arg {{number={number}}}{{call={one.call}}}{{display={one.display}}}"
            f"{{type={one.kind}}}{{tooltip={one.tooltip}}}{one.more}"
        )
        yield from _values(number, one)


def reloaded(option: str, namespaces: Iterable[Choice]) -> Iterator[str]:
    """The values of an option, named with or without its dashes, as they are by now."""
    for number, one in enumerate(_arguments(namespaces)):
        if one.call.removeprefix("--") == option.removeprefix("--"):
            yield from _values(number, one)


def _values(number: int, argument: _Argument) -> Iterator[str]:
    for at, one in enumerate(argument.choices):
        if one.sayable:
            default = "{default=true}" if at == 0 else ""
            yield f"value {{arg={number}}}{{value={one.value}}}{{display={one.display}}}{default}"


def _arguments(namespaces: Iterable[Choice]) -> Iterator[_Argument]:
    """Those of `record` that make sense in a dialog; the filter is Wireshark's own capture filter."""
    yield _Argument(
        "--netns", "Network namespace", "selector", "Whose packets: this one's, or those of a container",
        "{reload=true}{placeholder=Look again}", [HERE, *namespaces],
    )  # fmt: skip
    yield _Argument(
        "--iface", "Only by interface", "string",
        "Packets that come in or go out by one of these (A,B); eth+ is all whose names begin so",
        "{placeholder=all}",
    )  # fmt: skip
    yield _Argument(
        "--backend", "Whose rules", "selector",
        "auto: what has rules there; legacy: iptables-legacy; nft: iptables-nft and nft", "",
        _plain(BACKEND_CHOICES),
    )  # fmt: skip
    yield _Argument("--family", "Family", "selector", "IPv4, IPv6 or both", "", _plain(_FAMILIES))
    yield _Argument(
        "--drops", "Reasons of drops", "selector",
        "Why the kernel drops packets that no rule drops; auto: where a program of ours may run in the kernel",
        "", _plain(DROPS_CHOICES),
    )  # fmt: skip
    yield _Argument(
        "--conntrack", "Record connections", "boolflag", "New connections, ended ones, their NAT",
    )  # fmt: skip
    yield _Argument(
        "--snaplen", "Bytes of each packet", "unsigned", "How much of it is kept at each rule",
        f"{{range={MIN_SNAPLEN},{MAX_SNAPLEN}}}{{default={SNAPLEN}}}",
    )  # fmt: skip
    yield _Argument(
        "--output", "Keep the recording", "fileselect",
        "A new file, for iptrec show and why; %H%M%S in its name is the time", "{mustexist=false}",
    )  # fmt: skip
    yield _Argument(
        "--log-level", "Log", "selector", "What goes into the log file", "{group=Debug}", _plain(_LEVELS)
    )  # fmt: skip
    yield _Argument(
        "--log-file", "Log file", "fileselect", "What iptrec says is added to this file",
        "{mustexist=false}{group=Debug}",
    )  # fmt: skip


def _plain(words: Iterable[str]) -> list[Choice]:
    return [Choice(one, one) for one in words]
