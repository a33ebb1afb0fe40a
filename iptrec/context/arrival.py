"""What the kernel makes of a packet that comes in, by what is recorded of routes and settings.

Sources: ip_route_input_slow and ip_mkroute_input (net/ipv4/route.c), __fib_validate_source
(net/ipv4/fib_frontend.c), ip_forward (net/ipv4/ip_forward.c), ip6_forward (net/ipv6/ip6_output.c).
Reasons are the kernel's words (include/net/dropreason-core.h); where it has none for a route of its own kind
they are that route's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from iptrec.context.policed import on_its_way
from iptrec.context.route import (
    BLACKHOLE,
    BROADCAST,
    ERRORS,
    LOCAL_TABLE,
    MULTICAST,
    OWN,
    PROHIBIT,
    UNICAST,
    UNREACHABLE,
)
from iptrec.context.world import UNKNOWN, Fate, dotted, dropped

if TYPE_CHECKING:
    import ipaddress
    from collections.abc import Iterator

    from iptrec.context.route import Route
    from iptrec.context.routing import Found
    from iptrec.context.routing_rules import Flow
    from iptrec.context.world import Arrived, World

    IP = ipaddress.IPv4Address | ipaddress.IPv6Address

_LOOPBACK: Final = 1  # LOOPBACK_IFINDEX
_LEAST_MTU6: Final = 1280
_SIX: Final = 6
_EXACT: Final = 32  # of an address of the host's, not of 127.0.0.0/8
_KINDS: Final = {BLACKHOLE: "BLACKHOLE", UNREACHABLE: "UNREACHABLE", PROHIBIT: "PROHIBIT"}
_BEFORE_OPTIONS: Final = frozenset(
    [
        "IP_RPFILTER",
        "IP_LOCALNET",
        "IP_LOCAL_SOURCE",
        "IP_INVALID_SOURCE",
        "IP_INVALID_DEST",
        "NOT_JOINED",
    ]
)
_SAID: Final = {BLACKHOLE: "blackhole", UNREACHABLE: "unreachable", PROHIBIT: "prohibit"}


def fates(world: World, packet: Arrived) -> list[Fate]:
    """All that may become of it."""
    device = world.devices.get(packet.flow.iif)
    if device is None or device.vrf:
        return [UNKNOWN]
    found = _fates6(world, packet) if packet.flow.dst.version == _SIX else _fates4(world, packet)
    if packet.source_route:
        found = (_with_source_route(world, packet.flow, one) for one in found)
    return list(dict.fromkeys(found))


def wherever(world: World, packet: Arrived) -> Fate:
    """What becomes of it wherever NAT sends it, if that is not to this host; unknown where that depends.

    Of IPv4, whose forwarding is asked for before the route (ip_route_input_slow). What NAT gives it was the
    source of a packet that was routed here, or the destination of one.
    """
    flow = packet.flow
    device = world.devices.get(flow.iif)
    ends = (flow.src, flow.dst)
    plain = device is not None and not device.vrf and not packet.source_route
    if not plain or any(one.version == _SIX or one.is_multicast or one.is_loopback for one in ends):
        return UNKNOWN
    path = f"net/ipv4/conf/{flow.in_}/forwarding"
    if world.setting(path) != 0 or flow.src.is_unspecified or world.tables.custom(4):
        return UNKNOWN
    here = Fate("local")
    if any(one != here for one in _checked(world, flow, flow.dst, 0, here)):
        return UNKNOWN  # what is for this host may be dropped for its source
    why = f"whatever NAT made of its destination, it was not for this host, and {dotted(path)} is 0"
    return dropped("IP_INADDRERRORS", why)


def _with_source_route(world: World, flow: Flow, found: Fate) -> Fate:
    """ip_rcv_options, which comes behind the look-up, but before what that finds is carried out."""
    if found.reason in _BEFORE_OPTIONS:
        return found
    for one in ("all", flow.in_):
        path = f"net/ipv4/conf/{one}/accept_source_route"
        if world.setting(path) == 0:
            return dropped("SOURCE_ROUTE", f"it has a source route, and {dotted(path)} is 0")
    return UNKNOWN


def _fates4(world: World, packet: Arrived) -> Iterator[Fate]:
    flow = packet.flow
    src, dst = flow.src, flow.dst
    if dst.is_multicast:
        yield from _to_group(world, flow)
        return
    if src.is_multicast or int(src) == 2**32 - 1:
        yield _invalid_source(src)
        return
    if int(dst) == 2**32 - 1 or not (int(src) or int(dst)):
        yield from _broadcast(world, flow, "255.255.255.255" if int(dst) else "0.0.0.0")  # noqa: S104
        return
    if src.is_unspecified or dst.is_unspecified:
        reason, end = (
            ("IP_INVALID_SOURCE", "source")
            if src.is_unspecified
            else ("IP_INVALID_DEST", "destination")
        )
        yield dropped(reason, f"0.0.0.0 cannot be its {end}")
        return
    if dst.is_loopback or src.is_loopback:
        allowed, said = _either(world, flow, "route_localnet")
        if allowed is None:
            yield UNKNOWN
        if not allowed:
            which = f"its destination {dst}" if dst.is_loopback else f"its source {src}"
            yield dropped("IP_LOCALNET", f"{which} is a loopback address, {said}")
        if allowed is False:
            return
    for found in world.tables.lookup(flow):
        yield from _routed4(world, packet, found)


def _routed4(world: World, packet: Arrived, found: Found) -> Iterator[Fate]:
    flow = packet.flow
    if found.kind == OWN and found.route is not None:
        yield from _checked(world, flow, flow.dst, 0, Fate("local", text=world.route(found.route)))
        return
    if found.kind == BROADCAST and found.route is not None:
        yield from _broadcast(world, flow, world.route(found.route))
        return
    path = f"net/ipv4/conf/{flow.in_}/forwarding"
    forwards = world.setting(path)
    if forwards is None:
        yield UNKNOWN
        return
    if not forwards:
        why = f"{flow.dst} is not an address of this host, and {dotted(path)} is 0"
        yield dropped("IP_INADDRERRORS", why)
    elif found.kind != UNICAST:
        yield _no_way(world, flow, found)
    elif found.route is None or not found.links:
        yield UNKNOWN
    else:
        for link in found.links:
            onward = _forwarded4(world, packet, found.route, link)
            for one in on_its_way(world, flow, link, onward):
                yield from _checked(world, flow, flow.dst, link, one)


def _no_way(world: World, flow: Flow, found: Found) -> Fate:
    """No route, or one that leads nowhere."""
    route, rule = found.route, found.rule
    six = flow.dst.version == _SIX
    if not found.kind:
        nowhere = f"routing would have dropped it: there is no route to {flow.dst}"
        return Fate("dropped", "IP_INNOROUTES", nowhere)
    if found.kind not in ERRORS:
        return dropped("IP_INVALID_DEST", f"{flow.dst} cannot be forwarded to")
    reason = "IP_INNOROUTES" if six and found.kind != BLACKHOLE else _KINDS[found.kind]
    if route is None:
        why = f"routing rule {rule.priority if rule else '?'} is {_SAID[found.kind]}"
        return dropped("IP_INNOROUTES" if found.kind == UNREACHABLE else reason, why)
    return dropped(reason, f"the route is {world.route(route)}")


def _forwarded4(world: World, packet: Arrived, route: Route, link: int) -> Fate:
    """What ip_forward makes of it."""
    way = world.route(route)
    if packet.hops is not None and packet.hops <= 1:
        return dropped("IP_INHDR", f"its TTL is {packet.hops} ({way})", "forwarding")
    mtu = route.mtu or _mtu(world, link)
    if packet.length is None or mtu is None or packet.hops is None:
        return UNKNOWN
    if packet.length > mtu:
        if packet.whole is None:
            return UNKNOWN
        if packet.whole:
            where = f"the MTU of {'the route' if route.mtu else world.name(link)} is {mtu} ({way})"
            why = f"it has {packet.length} bytes and DF, {where}"
            return dropped("PKT_TOO_BIG", why, "forwarding")
    return Fate("forwarded", text=way, link=link)


def _mtu(world: World, link: int) -> int | None:
    return world.devices[link].mtu if link in world.devices else None


def _broadcast(world: World, flow: Flow, what: str) -> Iterator[Fate]:
    """To this host and others; forwarded only where all interfaces together and this one say so."""
    if world.setting("net/ipv4/conf/all/bc_forwarding"):
        yield UNKNOWN
        return
    passed = Fate("local", text=what)
    if flow.src.is_unspecified:
        yield passed
        return
    yield from _checked(world, flow, None, 0, passed)


def _to_group(world: World, flow: Flow) -> Iterator[Fate]:
    """ip_route_input_rcu, ip_mc_validate_source: of IPv4."""
    if (elsewhere := _not_joined(world, flow)) is not None:
        yield elsewhere
    elif flow.src.is_multicast or int(flow.src) == 2**32 - 1:
        yield _invalid_source(flow.src)
    elif flow.src.is_loopback or flow.src.is_unspecified:
        yield UNKNOWN
    else:
        yield from _checked(world, flow, None, 0, Fate("local", text=f"the group {flow.dst}"))


def _not_joined(world: World, flow: Flow) -> Fate | None:
    """What becomes of a packet to a group that the host has not joined; None where it has."""
    joined = world.joined(flow.in_, flow.dst)
    forwards = world.setting(f"net/ipv{flow.dst.version}/conf/all/mc_forwarding")
    if joined is None or (not joined and forwards != 0):
        return UNKNOWN
    if not joined:
        return dropped("NOT_JOINED", f"{flow.in_} has not joined the group {flow.dst}")
    return None


def _invalid_source(src: IP) -> Fate:
    kind = "multicast" if src.is_multicast else "broadcast"
    return dropped("IP_INVALID_SOURCE", f"its source {src} is a {kind} address")


def _checked(world: World, flow: Flow, dst: IP | None, out: int, passed: Fate) -> Iterator[Fate]:
    """fib_validate_source: what is dropped for its source, else ``passed``."""
    strict, said = _highest(world, flow, "rp_filter")
    if strict is None:
        yield UNKNOWN
        return
    allowed, _ = _either(world, flow, "accept_local")
    redirects = world.setting("net/ipv4/conf/all/send_redirects")
    if not strict and (out != flow.iif or not redirects):
        if allowed or not world.tables.custom(4):
            yield from _own_source(world, flow, passed)
        if allowed and out != flow.iif and not world.tables.realms:
            return
    # Also where there was a rule of somebody's own once, which is gone, the kernel checks all of it.
    yield from _fully_checked(world, flow, dst, out, passed, (strict, said))


def _own_source(world: World, flow: Flow, passed: Fate) -> Iterator[Fate]:
    """Of a packet from one of the host's own addresses, where nothing else is asked."""
    accepted, said = _either(world, flow, "accept_local")
    nearest = next(world.tables.covering(LOCAL_TABLE, flow.src), [])
    mine = any(one.kind == OWN and one.network.prefixlen == _EXACT for one in nearest)
    if not mine or accepted is not False:
        yield passed
    if mine and not accepted:
        yield _local_source(flow, said)


