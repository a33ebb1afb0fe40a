"""``iptrec help``, and what a command that has commands of its own says without one."""

from __future__ import annotations

from typing import Annotated

import typer

from iptrec.errors import EXIT_TROUBLE, UsageError


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
