"""What stands for what in a redacted recording: one place that all parts of a recording are mapped by.

A recording is gone through twice. First nothing is mapped, and what has to stay true is learned: ranges of
addresses and short networks (`Survey`). Then everything is.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, Protocol

from iptrec.redact.addresses import Addresses
from iptrec.redact.names import Names

if TYPE_CHECKING:
    from collections.abc import Iterable

    from iptrec.redact.key import Key

# Ports always stay: see docs/redact.md.
KEEPS: Final = ("names", "macs", "oui", "payload", "ports")


class UntrueError(Exception):
    """A range, or a mask, that would not be true of the addresses in the place of others."""


class Maps(Protocol):
    """What maps."""

    def address(self, packed: bytes) -> bytes:
        """An address of 4 or 16 bytes, or a part of one from its beginning on (see `Addresses.cut`)."""

    def network(self, packed: bytes, length: int) -> bytes:
        """The first address of a network. Raises `UntrueError`."""

    def range(self, low: bytes, high: bytes) -> tuple[bytes, bytes]:
        """The ends of a range of addresses of 4, 6 or 16 bytes. Raises `UntrueError`."""

    def border(self, first: int, size: int) -> None:
        """Addresses of ``size`` bytes are compared by order: are they below ``first``. Raises `UntrueError`."""

    def mac(self, packed: bytes) -> bytes:
        """An address of Ethernet."""

    def name(self, name: str) -> str:
        """Of an interface, chain, table, set, process, user."""

    def prose(self, text: str) -> str:
        """A comment, a log prefix."""

    def filler(self, data: bytes) -> bytes:
        """A payload: as many bytes, equal for equal ones."""

    def digest(self, data: bytes) -> bytes:
        """What is only compared: 16 bytes, equal for equal ones."""

    def removed(self, what: str) -> None:
        """Note that something was taken out that is not understood."""


class Survey:
    """Learns what has to stay true; maps nothing."""

    def __init__(self, addresses: Addresses) -> None:
        self._addresses = addresses

    def address(self, packed: bytes) -> bytes:
        """See `Maps`."""
        return packed

    def network(self, packed: bytes, length: int) -> bytes:
        """See `Maps`."""
        if not 0 <= length <= 8 * len(packed):
            return packed
        if not self._addresses.keep_prefix(packed, length):
            raise UntrueError("a network inside of one whose addresses have another address inside")
        return packed

    def range(self, low: bytes, high: bytes) -> tuple[bytes, bytes]:
        """See `Maps`."""
        if not self._addresses.keep(low, high):
            raise UntrueError("a range that would not be one afterwards")
        return low, high

    def border(self, first: int, size: int) -> None:
        """See `Maps`."""
        if not self._addresses.keep_border(first, size):
            raise UntrueError("a comparison by the order of addresses")

    def mac(self, packed: bytes) -> bytes:
        """See `Maps`."""
        return packed

    def name(self, name: str) -> str:
        """See `Maps`."""
        return name

    def prose(self, text: str) -> str:
        """See `Maps`."""
        return text

    def filler(self, data: bytes) -> bytes:
        """See `Maps`."""
        return data

    def digest(self, data: bytes) -> bytes:
        """See `Maps`."""
        return data

    def removed(self, what: str) -> None:
        """See `Maps`."""


class Redaction:
    """Maps. ``keeps``: of `KEEPS`, what stays. ``removals``: what was taken out, and how often."""

    def __init__(
        self, key: Key, addresses: Addresses, keeps: Iterable[str], always: Iterable[str]
    ) -> None:
        self._keeps = frozenset(keeps)
        self._key = key
        self._addresses = addresses
        self._names = Names(key, kept="names" in self._keeps, always=always)
        self.removals: Counter[str] = Counter()
        self.ends_stay = addresses.ends_stay

    def address(self, packed: bytes) -> bytes:
        """See `Maps`."""
        return self._addresses.address(packed)

    def network(self, packed: bytes, length: int) -> bytes:
        """See `Maps`."""
        return self._addresses.network(packed, length)

    def range(self, low: bytes, high: bytes) -> tuple[bytes, bytes]:
        """See `Maps`."""
        of = self._addresses.mac if len(low) == 6 else self._addresses.address  # noqa: PLR2004
        first, last = self._ends_of_network(low, high) or (of(low), of(high))
        return first, last

    def border(self, first: int, size: int) -> None:
        """See `Maps`; what is compared stays."""

    def _ends_of_network(self, low: bytes, high: bytes) -> tuple[bytes, bytes] | None:
        """Of a range that is one."""
        first, last = int.from_bytes(low, "big"), int.from_bytes(high, "big")
        behind = (first ^ last).bit_length()
        mask = (1 << behind) - 1
        if len(low) == 6 or not behind or first & mask or last & mask != mask:  # noqa: PLR2004
            return None
        start = self.network(low, 8 * len(low) - behind)
        return start, (int.from_bytes(start, "big") | mask).to_bytes(len(low), "big")

    def mac(self, packed: bytes) -> bytes:
        """See `Maps`."""
        return self._addresses.mac(packed)

    def name(self, name: str) -> str:
        """See `Maps`."""
        return self._names(name)

    def prose(self, text: str) -> str:
        """See `Maps`."""
        return text if "names" in self._keeps else self._names.prose(text)

    def filler(self, data: bytes) -> bytes:
        """See `Maps`."""
        return data if "payload" in self._keeps else self._key.filler(data)

    def digest(self, data: bytes) -> bytes:
        """See `Maps`."""
        return self._key.digest("digest", data, 16)

    def removed(self, what: str) -> None:
        """See `Maps`."""
        self.removals[what] += 1


def surveyed(key: Key, keeps: Iterable[str]) -> tuple[Addresses, Survey]:
    """The maps of addresses, and what learns for them."""
    addresses = Addresses(key, oui="oui" in keeps, macs="macs" in keeps)
    return addresses, Survey(addresses)
