"""Ends by the kernel's own answer: why it has no way for a packet, when it was asked a moment later.

Reasons are those of the kernel's enum skb_drop_reason where ip_route_input_slow, ip_error and their like of
IPv6 have one (net/ipv4/route.c, include/net/dropreason-core.h), else the route's kind.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final

from iptrec.decode.conntrack import STATUS
from iptrec.decode.route_answers import Ports, Way
from iptrec.names import AF_INET, AF_INET6
from iptrec.packets.ends import End
from iptrec.packets.outcome import met_nat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from iptrec.context.asked import Asked, Told
    from iptrec.decode.route_answers import Exchange
    from iptrec.packets.model import CtInfo, Step
    from iptrec.rulesets.resolver import Book

_UNICAST, _OWN = 1, 2  # RTN_
# asm-generic/errno.h, wherever the recording is read. EXDEV was of reverse path filtering up to Linux 6.12.
_EACCES, _EXDEV, _EINVAL, _ENETUNREACH, _EHOSTUNREACH = 13, 18, 22, 101, 113
_ECN: Final = 3
_PROTOCOLS: Final = {
    AF_INET: {"icmp": 1, "tcp": 6, "udp": 17},
    AF_INET6: {"tcp": 6, "udp": 17, "icmpv6": 58},
}
_NO_ROUTE6: Final = "IP_INNOROUTES"  # so IPv6 calls all of them but blackholes
_NATTED: Final = STATUS["snat"] | STATUS["dnat"]
# As iptables and nft write what gives a packet another destination, and whatever undoes that later on
_REDIRECTS: Final = re.compile(r"\b(?:dnat|redirect|netmap|tproxy|dnpt)\b", re.IGNORECASE)
_TRANSLATES: Final = re.compile(
    r"\b(?:dnat|snat|redirect|netmap|masquerade|dnpt|snpt)\b", re.IGNORECASE
)


class AskedEnds:
    """Finds the ends of packets that were not seen after PREROUTING; ``asked``: of their namespace."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._translating: dict[int, bool] = {}  # by the identity of a ruleset

    def __bool__(self) -> bool:
        """Whether there may be any."""
        return bool(self._asked)

    def update(self) -> None:
        """Read on in a recording that grows."""
        self._asked.update()

    def of(
        self, book: Book, path: Sequence[int], last: Step, indev: int, *, bridged: bool
    ) -> End | None:
        """How a packet ended, ``last``: its last step, at an interface (index); None where nobody can tell.

        ``bridged``: a bridge may have had it in hand there.
        """
        question = _question(book.families[path[0]] == "ipv6", last, indev)
        if question is None or _redirected(book, path):
            return None
        told = self._asked.about(*question, last.time_ns)
        found = None if told is None else _meaning(told.exchange, last)
        if told is None or found is None:
            return None
        doubts = list(self._doubts(book, path, last, told))
        if bridged:
            doubts.append("if the bridge has not taken it")
        reason, phrase = found
        says = f"the kernel says ({', '.join([_when(told, last), *doubts])})"
        return End(
            "asked",
            reason,
            says,
            time_ns=told.exchange.time_ns,
            sure=not doubts,
            evidence=phrase,
        )

    def _doubts(self, book: Book, path: Sequence[int], last: Step, told: Told) -> list[str]:
        found = []
        if not told.unchanged:
            found.append("routing has changed in between")
        if self._may_be_translated(book, path, last.ct):
            found.append("unless NAT gave it another address")
        return found

    def _may_be_translated(self, book: Book, path: Sequence[int], ct: CtInfo | None) -> bool:
        """Whether connection tracking may have rewritten it unseen: of the first packet the rules tell."""
        if met_nat(book, path):
            return False
        if ct is not None and ct.status is not None:
            return bool(ct.status & _NATTED)
        ruleset = book.grammars[path[-1]].ruleset
        if id(ruleset) not in self._translating:
            self._translating[id(ruleset)] = any(
                _TRANSLATES.search(rule.spec)
                for chains in ruleset.tables.values()
                for chain in chains.values()
                for rule in chain.rules
            )
        return self._translating[id(ruleset)]


def _redirected(book: Book, path: Sequence[int]) -> bool:
    """Whether the last rule gave it another destination: the question was about the old one."""
    rule = book.places[path[-1]].rule
    return rule is not None and _REDIRECTS.search(rule.spec) is not None