def _local_source(flow: Flow, said: str) -> Fate:
    return dropped("IP_LOCAL_SOURCE", f"its source {flow.src} is an address of this host, {said}")


def _fully_checked(
    world: World, flow: Flow, dst: IP | None, out: int, passed: Fate, rp: tuple[int, str]
) -> Iterator[Fate]:
    """__fib_validate_source."""
    strict, said = rp
    marked, _ = _either(world, flow, "src_valid_mark")
    zero = flow.src.__class__(0)
    back = flow._replace(
        src=dst or zero,
        dst=flow.src,
        iif=out or _LOOPBACK,
        in_=world.name(out) if out else "lo",
        mark=flow.mark if marked else None if marked is None else 0,
        sport=flow.dport,
        dport=flow.sport,
    )
    accepted, accepts = _either(world, flow, "accept_local")
    for found in world.tables.lookup(back):
        if found.kind in ERRORS or not found.kind or found.route is None:
            yield _unrouted(world, flow, found, strict, said) if strict else passed
        elif found.kind == OWN and accepted is None:
            yield UNKNOWN
        elif found.kind == OWN and not accepted:
            yield _local_source(flow, accepts)
        elif found.kind not in (UNICAST, OWN):
            kind = {BROADCAST: "broadcast", MULTICAST: "multicast"}.get(found.kind, "such")
            why = f"its source {flow.src} is a {kind} address ({world.route(found.route)})"
            yield dropped("IP_INVALID_SOURCE", why)
        elif flow.iif in found.links or not strict:
            yield passed
        elif not found.links:
            yield UNKNOWN
        else:
            yield from _filtered(world, flow, found.route, strict, said, passed)


