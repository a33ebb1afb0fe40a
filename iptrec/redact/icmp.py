"""Messages of ICMP and ICMPv6: what they quote, and the addresses that they tell of.

RFC 792, 4443, 4861, 2710, 3810. Checksums are the caller's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from iptrec.redact.maps import Maps

_HEAD: Final = 8
_ERRORS, _REDIRECT, _ECHO = frozenset({3, 4, 11, 12}), 5, frozenset({0, 8})
_ERRORS_6, _ECHO_6 = frozenset({1, 2, 3, 4}), frozenset({128, 129})
_LISTENERS: Final = frozenset({130, 131, 132})
_ADDRESSES: Final = {135: 1, 136: 1, 137: 2}  # behind the head, before options
_OPTIONS_AT: Final = {133: 8, 134: 16, 135: 24, 136: 24, 137: 40}
_LINK_LAYER, _PREFIX, _QUOTED, _MTU = (1, 2), 3, 4, 5
_MAC: Final = 6


DUMPED: Final = 20  # bytes of a transport header that nf_tables' traces have


def filled(maps: Maps, body: bytes, start: int) -> bytes:
    """What is behind a header of ``start`` bytes: what nf_tables has of it does not depend on the rest."""
    cut = max(start, DUMPED)
    return maps.filler(body[start:cut]) + maps.filler(body[cut:])


class Icmp:
    """``inside`` maps a packet that is quoted."""

    def __init__(self, maps: Maps, inside: Callable[[bytes], bytes]) -> None:
        self._maps = maps
        self._inside = inside

    @staticmethod
    def quotes(body: bytes) -> bool:
        """Whether a message of ICMP is an error that quotes a packet."""
        return bool(body) and body[0] in _ERRORS

    @staticmethod
    def quotes_6(body: bytes) -> bool:
        """The same of ICMPv6."""
        return bool(body) and body[0] in _ERRORS_6

    def ipv4(self, body: bytes) -> bytes:
        """A message of ICMP."""
        head, rest = body[:_HEAD], body[_HEAD:]
        kind = body[0] if body else 0
        if kind == _REDIRECT:
            return head[:4] + self._address(head[4:], 4) + self._inside(rest)
        if kind in _ERRORS:
            return head + self._inside(rest)
        if kind in _ECHO:
            return head + filled(self._maps, body, _HEAD)
        return head[:4] + self._maps.filler(head[4:]) + filled(self._maps, body, _HEAD)

    def ipv6(self, body: bytes) -> bytes:
        """A message of ICMPv6."""
        head, rest = body[:_HEAD], body[_HEAD:]
        kind = body[0] if body else 0
        if kind in _ERRORS_6:
            return head + self._inside(rest)
        if kind in _ECHO_6:
            return head + self._maps.filler(rest)
        if kind in _LISTENERS:
            return head + self._address(rest[:16], 16) + self._maps.filler(rest[16:])
        if kind in _OPTIONS_AT:
            at = _OPTIONS_AT[kind]
            fixed = body[_HEAD:at]
            if kind in _ADDRESSES:
                fixed = self._address(fixed[:16], 16) + self._address(fixed[16:], 16)
            return head + fixed + self._options(body[at:])
        return head[:4] + self._maps.filler(head[4:]) + self._maps.filler(rest)

    def _address(self, part: bytes, size: int) -> bytes:
        return self._maps.address(part.ljust(size, b"\0"))[: len(part)] if part else b""

    def _options(self, options: bytes) -> bytes:
        """Of neighbour discovery."""
        found, at = b"", 0
        while at < len(options):
            size = max(options[at + 1], 1) * 8 if at + 1 < len(options) else 8
            found += self._option(options[at : at + size])
            at += size
        return found

    def _option(self, option: bytes) -> bytes:
        head, value = option[:2], option[2:]
        match option[0]:
            case 1 | 2 if len(value) >= _MAC:
                return head + self._maps.mac(value[:_MAC]) + self._maps.filler(value[_MAC:])
            case 3 if len(option) == 32:  # noqa: PLR2004
                prefix = self._maps.network(option[16:], min(option[2], 128))
                return option[:16] + prefix
            case 4:
                return option[:8] + self._inside(option[8:])
            case 5:
                return option
        return head + self._maps.filler(value)