def _question(six: bool, last: Step, indev: int) -> tuple[Way, Ports] | None:
    """As it would be asked; ports where they matter."""
    header, family = last.header, AF_INET6 if six else AF_INET
    try:
        src, dst = (ipaddress.ip_address(header[one]).packed for one in ("src", "dst"))
    except (KeyError, ValueError):
        return None
    protocol = _PROTOCOLS[family].get(str(header.get("proto")), 0)
    ports = Ports(protocol, *(header.get(one) or 0 for one in ("sport", "dport")))
    return Way(family, indev, src, dst, last.mark or 0, (header.get("tos") or 0) & ~_ECN), ports


def _when(told: Told, last: Step) -> str:
    """How long after the packet, or before it, the kernel was asked."""
    passed = told.exchange.time_ns - last.time_ns
    seconds = abs(passed) / 1e9
    length = f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
    return f"asked {length} {'later' if passed >= 0 else 'before'}"


def _meaning(one: Exchange, last: Step) -> tuple[str, str] | None:
    """Reason and phrase; None where the kernel has a way for it, or cannot say."""
    src, dst = (str(last.header[one]) for one in ("src", "dst"))
    code, six = one.answer.code, one.way.family == AF_INET6
    if code == 0:
        return _without_forwarding(one, dst)
    if code == _ENETUNREACH:
        return "IP_INNOROUTES", f"no route to {dst}"
    if code == _EACCES:
        return _NO_ROUTE6 if six else "PROHIBIT", f"{dst} is prohibited"
    if code == _EHOSTUNREACH:
        return _unreachable(one, dst, last.in_)
    if code == _EXDEV:
        return _rp_filter(one, src, last.in_)
    if code == _EINVAL and six:
        return _blackhole(dst)
    return _invalid(one, src, dst, last.in_) if code == _EINVAL else None


def _without_forwarding(one: Exchange, dst: str) -> tuple[str, str] | None:
    """IPv6 has a route, and forwards nothing."""
    off = one.way.family == AF_INET6 and one.all.forwarding == 0 and not one.here.force
    if not off or one.answer.kind != _UNICAST:
        return None
    return "IP_INADDRERRORS", f"IPv6 forwarding is off, and {dst} is not an address of this host"


def _unreachable(one: Exchange, dst: str, in_: str | None) -> tuple[str, str]:
    unreachable = f"{dst} is unreachable"
    if one.way.family == AF_INET6 or one.here.forwarding == 1:
        return _NO_ROUTE6 if one.way.family == AF_INET6 else "UNREACHABLE", unreachable
    off = f"forwarding is off for {in_}, and {dst} is not an address of this host"
    return (
        ("IP_INADDRERRORS", off)
        if one.here.forwarding == 0
        else ("EHOSTUNREACH", f"{unreachable}, or {off}")
    )


def _rp_filter(one: Exchange, src: str, in_: str | None) -> tuple[str, str]:
    nowhere = one.back is not None and one.back.code
    way = "there is no way back" if nowhere else f"the way back is not {in_}"
    return "IP_RPFILTER", f"reverse path filtering: {src} came in by {in_}, and {way}"


def _invalid(one: Exchange, src: str, dst: str, in_: str | None) -> tuple[str, str]:
    """What EINVAL may be of IPv4."""
    source, target = ipaddress.ip_address(src), ipaddress.ip_address(dst)
    martian = f"martian source: {src}"
    if source.is_multicast or int(source) == 2**32 - 1 or int(source) >> 24 == 0:
        return "IP_INVALID_SOURCE", f"{martian} cannot be a sender"
    if source.is_loopback or target.is_loopback:
        return (
            "IP_LOCALNET",
            f"martian: {src if source.is_loopback else dst} is of the loopback network",
        )
    if target.is_multicast:
        return "EINVAL", f"nobody here has joined {dst}, or its source is martian or filtered"
    if one.back is not None and one.back.kind == _OWN:
        return "IP_LOCAL_SOURCE", f"{martian} is an address of this host"
    known = one.here.rp_filter is not None and one.all.rp_filter is not None
    filters = max(one.here.rp_filter or 0, one.all.rp_filter or 0)
    if one.out is not None and one.out.code == _EINVAL:
        return _blackhole(dst)
    elsewhere = one.back is not None and (one.back.code or one.back.oif != one.way.iif)
    if filters and elsewhere:
        return _rp_filter(one, src, in_)
    if known and not filters and one.out is not None:
        return "EINVAL", "a martian address, or a blackhole by rules"
    return "EINVAL", "reverse path filtering, a martian source, or a blackhole by rules"


def _blackhole(dst: str) -> tuple[str, str]:
    return "BLACKHOLE", f"{dst} is in a blackhole"
