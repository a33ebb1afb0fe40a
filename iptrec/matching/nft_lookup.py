"""Whether a packet is in a set of nf_tables: yes, no, or it cannot be known.

Elements of a set do not overlap (net/netfilter/nft_set_*.c). Those that end by themselves are told of the time
when they were listed; what rules add and delete, nobody tells. What commands do, the kernel tells (`Followed`).
"""

from __future__ import annotations

import bisect
import functools
import ipaddress
from typing import TYPE_CHECKING, Final

from iptrec.decode.rulesets.nft_matches import Flags, Joined, Prefix, Range
from iptrec.decode.rulesets.nft_sets import NftSet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from iptrec.decode.rulesets.nft_matches import Element, OneOf, Scalar
    from iptrec.decode.rulesets.nft_sets import Member
    from iptrec.matching.facts import Followed

_SECOND_NS: Final = 1_000_000_000


def span(value: Element, number: Callable[[Scalar], int | str]) -> tuple[int, int] | str:
    """The numbers that a value stands for, from and to; or a name. Raises ValueError and its like."""
    match value:
        case Range(low, high):
            return _as_int(number(low)), _as_int(number(high))
        case Prefix(str(address), length):
            network = ipaddress.ip_network((address, length), strict=False)
            return int(network.network_address), int(network.broadcast_address)
        case Flags(names):
            bits = functools.reduce(int.__or__, (_as_int(number(name)) for name in names), 0)
            return bits, bits
        case Joined() | Prefix():
            raise ValueError(value)
    found = number(value)
    return found if isinstance(found, str) else (found, found)


def _as_int(value: int | str) -> int:
    if isinstance(value, str):
        raise TypeError(value)
    return value


def fits(own: int | str, wanted: tuple[int, int] | str) -> bool:
    """Whether a packet's value is what a set has; a name may be the beginning of one ("eth*")."""
    if isinstance(wanted, str):
        if wanted.endswith("\\*"):  # a name that ends so
            return own == f"{wanted[:-2]}*"
        return str(own).startswith(wanted[:-1]) if wanted.endswith("*") else own == wanted
    return not isinstance(own, str) and wanted[0] <= own <= wanted[1]


def among(
    own: Sequence[int | str | None],
    values: OneOf,
    numbers: Sequence[Callable[[Scalar], int | str]],
) -> bool | None:
    """Whether an anonymous set has these values, one for each part; None in the place of what is not known."""
    index = _anonymous(values, tuple(numbers))
    return index.find(own)


@functools.lru_cache(maxsize=256)
def _anonymous(values: OneOf, numbers: tuple[Callable[[Scalar], int | str], ...]) -> _Index:
    return _Index([(value, True) for value in values.values], numbers)


def contains(
    one: NftSet | Followed,
    own: Sequence[int | str | None],
    numbers: Sequence[Callable[[Scalar], int | str]],
    time_ns: tuple[int, int],
) -> bool | None:
    """Whether a named set had these values between two times (epoch)."""
    if not isinstance(one, NftSet):
        return one.has(own, time_ns)
    if one.changing:
        return None
    key = tuple(numbers)
    if key not in one.cache:
        one.cache[key] = _Index([(each.key, each) for each in one.members], key)
    found = one.cache[key].find(own, lambda member: _stays(member, one.listed_ns, time_ns))
    return None if found is False and one.expiring and time_ns[0] < one.listed_ns[1] else found


def _stays(member: Member, listed_ns: tuple[int, int], time_ns: tuple[int, int]) -> bool | None:
    """Whether a member was one; nft tells whole seconds."""
    if member.expires_s is None:
        return True
    first, last = (one + member.expires_s * _SECOND_NS for one in listed_ns)
    if time_ns[1] < first - _SECOND_NS:
        return True
    return False if time_ns[0] > last + 2 * _SECOND_NS else None


class _Index:
    """The elements of a set, to be found by the values of a packet."""

    def __init__(
        self,
        elements: Iterable[tuple[Element, object]],
        numbers: Sequence[Callable[[Scalar], int | str]],
    ) -> None:
        self._rows: list[tuple[tuple[tuple[int, int] | str, ...], object]] = []
        self._strange = False  # an element that is not understood may be the one
        for value, what in elements:
            parts = value.parts if isinstance(value, Joined) else (value,)
            try:
                spans = tuple(map(span, parts, numbers))
            except (ValueError, TypeError, LookupError, OverflowError):
                self._strange = True
                continue
            if len(parts) == len(numbers):
                self._rows.append((spans, what))
        self._sorted = len(numbers) == 1 and not any(
            isinstance(row[0][0], str) for row in self._rows
        )
        if self._sorted:
            self._rows.sort(key=lambda row: row[0])
            self._lows = [row[0][0][0] for row in self._rows]

    def find(
        self,
        own: Sequence[int | str | None],
        stays: Callable[..., bool | None] = lambda _: True,
    ) -> bool | None:
        """Whether one has these values; None where it is not known."""
        rows: Iterable[tuple[tuple[tuple[int, int] | str, ...], object]] = self._rows
        if self._sorted and isinstance(own[0], int):
            at = bisect.bisect_right(self._lows, own[0])
            rows = self._rows[max(at - 1, 0) : at]
        found = _any(_all(own, spans, stays(what)) for spans, what in rows)
        return None if found is False and self._strange else found


def _all(
    own: Sequence[int | str | None], spans: Sequence[tuple[int, int] | str], stays: bool | None
) -> bool | None:
    if stays is False:
        return False
    unknown = stays is None
    for value, wanted in zip(own, spans, strict=True):
        if value is None:
            unknown = True
        elif not fits(value, wanted):
            return False
    return None if unknown else True


def _any(found: Iterable[bool | None]) -> bool | None:
    unknown = False
    for one in found:
        if one:
            return True
        unknown |= one is None
    return None if unknown else False
