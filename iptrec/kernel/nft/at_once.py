"""The ruleset at one moment as the kernel tells it, where it changes too often for nft to list it.

nft takes a tenth of a second and runs twice, beside it iptables; the kernel's answers to a few questions take a
millisecond. So is known which rules there were, by their handles, and what they are made of: their text is
told by `retold`.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from iptrec.kernel import netlink
from iptrec.kernel.nft import bases, listing, piecewise, transactions, unprinted
from iptrec.kernel.nft.listing import Part
from iptrec.kernel.nft.missed import ANONYMOUS, MOST_TOLD, SET_NAME
from iptrec.kernel.nft.transactions import ChangedError
from iptrec.names import NFT_FAMILIES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.kernel.netlink import Message

_SET_TABLE, _ELEMENTS_TABLE, _ELEMENTS_SET = 1, 1, 2  # NFTA_
_GET: Final = (transactions.GET_TABLE, transactions.GET_CHAIN, transactions.GET_RULE)


class AtOnce(NamedTuple):
    """``messages``: of rules, behind the sets without a name that they refer to, and the elements of these."""

    parts: list[Part]
    messages: list[Message]


def ruleset() -> AtOnce | None:
    """All of it; None where that cannot be, as it changes even faster or is large. Raises `HostError`."""
    with transactions.Line() as line:
        try:
            for _ in range(transactions.TRIES):
                with contextlib.suppress(ChangedError):
                    return _told()
        finally:
            line.close()
    return None


def _told() -> AtOnce | None:
    """It; None where it is large. Raises `ChangedError`."""
    generation = transactions.generation()
    objects: list[dict[str, Any]] = []
    texts: list[bytes] = []
    messages: list[Message] = []
    for family, number in NFT_FAMILIES.items():
        most = MOST_TOLD + 1  # of which nobody could be told the texts
        tables, chains, rules = (transactions.answers(one, number, [], most) for one in _GET)
        if tables is None or chains is None or rules is None:
            raise ChangedError
        if max(len(tables), len(chains), len(rules) + len(messages)) >= most:
            return None
        read = [list(map(netlink.netfilter_attributes, some)) for some in (chains, rules)]
        for one in map(netlink.netfilter_attributes, tables):
            table = bases.table(family, one)
            texts.append(piecewise.text(table))
            objects += piecewise.objects(table, *read)
        messages += [*_unnamed(number), *rules] if rules else []
    if transactions.generation() != generation:
        raise ChangedError
    told = b"".join(map(netlink.whole, messages)).hex()
    return AtOnce(
        [
            Part(listing.GENERATION, "NFT_MSG_GETGEN", str(generation).encode()),
            Part(unprinted.KIND, "NFT_MSG_GETRULE", json.dumps({"messages": told}).encode()),
            Part(listing.TEXT, "NFT_MSG_GETTABLE", b"".join(texts)),
            Part("nft", "NFT_MSG_GETRULE", json.dumps({"nftables": objects}).encode()),
        ],
        messages,
    )


def _unnamed(family: int) -> Iterator[Message]:
    """The sets without a name of a family, each with its elements."""
    for one in transactions.answers(transactions.GET_SET, family, []) or ():
        found = netlink.netfilter_attributes(one)
        if ANONYMOUS.fullmatch(found.get(SET_NAME, b"")):
            asked: transactions.Values = [
                (_ELEMENTS_TABLE, found[_SET_TABLE]),
                (_ELEMENTS_SET, found[SET_NAME]),
            ]
            yield one
            yield from transactions.answers(transactions.GET_ELEMENTS, family, asked) or ()
