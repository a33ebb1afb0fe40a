"""A table of our own that traces packets, for where iptables-nft is missing: nft makes it, and it goes whole.

It is called after the recording, iptrec-UUID. Its chains have the priority of the raw table; of chains with
equal priorities the one that came last is passed first (net/netfilter/core.c, nf_hook_entries_grow).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from iptrec.kernel import iptables, process
from iptrec.kernel.nft.listing import nft

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from iptrec.names import Family

_HOOKS: Final = {"prerouting": "iifname", "output": "oifname"}
_FAMILIES: Final[dict[Family, str]] = {"ipv4": "meta nfproto ipv4", "ipv6": "meta nfproto ipv6"}
_PRIORITY: Final = -300  # NF_IP_PRI_RAW
_NAMED: Final = re.compile(rb"^table inet iptrec-([0-9a-f-]{36})$", re.MULTILINE)


def name(comment: str) -> str:
    """The table of the recording whose comment is this."""
    return comment.replace(":", "-")


def text(
    comment: str,
    matches: Mapping[Family, Sequence[str]],
    interfaces: Sequence[str],
    *,
    all_incoming: bool = False,
) -> str:
    """The table as nft reads it: a rule for each family's matches and each interface.

    ``all_incoming``: see `iptables.trace_rules`.
    """
    chains = []
    for hook, key in _HOOKS.items():
        devices = [f'{key} "{one.replace("+", "*")}" ' for one in interfaces] or [""]
        if all_incoming and hook == "prerouting":
            devices = [f'{key} != "lo" ' if "lo" not in interfaces else ""]
        rules = [
            f'  {_FAMILIES[family]} {device}{match} counter meta nftrace set 1 comment "{comment}"\n'
            for family, alternatives in matches.items()
            for device in devices
            for match in alternatives
        ]
        head = f"  type filter hook {hook} priority {_PRIORITY}; policy accept;\n"
        chains.append(f" chain {hook} {{\n{head}{''.join(rules)} }}\n")
    return f"table inet {name(comment)} {{\n{''.join(chains)}}}\n"


def insert(table: str) -> None:
    """Make it of what `text` gave. Raises `HostError`."""
    command = [nft(), "-f", "-"]
    iptables.check(command, process.run(command, table.encode()))


def remove(comment: str) -> None:
    """Delete it, if it is there. Raises `HostError`."""
    if comment in comments():
        command = [nft(), "delete", "table", "inet", name(comment)]
        iptables.check(command, process.run(command))


def comments() -> list[str]:
    """Whose tables there are in the current namespace."""
    done = process.run([nft(), "list", "tables", "inet"])
    return [f"iptrec:{one.decode()}" for one in _NAMED.findall(done.stdout)]
