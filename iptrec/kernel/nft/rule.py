"""A rule of nf_tables as the kernel holds it: bytes, which go back into it as they came out.

include/uapi/linux/netfilter/nf_tables.h. What the kernel gives is what it takes, but for two things. It does
not give NFTA_RULE_COMPAT, the protocol by which it checks extensions of iptables (net/netfilter/nft_compat.c,
nft_parse_compat); iptables-nft matches the protocol in the rule as well, so it is found there. And it gives a
few zeros that it refuses (nft_dynset_init, nft_exthdr_tcp_set_init, nft_osf_init); a rule without them is the
same.
"""

from __future__ import annotations

import base64
import re
import struct
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from iptrec.kernel.netlink import attributes, packed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

TABLE, CHAIN, HANDLE, EXPRESSIONS, COMPAT, POSITION, USERDATA = 1, 2, 3, 4, 5, 6, 7  # NFTA_RULE_
_ELEMENT, _NAME, _DATA = 1, 1, 2  # NFTA_LIST_ELEM, NFTA_EXPR_
_COMPAT_PROTOCOL, _COMPAT_FLAGS, _INVERTED = 1, 2, 2
_EXTENSIONS: Final = ("match", "target")
_COUNTED_PACKETS: Final = 2  # NFTA_COUNTER_PACKETS
_COUNTS: Final = {"counter": (1, 2), "quota": (4,), "last": (1, 2)}  # their attributes that change
# Attributes that are refused where they are 0: NFTA_DYNSET_TIMEOUT, NFTA_EXTHDR_FLAGS, NFTA_OSF_FLAGS.
_ZEROS: Final = {"dynset": 6, "exthdr": 5, "osf": 3}
ANONYMOUS_CHAIN: Final = (
    "__chain"  # how the name of one begins; nft lists it with the rule that has it
)
_ANONYMOUS: Final = re.compile(rb"__(set|map|chain)\d+\0")
_EQUAL, _NOT_EQUAL = 0, 1  # NFT_CMP_
# Expressions that load the number of the protocol: attribute -> its value, and which is the register's.
_LOADS: Final[dict[int, tuple[tuple[str, dict[int, int]], ...]]] = {
    1: (("meta", {2: 16}),),
    2: (("meta", {2: 16}), ("payload", {2: 1, 3: 9, 4: 1})),
    7: (("meta", {2: 16}),),
    10: (("meta", {2: 16}), ("payload", {2: 1, 3: 6, 4: 1})),
}  # NFTA_META_KEY: NFT_META_L4PROTO; NFTA_PAYLOAD_BASE: the network header, OFFSET, LEN
_REGISTER: Final = 1  # NFTA_META_DREG, NFTA_PAYLOAD_DREG, NFTA_CMP_SREG


