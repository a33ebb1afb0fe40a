"""Conditions of the kernel's own rules of nf_tables about a packet's protocols: nft leaves some unprinted.

It takes them for what other conditions depend on, which it compiles in by itself, although somebody wrote them
and they say more. So a rule may not match to which, by its text, nothing seems to be missing.
"""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from iptrec.decode.attributes import attributes, first, messages
from iptrec.decode.nft_changes import FAMILY_HEADER, NEW_RULE, table_of
from iptrec.decode.rulesets.nft_matches import Match
from iptrec.names import AF_INET, AF_INET6, PROTOCOLS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.decode.rulesets.nft_matches import Scalar

Compiled = dict[tuple[str, str, int], tuple[Match, ...]]  # by family, table, handle
Known = dict[bytes, tuple[Match, ...]]

_HANDLE, _EXPRESSIONS = 3, 4  # NFTA_RULE_
_NAME, _DATA = 1, 2  # NFTA_EXPR_
_REGISTER, _KEY = 1, 2  # NFTA_META_DREG, NFTA_META_KEY, and the same of NFTA_CT_
_COMPARED, _OP, _WITH, _VALUE = 1, 2, 3, 1  # NFTA_CMP_, NFTA_DATA_VALUE
_OPS: Final = {0: "==", 1: "!="}  # NFT_CMP_
_ETHERTYPES: Final = {0x0800: "ip", 0x86DD: "ip6", 0x0806: "arp", 0x8100: "vlan"}
_FAMILIES: Final = {AF_INET: "ipv4", AF_INET6: "ipv6"}
# NFT_META_ and NFT_CT_: the key as nft has it, the order of the bytes, and what nft calls the values.
_KEYS: Final[dict[tuple[bytes | None, int], tuple[str, bool, dict[int, str]]]] = {
    (b"meta\0", 1): ("meta protocol", True, _ETHERTYPES),
    (b"meta\0", 8): ("meta iiftype", False, {1: "ether"}),
    (b"meta\0", 15): ("meta nfproto", True, _FAMILIES),
    (b"meta\0", 16): ("meta l4proto", True, PROTOCOLS | {58: "ipv6-icmp"}),
    (b"ct\0", 7): ("ct l3proto", True, _FAMILIES),
}


def read(content: bytes, known: Known | None = None) -> Compiled:
    """Those of each rule, of a snapshot; nothing of what cannot be read.

    ``known``: of expressions that were read before.
    """
    try:
        told = bytes.fromhex(json.loads(content)["messages"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}
    known = {} if known is None else known
    found: Compiled = {}
    for kind, _, body in messages(told):
        if kind == NEW_RULE and len(body) >= FAMILY_HEADER:
            rule = first(body[FAMILY_HEADER:])
            expressions = rule.get(_EXPRESSIONS, b"")
            if expressions not in known:
                known[expressions] = tuple(_matches(expressions))
            if matches := known[expressions]:
                handle = int.from_bytes(rule.get(_HANDLE, b""), "big")
                found[*table_of(body, rule), handle] = matches
    return found


def _matches(expressions: bytes) -> Iterator[Match]:
    """What is loaded and compared at once."""
    parts = [first(one) for _, one in attributes(expressions)]
    for load, comparison in pairwise(parts):
        if comparison.get(_NAME) == b"cmp\0":
            data = first(load.get(_DATA, b"")), first(comparison.get(_DATA, b""))
            yield from _match(load.get(_NAME), *data)


def _match(
    kind: bytes | None, load: dict[int, bytes], comparison: dict[int, bytes]
) -> Iterator[Match]:
    key = _KEYS.get((kind, int.from_bytes(load.get(_KEY, b""), "big")))
    op = _OPS.get(int.from_bytes(comparison.get(_OP, b"\xff"), "big"))
    value = first(comparison.get(_WITH, b"")).get(_VALUE, b"")
    same = _REGISTER in load and load[_REGISTER] == comparison.get(_COMPARED)
    if key is None or op is None or not value or not same:
        return
    name, big, names = key
    number = int.from_bytes(value, "big" if big else "little")
    told: Scalar = names.get(number, number)
    yield Match(sys.intern(name), op, told)