def _filtered(
    world: World, flow: Flow, route: Route, strict: int, said: str, passed: Fate
) -> Iterator[Fate]:
    """The way back is by another interface."""
    addressed = any(flow.iif in one.links for one in world.tables.own(4))
    links = " and ".join(map(world.name, route.links))
    why = f"the route to {flow.src} is by {links} ({world.route(route)}), {said}"
    if strict == 1:
        yield dropped("IP_RPFILTER", why, "strict reverse path filtering")
    elif addressed:
        yield passed
    else:
        why = f"{why}, and {flow.in_} has no address"
        yield dropped("IP_RPFILTER", why, "loose reverse path filtering")


def _unrouted(world: World, flow: Flow, found: Found, strict: int, said: str) -> Fate:
    how = "strict" if strict == 1 else "loose"
    to = f"the route to {flow.src} is {world.route(found.route)}" if found.route else ""
    if not to and found.rule is not None and found.kind in ERRORS:
        to = f"routing rule {found.rule.priority} to {flow.src} is {_SAID[found.kind]}"
    why = f"{to or f'there is no route to {flow.src}'}, {said}"
    return dropped("IP_RPFILTER", why, f"{how} reverse path filtering")


def _highest(world: World, flow: Flow, key: str) -> tuple[int | None, str]:
    """The higher one of what all interfaces together and this one say, and the setting in words."""
    paths = [f"net/ipv4/conf/{one}/{key}" for one in (flow.in_, "all")]
    values = [world.setting(one) for one in paths]
    known = [one for one in values if one is not None]
    if len(known) < len(values):
        return None, ""
    path = paths[0] if known[0] >= known[1] else paths[1]
    return max(known), f"{dotted(path)} is {max(known)}"


