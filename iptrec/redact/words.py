"""Words of rules: addresses, networks, ranges, numbers, public words and names, by how they look."""

from __future__ import annotations

import functools
import ipaddress
import re
from typing import TYPE_CHECKING, Final

from iptrec.redact.addresses import is_group
from iptrec.redact.maps import UntrueError
from iptrec.redact.names import public

if TYPE_CHECKING:
    from iptrec.redact.maps import Maps

_MAC: Final = r"(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}"
_V4: Final = r"\d{1,3}(?:\.\d{1,3}){3}"
_V6: Final = rf"[0-9A-Fa-f]{{0,4}}(?::[0-9A-Fa-f]{{0,4}}){{1,6}}:(?:{_V4}|[0-9A-Fa-f]{{0,4}})"
_IP: Final = f"(?:{_V6}|{_V4})"
ADDRESSES: Final = re.compile(
    rf"(?<![\w.:])(?:(?P<mac>{_MAC})(?:/(?P<macmask>{_MAC}))?(?!:)|"
    rf"(?P<low>{_IP})-(?P<high>{_IP})|(?P<ip>{_IP})(?:/(?P<mask>{_IP}|\d{{1,3}}))?)(?![\w.:]*[A-Za-z_.])"
)
NUMBER: Final = re.compile(
    r"!?(?:0x[0-9A-Fa-f]+|\d+)(?:[-:,/&|]!?(?:0x[0-9A-Fa-f]+|\d+))*[%:-]?|\d+\.\d+|\d{4}-\d\d-\d\dT[\d:]+"
)
_RATE: Final = re.compile(
    r"\d+[kmg]?b?/(?:s|sec|second|m|min|minute|h|hour|d|day|w|week)\w?|\d+(?:\.\d+)?(?:[kmg]?b(?:it|ps)?|[mu]s|[smhd])",
    re.IGNORECASE,
)
_PART: Final = re.compile(r"[A-Za-z][\w-]*")


class Words:
    """Maps words; ``maps`` does the rest."""

    def __init__(self, maps: Maps) -> None:
        self._maps = maps

    def addresses(self, text: str) -> str:
        """A text with its addresses, networks and ranges mapped. Raises `UntrueError`."""
        return ADDRESSES.sub(self._found, text)

    def has_address(self, text: str) -> bool:
        """Whether there is one in a text."""
        return any(is_address(one) for one in ADDRESSES.finditer(text))

    def value(self, word: str) -> str:
        """A value of an option: an address, a number, a public word, or else a name."""
        if self.has_address(word):
            return self.addresses(word)
        if NUMBER.fullmatch(word) or _RATE.fullmatch(word):
            return word
        parts = _PART.findall(word)
        if all(one in public().values or one in public().words for one in parts):
            return word
        return self._maps.name(word)

    def prose(self, text: str) -> str:
        """A comment, a log prefix: addresses in it are those of the rules, the rest is words."""
        return " ".join(map(self._of_prose, text.split(" ")))

    def _of_prose(self, word: str) -> str:
        try:
            made = self.addresses(word)
        except UntrueError:
            made = word
        return made if made != word else self._maps.prose(word)

    def _found(self, found: re.Match[str]) -> str:
        if not is_address(found):
            return found[0]
        if found["mac"]:
            return self._mac(found["mac"], found["macmask"])
        if found["low"]:
            low, high = (ipaddress.ip_address(found[one]) for one in ("low", "high"))
            return "-".join(map(_text, self._maps.range(low.packed, high.packed)))
        return self._network(found["ip"], found["mask"])

    def _mac(self, mac: str, mask: str | None) -> str:
        packed = bytes.fromhex(mac.replace(":", ""))
        if mask is None or mask.lower() == "ff:ff:ff:ff:ff:ff":
            made = self._maps.mac(packed)
        else:
            bits = int(mask.replace(":", ""), 16)
            behind = (bits ^ 0xFFFFFFFFFFFF).bit_length()
            if bits != 0xFFFFFFFFFFFF >> behind << behind:
                raise UntrueError(f"the mask {mask}")
            if is_group(packed) or not bits:
                made = packed
            else:
                last = int.from_bytes(packed, "big") | (1 << behind) - 1
                made = self._maps.range(packed, last.to_bytes(6, "big"))[0]
        text = made.hex(":")
        text = text.upper() if mac != mac.lower() else text
        return text if mask is None else f"{text}/{mask}"

    def _network(self, address: str, mask: str | None) -> str:
        packed = ipaddress.ip_address(address).packed
        if mask is None:
            return _text(self._maps.address(packed))
        length = length_of(mask, 8 * len(packed))
        return f"{_text(self._maps.network(packed, length))}/{mask}"


def length_of(mask: str, size: int) -> int:
    """Of a prefix; ``mask`` is a number or a mask. Raises `UntrueError` for one that is not a prefix's."""
    if mask.isdecimal():
        if int(mask) > size:
            raise UntrueError(f"the length {mask}")
        return int(mask)
    bits = int(ipaddress.ip_address(mask))
    behind = (bits ^ (1 << size) - 1).bit_length()
    if bits != ((1 << size) - 1) >> behind << behind:
        raise UntrueError(f"the mask {mask}")
    return size - behind


def is_address(found: re.Match[str]) -> bool:
    """Whether what looks like an address is one."""
    return bool(found["mac"]) or all(
        _is_ip(one) for one in (found["low"], found["high"], found["ip"]) if one
    )


@functools.lru_cache(1 << 12)
def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _text(packed: bytes) -> str:
    return str(ipaddress.ip_address(packed))
