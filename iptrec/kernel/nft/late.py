"""Chains of our own that packets pass last: of what comes there we know that routing did not drop it.

After PREROUTING the kernel looks for a packet's way, and drops what has none, what the source address
forbids, what may go no further; it tells nobody. So it does after OUTPUT where a rule changed what the way
depends on (net/netfilter/nft_chain_route.c, nf_nat_proto.c). Where no chain of the user's is passed by all
that went on, there is nothing to tell those packets from others. There we add one, with a rule that accepts:
a chain without rules accepts as well, but leaves two events.

Where the user's chains come and go ours stays, once one was missing for a moment: whoever follows is late each
time. It costs an event a packet, which a ruleset whose chains stay does not pay.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from iptrec.errors import HostError
from iptrec.kernel import netlink, sysctls
from iptrec.kernel.nft import bases, table, transactions
from iptrec.kernel.nft import rule as nft_rule
from iptrec.kernel.nft.transactions import Request
from iptrec.names import FAMILIES, HOOKS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from iptrec.kernel.nft.bases import Base
    from iptrec.names import Family

TABLES: Final[dict[Family, str]] = {"ipv4": "ip", "ipv6": "ip6"}
_NAME_OF_TABLE: Final = 1  # NFTA_TABLE_
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_TYPE = 1, 3, 4, 7  # NFTA_
_HOOK_NUMBER, _HOOK_PRIORITY = 1, 2
# The verdict NF_ACCEPT, as the expression "immediate" has it: register 0, data, of a verdict, its code.
_ACCEPT: Final = [
    (1, struct.pack("!I", 0)),
    (2, netlink.packed([(2, netlink.packed([(1, struct.pack("!I", 1))]))])),
]
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

    def missing(self, known: Iterable[Base]) -> Late:
        """Those of them that are not among the base chains that there are."""
        name = table.name(self.comment)
        there = {(one.family, one.hook) for one in known if one.table == name}
        hooks = {
            family: tuple(
                one for one in some if (TABLES[family], HOOKS.index(one.upper())) not in there
            )
            for family, some in self.hooks.items()
        }
        return replace(self, hooks=hooks)

    def insert(self) -> None:
        """Make them, and their tables where these are missing. Raises `HostError`."""
        for code in transactions.batch("ipv4", self.requests).values():
            raise HostError(
                f"nf_tables does not take chains that packets pass last: {os.strerror(code)}"
            )

    @property
    def requests(self) -> list[Request]:
        """What makes them."""
        return [
            one._replace(holder=family)
            for family, hooks in self.hooks.items()
            if hooks
            for one in self._requests(hooks)
        ]

    def _requests(self, hooks: Sequence[str]) -> list[Request]:
        name = table.name(self.comment)
        made = [Request(transactions.NEW_TABLE, netlink.CREATE, [(_NAME_OF_TABLE, name)])]
        for one in hooks:
            at = netlink.packed(
                [
                    (_HOOK_NUMBER, struct.pack("!I", HOOKS.index(one.upper()))),
                    (_HOOK_PRIORITY, struct.pack("!i", _LAST)),
                ]
            )
            chain: transactions.Values = [
                (_CHAIN_TABLE, name),
                (_CHAIN_NAME, one),
                (_CHAIN_HOOK, at),
                (_CHAIN_TYPE, "filter"),
            ]
            rule: transactions.Values = [
                (nft_rule.TABLE, name),
                (nft_rule.CHAIN, one),
                (nft_rule.EXPRESSIONS, nft_rule.expressions([("immediate", _ACCEPT)])),
                (nft_rule.USERDATA, nft_rule.commented(self.comment)),
            ]
            made += (
                Request(transactions.NEW_CHAIN, netlink.CREATE, chain),
                Request(transactions.NEW_RULE, netlink.CREATE | netlink.APPEND, rule),
            )
        return made


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
