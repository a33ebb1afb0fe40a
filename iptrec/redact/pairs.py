"""What stands for what, word by word: each of a kind that redact maps, by its map, and one to one.

A word is one of two recordings, of which the second was made from the first. That a map is one to one, and
keeps the prefixes of addresses, is not taken from it but seen in the pairs that were met.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
from typing import TYPE_CHECKING, Final

from iptrec.redact.maps import UntrueError
from iptrec.redact.words import ADDRESSES, Words, is_address

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.redact.maps import Maps

NUMBER: Final = re.compile(r"[-+]?(?:0x[0-9A-Fa-f]+|\d+)")
_HEADS: Final = {4: 8, 6: 16}  # bits that are mapped as a whole
# Inside of these an address has another one: see `iptrec.redact.addresses`.
_INSIDE: Final = tuple(
    map(ipaddress.ip_network, ("fe80::/64", "ff02::1:ff00:0/104", "::ffff:0:0/96", "64:ff9b::/96"))
)
_SEPARATORS: Final = ("/", ":", ".", "-", "@")
_PAYLOAD: Final = b"any payload"
_MAC: Final = re.compile(r"[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}")


class Pairs:
    """Compares words; ``maps``: those by which the second recording was made."""

    def __init__(self, maps: Maps) -> None:
        self.maps = maps
        self.words = Words(maps)
        self._there: dict[tuple[str, str], str] = {}
        self._back: dict[tuple[str, str], str] = {}

    def _one_to_one(self, kind: str, before: str, after: str) -> bool:
        """Note a pair; False where one of both is known in another one."""
        there = self._there.setdefault((kind, before), after)
        back = self._back.setdefault((kind, after), before)
        return there == after and back == before

    @property
    def keeps_payload(self) -> bool:
        """Whether payloads stay."""
        return self.maps.filler(_PAYLOAD) == _PAYLOAD

    def stays(self, text: str) -> bool:
        """Whether a text may be the same one afterwards: its addresses are those that stay."""
        try:
            return not self.words.has_address(text) or self.words.addresses(text) == text
        except UntrueError:
            return True

    def name(self, before: str, after: str) -> bool:
        """Of a chain, table, set, interface, host, user."""
        return self.maps.name(before) == after and self._one_to_one("name", before, after)

    def prose(self, before: str, after: str) -> bool:
        """A comment, a log prefix, likewise: as many words, of which some are addresses."""
        old, new = before.split(" "), after.split(" ")
        return len(old) == len(new) and all(map(self._of_prose, old, new))

    def _of_prose(self, before: str, after: str) -> bool:
        return self.addresses(before, after) or self.maps.prose(before) == after

    def addresses(self, before: str, after: str) -> bool:
        """A word with addresses, networks, ranges in it; what is beside them is the same."""
        try:
            if not self.words.has_address(before) or self.words.addresses(before) != after:
                return False
        except UntrueError:
            return False
        old, new = _split(before), _split(after)
        if old[::2] != new[::2]:
            return False
        alone = [both for both in zip(old[1::2], new[1::2], strict=True) if _is_alone(both[0])]
        return all(self._one_to_one("address", *map(_canonical, both)) for both in alone)

    def number(self, before: str, after: str) -> bool:
        """An address that is written as a number of hexadecimal digits."""
        if not (before.startswith("0x") and after.startswith("0x")):
            return False
        try:
            number = int(before, 16)
            size = 4 if number < 1 << 32 else 16
            made = self.maps.address(number.to_bytes(size, "big"))
        except (ValueError, OverflowError):
            return False
        return hex(int.from_bytes(made, "big")) == after

    def word(self, before: str, after: str, kept: frozenset[str] = frozenset()) -> bool:
        """A word of a sentence: an address, a name, or several of these with separators. ``kept``: keywords."""
        if before == after:
            return self.stays(before)
        if self.addresses(before, after) or self._mac(before, after):
            return True
        if self._there.get(("name", before)) == after:  # whatever else the word may be
            return True
        if NUMBER.fullmatch(before):
            return self.number(before, after)
        if before not in kept and (self.name(before, after) or self._of_prose(before, after)):
            return True
        for separator in _SEPARATORS:  # filter/INPUT, fw/chain:3, to-a., 10.0.0.1:80
            old, new = before.split(separator), after.split(separator)
            if 1 < len(old) == len(new) and all(
                self.word(*both, kept) for both in zip(old, new, strict=True)
            ):
                return True
        return False

    def _mac(self, before: str, after: str) -> bool:
        """Of iptables, which has them in capital letters."""
        lower = before.lower(), after.lower()
        return bool(_MAC.fullmatch(before)) and lower != (before, after) and self.addresses(*lower)

    def torn(self) -> Iterator[tuple[str, str]]:
        """Two addresses next to each other that do not share as much of a prefix afterwards."""
        found: dict[int, list[tuple[int, str, str]]] = {4: [], 6: []}
        for (kind, before), after in self._there.items():
            try:
                old, new = ipaddress.ip_address(before), ipaddress.ip_address(after)
            except ValueError:  # a MAC address
                continue
            if kind == "address" and old.version == new.version and not _has_inside(old):
                found[old.version].append((int(old), before, after))
        for version, some in found.items():
            for one, other in itertools.pairwise(sorted(some)):
                shared = _shared(one[1], other[1]), _shared(one[2], other[2])
                if shared[0] != shared[1] and max(shared) >= _HEADS[version]:
                    yield one[1], other[1]


def _is_alone(text: str) -> bool:
    """Whether it is not a network or a range."""
    return "/" not in text and "-" not in text


def _canonical(text: str) -> str:
    """Of all ways to write an address one."""
    return text.lower() if _MAC.fullmatch(text) else str(ipaddress.ip_address(text))


def _shared(one: str, other: str) -> int:
    """How many bits two addresses have alike."""
    first, second = ipaddress.ip_address(one), ipaddress.ip_address(other)
    return first.max_prefixlen - (int(first) ^ int(second)).bit_length()


def _has_inside(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return any(address.version == one.version and address in one for one in _INSIDE)


def _split(text: str) -> list[str]:
    """What is between addresses, and these."""
    found, at = [], 0
    for one in ADDRESSES.finditer(text):
        if is_address(one):
            found += [text[at : one.start()], one[0]]
            at = one.end()
    return [*found, text[at:]]
