"""Whether a match of a rule drops a packet that it cannot read: hotdrop of x_tables.

The rule then neither matches nor counts the packet. As ip_tables and ip6_tables do it: from left to right, up
to the first condition that does not hold. Sizes are those that net/netfilter/xt_*.c, ip6t_*.c and ipt_ah.c ask
for.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.decode.packet import protocol_name
from iptrec.matching.field import TCP_DATA_OFFSET
from iptrec.matching.iptables import each_match, holds
from iptrec.matching.iptables_bytes import CHAINED, extension_size

if TYPE_CHECKING:
    from iptrec.decode.rulesets.types import Rule
    from iptrec.matching.facts import Facts

_IPV6: Final = 6
_SIZE6, _NUMBER6 = 40, 6  # of IPv6's header: all of it, and where the next header's number is
_HOP, _ROUTING, _FRAGMENT, _AUTH, _DEST = 0, 43, 44, 51, 60
# Bytes that a match wants behind IP, of packets that are no later fragments.
_TRANSPORT: Final = {
    "tcp": 20, "udp": 8, "udplite": 8, "sctp": 12, "dccp": 12, "icmp": 8, "icmp6": 8, "esp": 8, "ipcomp": 4,
    "multiport": 4, "tcpmss": 20, "mh": 6, "ah": 12,
}  # fmt: skip
# And of an extension header of IPv6.
_EXTENSIONS: Final = {
    "hbh": (_HOP, 2), "dst": (_DEST, 2), "rt": (_ROUTING, 8), "frag": (_FRAGMENT, 8), "ah": (_AUTH, 12),
}  # fmt: skip
_LATE: Final = ("-p", "--tcp-option")
_TCP_SIZE: Final = 20
_OFFSET: Final = 0x1FFF


class _CutError(Exception):
    """The packet ends within its extension headers."""


def drops(rule: Rule, facts: Facts) -> bool | None:
    """Whether a rule of legacy iptables drops the packet, which is malformed, if it meets it; None: perhaps."""
    total = facts.header.get("length")
    if rule.syntax != "iptables" or not isinstance(total, int) or facts.bits.version is None:
        return None
    seen = _Seen.of(facts, total)
    if seen.protocol is not None:
        facts = replace(facts, header=facts.header | {"proto": protocol_name(seen.protocol)})
    unsure = False
    for match in each_match(rule):
        for late in (False, True):  # the protocol, and options of TCP, are looked at last
            some = [one for one in match.conditions if one.told.asks.endswith(_LATE) == late]
            cut = seen.is_cut(match.name, late=late and bool(some))
            if cut is not False:
                return None if unsure else cut
            found = {holds(one, facts) for one in some}
            if False in found:
                return False
            unsure = unsure or None in found
    return False


class _Seen(NamedTuple):
    """A packet as the kernel finds its way to what follows IP.

    ``total``: its length. ``start``: where the transport header is; None where that is not known. ``protocol``:
    that of IPv6, which is looked for. ``cut``: it ends within its extension headers.
    """

    facts: Facts
    total: int
    start: int | None
    protocol: int | None = None
    cut: bool = False

    @classmethod
    def of(cls, facts: Facts, total: int) -> _Seen:
        """Look for the transport header."""
        if facts.bits.version != _IPV6:
            return cls(facts, total, facts.bits.network_size)
        try:
            found = _walked(facts, total)
        except _CutError:
            return cls(facts, total, None, cut=True)
        return cls(facts, total, None) if found is None else cls(facts, total, found[1], found[0])

    def is_cut(self, name: str, *, late: bool) -> bool | None:
        """Whether a match finds it too short; ``late``: for what it looks at last."""
        if not name or (late and name != "tcp"):
            return not name and late and self.cut
        if self.facts.bits.version == _IPV6 and name in _EXTENSIONS:
            return self._has_short(*_EXTENSIONS[name])
        if self.facts.header.get("frag") and name != "tcpmss":
            return name == "tcp" and self._is_second_piece()
        if self.start is None or name not in _TRANSPORT:
            return False
        has_options = late or name == "tcpmss"
        return self.start + _TRANSPORT[name] > self.total or (has_options and self._lacks_options())

    def _has_short(self, kind: int, size: int) -> bool | None:
        """Whether an extension header is there and cut, or is behind one that is.

        None where that of options is longer than the packet: kernels differ in that.
        """
        try:
            found = _walked(self.facts, self.total, kind)
        except _CutError:
            return True
        if found is None or found[0] != kind:
            return False
        at, data = found[1], self.facts.bits.captured
        if at + size > self.total:
            return True
        of_options = kind in (_HOP, _DEST) and at + 2 <= len(data)
        longer = of_options and at + extension_size(kind, data[at + 1]) > self.total
        return None if longer else False

    def _is_second_piece(self) -> bool:
        """Whether it is a fragment of IPv4 that begins within TCP's header, as none does but to deceive."""
        version, data = self.facts.bits.version, self.facts.bits.captured
        return version != _IPV6 and (data[6] << 8 | data[7]) & _OFFSET == 1

    def _lacks_options(self) -> bool:
        """Whether options of TCP are cut, or its header says to be shorter than it is."""
        tcp = self.facts.bits.captured[self.start :]
        if len(tcp) <= TCP_DATA_OFFSET:
            return False
        length = 4 * (tcp[TCP_DATA_OFFSET] >> 4)
        return length < _TCP_SIZE or (self.start or 0) + length > self.total


def _walked(facts: Facts, total: int, wanted: int | None = None) -> tuple[int, int] | None:
    """The kind and place of a header of IPv6, or of what follows all; None where that is not captured.

    As ipv6_find_hdr looks for it (net/ipv6/exthdrs_core.c). Raises _CutError where the packet ends before.
    """
    data = facts.bits.captured[:_SIZE6] if facts.bits.joined else facts.bits.captured
    if len(data) < _SIZE6:
        return None
    kind, at = data[_NUMBER6], _SIZE6
    while kind != wanted and kind in CHAINED:
        size = 4 if kind in (_FRAGMENT, _ROUTING) else 2  # as far as the kernel looks into it
        if at + size > total:
            raise _CutError
        if at + size > len(data):
            return None
        if kind == _FRAGMENT and (data[at + 2] << 8 | data[at + 3]) & ~7:
            return data[at], at + 8
        kind, at = data[at], at + extension_size(kind, data[at + 1])
    return kind, at
