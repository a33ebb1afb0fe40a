"""``iptrec doctor``."""

from __future__ import annotations

import json as to_json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from iptrec.cli.record import one_netns
from iptrec.cli.record_options import Netns
from iptrec.errors import EXIT_DONE, EXIT_NO

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.kernel.doctor import Finding

_MOST: Final = 10  # recordings
_STYLES = {"ok": "32", "note": "2", "warning": "33", "failure": "31"}


def doctor(
    netns: Netns = None,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object a finding and line (schemas/).")
    ] = False,
    color: Annotated[
        str, typer.Option("--color", metavar="WHEN", help="auto, always or never.")
    ] = "auto",
) -> int:
    """Tell whether recording works here, and what to do if not.

    It looks at kernel, rights, commands, extensions, loggers, rules of others, what killed recorders left
    behind, buffers, clock and disk. Nothing is changed. Exit status 1 when recording would fail.

    Example:

      iptrec doctor --netns web
    """
    from iptrec.cli.output import colours
    from iptrec.kernel.doctor import inspect
    from iptrec.kernel.netns import entered, resolve
    from iptrec.views.escape import printable

    colour = colours(color, "-")
    name = one_netns(netns)
    fails = False
    with entered(None if name is None else resolve(name)):
        for one in (*inspect(Path.cwd()), *_not_compressed(Path.cwd())):
            fails = fails or one.level == "failure"
            if json:
                print(to_json.dumps({"format": 1, **asdict(one)}))
                continue
            level = (
                f"\x1b[{_STYLES[one.level]}m{one.level:<8}\x1b[0m" if colour else f"{one.level:<8}"
            )
            fix = f"; {one.fix}" if one.fix else ""
            print(f"{level} {one.what}: {printable(one.fact + fix)}")
    return EXIT_NO if fails else EXIT_DONE


def _not_compressed(directory: Path) -> Iterator[Finding]:
    """Recordings here that a killed recorder was to compress."""
    from iptrec.kernel.doctor import Finding
    from iptrec.recording.at_work import is_recording
    from iptrec.recording.compressed import PART

    for one in sorted(directory.glob(f"*{PART}"))[:_MOST]:
        if is_recording(one) is False:
            fact = f"{one.name}: a recording that was to be compressed, whose recorder was killed"
            yield Finding(
                "warning",
                "left behind",
                fact,
                f"every command reads it; iptrec pack {one.name} compresses it",
            )
