"""Which packets errors are about that come late: those that waited for a neighbour, until it did not answer.

The kernel answers about each of them then, in the order in which they had come (neigh_invalidate of
net/core/neighbour.c), as far as it does not limit that. So where there are as many errors as packets that read
as they are quoted, each is about one. Where there are fewer, it may be any of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from iptrec.names import I64, U64, Mask

_LATE_NS: Final = 5_000_000_000  # three seconds, unless it is set otherwise
_MOST: Final = 64  # that one error may be about: of more it says nothing


class Late(NamedTuple):
    """Positions of packets, of the error that may be about each, and whether it is; shape (n,)."""

    packet: I64
    error: I64
    sure: Mask


def given_up(key: U64, time_ns: I64, packet: Mask, error: Mask) -> Late:
    """Find those that errors are about.

    All of shape (n,), in order. ``key``: of a packet, or of what an error quotes; 0: of neither. ``packet``:
    those that may have waited, ``error``: those that may tell of it.
    """
    some = np.flatnonzero((packet | error) & np.isin(key, key[error]) & (key != 0))
    some = some[np.argsort(key[some], kind="stable")]
    key, time_ns, packet, error = key[some], time_ns[some], packet[some], error[some]
    new = np.ones(len(some), np.bool_)
    new[1:] = (key[1:] != key[:-1]) | (np.diff(time_ns) > _LATE_NS)
    group = np.cumsum(new) - 1
    as_many = np.bincount(group[packet], minlength=len(some)) == np.bincount(
        group[error], minlength=len(some)
    )
    each, its = (np.flatnonzero(one & as_many[group]) for one in (packet, error))
    as_many[group[each[its < each]]] = False
    apart = as_many[group[each]]
    each, its = each[apart], its[apart]
    left = np.flatnonzero(packet & ~as_many[group])
    following = _following(error)[left]
    near = following < len(some)
    left, following = left[near], following[near]
    near = (group[left] == group[following]) & (time_ns[following] - time_ns[left] <= _LATE_NS)
    left, following = left[near], following[near]
    few = np.bincount(following, minlength=len(some))[following] <= _MOST
    left, following = left[few], following[few]
    return Late(
        some[np.concatenate([each, left])],
        some[np.concatenate([its, following])],
        np.arange(len(each) + len(left)) < len(each),
    )


def _following(error: Mask) -> I64:
    """For each the next error behind it; shape (n,), n where there is none."""
    n = len(error)
    following: I64 = np.minimum.accumulate(np.where(error, np.arange(n), n)[::-1])[::-1]
    return following
