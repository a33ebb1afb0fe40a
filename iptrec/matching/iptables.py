"""Whether a rule's matches fit a packet: yes, no and why not, or it cannot be known.

What the packet, its interfaces and the addresses of the host tell is judged as the kernel does
(net/netfilter/xt_*.c, ip_tables.c); what the kernel remembers (connection tracking, limits, sets, random
numbers) cannot be known afterwards, and is said to be so. Options are read as iptables-save prints them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from iptrec.matching import ipsets
from iptrec.matching.facts import Facts, Judgement, protocol_number

if TYPE_CHECKING:
    from iptrec.decode.rulesets.types import Rule
    from iptrec.matching.facts import Address

_WORD: Final = re.compile(r'"(?:[^"\\]|\\.)*"|\S+')
_NAMED_TYPES: Final = {  # as iptables-save may print them; numbers else
    "any": 255, "echo-reply": 0, "destination-unreachable": 3, "echo-request": 8, "time-exceeded": 11,
}  # fmt: skip


def judge(rule: Rule, facts: Facts) -> Judgement:
    """Evaluate a rule of iptables' syntax."""
    unknown: str | None = None
    for option, negated, value in _conditions(rule):
        fits = _tested(option, value, facts)
        if fits is None:
            unknown = unknown or _words(option, negated, value)
        elif fits == negated:
            return Judgement(False, f"{_words(option, negated, value)}{_instead(option, facts)}")
    return Judgement(True) if unknown is None else Judgement(None, unknown)


def _tested(option: str, value: str, facts: Facts) -> bool | None:
    test = _TESTS.get(option)
    try:
        return None if test is None else test(value, facts)
    except (ValueError, OverflowError):  # a number that is none, in a ruleset of a stranger
        return None


def _words(option: str, negated: bool, value: str) -> str:
    return f"{'! ' if negated else ''}{option} {value}".rstrip()


def _conditions(rule: Rule) -> list[tuple[str, bool, str]]:
    """(option, negated, value) of each condition; ``-m NAME`` and comments are none.

    A match without options that we know, such as ``-m socket``, is a condition under its name.
    """
    words = _WORD.findall(rule.spec)
    found: list[tuple[str, bool, str]] = []
    module, used, negated, at = "", True, False, 0
    while at < len(words) and words[at] not in ("-j", "-g"):
        word = words[at]
        at += 1
        if word == "!":
            negated = True
            continue
        values = []
        while at < len(words) and not words[at].startswith("-") and words[at] != "!":
            values.append(words[at])
            at += 1
        if word == "--return-nomatch":  # belongs to the set before it
            option, negated, value = found.pop() if found else ("", False, "")
            found.append((option, negated, f"{value} {word}".lstrip()))
            continue
        if word == "-m":
            if not used:
                found.append((f"-m {module}", False, ""))
            module, used = values[0] if values else "", False
            used = module in _PLAIN
        elif word != "--comment":
            found.append((word, negated, " ".join(values)))
            used = True
        negated = False
    if not used:
        found.append((f"-m {module}", False, ""))
    return found


_PLAIN: Final = frozenset(["comment", "tcp", "udp", "udplite", "sctp", "dccp", "icmp", "icmp6"])


def _protocol(value: str, facts: Facts) -> bool | None:
    number = protocol_number(value)
    own = facts.header.get("proto")
    if number is None or own is None:
        return None
    return number == 0 or number == protocol_number(str(own))


def _network(name: str) -> Test:
    """An address with a mask, which need not be a prefix."""

    def test(value: str, facts: Facts) -> bool | None:
        wanted, _, mask = value.partition("/")
        try:
            own, net = (ipaddress.ip_address(one) for one in (facts.header[name], wanted))
            bits = own.max_prefixlen
            keep = (
                (1 << bits) - (1 << bits - int(mask or bits))
                if not mask or mask.isdigit()
                else int(ipaddress.ip_address(mask))
            )
        except (KeyError, ValueError, TypeError):
            return None
        return own.version == net.version and int(own) & keep == int(net) & keep

    return test


def _interface(read: Callable[[Facts], str | None]) -> Test:
    def test(value: str, facts: Facts) -> bool | None:
        name = read(facts) or ""
        return name.startswith(value[:-1]) if value.endswith("+") else name == value

    return test


def _range(read: Callable[[Facts], int | None], *, separator: str = ":") -> Test:
    """One number, or from and to."""

    def test(value: str, facts: Facts) -> bool | None:
        own = read(facts)
        low, _, high = value.partition(separator)
        if own is None or not low.isdigit() or not (high or low).isdigit():
            return None
        return int(low) <= own <= int(high or low)

    return test


def _ports(*names: str) -> Test:
    def test(value: str, facts: Facts) -> bool | None:
        ports = [facts.header.get(name) for name in names]
        if any(port is None for port in ports):
            return None
        spans = [one.partition(":") for one in value.split(",")]
        return any(
            int(low) <= port <= int(high or low)
            for port in ports
            for low, _, high in spans
            if port is not None and low.isdigit()
        )

    return test


def _addresses(name: str) -> Test:
    """``--src-range A-B``."""

    def test(value: str, facts: Facts) -> bool | None:
        low, _, high = value.partition("-")
        try:
            own, first, last = (
                ipaddress.ip_address(one) for one in (facts.header[name], low, high or low)
            )
        except (KeyError, ValueError, TypeError):
            return None
        if not own.version == first.version == last.version:
            return False
        return int(first) <= int(own) <= int(last)

    return test


