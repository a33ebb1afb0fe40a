"""A table of our own in nf_tables that switches tracing on, where there is no iptables-nft.

It has the family inet and the recorder's comment as its name, so that everybody sees whose it is, and goes
as a whole.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from iptrec.kernel import nftables, xtables

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_HOOKS: Final = {"PREROUTING": "iifname", "OUTPUT": "oifname"}
_PRIORITY: Final = -301  # before everybody's raw tables
_NAME: Final = re.compile(rb"^table inet (iptrec-[0-9a-f-]{36})$", re.MULTILINE)


def script(comment: str, matches: Iterable[str], interfaces: Sequence[str]) -> str:
    """The table as nft reads it: a rule for each match, and each interface if there are any."""
    matches = list(matches)
    lines = [f"table inet {name(comment)} {{"]
    for chain, key in _HOOKS.items():
        names = [
            f'{key} "{one[:-1]}*" ' if one.endswith("+") else f'{key} "{one}" '
            for one in interfaces
        ]
        lines += [
            f"chain {chain} {{",
            f"type filter hook {chain.lower()} priority {_PRIORITY}; policy accept;",
            *(
                f'{interface}{match} meta nftrace set 1 comment "{comment}"'
                for interface in names or [""]
                for match in matches
            ),
            "}",
        ]
    return "\n".join([*lines, "}", ""])


def name(comment: str) -> str:
    """What it is called."""
    return comment.replace(":", "-")


def insert(text: str) -> None:
    """Make the table. Raises `HostError`."""
    command = [nftables.nft(), "-f", "-"]
    xtables.check(command, xtables.run(command, text.encode()))


def remove(comment: str) -> None:
    """Delete it, if it is there."""
    nftables.delete_table(name(comment))


def comments() -> list[str]:
    """Of all such tables in the current namespace. Raises `HostError`."""
    command = [nftables.nft(), "list", "tables"]
    done = xtables.run(command)
    xtables.check(command, done)
    return [one.decode().replace("-", ":", 1) for one in _NAME.findall(done.stdout)]
