"""The command line: options, one call, nothing else. One file a command; heavy imports inside it."""

from __future__ import annotations

import io
import sys
from typing import Annotated, Any

import typer

from iptrec.cli import (
    check,
    cleanup,
    demo,
    diff,
    doctor,
    export,
    help_,
    import_,
    info,
    paths,
    query,
    record,
    rules,
    show,
    trace,
    why,
)  # fmt: skip
from iptrec.errors import EXIT_TROUBLE, IptrecError, located
from iptrec.version import __version__

app = typer.Typer(
    name="iptrec",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A flight recorder for netfilter: which rule ate my packet?",
    epilog="Try: iptrec demo",
)
# click's UsageError; newer versions of typer bring a click of their own along.
_WrongUse: type[Any] = typer.BadParameter.__mro__[1]
# FILTER is words up to "--"; what comes after it is a command of its own.
_WORDS = {"ignore_unknown_options": False, "allow_interspersed_args": True}
app.command(cls=help_.Command, context_settings=_WORDS)(record.record)
app.command(cls=help_.Command, context_settings=_WORDS)(trace.trace)
app.command(cls=help_.Command)(show.show)
app.command(cls=help_.Command)(why.why)
app.command(cls=help_.Command)(paths.paths)
app.command(cls=help_.Command)(rules.rules)
app.command(cls=help_.Command)(diff.diff)
app.command(cls=help_.Command)(check.check)
app.command(cls=help_.Command)(info.info)
app.add_typer(export.app)
app.command(cls=help_.Command)(query.query)
app.command("import", cls=help_.Command)(import_.import_)
app.command(cls=help_.Command)(doctor.doctor)
app.command(cls=help_.Command)(cleanup.cleanup)
app.command(cls=help_.Command)(demo.demo)
app.command("help", cls=help_.Command)(help_.help_)


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


def _fail(message: str, command: str = "iptrec", exit_status: int = EXIT_TROUBLE) -> None:
    from iptrec.views.escape import printable

    print(f"{command}: {printable(message)}", file=sys.stderr)
    sys.exit(exit_status)
