"""Tables of our own as the kernel holds them, to be made again at once: nft takes its time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Self

from iptrec.errors import HostError
from iptrec.kernel import netlink
from iptrec.kernel.nft import bases, transactions
from iptrec.kernel.nft import rule as nft_rule
from iptrec.kernel.nft.rule import Rule
from iptrec.kernel.nft.transactions import FAMILIES, Request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.kernel.nft.transactions import Holder

_TABLE_NAME: Final = 1  # NFTA_TABLE_
_KEPT_OF_CHAIN: Final = (1, 3, 4, 5, 7)  # NFTA_CHAIN_TABLE, NAME, HOOK, POLICY, TYPE


class Copy(NamedTuple):
    """A table with its chains and rules; ``whole``: nothing of it is without a name."""

    holder: Holder
    name: str
    requests: list[Request]
    whole: bool

    @classmethod
    def of(cls, holder: Holder, name: str) -> Self | None:
        """A table that is there; None where it is not. Raises `HostError`."""
        if not _there(holder, name):
            return None
        requests = [Request(transactions.NEW_TABLE, netlink.CREATE, [(_TABLE_NAME, name)])]
        for one in _dumped(transactions.GET_CHAIN, holder, name):
            kept = [(number, one[number]) for number in _KEPT_OF_CHAIN if number in one]
            requests.append(Request(transactions.NEW_CHAIN, netlink.CREATE, [*kept]))
        whole = True
        for one in _dumped(transactions.GET_RULE, holder, name):
            rule = Rule.of(one)
            whole = whole and rule.anonymous is None
            made: transactions.Values = [
                (nft_rule.TABLE, name),
                (nft_rule.CHAIN, rule.chain),
                *rule.new(FAMILIES[holder]),
            ]
            flags = netlink.CREATE | netlink.APPEND
            requests.append(Request(transactions.NEW_RULE, flags, made))
        return cls(holder, name, requests, whole)

    @property
    def again(self) -> list[Request]:
        """What makes it again in the place of what is left of it. Raises `HostError`."""
        old = Request(transactions.DELETE_TABLE, 0, [(_TABLE_NAME, self.name)])
        left = [old] if _there(self.holder, self.name) else []
        return [one._replace(holder=self.holder) for one in (*left, *self.requests)]


def _there(holder: Holder, name: str) -> bool:
    return transactions.there(transactions.GET_TABLE, holder, [(_TABLE_NAME, name)])


def _dumped(kind: int, holder: Holder, table: str) -> Iterator[dict[int, bytes]]:
    """The chains, or the rules, of a table."""
    asked: transactions.Values = [(1, table)]
    if (found := transactions.dumped(kind, FAMILIES[holder], asked)) is None:
        raise HostError(transactions.ALWAYS_CHANGES)
    for one in found:
        if bases.text(one[1]) == table:  # the first attribute of both
            yield one
