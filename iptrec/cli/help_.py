"""``iptrec help``, what a command says without arguments, and how help is laid out."""

from __future__ import annotations

import itertools
import re
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand

from iptrec.errors import EXIT_TROUBLE, UsageError

_METAVARS: Final = {"number": "N", "path": "FILE", "file": "FILE"}
_ONE_DASH: Final = re.compile(
    r"-([a-z][a-z-]+)(?:=.*)?", re.DOTALL
)  # as Go's programs have options
_ARGUMENTS, _OPTIONS = "Arguments", "Options"
# A paragraph that is indented is an example; click keeps its lines where \b stands before it.
_EXAMPLES: Final = re.compile(r"(?<=\n\n)(?=  )")


class Command(TyperCommand):
    """A command whose help has its options in groups (``rich_help_panel``), and its examples verbatim."""

    def __init__(self, name: str | None, **more: Any) -> None:  # noqa: ANN401 - typer's
        super().__init__(name, **more)
        self.help = _EXAMPLES.sub("\b\n", self.help or "")
        for one in self.params:
            _name_value(one)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - typer's own click
        """Refuse -iface=eth0, which would be -i with the value "face=eth0": say how it is written."""
        options = {name for one in self.params for name in one.opts}
        for word in itertools.takewhile(lambda one: one != "--", args):
            found = _ONE_DASH.fullmatch(word)
            if found and found[1] == "filter":
                raise UsageError(
                    f"{word}: the filter is an argument: {ctx.command_path} tcp port 443 (man pcap-filter)"
                )
            if found and f"--{found[1]}" in options:
                raise UsageError(f"{word}: did you mean --{word[1:]}?")
        rest: list[str] = super().parse_args(ctx, args)
        return rest

    def format_options(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - typer's own click
        """Write them group by group, in the order in which the groups first come up; others last."""
        groups: dict[str, list[tuple[str, str]]] = {_ARGUMENTS: []}
        rest: list[tuple[str, str]] = []
        for one in self.get_params(ctx):
            if (record := one.get_help_record(ctx)) is None:
                continue
            option = one.param_type_name == "option"
            group = getattr(one, "rich_help_panel", None) if option else _ARGUMENTS
            (groups.setdefault(group, []) if group else rest).append(record)
        for group, records in {**groups, _OPTIONS: rest}.items():
            if records:
                with formatter.section(group):
                    formatter.write_dl(records)


def _name_value(parameter: Any) -> None:  # noqa: ANN401 - typer's own click
    """Say in words what it takes, where its declaration does not."""
    kind = parameter.type
    if kind.name.startswith("int"):
        kind.name = "number"  # also in errors: 'abc' is not a valid number
    if parameter.metavar is None:
        parameter.metavar = _METAVARS.get(kind.name)


def help_(
    context: typer.Context,
    words: Annotated[list[str] | None, typer.Argument(metavar="COMMAND")] = None,
) -> None:
    """Show the help of a command, as its --help does.

    Examples:

      iptrec help show

      iptrec help export pcapng
    """
    about = context.find_root()
    for word in words or []:
        commands = getattr(about.command, "commands", {})
        if word not in commands:
            raise UsageError(
                f"no command {' '.join(words or [])!r};"
                f" {about.command_path} has {', '.join(commands) or 'none'}"
            )
        about = type(about)(commands[word], info_name=word, parent=about)
    print(about.get_help())


def unless_commanded(context: typer.Context) -> None:
    """Show the help of a group that was called without a command, and end there: nothing was done."""
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(EXIT_TROUBLE)
