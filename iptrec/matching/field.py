"""What a condition can look at: read of a packet, and of a rule's values."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.names import counted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from iptrec.decode.rulesets.nft_matches import Scalar
    from iptrec.matching.facts import Facts

# As nft names ARPHRD_ (include/uapi/linux/if_arp.h, nft's src/meta.c); 0 is none at all.
DEVICES: Final = {
    "none": 0, "ether": 1, "ppp": 512, "ipip": 768, "ipip6": 769, "loopback": 772, "sit": 776, "ipgre": 778,
}  # fmt: skip

DEVICE_GROUPS: Final = {"default": 0}  # iproute2's etc/group; others have names on one host alone

TCP_DATA_OFFSET: Final = 12  # the byte with the header's length, in words, in its upper half
# A number or a name; several of which nobody knows which it is; None: nobody knows anything.
Read = Callable[["Facts"], "int | str | frozenset[int] | frozenset[str] | None"]


class AbsentError(Exception):
    """The packet does not have the header that a condition looks into. ``args``: what it has instead."""


class IfThere(int):
    """A number that the packet has if it has the header at all, which is not known."""


class Field(NamedTuple):
    """Something that a condition can look at, as a number or a name.

    ``read``: of a packet. ``number``: a value of a rule. ``own``: the packet's as a reader knows it; None where
    there is nothing to say. ``text``: a value of a rule as nft prints it.
    """

    read: Read
    number: Callable[[Scalar], int | str]
    own: Callable[[Facts], object]
    text: Callable[[Scalar], str] = str


def as_number(value: Scalar) -> int:
    """Take a number for what it is. Raises TypeError for a word."""
    if isinstance(value, str):
        raise TypeError(value)
    return value


def as_name(value: Scalar) -> str:
    """Take a name for what it is. Raises TypeError for a number."""
    if isinstance(value, int):
        raise TypeError(value)
    return value


def by_names(names: Mapping[str, int]) -> Callable[[Scalar], int]:
    """Read a value that may be one of some names."""

    def number(value: Scalar) -> int:
        return names[value] if isinstance(value, str) and value in names else as_number(value)

    return number


def name_of(read: Read, names: Mapping[str, int]) -> Callable[[Facts], object]:
    """The packet's own value by its name, the first of several."""
    told = {number: name for name, number in reversed(list(names.items()))}

    def own(facts: Facts) -> object:
        value = read(facts)
        return told.get(value, value) if isinstance(value, int) else None

    return own


def quoted(name: Scalar) -> str:
    """A name as nft prints it."""
    return f'"{name}"'


def hexadecimal(value: Scalar) -> str:
    """A mark as nft prints it."""
    return f"0x{value:08x}" if isinstance(value, int) else value


def of_header(name: str) -> Callable[[Facts], object]:
    """A field of the packet's header as a reader knows it (`decode.packet.header`)."""
    return lambda facts: facts.header.get(name)


def require_ethernet(facts: Facts) -> None:
    """Raise AbsentError for a packet that came in by another kind of interface, or by none."""
    if facts.in_type not in (None, DEVICES["ether"]):
        names = {number: name for name, number in DEVICES.items()}
        raise AbsentError(names.get(facts.in_type, f"of type {facts.in_type}"))


def dumped_of_tcp(facts: Facts) -> str:
    """Tell how much was captured of a TCP header, options and all; "" where it was all, or is not there."""
    header, bits = facts.header, facts.bits
    length, start = header.get("length"), bits.network_size
    if header.get("proto") != "tcp" or header.get("ext") or header.get("frag"):
        return ""
    if not isinstance(length, int) or start is None:
        return ""
    found = bits.captured[start:]
    size = 4 * (found[TCP_DATA_OFFSET] >> 4) if len(found) > TCP_DATA_OFFSET else length
    if len(found) >= min(size, length - start):
        return ""
    return f"the kernel dumped no more than {counted(len(found), 'byte')} of the TCP header"


def nothing(_: Facts) -> None:
    """For what the packet has that cannot be told in a word."""
