"""What ``nft -n`` prints in numbers, for comparing it with what nft prints in names.

nft prints names of protocols, states, types and priorities, or their numbers (nft(8), --numeric). Here both
become numbers; times become seconds. Nobody is shown these texts.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Final

from iptrec.matching.facts import protocol_number
from iptrec.matching.nft_fields import field

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Number = Callable[[str], int | str]

_KEY: Final = (
    r"(?:fib(?: [a-z]+ \.)* [a-z]+ type|(?:meta|ct|ip6?|tcp|udp|udplite|sctp|dccp|th|icmp|icmpv6|igmp|ether|ah|"
    r"esp|comp|rt|vlan|arp) [a-z0-9]+(?:-[a-z0-9]+)*)"
)
_PART: Final = re.compile(rf'(?P<key>{_KEY})(?![\w-])|(?P<word>"[^"]*"|[\w-]+)')
_PRIORITY: Final = re.compile(r"priority (?P<name>[a-z]+)(?: (?P<sign>[+-]) (?P<offset>\d+))?")
_REJECT: Final = re.compile(r"(reject with )(icmp|icmpv6|icmpx) (?:type )?([a-z-]+)")
_TIME: Final = re.compile(
    r"(?<=timeout )(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+)s)?(?:(\d+)ms)?"
)
_SECONDS: Final = (86_400_000, 3_600_000, 60_000, 1000, 1)
# include/mnl.h and src/rule.c of nft
_PRIORITIES: Final = {
    "raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100,
}  # fmt: skip
_OF_BRIDGES: Final = {"dstnat": -300, "filter": -200, "out": 100, "srcnat": 300}
_ICMPX: Final = {"no-route": 0, "port-unreachable": 1, "host-unreachable": 2, "admin-prohibited": 3}
_IPIP: Final = 94  # of /etc/protocols; 4 is ipencap there
_NAMES: Final[dict[str, dict[str, int]]] = {
    "meta nfproto": {"ipv4": 2, "ipv6": 10},
    "meta pkttype": {"host": 0, "unicast": 0, "broadcast": 1, "multicast": 2, "other": 3},
    "meta day": {
        "Sunday": 0, "Monday": 1, "Tuesday": 2, "Wednesday": 3, "Thursday": 4, "Friday": 5, "Saturday": 6,
    },
}  # fmt: skip
# The types of sets whose elements have names, and a key of that type.
_TYPES: Final = {
    "icmp_type": "icmp type", "icmpv6_type": "icmpv6 type", "ct_state": "ct state", "dscp": "ip dscp",
    "ether_type": "ether type", "ct_status": "ct status", "tcp_flag": "tcp flags", "ecn": "ip ecn",
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


@functools.lru_cache(maxsize=4096)
def numeric(text: str, family: str = "", of: str = "") -> str:
    """A rule, or what nft prints of an object, in numbers.

    ``family``: the table's, on which priorities depend. ``of``: the definition of the set whose element it is.
    """
    text = _PRIORITY.sub(lambda found: _priority(found, family), _TIME.sub(_time, text))
    return "".join(_parts(_REJECT.sub(_reject, text), list(_of_set(of))))


def _parts(text: str, active: list[Number]) -> Iterator[str]:
    """The text in pieces; a word stands for a number if one of the keys before it has that name."""
    done = 0
    while found := _PART.search(text, done):
        between, done = text[done : found.start()], found.end()
        yield between
        if reader := found["key"] and _reader(found["key"]):
            active = [*(active if between.strip() == "." else ()), reader]
            yield found["key"]
            continue
        word = found[0].partition(" ")[0] if found["key"] else found[0]
        done -= len(found[0]) - len(word)  # "tcp accept" is not a key
        yield _number(word, active)
    yield text[done:]


def _number(word: str, active: list[Number]) -> str:
    if not active:
        return word
    if re.fullmatch(r"0x[0-9a-f]{1,16}", word):
        return str(int(word, 16))
    for one in active:
        try:
            found = one(word.strip('"'))
        except (LookupError, TypeError, ValueError):
            continue
        if isinstance(found, int):
            return str(found)
    return word


def _reader(key: str) -> Number | None:
    """What reads the values of a key; None for what is not one that we know."""
    if key in ("ip protocol", "meta l4proto", "ip6 nexthdr"):
        return _protocol
    if key.endswith((" sport", " dport")):
        return _SERVICES.__getitem__
    if key in _NAMES:
        return _NAMES[key].__getitem__
    known = field(key)
    return None if known is None else known.number


def _protocol(word: str) -> int:
    found = _IPIP if word == "ipip" else protocol_number(word)
    if found is None:
        raise ValueError(word)
    return found


def _of_set(definition: str) -> Iterator[Number]:
    """What reads the elements of a set, by its type."""
    head = re.match(r"type(of)? ([^;:]+)", definition)
    for one in head[2].split(" . ") if head else ():
        if one == "inet_proto":
            yield _protocol
        elif one == "inet_service":
            yield _SERVICES.__getitem__
        elif reader := _reader(_TYPES.get(one.strip(), one.strip())):
            yield reader


def _priority(found: re.Match[str], family: str) -> str:
    names = _OF_BRIDGES if family == "bridge" else _PRIORITIES
    if found["name"] not in names:
        return found[0]
    offset = int(f"{found['sign'] or '+'}{found['offset'] or 0}")
    return f"priority {names[found['name']] + offset}"


def _reject(found: re.Match[str]) -> str:
    known = _ICMPX if found[2] == "icmpx" else None
    reader = known.__getitem__ if known is not None else _reader(f"{found[2]} code")
    return f"{found[1]}{found[2]} {_number(found[3], [reader] if reader else [])}"


def _time(found: re.Match[str]) -> str:
    if not found[0]:
        return ""
    return f"{sum(int(part or 0) * unit for part, unit in zip(found.groups(), _SECONDS, strict=True))}ms"
