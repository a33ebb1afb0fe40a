"""What the kernel counts, out of files of /proc/net: protocols, interfaces, connection tracking.

net/ipv4/proc.c, net/ipv6/proc.c, net/core/net-procfs.c; Documentation/networking/snmp_counter.rst says what
each one counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PAIRED: Final = ("snmp", "netstat")  # a line of names, and one of values
_LISTED: Final = ("snmp6", "xfrm_stat")  # a name and a value a line
_WITHOUT_GROUP: Final = frozenset({"TcpExt", "IpExt", "MPTcpExt"})
_STATISTICS: Final = "stat/"  # a line of names, then hexadecimal numbers, a line a processor
_MOST_INTERFACES: Final = 10_000
_DIGITS: Final = 20  # of 2^64
# Columns of /proc/net/dev, by their names in /sys/class/net/*/statistics
_DEV: Final = {
    1: "rx_packets",
    2: "rx_errors",
    3: "rx_dropped",
    9: "tx_packets",
    10: "tx_errors",
    11: "tx_dropped",
}


class Counter(NamedTuple):
    """``name``: as nstat(8) prints it, but without TcpExt and IpExt. ``of``: an interface, or "conntrack"."""

    name: str
    of: str = ""

    def __str__(self) -> str:
        """For people."""
        return f"{self.name} {self.of}" if self.of else self.name


def counters(files: Mapping[str, str]) -> dict[Counter, int]:
    """All of some files (by their paths below /proc/net); what cannot be read is left out."""
    found: dict[Counter, int] = {}
    for path, text in files.items():
        # Not splitlines: names of interfaces may hold what ends lines to Python alone
        lines = text.removesuffix("\n").split("\n")
        if path in _PAIRED:
            found.update(_paired(lines))
        elif path in _LISTED:
            found.update(_listed(lines))
        elif path == "dev":
            found.update(_of_interfaces(lines[:_MOST_INTERFACES]))
        elif path.startswith(_STATISTICS):
            of = path.removeprefix(_STATISTICS).removeprefix("nf_")
            found.update(_summed(lines, of))
    return found


def _paired(lines: list[str]) -> Iterator[tuple[Counter, int]]:
    for names, values in zip(lines[::2], lines[1::2], strict=False):
        group, *heads = names.split()
        prefix = "" if group.rstrip(":") in _WITHOUT_GROUP else group.rstrip(":")
        for name, value in zip(heads, values.split()[1:], strict=False):
            if _is_number(value):
                yield Counter(prefix + name), int(value)


def _listed(lines: list[str]) -> Iterator[tuple[Counter, int]]:
    for line in lines:
        match line.split():
            case [name, value] if _is_number(value):
                yield Counter(name), int(value)


def _of_interfaces(lines: list[str]) -> Iterator[tuple[Counter, int]]:
    for line in lines:
        name, colon, values = line.rpartition(":")
        numbers = values.split()
        for column, counted in _DEV.items():
            if colon and column < len(numbers) and _is_number(numbers[column]):
                yield Counter(counted, name.strip()), int(numbers[column])


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) <= _DIGITS


def _summed(lines: list[str], of: str) -> dict[Counter, int]:
    found: dict[Counter, int] = {}
    names = lines[0].split() if lines else []
    for line in lines[1:]:
        for name, value in zip(names, line.split(), strict=False):
            try:
                number = int(value, 16)
            except ValueError:
                continue
            found[Counter(name, of)] = found.get(Counter(name, of), 0) + number
    return found
