"""The words that fit where a command line has got to, with a remark on each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from iptrec.cli.commands import SUMMARIES
from iptrec.cli.typed import Place, option

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from iptrec.cli.recorded_names import Words
_VALUES: Final = "values"
_RECORDINGS: Final = "files .db .db.gz"
_FILES: Final = "files"
# What an argument, or the value of an option, is called in --help -> files that it may be.
_FILES_OF: Final = {
    "TRACE.db": _RECORDINGS, "TRACE.db...": _RECORDINGS, "TRACE.db|LAKE/": _RECORDINGS, "A [B]": _FILES,
    "EXPECTATIONS.toml": "files .toml", "FILE": _FILES, "OUT": _FILES,
    "FILE.zip": "files .zip", "DIR": _FILES, "LAKE/": _FILES, "PIPE": _FILES,
}  # fmt: skip
# As the refusals of others name them: tests/cli/test_completion.py asks each option.
_CHOICES: Final = {
    "--backend": "auto legacy nft both",
    "--color": "auto always never",
    "--drops": "auto yes no",
    "--engine": "duckdb clickhouse spark",
    "--family": "ipv4 ipv6 both",
    "--from": "capture kernel-log nft-monitor xtables-monitor",
    "--keep": "names macs oui payload ports",
    "--link": "auto raw ethernet",
    "--log-level": "error warning info debug",
    "--schema": "iptrec ocsf ecs",
    "--sort": "verdict packets bytes first",
    "--verdict": "ACCEPT DROP REJECT QUEUE STOLEN REASSEMBLED DISCARDED UNKNOWN",
}
_LISTS: Final = frozenset(
    {"--chain", "--comm", "--iface", "--netns", "--reason", "--rule", "--table", "--verdict"}
)
_FILTER: Final = (
    "host net port portrange src dst tcp udp icmp icmp6 ip ip6 proto and or not less greater"
)


def candidates(place: Place, word: str) -> tuple[str, Words]:
    """What kind of answer there is (see `completed`), and words, of which some may not begin with ``word``."""
    if place.option is not None:
        return _values(place, place.option, word)
    if not place.only_operands:
        name, equals, value = word.partition("=")
        found = option(place.command, name) if equals and name.startswith("--") else None
        if found is not None:
            kind, some = _values(place, found, value)
            return kind, ((f"{name}={one}", remark) for one, remark in some)
        if word.startswith("-"):
            return _VALUES, _options(place)
    if hasattr(place.command, "commands"):
        return _VALUES, [] if place.operands else _commands(place.command)
    return _argument(place)


def _commands(group: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - typer's own click
    """Those of iptrec by their summaries: none is loaded for that."""
    for name in group.commands:
        yield name, _first(SUMMARIES[name] if group.name == "iptrec" else group.commands[name].help)


def _first(text: str | None) -> str:
    """The first sentence."""
    return " ".join((text or "").split("\n\n")[0].split()).partition(". ")[0].removesuffix(".")


def _options(place: Place) -> Iterator[tuple[str, str]]:
    """Those that were not given yet, then --help."""
    for one in place.command.params:
        given = one in place.used and not getattr(one, "multiple", False)
        if one.param_type_name == "option" and not one.hidden and not given:
            names = [*one.opts, *one.secondary_opts]
            yield from ((name, _first(one.help)) for name in sorted(names, key=len, reverse=True))
    yield "--help", "Show this message and exit"


def _argument(place: Place) -> tuple[str, Words]:
    argument = place.argument
    if argument is None:
        return _VALUES, []
    if place.name == "help":
        return _VALUES, _commands_below(place)
    if argument.metavar == "SHELL":
        return _VALUES, _plain("bash zsh fish")
    if argument.metavar == "QUESTION":
        return _VALUES, _questions()
    if argument.metavar and argument.metavar.startswith(("FILTER", "[FILTER]")):
        further = place.name not in ("record", "trace")
        return _RECORDINGS if further else _VALUES, _plain(_FILTER)
    return _FILES_OF.get(argument.metavar, _VALUES), []


def _commands_below(place: Place) -> Words:
    from iptrec.cli.commands import Commands

    within: Any = Commands()
    for word in place.operands:
        within = getattr(within[word], "commands", {}) if word in within else {}
    return [(name, _first(SUMMARIES.get(name))) for name in within]


def _questions() -> Words:
    from importlib.resources import files

    here = files("iptrec").joinpath("lake", "questions")
    return [(one.name.removesuffix(".sql"), "") for one in here.iterdir()]


def _plain(words: str | Iterable[str]) -> Words:
    return [(one, "") for one in (words.split() if isinstance(words, str) else words)]


def _values(place: Place, taken: Any, word: str) -> tuple[str, Words]:  # noqa: ANN401 - typer's own click
    """What an option takes."""
    name = max(taken.opts, key=len)
    on_host = place.name in ("record", "trace", "extcap", "capture", "doctor", "cleanup")
    source = _OF_HOST.get(name) if on_host else None
    if source is not None:
        found: Words = source()
    elif name in _CHOICES:
        found = _plain(_CHOICES[name])
    elif name in _OF_RECORDING and not on_host:
        found = _OF_RECORDING[name](place.operands[:1], word.rpartition(",")[2])
    else:
        return _FILES_OF.get(taken.metavar, _VALUES), []
    if name in _LISTS and not taken.multiple:
        found = _further(found, word)
    return _VALUES, found


def _further(found: Words, word: str) -> Iterator[tuple[str, str]]:
    """A,B,...: what may come behind the names that are there."""
    before, comma, _ = word.rpartition(",")
    there = set(before.split(","))
    for value, remark in found:
        if value not in there and "," not in value:  # no list can name such a one
            yield f"{before}{comma}{value}", remark


def _interfaces() -> Words:
    from iptrec.kernel import netns

    return _plain([*sorted(netns.interfaces()), "any"])


def _namespaces() -> Words:
    from iptrec.kernel import netns

    return _plain(netns.named())


def _recorded(which: str) -> Callable[[list[str], str], Words]:
    def found(paths: list[str], word: str) -> Words:
        from iptrec.cli import recorded_names

        some: Words = getattr(recorded_names, which)(paths, word)
        return some

    return found


def _reasons(_: list[str], __: str) -> Words:
    from iptrec.packets.ends import WORDS

    return _plain(WORDS)


_OF_HOST: Final[dict[str, Callable[[], Words]]] = {
    "--iface": _interfaces,
    "--netns": _namespaces,
}
_OF_RECORDING: Final[dict[str, Callable[[list[str], str], Words]]] = {
    "--chain": _recorded("chains"),
    "--comm": _recorded("processes"),
    "--iface": _recorded("interfaces"),
    "--netns": _recorded("namespaces"),
    "--reason": _reasons,
    "--rule": _recorded("rules"),
    "--table": _recorded("tables"),
}
