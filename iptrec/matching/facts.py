"""What is known of a packet at a rule, and what can be said of the rule by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from iptrec.matching.bits import Bits
from iptrec.names import PROTOCOL_NUMBERS

if TYPE_CHECKING:
    import ipaddress
    from collections.abc import Callable, Mapping, Sequence

    from iptrec.decode.conntrack import Connection
    from iptrec.decode.ipsets import IpSet
    from iptrec.decode.rulesets.nft_sets import NftSet

    Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NUMBERS: Final = PROTOCOL_NUMBERS | {
    "ipencap": 4, "ipv6-icmp": 58, "all": 0,
}  # fmt: skip


# include/uapi/linux/rtnetlink.h
ROUTE_TYPES: Final = {
    "unspec": 0, "unicast": 1, "local": 2, "broadcast": 3, "anycast": 4, "multicast": 5, "blackhole": 6,
    "unreachable": 7, "prohibit": 8,
}  # fmt: skip


class Fib(Protocol):
    """The routes and addresses of the host at one moment. None: nobody knows."""

    def types(self, address: Address, interface: str | None) -> frozenset[int] | None:
        """What an address may be to the host, or to an interface alone, of `ROUTE_TYPES`."""

    def ways(self, address: Address, interface: str | None) -> frozenset[str] | None:
        """By which interface it may be reached, "" for none; of an interface: by that one or by none."""


class Followed(Protocol):
    """A set of nf_tables as the kernel told of its elements."""

    def has(self, own: Sequence[int | str | None], time_ns: tuple[int, int]) -> bool | None:
        """Whether it had these values between two times (epoch), None in the place of what is not known."""


class Timezone(NamedTuple):
    """That of a host of which nft's rules were listed in UTC.

    ``west_min``: how far west of UTC the kernel takes it to be (sys_tz, gettimeofday(2)); None: not known.
    """

    west_min: int | None


_NO_BITS: Final = Bits()


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a packet at a rule, before the rule. ``header``: as `decode.packet.header` gives it.

    ``mark``: None where it is not known. ``sets``: the ipsets by their names, each list that may be of then.
    ``ct_state``: the bits of its connection's state (`TraceEvents.ct_state`); 0: not known. ``ct_status``,
    ``ct_direction``: likewise (enum ip_conntrack_status, enum ip_conntrack_dir); None: not known. ``written``:
    what rules have changed since ``header`` and ``bits`` were seen, by the keys of `nft_matches.Writes`.
    ``nft_sets``: a set of the rule's table by its name, each that may have been the packet's; None where it is
    not known. ``time_ns``: between which times it was there (epoch).
    ``in_type``: ARPHRD_ of the interface that it came in by, 0 where there is none; None: not known.
    ``frames``: whether the rule's table is passed by frames of whatever protocol. ``kernel``: its release, as
    far as kernels differ; (0, 0): not known. ``groups``: those of the interfaces by which it came in and goes
    out; None: not known. ``plain``: whether the host had no IPsec then, so that it came and goes without; None:
    not known.
    ``hook``: at which it is, of `names.HOOKS`; None: not known. ``timezone``: None where it was not recorded.
    ``ct_mark``: that of its connection, where a rule of this chain has set it. ``identified``: the connection
    is known by its number, and no other one of the same addresses.
    """

    header: dict[str, Any]
    mark: int | None
    in_: str | None
    out: str | None
    physin: str | None
    physout: str | None
    source_mac: str | None
    fib: Fib | None = None
    sets: Sequence[Mapping[str, IpSet]] = ()
    ct_state: int = 0
    ct_status: int | None = None
    ct_direction: int | None = None
    connection: Connection | None = None
    bits: Bits = _NO_BITS
    written: frozenset[str] = frozenset()
    nft_sets: Callable[[str], Sequence[NftSet | Followed | None]] = lambda _: ()
    time_ns: tuple[int, int] = (0, 0)
    in_type: int | None = None
    frames: bool = False
    kernel: tuple[int, int] = (0, 0)
    groups: Callable[[], tuple[int | None, int | None]] = lambda: (None, None)
    plain: Callable[[], bool | None] = lambda: None
    hook: int | None = None
    timezone: Timezone | None = None
    ct_mark: int | None = None
    identified: bool = False


class Clause(NamedTuple):
    """A condition of a rule in its own words.

    ``asks``: what it looks at (``! -d``, ``udp dport !=``). ``value``: what it compares that with. ``module``:
    whose it is, as ``-m`` of iptables names it or the first word of nft's; "" is iptables itself.
    """

    asks: str
    value: str = ""
    module: str = ""

    @property
    def words(self) -> str:
        """All of it."""
        return f"{self.asks} {self.value}".rstrip()


@dataclass(frozen=True, slots=True)
class Judgement:
    """``fits`` is None where it cannot be known. ``clause``: the one that failed or is unknown.

    ``remark``: what the packet has instead, or what is known although it is not enough. ``fails``: all but the
    clause fits, and by what is known, which may have changed meanwhile, the clause does not.
    """

    fits: bool | None
    clause: Clause | None = None
    remark: str = ""
    fails: bool = False

    @property
    def because(self) -> str | None:
        """The condition and what is remarked of it; None where all that is known fits."""
        if self.clause is None:
            return None
        return f"{self.clause.words} ({self.remark})" if self.remark else self.clause.words


def protocol_number(text: str) -> int | None:
    """The number of a protocol by its name (/etc/protocols) or its digits; None for what is neither."""
    if text in _NUMBERS:
        return _NUMBERS[text]
    return int(text) if text.isascii() and text.isdigit() else None
