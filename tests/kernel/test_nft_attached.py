"""The base chains of nf_tables after each message of the kernel's."""

from __future__ import annotations

import struct

import pytest

from iptrec.kernel import netlink
from iptrec.kernel.netlink import Message, packed
from iptrec.kernel.nft import bases, transactions
from iptrec.kernel.nft.attached import Attached
from iptrec.names import NFT_FAMILIES

INET = NFT_FAMILIES["inet"]
NEW_TABLE, DELETE_TABLE, NEW_CHAIN, DELETE_CHAIN = 0, 2, 3, 5  # NFT_MSG_
DORMANT = 1


def told(kind, *values, family=INET):
    return Message(10 << 8 | kind, 0, 0, netlink.netfilter_body(family, values))


def table(kind, name, flags=0):
    return told(kind, (1, name.encode() + b"\0"), (2, struct.pack("!I", flags)))


def chain(kind, handle, name="in", *, hook=1, holder="fw"):
    values = [
        (1, holder.encode() + b"\0"),
        (2, struct.pack("!Q", handle)),
        (3, name.encode() + b"\0"),
    ]
    if hook is not None:
        place = packed([(1, struct.pack("!I", hook)), (2, struct.pack("!i", -5))])
        values += [(4, place), (7, b"filter\0")]
    return told(kind, *values)


@pytest.mark.parametrize(
    ("messages", "names"),
    [
        ([], ["first"]),
        ([chain(NEW_CHAIN, 2)], ["first", "in"]),
        ([chain(NEW_CHAIN, 2, hook=None)], ["first"]),  # a user's chain
        ([chain(NEW_CHAIN, 1, "called")], ["called"]),  # has another name
        ([chain(DELETE_CHAIN, 1, "first", hook=None)], []),
        ([chain(DELETE_CHAIN, 1, "first")], ["first"]),  # a device of it alone
        ([chain(DELETE_CHAIN, 1, hook=None, holder="other")], ["first"]),
        ([chain(DELETE_CHAIN, 1, hook=None), chain(NEW_CHAIN, 3)], ["in"]),
        ([table(NEW_TABLE, "fw", DORMANT)], []),
        ([table(NEW_TABLE, "fw", DORMANT), table(NEW_TABLE, "fw")], ["first"]),
        ([table(DELETE_TABLE, "fw")], []),
        ([table(DELETE_TABLE, "other")], ["first"]),
        ([table(NEW_TABLE, "fw", DORMANT), table(DELETE_TABLE, "fw"), chain(NEW_CHAIN, 1)], ["in"]),
        ([told(99), told(NEW_CHAIN, (1, b"fw\0"), family=77)], ["first"]),
    ],
)  # fmt: skip
def test_what_is_attached_then(messages, names, monkeypatch):
    there = [(1, bases.Base("inet", "fw", "first", 1, 0))]
    monkeypatch.setattr(bases, "with_handles", lambda: there)
    monkeypatch.setattr(transactions, "dumped", lambda *_: [])
    attached = Attached()
    attached.begin()
    for one in messages:
        attached.take(one)
    assert [one.name for one in attached.there] == names
