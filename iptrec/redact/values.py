"""Values of attributes: how each sort of them is mapped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from iptrec.redact.maps import Maps
    from iptrec.redact.netlink import Change

_ADDRESSES: Final = (4, 16)
_MAC: Final = 6


class Values:
    """Changes of values (`netlink.Change`)."""

    def __init__(self, maps: Maps) -> None:
        self.maps = maps

    def address(self, value: bytes) -> bytes | None:
        """An address; something else of that attribute goes."""
        return self.maps.address(value) if len(value) in _ADDRESSES else None

    def of_family(self, value: bytes) -> bytes | None:
        """An address behind its family (struct rtvia)."""
        found = self.address(value[2:])
        return None if found is None else value[:2] + found

    def hardware(self, value: bytes) -> bytes | None:
        """An address of the link layer; of a tunnel it is an IP address."""
        if len(value) == _MAC:
            return self.maps.mac(value)
        if not value.strip(b"\0"):
            return value
        return self.address(value)

    def name(self, value: bytes) -> bytes:
        """A name that ends with a zero byte, or is filled up with such."""
        text, _, rest = value.partition(b"\0")
        end = value[len(text) : len(text) + 1] + bytes(max(len(rest), 0))
        return self._encoded(self.maps.name(self.decoded(text))) + end

    def prose(self, value: bytes) -> bytes:
        """A comment, likewise."""
        text = value.partition(b"\0")[0]
        return self._encoded(self.maps.prose(self.decoded(text))) + value[len(text) :][:1]

    def digest(self, value: bytes) -> bytes:
        """What is only compared."""
        return self.maps.digest(value)

    def network(self, length: int) -> Change:
        """The address of a network."""

        def change(value: bytes) -> bytes | None:
            return self.maps.network(value, length) if len(value) in _ADDRESSES else None

        return change

    @staticmethod
    def decoded(text: bytes) -> str:
        """Any bytes as text."""
        return text.decode("utf-8", "surrogateescape")

    @staticmethod
    def _encoded(text: str) -> bytes:
        return text.encode("utf-8", "surrogateescape")
