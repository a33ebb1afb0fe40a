"""The text of rules that came and went between two listings: nft and iptables tell them once more.

In a network namespace of its own, which nothing passes, each rule is made again of what the kernel told of
it (`missed`), in a chain without a hook, and listed there. A user namespace gives the right to do so,
whatever rights the recorder has given up; both end with the process.
"""

from __future__ import annotations

import itertools
import json
import struct
import sys
from typing import TYPE_CHECKING, Any, Final

from iptrec.errors import HostError, IptrecError
from iptrec.kernel import netlink, privileges, process
from iptrec.kernel.nft import listing, transactions
from iptrec.kernel.nft import rule as nft_rule
from iptrec.kernel.nft.missed import ANONYMOUS, ELEMENTS_SET, SET_NAME, Gone
from iptrec.kernel.nft.rule import Rule
from iptrec.kernel.nft.transactions import FAMILIES, Request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.kernel.deadline import Deadline
    from iptrec.kernel.nft.missed import Attributes

KIND: Final = "nft-missed"  # of the snapshot
_SLOW: Final = (
    "record while the host is less busy, or change the rules in fewer steps (one nft -f for many)"
)
_CHAIN: Final = "iptrec-missed"
_AT_ONCE: Final = 100  # rules: the room of a socket is small without rights of the host
_TABLE, _CHAIN_NAME = 1, 3  # NFTA_, the first one of whatever is in a table
_SET_ID, _ELEMENTS, _ELEMENTS_ID = 10, 3, 4
_REFERENCES: Final = {
    "lookup": (1, 4),
    "objref": (4, 5),
}  # NFTA_: a set, by its name and its number
_IMMEDIATE_DATA, _ELEMENT_DATA, _VERDICT, _VERDICT_CHAIN = 2, 2, 2, 2


def told(rules: list[Gone], *, until: Deadline) -> bytes:
    """The content of a snapshot: what told of some rules, and how they are listed. Raises `HostError`.

    Without those that the kernel does not take; empty where that is all of them.
    """
    try:
        done = process.run(
            process.iptrec(module=__name__),
            json.dumps([_written(one) for one in rules]).encode(),
            until=until,
        )
    except process.UnendedError:
        raise HostError(f"nft did not list all such rules in time; {_SLOW}") from None
    if done.returncode:
        fact = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise HostError(fact or f"{KIND}: status {done.returncode}")
    return done.stdout


def main() -> None:
    """What `told` starts: rules come on stdin, the content goes to stdout."""
    rules = [_read(one) for one in json.loads(sys.stdin.buffer.read())]
    try:
        privileges.apart(privileges.NET_ADMIN)
        accepted = list(_made(rules))
        if accepted:
            found = {"messages": b"".join(one.messages for one in accepted).hex()}
            for part in listing.ruleset(counters=False, failed=lambda _: None):
                found[part.kind] = part.content.decode("utf-8", "surrogateescape")
            sys.stdout.write(json.dumps(found))
    except IptrecError as error:
        sys.exit(str(error))


def _written(gone: Gone) -> dict[str, Any]:
    """A rule as JSON."""
    return {
        "family": gone.family,
        "table": gone.table,
        "named": [[kind, _hex(one)] for kind, one in gone.named],
        "sets": [[_hex(one), [*map(_hex, elements)]] for one, elements in gone.sets],
        "rule": _hex(gone.rule),
        "messages": gone.messages.hex(),
    }


def _read(told: dict[str, Any]) -> Gone:
    return Gone(
        family=told["family"],
        table=told["table"],
        named=[(kind, _attributes(one)) for kind, one in told["named"]],
        sets=[(_attributes(one), [*map(_attributes, elements)]) for one, elements in told["sets"]],
        rule=_attributes(told["rule"]),
        messages=bytes.fromhex(told["messages"]),
    )


def _hex(attributes: Attributes) -> str:
    return netlink.packed(attributes).hex()


def _attributes(text: str) -> Attributes:
    return [*netlink.attributes(bytes.fromhex(text))]


