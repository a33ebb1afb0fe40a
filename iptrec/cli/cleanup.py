"""``iptrec cleanup``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from iptrec.cli.record import one_netns
from iptrec.cli.record_options import Netns
from iptrec.errors import EXIT_DONE, EXIT_NO
from iptrec.names import counted

if TYPE_CHECKING:
    from iptrec.kernel.undo.leftovers import Leftover

_StayedOut = Literal["keep", "restore", "discard"]
_WAITING = (
    "kept: somebody replaced what was there; --restore puts these behind it, --discard forgets them"
)

_ELSEWHERE = (
    "removed; its list is not in /run/iptrec here, and tells what else it changed (loggers, --flush):"
    " if it recorded in a container, run iptrec cleanup there as well"
)


def cleanup(
    netns: Netns = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Only tell what would be removed.")
    ] = False,
    restore: Annotated[
        bool | None,
        typer.Option(
            "--restore/--discard",
            help="Append rules that --flush took out of a raw chain that somebody has replaced since, or drop"
            " them. Without it they are printed and kept.",
        ),
    ] = None,
) -> int:
    """Remove what a killed recorder left behind.

    A recorder has a guardian that does this; both were killed. What may be left: TRACE rules with the comment
    iptrec:UUID, tables iptrec-UUID of nf_tables, rules that --flush took out, loggers that were switched, the
    host's drop monitor that was started; in every network namespace that can be seen (/proc, /run/netns,
    /run/docker/netns), or in one. What belongs to a running recorder is never touched. Needs root (or
    CAP_NET_ADMIN).

    What a recorder changed is in a list in its /run/iptrec. Of one that recorded in a container, which has a
    /run of its own, only the rules are found from outside and removed: the rest is done by cleanup there.

    Where somebody replaced a raw chain while --flush kept its rules out, the new rules stand. The old ones are
    printed, each as iptables-restore reads it or nft lists it, until --restore or --discard; the exit status
    is 1 then, as it is if a recorder's list of changes cannot be read.

    Examples:

      iptrec cleanup --dry-run

      iptrec cleanup

      iptrec cleanup --restore
    """
    from iptrec.kernel import privileges
    from iptrec.kernel.netns import resolve
    from iptrec.kernel.undo import leftovers

    privileges.require_net_admin()
    stayed_out: _StayedOut = "keep" if restore is None else "restore" if restore else "discard"
    name = one_netns(netns)
    found = list(leftovers.find(None if name is None else resolve(name)))
    kept = [_clean(one, stayed_out, dry_run=dry_run) for one in found]
    if not found:
        print("nothing is left behind")
    return EXIT_NO if any(kept) else EXIT_DONE


def _clean(one: Leftover, stayed_out: _StayedOut, *, dry_run: bool) -> bool:
    """Remove a leftover and tell what became of it; whether something of it waits for the user."""
    from iptrec.kernel.undo import leftovers
    from iptrec.views.escape import printable

    what = _what(one)
    if one.in_use is not None or dry_run:
        print(f"{what}: {f'kept: {one.in_use}' if one.in_use else 'found'}")
        out = one.changes.out if one.changes is not None and one.in_use is None else []
    else:
        rest = leftovers.remove(one, stayed_out)
        out = [] if rest is None else rest.out
        unlisted = one.where is not None and one.changes is None
        print(f"{what}: {_WAITING if out else _ELSEWHERE if unlisted else 'removed'}")
    for family, backend, lines in out:
        for line in lines:
            print(
                f"    {family} raw{' of nf_tables' if backend == 'nft' else ''}: {printable(line)}"
            )
    return bool(out or one.unreadable)


def _what(one: Leftover) -> str:
    """A leftover on one line."""
    from iptrec.views.escape import printable

    if one.unreadable is not None:
        return printable(f"{one.comment} ({one.unreadable}, a list that cannot be read)")
    if one.where is None and one.changes is None:
        return printable(f"{one.comment} (a list without changes)")
    where = "a namespace that is gone" if one.where is None else str(one.where)
    things = [
        f"{counted(count, f'{family} rule')}{' of nf_tables' if backend == 'nft' else ''}"
        for (family, backend), count in one.rules.items()
    ]
    things += ["a table of nf_tables"] if one.table else []
    if one.changes is not None:
        things += [
            f"the {family} logger, before: {before}"
            for family, before in one.changes.loggers.items()
        ]
        things += ["the host's drop monitor"] if one.changes.monitor is not None else []
        things.append(f"recording {one.changes.output}{_not_compressed(one.changes.output)}")
    return printable(f"{where}: {one.comment} ({', '.join(things)})")


def _not_compressed(output: str) -> str:
    """That a recording was to be compressed, if it was, and is there."""
    from iptrec.recording.compressed import PART

    if not (output.endswith(PART) and Path(output).is_file()):
        return ""
    return f", which was to become {Path(output).name.removesuffix(PART)}.db.gz; every command reads it"
