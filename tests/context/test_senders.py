"""Whose packets are by what the kernel told of senders: nobody's where it may have been another one."""

from __future__ import annotations

import ipaddress
import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from answers.test_ends import DONE, KNOWN, SECOND, TIME, with_sockets
from answers.test_owners import sock
from handmade import HandMade, attribute, netlink

from iptrec.context.owners import Local, SocketOwners, When
from iptrec.context.sockets import Sockets
from iptrec.decode.owners import Owner
from iptrec.kernel.senders.program import LAYOUT
from iptrec.recording.rows import Loss, Stream

HERE, THERE = "10.1.0.1", "10.1.0.9"
TCP, UDP, ICMP = 6, 17, 1
SYN_SENT, ESTABLISHED = 2, 1
ID = "4f" * 32
A, B = Owner(7, 100, "a", "/x"), Owner(8, 200, "b", f"/docker-{ID}.scope", ID)
EARLY, SOON, LATER = TIME - 5 * SECOND, TIME - SECOND // 1000, TIME + 5 * SECOND


def fact(
    owner=A, *, inode=1, since=EARLY, protocol=UDP, port=4000, own=HERE, peer=THERE, peer_port=53,
    state=ESTABLISHED, time=None,
):  # fmt: skip
    """What the program at OUTPUT would write."""
    made = np.zeros(1, LAYOUT)
    addresses = [ipaddress.ip_address(one).packed.ljust(16, b"\0") for one in (own, peer)]
    for name, value in {
        "inode": inode, "cgroup": {"/x": 1}.get(owner.cgroup, 2), "pid": owner.pid, "uid": owner.uid,
        "protocol": protocol, "family": 6 if ":" in own else 4, "port": port, "peer_port": peer_port,
        "comm": owner.comm.encode(), "since": since, "state": state, "time": time or since,
    }.items():  # fmt: skip
        made[name] = value
    made["address"], made["peer"] = (np.void(one) for one in addresses)
    return made.tobytes()


def loose(owner=A, **given):
    """Of a socket without a peer, bound to any address."""
    return fact(owner, own="0.0.0.0", peer="0.0.0.0", peer_port=0, **given)  # noqa: S104


def tcp(owner=A, *, state=SYN_SENT, peer_port=443, **given):
    return fact(owner, protocol=TCP, state=state, peer_port=peer_port, **given)


def echo(owner=A, **given):
    return loose(owner, protocol=ICMP, port=77, state=7, **given)


def listening(port):
    """A socket of TCP that is not in need of more."""
    return sock(9, port=port)


def owners(facts, *, first=(), last=(), closed=(), listening=(), lists=2, lost=()):
    made = HandMade()
    made.facts = replace(made.facts, closed=lists == 2)
    made.streams.append(Stream(5, 1, "senders", {}))
    times = [int(np.frombuffer(one, LAYOUT)["time"][0]) for one in facts]
    made.received(5, times, facts)
    made.snapshot("sender-cgroups", json.dumps({1: "/x", 2: B.cgroup}).encode(), 1)
    listed = [
        (time, b"".join(listening) + DONE * 2 + b"".join(sockets) + DONE * 2)
        for time, sockets in ((1, first), (1000 * SECOND, last))
    ]
    with_sockets(made, listed[:lists], closed, KNOWN)
    made.snapshot("owners", b'{"processes": [], "cgroups": {}, "unread": 0, "cut": false}', 1)
    made.losses += [Loss(5, *one, 1, "ring-full") for one in lost]
    found = SocketOwners(made, 1, Sockets(made, 1))
    found.update()
    return found


def packet(
    protocol=UDP, *, port=4000, own=HERE, peer=THERE, peer_port=53, sent=False, begins=False
):
    address, other = ipaddress.ip_address(own), ipaddress.ip_address(peer)
    return Local(protocol, address, port, other, peer_port, 2, sent, begins)


SENT, GOT = packet(sent=True), packet()
TCP_SENT, TCP_GOT = (packet(TCP, peer_port=443, sent=one) for one in (True, False))
NOW = When(TIME, TIME, TIME + 1000)


