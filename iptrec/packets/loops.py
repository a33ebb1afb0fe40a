"""What the kernel loops back to its own host, and how the two traversals of such a packet are told.

All that leaves by the loopback interface comes in by it, at once and as it left POSTROUTING
(drivers/net/loopback.c). Multicasts and broadcasts are cloned for the listeners here, and come in by the
interface that they leave by without ever having had a frame (net/core/dev.c, dev_loopback_xmit).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from iptrec.names import AF_BRIDGE, HOOKS
from iptrec.packets.identity import combined

if TYPE_CHECKING:
    import numpy.typing as npt

    from iptrec.decode.events import TraceEvents
    from iptrec.names import I64, U64, Mask
    from iptrec.packets.identity import Packets

# The kernel lets no network namespace have another one (drivers/net/loopback.c, loopback_net_init).
LOOPBACK: Final = 1
# The softirq that receives follows at once; what is told of it may be received this much later.
LOOP_NS: Final = 1_000_000_000
LEFT: Final = ("left_as", "left_to", "left_from", "left_cast")
CAME: Final = ("came_as", "came_to", "came_from", "came_cast")
_ETHERNET: Final = 1  # ARPHRD_ETHER
_OUTPUT, _POSTROUTING = HOOKS.index("OUTPUT"), HOOKS.index("POSTROUTING")


def left_keys(
    events: TraceEvents, begun: I64, ended: I64, key: U64, last: Packets, lost: Mask
) -> dict[str, npt.NDArray[Any]]:
    """By what a looped packet is found again: all of its flow, or the end of it that NAT left alone.

    NAT without a rule that is told (a connection's later packets, the last rule of POSTROUTING) changes one
    end after the ``last`` event. ``lost``: the rules dropped it. 0: it cannot have been looped.
    """
    hook = events.hook[ended]
    # A bridge's chains tell of its ports; what they drop was looped before.
    bridged = events.family[ended] == AF_BRIDGE
    lost = lost & ~bridged
    out = np.where(bridged, events.outdev[begun], events.outdev[ended])
    own = (events.hook[begun] == _OUTPUT) & ~lost
    by_loopback = ~lost & (out == LOOPBACK) & (own | (events.hook[begun] == _POSTROUTING))
    rerouted = own & (hook == _OUTPUT)  # it may leave by another interface than it was to
    source, destination = last.end_keys()
    found = (
        _where(own | by_loopback, key, last.flow_keys(), out),
        _where(by_loopback | rerouted, key, destination),
        _where(rerouted, key, source),
        _where(own, key, destination, out),  # POSTROUTING translates a clone's source
    )
    return dict(zip(LEFT, found, strict=True))


def came_keys(
    events: TraceEvents, begun: I64, key: U64, first: Packets
) -> dict[str, npt.NDArray[Any]]:
    """The same keys of what came in; 0 where it came from outside."""
    into = events.indev[begun]
    by_loopback = into == LOOPBACK
    frameless = (into != 0) & (events.link_length[begun] == 0)
    # Tunnels have no frames, either.
    cloned = frameless & (events.intype[begun] == _ETHERNET)
    source, destination = first.end_keys()
    found = (
        _where(by_loopback | frameless, key, first.flow_keys(), into),
        _where(by_loopback, key, destination),
        _where(by_loopback, key, source),
        _where(cloned, key, destination, into),
    )
    return dict(zip(CAME, found, strict=True))


def _where(chosen: Mask, *columns: npt.NDArray[Any]) -> U64:
    mixed = combined([one.astype(np.uint64) for one in columns])
    return np.where(chosen, mixed, np.uint64(0))
