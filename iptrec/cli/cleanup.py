"""``iptrec cleanup``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from iptrec.cli.record import Netns
from iptrec.errors import EXIT_DONE

if TYPE_CHECKING:
    from iptrec.kernel.leftovers import Leftover


def cleanup(
    netns: Netns = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Only tell what would be removed.")
    ] = False,
) -> int:
    """Remove what a recorder left behind that was killed together with its guardian.

    That is: TRACE rules with the comment iptrec:UUID, rules that --flush took out, loggers that were
    switched; in every network namespace that can be seen, or in one. What belongs to a running recorder
    is never touched. Needs root (or CAP_NET_ADMIN).

    Examples:

      iptrec cleanup --dry-run

      iptrec cleanup
    """
    from iptrec.kernel import leftovers, privileges
    from iptrec.kernel.netns import resolve

    privileges.require_net_admin()
    found = list(leftovers.find(None if netns is None else resolve(netns)))
    for one in found:
        if one.in_use is None and not dry_run:
            leftovers.remove(one)
        fate = f"kept: {one.in_use}" if one.in_use else "found" if dry_run else "removed"
        print(f"{_what(one)}: {fate}")
    if not found:
        print("nothing is left behind")
    return EXIT_DONE


def _what(one: Leftover) -> str:
    """A leftover on one line."""
    from iptrec.views.escape import printable

    where = "a namespace that is gone" if one.where is None else str(one.where)
    things = [
        f"{count} {family} rules{' of nf_tables' if backend == 'nft' else ''}"
        for (family, backend), count in one.rules.items()
    ]
    things += ["a table of nf_tables"] if one.table else []
    if one.changes is not None:
        things += [
            f"the {family} logger, before: {before}"
            for family, before in one.changes.loggers.items()
        ]
        things.append(f"recording {one.changes.output}")
    return printable(f"{where}: {one.comment} ({', '.join(things)})")
