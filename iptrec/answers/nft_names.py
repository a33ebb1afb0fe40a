"""The names that nft prints for numbers (nft describe), read by the key that they are a value of."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from iptrec.matching.facts import protocol_number
from iptrec.matching.field import DEVICES
from iptrec.matching.nft_fields import field

if TYPE_CHECKING:
    from collections.abc import Callable

    from iptrec.decode.rulesets.nft_matches import Scalar

    Number = Callable[[Scalar], int]  # raises an error for a word that is not a name

_ICMPX: Final = {"no-route": 0, "port-unreachable": 1, "host-unreachable": 2, "admin-prohibited": 3}
_IPIP: Final = 94  # of /etc/protocols; 4 is ipencap there
_NAMES: Final[dict[str, dict[str, int]]] = {
    "meta nfproto": {"ipv4": 2, "ipv6": 10},
    "meta pkttype": {"host": 0, "unicast": 0, "broadcast": 1, "multicast": 2, "other": 3},
    "meta iiftype": DEVICES,
    "meta day": {
        "Sunday": 0, "Monday": 1, "Tuesday": 2, "Wednesday": 3, "Thursday": 4, "Friday": 5, "Saturday": 6,
    },
}  # fmt: skip
# The types of sets whose elements have names, and a key whose values are of that type.
TYPES: Final = {
    "icmp_type": "icmp type", "icmpv6_type": "icmpv6 type", "ct_state": "ct state", "dscp": "ip dscp",
    "ether_type": "ether type", "ct_status": "ct status", "tcp_flag": "tcp flags", "ecn": "ip ecn",
    "inet_proto": "meta l4proto", "inet_service": "th dport", "ct_dir": "ct direction",
    "fib_addrtype": "fib daddr type", "iface_type": "meta iiftype", "pkt_type": "meta pkttype",
    "day": "meta day",
}  # fmt: skip
# With -S; of /etc/services those that rulesets name.
_SERVICES: Final = {
    "ftp-data": 20, "ftp": 21, "ssh": 22, "telnet": 23, "smtp": 25, "domain": 53, "bootps": 67, "bootpc": 68,
    "tftp": 69, "http": 80, "kerberos": 88, "pop3": 110, "sunrpc": 111, "ntp": 123, "imap2": 143, "snmp": 161,
    "snmp-trap": 162, "bgp": 179, "ldap": 389, "https": 443, "microsoft-ds": 445, "submissions": 465,
    "isakmp": 500, "syslog": 514, "submission": 587, "ldaps": 636, "imaps": 993, "pop3s": 995,
    "openvpn": 1194, "nfs": 2049, "mysql": 3306, "ms-wbt-server": 3389, "ipsec-nat-t": 4500, "sip": 5060,
    "mdns": 5353, "postgresql": 5432, "http-alt": 8080,
}  # fmt: skip
_ARP_OPERATIONS: Final = {
    "request": 1, "reply": 2, "rrequest": 3, "rreply": 4, "inrequest": 8, "inreply": 9, "nak": 10,
}  # fmt: skip
_ETHERTYPES: Final = frozenset({"ether type", "meta protocol", "vlan type"})


def reader(key: str) -> Number | None:
    """What reads the values of a key; None for what is not one that we know."""
    if key in ("ip protocol", "meta l4proto", "ip6 nexthdr"):
        return _protocol
    if key in _ETHERTYPES:
        return _ethertype
    if key == "arp operation":
        return lambda word: _of_either_order(_named(_ARP_OPERATIONS)(word))
    if key.endswith((" sport", " dport")):
        return _named(_SERVICES)
    if (names := _NAMES.get(key.replace("oiftype", "iiftype"))) is not None:
        return _named(names)
    known = field(key)
    return None if known is None else _whole(known.number)


def reject_reader(kind: str) -> Number | None:
    """What reads the codes of a kind of ICMP that packets are rejected with."""
    return _named(_ICMPX) if kind == "icmpx" else reader(f"{kind} code")


def _named(names: dict[str, int]) -> Number:
    return lambda word: names[word] if isinstance(word, str) else word


def _whole(number: Callable[[Scalar], int | str]) -> Number:
    def read(word: Scalar) -> int:
        found = number(word)
        if isinstance(found, str):
            raise TypeError(found)
        return found

    return read


def _protocol(word: Scalar) -> int:
    if isinstance(word, int):
        return word
    found = _IPIP if word == "ipip" else protocol_number(word)
    if found is None:
        raise ValueError(word)
    return found


def _ethertype(word: Scalar) -> int:
    """By its name or number, in either order of its bytes."""
    with contextlib.suppress(ValueError):
        word = int(word, 0) if isinstance(word, str) else word
    known = field("ether type")
    assert known is not None  # noqa: S101 - it is one
    return _of_either_order(int(known.number(word)))


def _of_either_order(number: int) -> int:
    """The lower one of both orders of two bytes: where little endian, nft -j -n prints 8 for 0x0800."""
    return min(number, (number & 0xFF) << 8 | number >> 8)
