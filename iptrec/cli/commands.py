"""The commands by name: a command's module is loaded when it is called, and its line of help stands here.

Loading all of them, and making the options of each, takes longer than most of them run.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import typer
from typer.core import TyperGroup
from typer.main import get_command

from iptrec.cli.help_ import Command

if TYPE_CHECKING:
    from collections.abc import Iterator

# In the order of `iptrec --help`. The summary is the first sentence of what the command says of itself.
SUMMARIES: Final = {
    "record": "Trace packets through iptables and nftables into a file.",
    "trace": "Record and show live.",
    "show": "Show packets step by step through tables, chains and rules.",
    "why": "Explain which rule decided, and why no earlier one did.",
    "paths": "Group packets by the path that they took.",
    "rules": "Print the rules, with the packets that hit them.",
    "report": "Write a page of HTML that shows it all in any browser.",
    "diff": "Compare rulesets, the fate of packets, or two packets.",
    "check": "Check a recording against expectations.",
    "info": "Tell what is in a recording, and how complete it is.",
    "merge": "Make one file of several recordings.",
    "query": "Ask a recording in SQL.",
    "lake": "Ask many recordings of many hosts at once.",
    "import": "Make a recording of a capture, or of lines of a log.",
    "redact": "Take addresses, names and payloads out, to share it.",
    "pack": "Make one file to attach to a bug report.",
    "extcap": "Capture in Wireshark: which rule ate my packet.",
    "doctor": "Tell whether recording works here, and what to do if not.",
    "cleanup": "Remove what a killed recorder left behind.",
    "demo": "Record and show a dropped packet on a small Docker network.",
    "completion": "Print the script by which a shell completes what is typed.",
    "help": "Show the help of a command, as its --help does.",
    "export": "Write packets for Wireshark, SQL or data frames.",
}
_MODULES: Final = {
    "import": "import_",
    "help": "help_",
}  # where the name says something else in Python
# FILTER is words up to "--"; what comes after it is a command of its own.
_WORDS: Final = {"ignore_unknown_options": False, "allow_interspersed_args": True}
_SETTINGS: Final = {"record": _WORDS, "trace": _WORDS}


class Commands(Mapping[str, Any]):
    """Each command of `SUMMARIES`, made when it is first asked for."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 - typer's own click
        if name not in SUMMARIES:
            raise KeyError(name)
        if name not in self._made:
            self._made[name] = get_command(of_module(name))
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in SUMMARIES

    def __iter__(self) -> Iterator[str]:
        return iter(SUMMARIES)

    def __len__(self) -> int:
        return len(SUMMARIES)


def of_module(name: str) -> typer.Typer:
    """The command in its module: a function of its name, or an ``app`` of commands."""
    within = _MODULES.get(name, name)
    module = import_module(f"iptrec.cli.{within}")
    group: typer.Typer | None = getattr(module, "app", None)
    if group is not None:
        return group
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    alone.command(name, cls=Command, context_settings=_SETTINGS.get(name))(getattr(module, within))
    return alone


class Group(TyperGroup):
    """``iptrec`` itself."""

    def __init__(self, **more: Any) -> None:  # noqa: ANN401 - typer's
        super().__init__(**more)
        self.commands: Any = Commands()

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401, ARG002 - typer's own click
        """Their names, in the order of the help."""
        return list(SUMMARIES)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401, ARG002 - typer's own click
        """Write them with their summaries; none is loaded for that."""
        with formatter.section("Commands"):
            formatter.write_dl(list(SUMMARIES.items()))
