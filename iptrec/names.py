"""One home for each word that several rooms share.

Numbers are those of linux/socket.h, linux/netfilter.h and iana.org/assignments/protocol-numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, get_args

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    I32 = npt.NDArray[np.int32]
    I64 = npt.NDArray[np.int64]
    U8 = npt.NDArray[np.uint8]
    U32 = npt.NDArray[np.uint32]
    U64 = npt.NDArray[np.uint64]
    Mask = npt.NDArray[np.bool_]


def counted(number: int, noun: str) -> str:
    """How many there are: 1 packet, 4,000 packets."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


Family = Literal["ipv4", "ipv6"]
FAMILIES: Final[tuple[Family, ...]] = ("ipv4", "ipv6")
Backend = Literal["legacy", "nft"]
BACKEND_NAMES: Final[dict[Backend, str]] = {"legacy": "legacy iptables", "nft": "nf_tables"}
BackendChoice = Literal["auto", "legacy", "nft", "both"]
BACKEND_CHOICES: Final[tuple[str, ...]] = get_args(BackendChoice)

DropsChoice = Literal["auto", "yes", "no"]
DROPS_CHOICES: Final[tuple[str, ...]] = get_args(DropsChoice)

COMMENT: Final = "iptrec:"  # how the comment of a recorder's rule begins; its uuid follows

AF_INET: Final = 2
AF_BRIDGE: Final = 7
AF_INET6: Final = 10
# The sequence number by which answers that the recorder asked for are known among what the kernel tells.
ASKED: Final = int.from_bytes(b"iptr")
# Of a table of nf_tables, by nft's names: NFPROTO_
NFT_FAMILIES: Final = {
    "inet": 1, "ip": AF_INET, "arp": 3, "netdev": 5, "bridge": 7, "ip6": AF_INET6,
}  # fmt: skip
OF_NFT: Final[dict[str, Family]] = {"ip": "ipv4", "ip6": "ipv6"}  # others are passed by both

HOOKS: Final = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")  # by NF_INET_* number

# With the names of /etc/protocols
PROTOCOLS: Final = {
    1: "icmp", 2: "igmp", 4: "ipip", 6: "tcp", 17: "udp", 33: "dccp", 41: "ipv6", 46: "rsvp",
    47: "gre", 50: "esp", 51: "ah", 58: "icmpv6", 59: "ipv6-nonxt", 88: "eigrp", 89: "ospf",
    103: "pim", 108: "ipcomp", 112: "vrrp", 115: "l2tp", 132: "sctp", 136: "udplite",
}  # fmt: skip
PROTOCOL_NUMBERS: Final = {name: number for number, name in PROTOCOLS.items()}
ANY: Final = "any"  # of the interfaces, as tcpdump has it