def _either(world: World, flow: Flow, key: str) -> tuple[bool | None, str]:
    """Whether all interfaces together or this one allow something, and that this one does not."""
    found, said = _highest(world, flow, key)
    return (None if found is None else bool(found)), said


def _fates6(world: World, packet: Arrived) -> Iterator[Fate]:
    flow = packet.flow
    if flow.dst.is_multicast:
        yield _not_joined(world, flow) or Fate("local", text=f"the group {flow.dst}")
        return
    for found in world.tables.lookup(flow):
        if found.kind == 0 or found.kind in ERRORS:
            yield _no_way(world, flow, found)
        elif found.route is None:
            yield UNKNOWN
        elif found.kind != UNICAST:
            yield Fate("local", text=world.route(found.route))
        elif not found.links:
            yield UNKNOWN
        else:
            yield from _onward6(world, packet, found.route, found.links)


def _onward6(world: World, packet: Arrived, route: Route, links: tuple[int, ...]) -> Iterator[Fate]:
    """A packet that is not for this host."""
    off = _is_off6(world, packet.flow)
    if off is not None:
        yield off
        return
    for link in links:
        onward = _forwarded6(world, packet, route, link)
        yield from on_its_way(world, packet.flow, link, onward)


def _is_off6(world: World, flow: Flow) -> Fate | None:
    """What becomes of it where nothing is forwarded."""
    forwards = world.setting("net/ipv6/conf/all/forwarding")
    own = world.setting(f"net/ipv6/conf/{flow.in_}/force_forwarding")
    if forwards is None:
        return UNKNOWN
    if forwards or own:
        return None
    why = f"{flow.dst} is not an address of this host, and net.ipv6.conf.all.forwarding is 0"
    return dropped("IP_INADDRERRORS", why)


def _forwarded6(world: World, packet: Arrived, route: Route, link: int) -> Fate:
    """What ip6_forward makes of it."""
    flow, way = packet.flow, world.route(route)
    if packet.hops is None:
        return UNKNOWN
    if packet.hops <= 1:
        return dropped("IP_INHDR", f"its hop limit is {packet.hops} ({way})", "forwarding")
    src = flow.src
    if link != flow.iif and (
        src.is_unspecified or src.is_multicast or src.is_loopback or src.is_link_local
    ):
        return dropped("IP_INADDRERRORS", f"packets from {src} are not forwarded", "forwarding")
    mtu = world.setting(f"net/ipv6/conf/{world.name(link)}/mtu")
    mtu = route.mtu if route.locked and route.mtu else mtu or _mtu(world, link)
    if packet.length is None or mtu is None:
        return UNKNOWN
    if packet.length > max(mtu, _LEAST_MTU6):
        where = f"the MTU of {world.name(link)} is {mtu} ({way})"
        return dropped("PKT_TOO_BIG", f"it has {packet.length} bytes, {where}", "forwarding")
    return Fate("forwarded", text=way, link=link)
