"""``iptrec completion``: the scripts of shells, and the answers that these ask for."""

from __future__ import annotations

import sys
from typing import Annotated, Final

import typer

from iptrec.errors import EXIT_DONE, UsageError

_SHELLS: Final = ("bash", "zsh", "fish")


def completion(
    context: typer.Context,
    shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")],
    typed: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[-- WORD...]", help="What has been typed: the scripts ask with it."
        ),
    ] = None,
) -> int:
    """Print the script by which a shell completes what is typed.

    It completes commands, options, files and values: chains, rules, interfaces and namespaces of the recording
    on the line, or of this host for record and trace. The .deb and .rpm packages install the scripts where the
    shells look for them. pip and pipx install them into share/ of their environment, where bash-completion
    2.12 and newer finds them, by the path of the program. Otherwise, put one of these lines into your shell's
    startup file.

    Examples:

      source <(iptrec completion bash)      # ~/.bashrc

      source <(iptrec completion zsh)       # ~/.zshrc, after compinit

      iptrec completion fish | source       # ~/.config/fish/config.fish
    """
    if shell not in _SHELLS:
        raise UsageError(f"{shell!r}: must be one of {', '.join(_SHELLS)}")
    if not typed:
        from importlib.resources import files

        sys.stdout.write(files("iptrec").joinpath("completion", f"iptrec.{shell}").read_text())
        return EXIT_DONE
    from iptrec.cli.completed import answer

    root = context.find_root()
    for line in answer(shell, typed, root.command):
        print(line)
    return EXIT_DONE
