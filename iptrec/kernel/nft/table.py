"""Tables of our own: where iptables-nft is missing, and where packets meet chains before they come to raw.

They are called after the recording, iptrec-UUID; nft makes them, and they go whole. Of chains with equal
priorities the one that came last is passed first (net/netfilter/core.c, nf_hook_entries_grow).

The filter of `iptables` is a match of x_tables, which nft cannot say: it is copied from our rules in the raw
tables, as the kernel holds them. At ingress the kernel takes none (net/netfilter/nft_compat.c,
nft_match_validate): there a rule is what nft can say of the filter, or there is none.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from iptrec.errors import HostError
from iptrec.kernel import iptables, netlink, process
from iptrec.kernel.nft import bases, raw, transactions
from iptrec.kernel.nft import rule as nft_rule
from iptrec.kernel.nft.listing import nft
from iptrec.kernel.nft.transactions import Request
from iptrec.names import HOOKS, NFT_FAMILIES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from iptrec.kernel.nft.bases import Base
    from iptrec.kernel.nft.rule import Rule
    from iptrec.kernel.nft.transactions import Holder
    from iptrec.names import Family

# The chains that packets come to before all others of IP
FIRST: Final = ("early_prerouting", "early_output")
INGRESS, BRIDGED = "ingress", "bridged"
SENT, HANDED = "bridged_output", "bridged_input"
_HOOKS: Final = {
    "prerouting": ("prerouting", "iifname"), "output": ("output", "oifname"),
    FIRST[0]: ("prerouting", "iifname"), FIRST[1]: ("output", "oifname"),
    INGRESS: ("ingress", "iifname"), BRIDGED: ("prerouting", "iifname"),
    SENT: ("output", "oifname"), HANDED: ("input", "iifname"),
}  # fmt: skip
_FAMILIES: Final[dict[Family, str]] = {"ipv4": "meta nfproto ipv4", "ipv6": "meta nfproto ipv6"}
_ETHERTYPES: Final[dict[Family, str]] = {"ipv4": "meta protocol ip", "ipv6": "meta protocol ip6"}
_NOT_IP: Final = "meta protocol != ip meta protocol != ip6"
# Frames for a link-local group, which a bridge hands to its host past PREROUTING (br_handle_frame)
_HANDED: Final = "ether daddr 01:80:c2:00:00:02-01:80:c2:00:00:0f"
_FRAMES: Final = {BRIDGED: f"{_NOT_IP} ", SENT: "", HANDED: f"{_HANDED} "}
# What packet sockets put onto a bridge passes no chain of IP, whatever it is.
# Where frames begin as well, and the hooks of chains that they come to then
_BEGIN: Final = {HANDED: ("INPUT",), SENT: ("OUTPUT", "POSTROUTING")}
_PRIORITY: Final = -300  # NF_IP_PRI_RAW
# After NF_IP_PRI_FIRST, where br_netfilter spares IP a frame that it has passed already (ip_sabotage_in).
_FIRST_PRIORITY: Final = -(2**31) + 1
# The families of tables that trace, and of those whose chains are passed last (see `late`)
TRACING: Final[tuple[Holder, ...]] = ("inet", "bridge")
LATE: Final = ("ip", "ip6")

# Of a copy: which of our rules in the raw table, and what a packet's family is told by.
_COPIED: Final[dict[str, tuple[Holder, str]]] = {
    FIRST[0]: ("inet", "PREROUTING"), FIRST[1]: ("inet", "OUTPUT"), BRIDGED: ("bridge", "PREROUTING"),
}  # fmt: skip
_NFPROTO, _PROTOCOL = 15, 1  # NFT_META_
_IS: Final[dict[Holder, tuple[int, dict[Family, bytes]]]] = {
    "inet": (_NFPROTO, {"ipv4": b"\x02", "ipv6": b"\x0a"}),
    "bridge": (_PROTOCOL, {"ipv4": b"\x08\x00", "ipv6": b"\x86\xdd"}),
}
_REGISTER: Final = struct.pack("!I", 1)


@dataclass(frozen=True, slots=True)
class Own:
    """What is to be in our tables.

    ``matches``: the filter as nft reads it, an alternative a rule; None where nft cannot say it. ``alone``:
    there are no rules of ours in the raw tables. ``early``: chains that packets pass before raw, or beside it.
    ``all_incoming``: see `iptables.trace_rules`. ``frames``: trace what is not IP in bridges, too.
    """

    comment: str
    families: Sequence[Family]
    interfaces: Sequence[str]
    matches: Mapping[Family, Sequence[str]] | None
    alone: bool
    early: Sequence[Base] = field(default=())
    all_incoming: bool = False
    frames: bool = False

    @property
    def needed(self) -> bool:
        """Whether there is to be a table at all."""
        return self.alone or bool(self.traced)

    @property
    def traced(self) -> list[Base]:
        """Those of the early chains whose packets are traced before they come there."""
        return [one for one in self.early if not one.ingress or self.matches is not None]

    @property
    def devices(self) -> list[str]:
        """Those that have chains at ingress, as long as they are there."""
        found = {device for one in self.traced if one.ingress for device in one.devices}
        return (
            sorted(found.intersection(name for _, name in socket.if_nameindex())) if found else []
        )

    @property
    def ingress(self) -> bool:
        """Whether packets are traced from devices on."""
        return any(one.ingress for one in self.traced)

    @property
    def bridged(self) -> bool:
        """Whether frames of bridges are traced."""
        return any(one.family == "bridge" for one in self.traced)

    @property
    def first(self) -> tuple[str, tuple[str, str]]:
        """The table and the chains that packets come to first of IP's."""
        chains = ("prerouting", "output") if self.alone else ("PREROUTING", "OUTPUT")
        return name(self.comment) if self.needed else "raw", FIRST if self.traced else chains

    def text(self) -> str:
        """The tables as nft reads them; rules that are copies are still missing."""
        chains = []
        if self.alone:
            chains += [self._chain(one, _PRIORITY) for one in ("prerouting", "output")]
        if self.traced:
            chains += [self._chain(one, self._first, copied=not self.alone) for one in FIRST]
        if self.devices:
            chains.append(self._chain(INGRESS, self._first))
        found = f"table inet {name(self.comment)} {{\n{''.join(chains)}}}\n"
        if self.bridged:
            chain = self._chain(BRIDGED, self._first, copied=not self.alone)
            chain += "".join(self._chain(one, self._first, copied=True) for one in self._begin)
            found += f"table bridge {name(self.comment)} {{\n{chain}}}\n"
        return found

    def made(self) -> Own:
        """Make the tables, without early chains before which the kernel takes none. Raises `HostError`."""
        of_ip = [one for one in self.early if one.family != "bridge"]
        for early in (self.early, of_ip, [one for one in of_ip if not one.ingress]):
            less = replace(self, early=early)
            with contextlib.suppress(HostError):
                if less.traced:
                    less.insert()
                    return less
            remove(self.comment, TRACING)
        less = replace(self, early=())
        if less.needed:
            less.insert()
        return less

    def insert(self) -> None:
        """Make the tables. Raises `HostError`."""
        command = [nft(), "-f", "-"]
        iptables.check(command, process.run(command, self.text().encode()))
        if not self.alone:
            for holder in ("inet", "bridge") if self.bridged else ("inet",):
                self._copy(holder)

    def insert_again(self) -> None:
        """Make them anew, where something of them is gone. Raises `HostError`."""
        remove(self.comment, TRACING)
        self.insert()

    def held(self) -> bool:
        """Whether the kernel holds all of it, as far as it can be asked while the ruleset changes."""
        if not self.needed:
            return True
        asked: transactions.Values = [(nft_rule.TABLE, name(self.comment))]
        found = [
            transactions.dumped(transactions.GET_RULE, NFT_FAMILIES[one], asked) for one in TRACING
        ]
        there = sum(
            self.comment.encode() in one.get(nft_rule.USERDATA, b"")
            for rules in found
            for one in rules or ()
        )
        return None in found or there >= self._rules

    @property
    def _rules(self) -> int:
        """How many rules there are to be."""
        copied = (*FIRST, BRIDGED) if self.bridged else FIRST
        copies = len(self.families) * sum(len(self._interfaces(one)) for one in copied)
        return self.text().count(f'"{self.comment}"') + (not self.alone) * copies

    @property
    def _first(self) -> int:
        """A priority that no early chain comes before; of equal ones the new one is the first."""
        return min(_FIRST_PRIORITY, *(one.priority for one in self.traced))

    @property
    def _begin(self) -> list[str]:
        """Our chains behind which frames come to a user's that did not come through the first one."""
        there = {HOOKS[one.hook] for one in self.traced if one.family == "bridge" and self.frames}
        return [chain for chain, hooks in _BEGIN.items() if there.intersection(hooks)]

    def _interfaces(self, chain: str) -> list[str]:
        """How the rules of a chain say by which one packets come or go; "" for all."""
        hook, key = _HOOKS[chain]
        if self.all_incoming and hook != "output":
            return [f'{key} != "lo" ' if "lo" not in self.interfaces else ""]
        return [f'{key} "{one.replace("+", "*")}" ' for one in self.interfaces] or [""]

    def _chain(self, chain: str, priority: int, *, copied: bool = False) -> str:
        hook, _ = _HOOKS[chain]
        of_family = _ETHERTYPES if chain == BRIDGED else _FAMILIES
        does = f'counter meta nftrace set 1 comment "{self.comment}"'
        rules = [
            f"  {of_family[family]} {interface}{match} {does}\n"
            for family, alternatives in ({} if copied else self.matches or {}).items()
            for interface in self._interfaces(chain)
            for match in alternatives
        ]
        if self.frames and chain in _FRAMES:
            rules += [f"  {_FRAMES[chain]}{one}{does}\n" for one in self._interfaces(chain)]
        devices = ", ".join(f'"{one}"' for one in self.devices)
        where = f" devices = {{ {devices} }}" if chain == INGRESS else ""
        head = f"  type filter hook {hook}{where} priority {priority}; policy accept;\n"
        return f" chain {chain} {{\n{head}{''.join(rules)} }}\n"

    def _copied(self) -> Iterator[tuple[str, Holder, Family, Rule]]:
        """Our rules in the raw tables, and the chains that get a copy."""
        for family in self.families:
            for rule in raw.of_recorder(family, self.comment):
                for chain, (holder, copied) in _COPIED.items():
                    if rule.chain == copied and (holder == "inet" or self.bridged):
                        yield chain, holder, family, rule

    def _copy(self, holder: Holder) -> None:
        table = name(self.comment)
        requests = [
            Request(
                transactions.NEW_RULE,
                netlink.CREATE | netlink.APPEND,
                [
                    (nft_rule.TABLE, table),
                    (nft_rule.CHAIN, chain),
                    *self._copy_of(rule, of, family),
                ],
            )
            for chain, of, family, rule in self._copied()
            if of == holder
        ]
        for code in transactions.batch(holder, requests).values():
            raise HostError(
                f"nf_tables does not take our rules in a {holder} table: {os.strerror(code)}"
            )

    def _copy_of(self, rule: Rule, holder: Holder, family: Family) -> list[tuple[int, bytes]]:
        """A rule with the condition that its table's family makes."""
        key, values = _IS[holder]
        copy = rule._replace(
            expressions=_is(key, values[family]) + rule.expressions,
            userdata=nft_rule.commented(self.comment),
        )
        return copy.new(transactions.FAMILIES[family])