def gone(time, cookie=1, **given):
    """That a socket was closed: its inode is not told then."""
    told = bytearray(sock(cookie, port=4000, **given))
    told[16 + 68 : 16 + 72] = bytes(4)
    return time, bytes(told) + b""


CASES = {
    "sent": (SENT, [fact()], {}, A),
    "got": (GOT, [fact()], {}, A),
    "a container": (GOT, [fact(B)], {}, B),
    "the moment that it was told": (SENT, [fact(since=TIME + 500)], {}, A),
    "before it was told": (SENT, [fact(since=LATER)], {}, None),
    "another peer's": (packet(peer="10.1.0.8"), [fact()], {}, None),
    "another address": (packet(own="10.1.0.2"), [fact()], {}, None),
    "another port": (packet(port=4001), [fact()], {}, None),
    "another protocol": (TCP_GOT, [fact()], {}, None),
    "IPv6": (
        packet(own="fd00::1", peer="fd00::9"), [fact(own="fd00::1", peer="fd00::9")], {}, A,
    ),
    "not connected": (GOT, [loose()], {}, A),
    "connected is more": (GOT, [loose(B, inode=2), fact()], {}, A),
    "a name that changed": (
        SENT, [fact(since=EARLY - 9), fact(replace(A, comm="z"))], {}, replace(A, comm="z"),
    ),
    "a name that will change": (SENT, [fact(), fact(replace(A, comm="z"), since=LATER)], {}, A),
    "shared by two": (SENT, [fact(), fact(replace(B, uid=7))], {}, Owner(uid=7)),
    "shared by two later": (SENT, [fact(), fact(B, since=LATER)], {}, A),
    "two with nothing alike": (SENT, [fact(), fact(B)], {}, None),
    "told again": (SENT, [fact(), fact(time=LATER)], {}, A),
    "told again since": (SENT, [fact(since=EARLY, time=LATER)], {}, A),
    "something was lost": (SENT, [fact()], {"lost": [(EARLY, LATER)]}, None),
    "something was lost before": (SENT, [fact()], {"lost": [(EARLY - 9, EARLY)]}, A),
    # Ports that others have afterwards, or had before
    "closed before": (SENT, [fact()], {"closed": [gone(EARLY + 9)]}, None),
    "closed since": (SENT, [fact()], {"closed": [gone(LATER)]}, A),
    "closed before, another since": (
        GOT, [fact(since=EARLY - 9), fact(B, inode=2, since=SOON)],
        {"closed": [gone(EARLY), gone(LATER, 2)]}, B,
    ),
    "another one later": (
        GOT, [fact(), fact(B, inode=2, since=LATER)],
        {"closed": [gone(TIME + 2 * SECOND), gone(LATER + 9, 2)]}, A,
    ),
    "another one soon": (
        GOT, [fact(), fact(B, inode=2, since=TIME + 3000)],
        {"closed": [gone(TIME + 2000), gone(LATER, 2)]}, None,
    ),
    "another one soon, sent": (
        SENT, [fact(), fact(B, inode=2, since=TIME + 3000)],
        {"closed": [gone(TIME + 2000), gone(LATER, 2)]}, A,
    ),
    "one that never sent": (
        GOT, [loose()], {"closed": [gone(LATER), gone(LATER, 2)]}, None,
    ),
    "one that never sent, sent": (
        SENT, [loose()], {"closed": [gone(LATER), gone(LATER, 2)]}, A,
    ),
    "one that never sent, connected": (GOT, [fact()], {"closed": [gone(LATER), gone(LATER, 2)]}, A),
    "one that never sent, in the end": (GOT, [loose(inode=50)], {"last": [sock(9, port=4000)]}, None),
    "in the end": (GOT, [loose(inode=90)], {"last": [sock(9, port=4000)]}, A),
    "no lists, not connected": (GOT, [loose()], {"lists": 1}, None),
    "no lists, connected": (GOT, [fact()], {"lists": 1}, A),
    "no lists, sent": (SENT, [loose()], {"lists": 1}, A),
    # TCP
    "TCP, sent": (TCP_SENT, [tcp()], {}, A),
    "TCP, got": (TCP_GOT, [tcp()], {}, A),
    "TCP, accepted": (TCP_GOT, [tcp(state=ESTABLISHED)], {}, A),
    "TCP, a SYN that came": (TCP_GOT._replace(begins=True), [tcp(state=ESTABLISHED)], {}, None),
    "TCP, an older one": (TCP_GOT, [tcp(), tcp(B, inode=2, since=SOON)], {}, B),
    "TCP, a newer one": (TCP_GOT, [tcp(), tcp(B, inode=2, since=LATER)], {}, A),
    "TCP, a newer one that was accepted": (
        TCP_GOT, [tcp(), tcp(B, inode=2, since=LATER, state=ESTABLISHED)], {}, None,
    ),
    "TCP, of one program": (
        TCP_GOT, [tcp(), tcp(replace(A, pid=5), inode=2, since=LATER, state=ESTABLISHED)], {},
        replace(A, pid=None),
    ),
    # Echo requests
    "ping": (packet(ICMP, port=77, peer_port=0, sent=True), [echo()], {}, A),
    "its answer": (packet(ICMP, port=77, peer_port=0), [echo()], {}, A),
    "another id": (packet(ICMP, port=78, peer_port=0), [echo()], {}, None),
    "two with an id": (packet(ICMP, port=77, peer_port=0), [echo(), echo(B, inode=2)], {}, None),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_whose_it_is(case):
    asked, facts, lists, expected = CASES[case]
    assert owners(facts, **lists).of(asked, NOW) == expected


def test_who_has_a_connection_is_more_than_who_listens():
    """And whoever may have had one of the same ends through a port that is listened at is not told."""
    told = attribute(10, b"\x0a")
    door = netlink(20, sock(9, port=4000)[16 : 16 + 72] + told)
    found = owners([tcp(state=ESTABLISHED)], listening=[door], first=[], last=[])
    assert found.of(TCP_GOT, NOW) == A
    assert found.of(TCP_GOT._replace(peer_port=9), NOW).comm is None
    assert owners([tcp()], listening=[door]).of(TCP_GOT, NOW) != A


def test_one_that_is_not_yet_sure_to_have_been_there():
    """It was told of after the packet came, or before: nobody knows. Another ground is needed."""
    unsure = When(TIME - 9000, TIME - 5000, TIME + 5000)
    found = owners([loose(since=TIME)])
    assert found.of(GOT, unsure) is None
    assert found.of(GOT, unsure._replace(likely_ns=TIME)) == A
    assert found.of(SENT, unsure) == A


def test_what_is_not_to_be_believed():
    found = owners([fact()])
    found.hears_senders = False
    assert found.of(SENT, NOW) is None


def test_facts_that_are_none():
    """Recordings come from strangers."""
    odd = [b"", b"x" * 103, b"\xff" * 104, fact(own="::", peer="::"), fact()]
    made = HandMade()
    made.streams.append(Stream(5, 1, "senders", {}))
    made.received(5, [1] * len(odd), odd)
    for content in (b"", b"[]", b'{"1": 2, "x": "y", "1": "/\\ud800"}', b"[" * 100000):
        made.snapshot("sender-cgroups", content, 1)
    found = SocketOwners(made, 1, Sockets(made, 1))
    found.update()
    assert found.of(SENT, NOW).comm == "a"
    assert len(found.ports()) == 2


@pytest.mark.parametrize("case", CASES)
def test_between_two_moments_it_is_the_same(case):
    """Whatever times a packet has, all that lie between the same moments have the same owner."""
    one, facts, given, _ = CASES[case]
    found = owners(facts, **given)
    moments = found.moments(one.protocol, one.port).tolist()
    # Each moment, and two times on either side of it: of one cell, as long as no other moment is as near.
    times = sorted({time + by for time in [*moments, TIME] for by in (-2, -1, 0, 1, 2)})
    cells = np.searchsorted(moments, times, "left") + np.searchsorted(moments, times, "right")
    told = {}
    for first, likely, last in itertools.combinations_with_replacement(range(len(times)), 3):
        owner = found.of(one, When(times[first], times[likely], times[last]))
        key = tuple(cells[[first, likely, last]].tolist())
        assert told.setdefault(key, owner) == owner, (key, times[first], times[likely], times[last])
