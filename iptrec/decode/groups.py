"""Which multicast groups interfaces have joined, out of /proc/net/igmp and igmp6."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    IP = ipaddress.IPv4Address | ipaddress.IPv6Address

_DEVICE: Final = re.compile(r"\d+\s+(\S+?)\s*:")
_GROUP: Final = re.compile(r"\s+([0-9A-F]{8})\s")
_GROUP6: Final = re.compile(r"\d+\s+(\S+)\s+([0-9a-f]{32})\s")


def groups(files: Mapping[str, str]) -> dict[tuple[str, int], frozenset[IP]]:
    """Name of an interface and version of IP -> its groups. ``files``: name -> text."""
    found: dict[tuple[str, int], set[IP]] = {}
    for name, address in (*_igmp(files.get("igmp", "")), *_igmp6(files.get("igmp6", ""))):
        found.setdefault((name, address.version), set()).add(address)
    return {key: frozenset(addresses) for key, addresses in found.items()}


def _igmp(text: str) -> Iterator[tuple[str, IP]]:
    """A line a device, then one a group: a number as this little-endian host has it in memory."""
    name = ""
    for line in text.split("\n"):
        if told := _DEVICE.match(line):
            name = told[1]
        elif told := _GROUP.match(line):
            yield name, ipaddress.IPv4Address(bytes.fromhex(told[1])[::-1])


def _igmp6(text: str) -> Iterator[tuple[str, IP]]:
    for line in text.split("\n"):
        if told := _GROUP6.match(line):
            yield told[1], ipaddress.IPv6Address(bytes.fromhex(told[2]))