def _is(key: int, value: bytes) -> bytes:
    """The expressions that compare what a packet is (NFTA_META_, NFTA_CMP_)."""
    load = [(1, _REGISTER), (2, struct.pack("!I", key))]
    compare = [(1, _REGISTER), (2, struct.pack("!I", 0)), (3, netlink.packed([(1, value)]))]
    return nft_rule.expressions([("meta", load), ("cmp", compare)])


def name(comment: str) -> str:
    """The table of the recording whose comment is this."""
    return comment.replace(":", "-")


def remove(comment: str, families: Collection[str] = (*TRACING, *LATE)) -> None:
    """Delete those of some families that are there, all at once. Raises `HostError`."""
    if there := [family for family, one in _there() if one == comment and family in families]:
        command = [nft(), "-f", "-"]
        lines = "".join(f"delete table {family} {name(comment)}\n" for family in there)
        iptables.check(command, process.run(command, lines.encode()))


def comments() -> list[str]:
    """Whose tables there are in the current namespace; none where nf_tables cannot be asked."""
    with contextlib.suppress(HostError):
        return list(dict.fromkeys(comment for _, comment in _there()))
    return []


def _there() -> list[tuple[str, str]]:
    """The families of recorders' tables, and whose they are. `nft list tables` aborts where one rule is odd."""
    return [
        (one.family, f"iptrec:{found[1]}")
        for one in bases.tables((*TRACING, *LATE))
        if (found := bases.OWN.match(one.name))
    ]
