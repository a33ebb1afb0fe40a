"""Whether a match of a rule drops a packet that it cannot read: hotdrop of x_tables.

The rule then neither matches nor counts the packet. As ip_tables and ip6_tables do it: from left to right, up
to the first condition that does not hold. Sizes are those that net/netfilter/xt_*.c, ip6t_*.c and ipt_ah.c ask
for. A match that remembers (connlimit, hashlimit, recent) drops also what it has no memory for, or no place in
its table: nobody tells that afterwards, and it is not told here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.decode.packet import protocol_name
from iptrec.matching.field import TCP_DATA_OFFSET, AbsentError
from iptrec.matching.iptables import each_match, holds
from iptrec.matching.iptables_bytes import CHAINED, MALFORMED, chunk_types, extension_size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from iptrec.decode.rulesets.types import Rule
    from iptrec.matching.facts import Facts
    from iptrec.matching.iptables import Match

_IPV6: Final = 6
_SIZE6, _NUMBER6 = 40, 6  # of IPv6's header: all of it, and where the next header's number is
_PROTOCOL4: Final = 9  # where that of IPv4 is
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
_LATE: Final = ("-p", "--tcp-option", "--chunk-types", "--dccp-option")
_TCP_SIZE: Final = 20
_NONE: Final = 59  # of IPv6: nothing follows
_LINK_SIZE: Final = 14  # bytes of a header of Ethernet
_DCCP: Final = 33
# Bytes that hashlimit wants of protocols for what it takes for ports (proto_ports_offset, net/ip.h).
_HASHED: Final = {6: 4, 17: 4, _DCCP: 4, 50: 4, 132: 4, 136: 4, _AUTH: 8}
# Bytes that connection tracking wants of protocols (nf_ct_get_tuple, net/netfilter/nf_conntrack_core.c).
_TRACKED: Final = {1: 8, 6: 4, 17: 4, 58: 8, 132: 4, 136: 4}
_TRACKED_ONCE: Final = {_DCCP: 4}  # not by every kernel
_DCCP_SIZES: Final = {0: 4, 1: 12, 2: 0, 7: 12}  # by type, behind what all have; of others 8
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
            cut = seen.is_cut(match, late=late and bool(some))
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

    def is_cut(self, match: Match, *, late: bool) -> bool | None:
        """Whether a match finds it too short; ``late``: for what it looks at last."""
        name = match.name
        if not name:
            return late and self.cut
        if name in _OTHERS:
            return not late and _OTHERS[name](self, match)
        if late and name != "tcp":
            return name in _LAST and not self.facts.header.get("frag") and _LAST[name](self, match)
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

    def lacks(self, sizes: Mapping[int, int]) -> bool | None:
        """Whether it ends before so many bytes of what follows, by protocol, or nothing follows."""
        try:
            found = self._transport()
        except _CutError:
            return True
        if found is None:
            return None
        protocol, at = found
        return protocol in sizes and at + sizes[protocol] > self.total

    def _transport(self) -> tuple[int, int] | None:
        """The protocol and the place of what follows, as connection tracking looks for it.

        None where that is not captured. Raises _CutError where the packet ends before, or nothing follows.
        """
        data = self.facts.bits.captured
        if self.facts.bits.version == _IPV6:
            return _skipped(self.facts, self.total)
        known = self.start is not None and len(data) > _PROTOCOL4
        return (data[_PROTOCOL4], self.start or 0) if known else None


def _hashed(seen: _Seen, match: Match) -> bool | None:
    """``hashlimit``: the ports, where it counts by them (hashlimit_init_dst, xt_hashlimit.c)."""
    modes = "".join(one.value for one in match.conditions if one.told.asks == "--hashlimit-mode")
    if not {"srcport", "dstport"}.intersection(modes.split(",")):
        return False
    return seen.lacks(_HASHED)


def _counted(seen: _Seen, _: Match) -> bool | None:
    """``connlimit``, of packets without a connection, as such ones are (connlimit_mt, xt_connlimit.c)."""
    if seen.facts.header.get("frag"):  # connection tracking has put it together
        return None
    short = seen.lacks(_TRACKED)
    return None if short is False and seen.lacks(_TRACKED_ONCE) else short


def _has_payload(seen: _Seen, _: Match) -> bool | None:
    """``mh``: nothing may follow a mobility header (mh_mt6, ip6t_mh.c)."""
    data = seen.facts.bits.captured
    if seen.start is None or seen.facts.header.get("frag"):
        return False
    if seen.start + _TRANSPORT["mh"] > seen.total:
        return True
    return data[seen.start] != _NONE if seen.start < len(data) else None


def _has_no_frame(seen: _Seen, _: Match) -> bool | None:
    """``eui64`` (ip6t_eui64.c): kernels differ in what they drop of that."""
    return None if len(seen.facts.bits.link) < _LINK_SIZE else False


def _lacks_chunk(seen: _Seen, match: Match) -> bool | None:
    """``sctp``: a chunk is cut, or has no length, before those that decide."""
    asked = next(one for one in match.conditions if one.told.asks.endswith("--chunk-types"))
    try:
        return None if chunk_types(asked.value, seen.facts) is None else False
    except AbsentError as found:
        return found.args == (MALFORMED,)


def _lacks_dccp_options(seen: _Seen, _: Match) -> bool | None:
    """``dccp``: its header says to be shorter than it is, or longer than the packet (xt_dccp.c)."""
    data = seen.facts.bits.captured[seen.start :]
    if seen.start is None or len(data) < _TRANSPORT["dccp"]:
        return None
    extended, kind = data[8] & 1, data[8] >> 1 & 0xF
    own, told = 12 + 4 * extended + _DCCP_SIZES.get(kind, 8), 4 * data[4]
    return told < own or (told > own and seen.start + told > seen.total)


_OTHERS: Final[dict[str, Callable[[_Seen, Match], bool | None]]] = {
    "hashlimit": _hashed, "connlimit": _counted, "mh": _has_payload, "eui64": _has_no_frame,
}  # fmt: skip
_LAST: Final = {"sctp": _lacks_chunk, "dccp": _lacks_dccp_options}


def _skipped(facts: Facts, total: int) -> tuple[int, int] | None:
    """The protocol and place of what follows IPv6, as ipv6_skip_exthdr looks for it, see `_Seen.transport`."""
    data = facts.bits.captured
    if len(data) < _SIZE6:
        return None
    kind, at = data[_NUMBER6], _SIZE6
    while kind in CHAINED:
        size = 4 if kind == _FRAGMENT else 2
        if at + size > total:
            raise _CutError
        if at + size > len(data):
            return None
        if kind == _FRAGMENT and (data[at + 2] << 8 | data[at + 3]) & ~7:
            return kind, at
        kind, at = data[at], at + extension_size(kind, data[at + 1])
    if kind == _NONE:
        raise _CutError
    return kind, at


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