def _made(rules: list[Gone]) -> Iterator[Gone]:
    """Those that the kernel takes, many at once; the rules of a table in their order."""
    for family in dict.fromkeys(one.family for one in rules):
        left = [one for one in rules if one.family == family]
        for at in range(0, len(left), _AT_ONCE):
            yield from _taken(family, left[at : at + _AT_ONCE])


def _taken(family: int, rules: list[Gone]) -> list[Gone]:
    """Rules of a family, without those that the kernel refuses, behind those before them."""
    holder = next(one for one, number in FAMILIES.items() if number == family)
    while rules:
        behind = itertools.accumulate((len(one.sets) for one in rules), initial=1)
        asked = [
            (gone, request)
            for gone, number in zip(rules, behind, strict=False)
            for request in _requests(gone, number)
        ]
        refused = transactions.batch(holder, [request for _, request in asked])
        if not refused:
            break
        unwanted = [asked[one][0] for one in refused]
        rules = [one for one in rules if not any(one is other for other in unwanted)]
    return rules


def _requests(gone: Gone, number: int) -> Iterator[Request]:
    """What a rule needs, then the rule; what is there already may be asked for again.

    ``number``: of its first set without a name.
    """
    table = (_TABLE, gone.table)
    yield Request(transactions.NEW_TABLE, netlink.CREATE, [table])
    for name in (_CHAIN.encode() + b"\0", *_jumped_to(gone)):
        yield Request(transactions.NEW_CHAIN, netlink.CREATE, [table, (_CHAIN_NAME, name)])
    for kind, named in gone.named:
        of_set = _numbered(_SET_ID, 0) if kind == transactions.NEW_SET else []
        yield Request(kind, netlink.CREATE, [*named, *of_set])
    for place, (one, elements) in enumerate(gone.sets, number):
        yield Request(
            transactions.NEW_SET, netlink.CREATE, [*_unnamed(one, place, SET_NAME, _SET_ID)]
        )
        for some in elements:
            yield Request(
                transactions.NEW_ELEMENTS,
                netlink.CREATE,
                [*_unnamed(some, place, ELEMENTS_SET, _ELEMENTS_ID)],
            )
    made = _rule(gone, number).new(gone.family)
    flags = netlink.CREATE | netlink.APPEND
    yield Request(transactions.NEW_RULE, flags, [table, (nft_rule.CHAIN, _CHAIN), *made])


def _rule(gone: Gone, number: int) -> Rule:
    """A rule whose sets without a name are found by their numbers, from this one on: they get other names."""
    found = dict(gone.rule)
    told = []
    for name, data in nft_rule.parts(found.get(nft_rule.EXPRESSIONS, b"")):
        values = [*netlink.attributes(data)]
        if any(ANONYMOUS.fullmatch(value) for _, value in values if name in _REFERENCES):
            values = _unnamed(values, number, *_REFERENCES[name])
            number += 1
        told.append((name, values))
    return Rule("", b"", nft_rule.expressions(told), found.get(nft_rule.USERDATA, b""))


def _unnamed(attributes: Attributes, number: int, name: int, identity: int) -> Attributes:
    """Attributes with a number in the place of the name that the kernel gave."""
    found = [
        (kind, ANONYMOUS.sub(rb"__\1%d" + bytes(1), value) if kind == name else value)
        for kind, value in attributes
        if kind != identity
    ]
    return [*found, *_numbered(identity, number)]


def _jumped_to(gone: Gone) -> Iterator[bytes]:
    """The chains that a rule names."""
    for name, data in nft_rule.parts(dict(gone.rule).get(nft_rule.EXPRESSIONS, b"")):
        if name == "immediate":
            yield from _chains(data, _IMMEDIATE_DATA)
    for _, elements in gone.sets:
        for some in elements:
            for _, one in netlink.attributes(dict(some).get(_ELEMENTS, b"")):
                yield from _chains(one, _ELEMENT_DATA)


def _chains(told: bytes, data: int) -> Iterator[bytes]:
    verdict = dict(netlink.attributes(dict(netlink.attributes(told)).get(data, b""))).get(
        _VERDICT, b""
    )
    if (chain := dict(netlink.attributes(verdict)).get(_VERDICT_CHAIN)) is not None:
        yield chain


def _numbered(identity: int, number: int) -> Attributes:
    return [(identity, struct.pack("!I", number))]
