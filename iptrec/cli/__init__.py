"""The command line: options, one call, nothing else. One file a command; heavy imports inside it."""

from __future__ import annotations

import io
import sys
from typing import Annotated, Any

import typer

from iptrec.cli import help_
from iptrec.cli.commands import Group
from iptrec.errors import EXIT_TROUBLE, IptrecError, located
from iptrec.version import __version__

app = typer.Typer(
    name="iptrec",
    cls=Group,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A flight recorder for netfilter: which rule ate my packet?",
    epilog="Try: iptrec demo",
)
# click's UsageError; newer versions of typer bring a click of their own along.
_WrongUse: type[Any] = typer.BadParameter.__mro__[1]


def _version(value: bool) -> None:
    if value:
        print(f"iptrec {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    help_.unless_commanded(context)


def main() -> None:
    """Run a command: errors become one line, exit status 2. Raises KeyboardInterrupt at Ctrl-C."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A rule's comment need not fit the charset of the locale.
        sys.stdout.reconfigure(errors="backslashreplace")
    if isinstance(sys.stderr, io.TextIOWrapper):
        # A line at once, also under PYTHONUNBUFFERED: what a command writes there stands on lines of its own.
        sys.stderr.reconfigure(line_buffering=True, write_through=False)
    try:
        sys.exit(app(prog_name="iptrec", standalone_mode=False) or 0)
    except _WrongUse as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "iptrec"
        _fail(f"{error.format_message().rstrip('.')}; see {command} --help", command)
    except IptrecError as error:
        _fail(error.typed, exit_status=error.exit_status)
    except typer.Abort:  # what click makes of Ctrl-C
        raise KeyboardInterrupt from None
    except OSError as error:
        _fail(located(error))


def complain(message: str, command: str = "iptrec") -> None:
    """A line on stderr about something that went wrong."""
    from iptrec.views.escape import printable

    print(f"{command}: {printable(message)}", file=sys.stderr)


def _fail(message: str, command: str = "iptrec", exit_status: int = EXIT_TROUBLE) -> None:
    complain(message, command)
    sys.exit(exit_status)