def _tcp_flags(value: str, facts: Facts) -> bool | None:
    mask, _, wanted = value.partition(" ")
    if "flags" not in facts.header:
        return None
    own = set(facts.header["flags"].split(",")) - {""}
    every = {"FIN", "SYN", "RST", "PSH", "ACK", "URG"}
    looked_at = every if mask == "ALL" else set(mask.split(",")) - {"NONE"}
    expected = every if wanted == "ALL" else set(wanted.split(",")) - {"NONE"}
    return own & looked_at == expected


def _icmp_type(value: str, facts: Facts) -> bool | None:
    kind, _, code = value.partition("/")
    number = _number(kind, _NAMED_TYPES)
    if number is None or "type" not in facts.header:
        return None
    if number == _NAMED_TYPES["any"]:
        return True
    own = facts.header["type"] == number
    return own and (not code or facts.header.get("code") == _number(code, {}))


def _mark(value: str, facts: Facts) -> bool | None:
    wanted, _, mask = value.partition("/")
    if facts.mark is None:
        return None
    try:
        return facts.mark & int(mask or "0xffffffff", 0) == int(wanted, 0)
    except ValueError:
        return None


def _address_type(name: str) -> Test:
    """``--dst-type LOCAL,...`` by the host's addresses; what needs routes is unknown."""

    def test(value: str, facts: Facts) -> bool | None:
        try:
            address = ipaddress.ip_address(facts.header[name])
        except (KeyError, ValueError, TypeError):
            return None
        found = [_is_of_type(address, one, facts) for one in value.split(",")]
        return True if any(found) else None if None in found else False

    return test


def _is_of_type(address: Address, kind: str, facts: Facts) -> bool | None:
    if kind == "LOCAL":
        if address.is_loopback:
            return True
        return None if facts.local is None else address in facts.local
    if kind == "MULTICAST":
        return address.is_multicast
    if kind == "UNICAST":
        return False if address.is_multicast or address.is_loopback else None
    return None


def _in_set(value: str, facts: Facts) -> bool | None:
    """``--match-set NAME src,dst``: known where the set had the packet, or had not, whenever it was seen."""
    name, _, directions = value.partition(" ")
    if " " in directions:  # --return-nomatch
        return None
    found = {
        ipsets.contains(sets, name, directions.split(","), facts)
        for sets in facts.sets
        if name in sets
    }
    return found.pop() if len(found) == 1 else None


def _mac(value: str, facts: Facts) -> bool | None:
    return None if facts.source_mac is None else facts.source_mac.lower() == value.lower()


def _compared(sign: str) -> Test:
    """``--ttl-eq``, ``--ttl-lt``, ``--ttl-gt`` and their like for IPv6."""

    def test(value: str, facts: Facts) -> bool | None:
        own = facts.header.get("ttl", facts.header.get("hop_limit"))
        if own is None or not value.isdigit():
            return None
        return bool({"=": own == int(value), "<": own < int(value), ">": own > int(value)}[sign])

    return test


def _fragment(_: str, facts: Facts) -> bool | None:
    """``-f``: second and further fragments."""
    return bool(facts.header.get("frag", 0))


def _number(text: str, names: dict[str, int]) -> int | None:
    if text in names:
        return names[text]
    return int(text) if text.isascii() and text.isdigit() else None


Test = Callable[[str, Facts], "bool | None"]
_TESTS: Final[dict[str, Test]] = {
    "-p": _protocol,
    "-s": _network("src"),
    "-d": _network("dst"),
    "-i": _interface(lambda facts: facts.in_),
    "-o": _interface(lambda facts: facts.out),
    "-f": _fragment,
    "--sport": _range(lambda facts: facts.header.get("sport")),
    "--dport": _range(lambda facts: facts.header.get("dport")),
    "--sports": _ports("sport"),
    "--dports": _ports("dport"),
    "--ports": _ports("sport", "dport"),
    "--tcp-flags": _tcp_flags,
    "--icmp-type": _icmp_type,
    "--icmpv6-type": _icmp_type,
    "--src-range": _addresses("src"),
    "--dst-range": _addresses("dst"),
    "--mark": _mark,
    "--src-type": _address_type("src"),
    "--dst-type": _address_type("dst"),
    "--match-set": _in_set,
    "--length": _range(lambda facts: facts.header.get("length")),
    "--ttl-eq": _compared("="),
    "--ttl-lt": _compared("<"),
    "--ttl-gt": _compared(">"),
    "--hl-eq": _compared("="),
    "--hl-lt": _compared("<"),
    "--hl-gt": _compared(">"),
    "--mac-source": _mac,
    "--physdev-in": _interface(lambda facts: facts.physin),
    "--physdev-out": _interface(lambda facts: facts.physout),
}
_FIELDS: Final = {
    "-p": "proto", "-s": "src", "-d": "dst", "--sport": "sport", "--dport": "dport", "--sports": "sport",
    "--dports": "dport", "--tcp-flags": "flags", "--src-range": "src", "--dst-range": "dst",
    "--src-type": "src", "--dst-type": "dst", "--icmp-type": "name", "--icmpv6-type": "name",
    "--length": "length", "--ttl-eq": "ttl", "--ttl-lt": "ttl", "--ttl-gt": "ttl", "--hl-eq": "hop_limit",
    "--hl-lt": "hop_limit", "--hl-gt": "hop_limit",
}  # fmt: skip


def _instead(option: str, facts: Facts) -> str:
    """What the packet has in the place of what the condition wants."""
    own: object = facts.header.get(_FIELDS.get(option, ""))
    match option:
        case "-i":
            own = facts.in_ or "none"
        case "-o":
            own = facts.out or "none"
        case "--mark":
            own = None if facts.mark is None else f"0x{facts.mark:x}"
        case "--mac-source":
            own = facts.source_mac
        case "--physdev-in":
            own = facts.physin or "none"
        case "--physdev-out":
            own = facts.physout or "none"
    return "" if own is None else f" (it is {own})"
