"""What IPsec's policies make of a packet at a moment.

Sources: ip_forward (net/ipv4/ip_forward.c), ip6_forward (net/ipv6/ip6_output.c), ip_protocol_deliver_rcu
(net/ipv4/ip_input.c) and its like of IPv6; DST_NOXFRM, IPSKB_NOPOLICY.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from iptrec.context.world import dropped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.context.policies import Direction
    from iptrec.context.routing_rules import Flow
    from iptrec.context.world import Fate, World

_SIX: Final = 6


def on_its_way(world: World, flow: Flow, link: int, onward: Fate) -> Iterator[Fate]:
    """What becomes of a packet that is to be forwarded: IPsec's policies come first, and after its hops."""
    if not world.policies.every:
        yield onward
        return
    for said in why(world, "fwd", flow, link):
        if said is not None or onward.reason == "IP_INHDR":
            yield onward if said is None else by_policy(said)
            continue
        for other in why(world, "out", flow, link):
            yield onward if other is None else by_policy(other)


def why(world: World, direction: Direction, flow: Flow, link: int | None) -> list[str | None]:
    """All that may be why IPsec's policies drop it; None: they let it pass."""
    found = world.policies.why(direction, flow, link)
    if found == [None]:
        return found
    version = 6 if flow.dst.version == _SIX else 4
    name, key = flow.in_, "disable_policy"
    if direction == "out":
        name, key = world.name(link or 0), "disable_xfrm"
    off = [world.setting(f"net/ipv{version}/conf/{one}/{key}") for one in ("all", name)]
    if version == 4 and any(off):  # noqa: PLR2004
        return [None]
    # Of IPv6 it depends on the kernel's version.
    return [*found, None] if any(off) and None not in found else found


def by_policy(policy: str) -> Fate:
    """A policy of IPsec drops it."""
    return dropped("XFRM_POLICY", policy, "IPsec's policies")
