"""Chains of our own that packets pass last: of what comes there we know that routing did not drop it.

After PREROUTING the kernel looks for a packet's way, and drops what has none, what the source address
forbids, what may go no further; it tells nobody. So it does after OUTPUT where a rule changed what the way
depends on (net/netfilter/nft_chain_route.c, nf_nat_proto.c). Where no chain of the user's is passed by all
that went on, there is nothing to tell those packets from others. There we add one, with a rule that accepts:
a chain without rules accepts as well, but leaves two events.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from iptrec.kernel import iptables, process, sysctls
from iptrec.kernel.nft import bases, table
from iptrec.kernel.nft.listing import nft
from iptrec.names import FAMILIES, HOOKS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from iptrec.kernel.nft.bases import Base
    from iptrec.names import Family

TABLES: Final[dict[Family, str]] = {"ipv4": "ip", "ipv6": "ip6"}
_LAST: Final = 2**31 - 1  # NF_IP_PRI_LAST
_NEVER: Final = -(2**31) - 1


@dataclass(frozen=True, slots=True)
class Late:
    """``hooks``: of each family that is traced those that get a chain."""

    comment: str
    hooks: Mapping[Family, Sequence[str]] = field(default_factory=dict)

    @property
    def needed(self) -> bool:
        """Whether there is to be any."""
        return any(self.hooks.values())

    def beside(self, known: Iterable[Base]) -> Late:
        """With what is missing beside all base chains that there are; what was needed before stays."""
        theirs = bases.others(known)
        hooks = {
            family: tuple(dict.fromkeys([*before, *_untold(theirs, family)]))
            for family, before in self.hooks.items()
        }
        return replace(self, hooks=hooks)

    def text(self) -> str:
        """The tables as nft reads them."""
        return "".join(self._table(family, hooks) for family, hooks in self.hooks.items() if hooks)

    def insert(self) -> None:
        """Make the tables. Raises `HostError`."""
        command = [nft(), "-f", "-"]
        iptables.check(command, process.run(command, self.text().encode()))

    def insert_again(self) -> None:
        """Make them anew, where something of them is gone, or has to be added. Raises `HostError`."""
        table.remove(self.comment, table.LATE)
        self.insert()

    def in_place(self, known: Iterable[Base]) -> bool:
        """Whether all of them are among the base chains that there are."""
        name = table.name(self.comment)
        there = {(one.family, one.hook) for one in known if one.table == name}
        return there.issuperset(
            (TABLES[family], HOOKS.index(one.upper()))
            for family, hooks in self.hooks.items()
            for one in hooks
        )

    def _table(self, family: Family, hooks: Sequence[str]) -> str:
        chains = "".join(
            f" chain {one} {{\n  type filter hook {one} priority {_LAST}; policy accept;\n"
            f'  accept comment "{self.comment}"\n }}\n'
            for one in hooks
        )
        return f"table {TABLES[family]} {table.name(self.comment)} {{\n{chains}}}\n"


def _untold(known: Sequence[Base], family: Family) -> Iterator[str]:
    """The hooks of which no chain tells that a packet came so far."""
    here = [one for one in known if one.family in (TABLES[family], "inet")]

    def priorities(hook: str, *types: str) -> list[int]:
        number = HOOKS.index(hook)
        return [one.priority for one in here if one.hook == number and one.type in types]

    if not priorities("INPUT", "filter"):
        yield "input"
    if priorities("POSTROUTING", "filter"):
        return
    # A chain of type nat sees the first packet of a connection alone.
    again = max(priorities("OUTPUT", "route", "nat"), default=_NEVER)
    lost_in_output = again > _NEVER and again >= max(priorities("OUTPUT", "filter"), default=_NEVER)
    goes_on = sysctls.forwards() or sysctls.hands_over()
    if lost_in_output or (goes_on and not priorities("FORWARD", "filter")):
        yield "postrouting"


def none_yet(comment: str, families: Iterable[Family]) -> Late:
    """Of these families, before it is known what there is."""
    traced = set(families)
    return Late(comment, {family: () for family in FAMILIES if family in traced})