class Rule(NamedTuple):
    """One that --flush takes out; ``userdata`` is nft's own, such as a comment.

    ``text``: as nft lists it, for humans.
    """

    chain: str
    handle: bytes
    expressions: bytes
    userdata: bytes
    text: str = ""

    @classmethod
    def of(cls, found: dict[int, bytes]) -> Self:
        """One that was dumped, of its attributes."""
        chain = found[CHAIN].rstrip(b"\0").decode("utf-8", "surrogateescape")
        return cls(chain, found[HANDLE], found.get(EXPRESSIONS, b""), found.get(USERDATA, b""))

    @classmethod
    def read(cls, line: str) -> Self:
        """One that was written down as a `line`. Raises ValueError."""
        chain, expressions, userdata, text = line.split(" ", 3)
        return cls(chain, b"", _decoded(expressions), _decoded(userdata), text)

    @property
    def line(self) -> str:
        """All that is needed to put it back, as text."""
        return f"{self.chain} {_encoded(self.expressions)} {_encoded(self.userdata)} {self.text}"

    @property
    def readable(self) -> str:
        """The rule on one line, for humans."""
        return f"{self.chain} {self.text}"

    @property
    def content(self) -> bytes:
        """Where the comment is: iptables-nft puts it here or there."""
        return self.expressions + self.userdata

    @property
    def identity(self) -> tuple[object, ...]:
        """Equal for equal rules, whatever they have counted.

        An attribute without a value is what some machines align those of 64 bits with.
        """
        return self.userdata, *(
            (
                name,
                *(
                    one
                    for one in attributes(data)
                    if one[1] and one[0] not in _COUNTS.get(name, ())
                ),
            )
            for name, data in self._parts()
        )

    @property
    def anonymous(self) -> str | None:
        """Which kind of thing without a name it refers to, and takes along when it is deleted."""
        found = _ANONYMOUS.search(self.expressions)
        return None if found is None else found[1].decode()

    @property
    def packets(self) -> int:
        """How many packets came to its counters; 0 without one."""
        found = [dict(attributes(data)) for name, data in self._parts() if name == "counter"]
        return max((number(one.get(_COUNTED_PACKETS, b"")) for one in found), default=0)

    @property
    def matches(self) -> set[str]:
        """The names of its expressions, unless what they count comes back, and of iptables' extensions."""
        found = [(name, dict(attributes(data))) for name, data in self._parts()]
        names = (
            data.get(_NAME, b"").rstrip(b"\0").decode("utf-8", "replace")
            for name, data in found
            if name in _EXTENSIONS
        )
        return {name for name, _ in found if name not in _COUNTS}.union(names)

    def new(self, family: int) -> list[tuple[int, bytes]]:
        """The attributes of NFT_MSG_NEWRULE, but for table, chain and place."""
        found = [(EXPRESSIONS, packed((_ELEMENT, one) for one in self._accepted()))]
        if self.userdata:
            found.append((USERDATA, self.userdata))
        if any(name in _EXTENSIONS for name, _ in self._parts()):
            found += ((COMPAT, one) for one in self._protocols(family))
        return found

    def _accepted(self) -> Iterator[bytes]:
        """The expressions without the zeros that the kernel refuses."""
        for _, element in attributes(self.expressions):
            name, data = _part(element)
            if (zero := _ZEROS.get(name)) is None:
                yield element
                continue
            kept = [one for one in attributes(data) if one[0] != zero or any(one[1])]
            yield _expression(name, kept)

    def _protocols(self, family: int) -> Iterator[bytes]:
        """NFTA_RULE_COMPAT; nothing where the rule is about every protocol."""
        loaded: set[bytes] = set()  # registers
        for name, data in self._parts():
            found = dict(attributes(data))
            register = found.get(_REGISTER, b"")
            if name == "cmp" and register in loaded:
                yield from _compat(number(found[2]), found[3])
                return
            loaded.discard(register)
            if any(
                name == loads
                and all(number(found.get(one, b"")) == value for one, value in wanted.items())
                for loads, wanted in _LOADS[family]
            ):
                loaded.add(register)

    def _parts(self) -> Iterator[tuple[str, bytes]]:
        """Name and attributes of each expression."""
        return parts(self.expressions)


def parts(expressions: bytes) -> Iterator[tuple[str, bytes]]:
    """Name and attributes of each expression of a rule."""
    return (_part(element) for _, element in attributes(expressions))


def uncounted(expressions: bytes) -> bytes:
    """A rule's expressions but for those that count: what they have counted is none of it."""
    elements = (element for _, element in attributes(expressions))
    return packed((_ELEMENT, one) for one in elements if _part(one)[0] not in _COUNTS)


def expressions(told: Iterable[tuple[str, list[tuple[int, bytes]]]]) -> bytes:
    """Expressions of their names and attributes, as `Rule.expressions` has them."""
    return packed((_ELEMENT, _expression(name, values)) for name, values in told)


def commented(comment: str) -> bytes:
    """The userdata of a rule that has a comment (NFTNL_UDATA_RULE_COMMENT)."""
    told = comment.encode() + b"\0"
    return bytes([0, len(told)]) + told


def _expression(name: str, values: Iterable[tuple[int, bytes]]) -> bytes:
    """One of them, what `_part` takes apart."""
    return packed([(_NAME, name.encode() + b"\0"), (_DATA, packed(values))])


def _part(element: bytes) -> tuple[str, bytes]:
    found = dict(attributes(element))
    return found[_NAME].rstrip(b"\0").decode(), found.get(_DATA, b"")


def _compat(operation: int, data: bytes) -> Iterator[bytes]:
    """What a comparison says of the protocol, if it says which it is or is not."""
    value = dict(attributes(data)).get(1, b"")
    if len(value) == 1 and operation in (_EQUAL, _NOT_EQUAL):
        flags = _INVERTED if operation == _NOT_EQUAL else 0
        yield packed(
            [
                (_COMPAT_PROTOCOL, struct.pack("!I", value[0])),
                (_COMPAT_FLAGS, struct.pack("!I", flags)),
            ]
        )


def _encoded(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _decoded(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def understood(line: str) -> bool:
    """Whether `Rule.read` takes it."""
    try:
        return bool(Rule.read(line).identity)
    except (ValueError, KeyError, struct.error):
        return False


def number(value: bytes) -> int:
    """A u32, or u64, as nf_tables writes them."""
    return int.from_bytes(value, "big")
