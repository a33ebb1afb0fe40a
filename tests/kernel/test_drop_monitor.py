"""Alerts of the host's drop monitor: captured bytes, what they tell, and records that are made of them."""

from __future__ import annotations

import errno
import socket
import struct
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iptrec.decode import drops
from iptrec.errors import HostError, TakenError
from iptrec.kernel import netlink
from iptrec.kernel.drops import alerts, monitor
from iptrec.kernel.drops.alerts import Alert, AlertSource, alert

# As Linux 6.1.0-56-amd64 and 6.12.118+deb13-amd64 of Debian sent them.
CAPTURED = {
    "6.1: Ethernet": (
        ("b00000002000000000000000000000000502000006000e00000000000c000200e2ca0ba1ffffffff0e0017004e4f5f534f43"
        "4b45540000001f0003005f5f756470345f6c69625f7263762b30783961322f307863333000000c0004800800000002000000"
        "0c0005001f7d2a9d2d2bec1808000a002b00000006000600000800002f0007006ae4334b5df14236ab2ea55108004500001d"
        "59e540004011cae80a0001020a000101c78800090009161d7800"),
        Alert(
            1795857826324315423, "__udp4_lib_rcv+0x9a2", "NO_SOCKET", 2, 29, 0x0800,
            bytes.fromhex("4500001d59e540004011cae80a0001020a000101c78800090009161d78"),
        ),
    ),
    "6.1: IPIP, without a link header": (
        ("a40000002000000000000000000000000502000006000e00000000000c000200e2ca0ba1ffffffff0e0017004e4f5f534f43"
        "4b45540000001f0003005f5f756470345f6c69625f7263762b30783961322f307863333000000c0004800800000004000000"
        "0c00050078999aca302bec1808000a001d0000000600060000080000210007004500001d6d1140004011b9aa0a0900020a09"
        "00019f5b00090009142f78000000"),
        Alert(
            1795857839971539320, "__udp4_lib_rcv+0x9a2", "NO_SOCKET", 4, 29, 0x0800,
            bytes.fromhex("4500001d6d1140004011b9aa0a0900020a0900019f5b00090009142f78"),
        ),
    ),
    "6.1: IPv6 by lo": (
        ("c40000002000000000000000000000000502000006000e00000000000c0002009fdd14a1ffffffff0e0017004e4f5f534f43"
        "4b45540000001f0003005f5f756470365f6c69625f7263762b30783737662f307861333000000c0004800800000001000000"
        "0c00050046047a992f2bec1808000a003f00000006000600dd8600004300070000000000000000000000000086dd600cff0c"
        "000911400000000000000000000000000000000100000000000000000000000000000001daa200090009001c7800"),
        Alert(
            1795857834852353094, "__udp6_lib_rcv+0x77f", "NO_SOCKET", 1, 49, 0x86DD,
            bytes.fromhex("600cff0c00091140" + "00" * 15 + "01" + "00" * 15 + "01" + "daa200090009001c78"),
        ),
    ),
    "6.12: no route": (
        ("ac0000002300000000000000000000000502000006000e00000000000c00020057a24fb3ffffffff1400170049505f494e41"
        "4444524552524f5253001800030069705f6572726f722b307839372f3078323130000c00048008000000020000000c000500"
        "9c2cab3c542bec1808000a002b00000006000600000800002f000700ba8fe393dab85205bd60b31108004500001df52a4000"
        "4011fe990a000102cb0071099bd70009000947267800"),
        Alert(
            1795857992209083548, "ip_error+0x97", "IP_INADDRERRORS", 2, 29, 0x0800,
            bytes.fromhex("4500001df52a40004011fe990a000102cb0071099bd700090009472678"),
        ),
    ),
    "6.12: a VLAN's interface": (
        ("b00000002300000000000000000000000502000006000e00000000000c00020075f654b3ffffffff0e0017004e4f5f534f43"
        "4b45540000001f0003005f5f756470345f6c69625f7263762b30783233352f307864393000000c0004800800000005000000"
        "0c000500107d696a632bec1808000a002b00000006000600000800002f000700ba8fe393dab85205bd60b31108004500001d"
        "895c400040119d610a0800020a080001a38800090009142d7800"),
        Alert(
            1795858057401040144, "__udp4_lib_rcv+0x235", "NO_SOCKET", 5, 29, 0x0800,
            bytes.fromhex("4500001d895c400040119d610a0800020a080001a38800090009142d78"),
        ),
    ),
}  # fmt: skip
ONE = bytes.fromhex(CAPTURED["6.1: Ethernet"][0])
PACKET = CAPTURED["6.1: Ethernet"][1].packet
NAME, ETHERNET = b"__udp4_lib_rcv+0x9a2/0xc30\0", b"\1" * 12 + b"\x08\0"


@pytest.mark.parametrize("case", CAPTURED)
def test_what_an_alert_tells(case):
    datagram, expected = CAPTURED[case]
    assert alert(bytes.fromhex(datagram)) == expected


def made(frame=ETHERNET + PACKET, protocol=0x0800, length=None, command=5, **changed):
    """An alert; ``changed``: values of attributes, None for none."""
    values = {
        "origin": (14, b"\0\0"), "reason": (23, b"NO_SOCKET\0"), "symbol": (3, NAME),
        "port": (4, netlink.packed([(0, struct.pack("=I", 2))])), "time": (5, struct.pack("=Q", 9)),
        "length": (10, struct.pack("=I", len(frame) if length is None else length)),
        "protocol": (6, struct.pack("=H", protocol)), "payload": (7, frame),
    }  # fmt: skip
    told = [(number, changed.get(name, value)) for name, (number, value) in values.items()]
    body = struct.pack("=BBxx", command, 2) + netlink.packed(
        one for one in told if one[1] is not None
    )
    return netlink.message(0x20, 0, body)


SHORT = ETHERNET + PACKET[:19]
FRAMES = {  # a frame and its protocol; where the packet begins, None where there is none that can be read
    "Ethernet": (ETHERNET + PACKET, 0x0800, 14),
    "a tag": (b"\1" * 12 + b"\x81\0\0\5\x08\0" + PACKET, 0x0800, 18),
    "two tags": (b"\1" * 12 + b"\x88\xa8\0\5\x81\0\0\5\x08\0" + PACKET, 0x0800, 22),
    "no link header": (PACKET, 0x0800, 0),
    "ARP": (b"\1" * 12 + b"\x08\6" + bytes(28), 0x0806, None),
    "cut": (SHORT, 0x0800, None),
    "nothing": (b"", 0x0800, None),
    "another link": (b"\1" * 10 + PACKET, 0x0800, None),
    "longer than the frame": (ETHERNET + b"E\0\1\0" + PACKET[4:], 0x0800, None),
    "IPv6 that is none": (b"\1" * 12 + b"\x86\xdd" + PACKET + bytes(40), 0x86DD, None),
}


@pytest.mark.parametrize("case", FRAMES)
def test_where_the_packet_begins(case):
    frame, protocol, at = FRAMES[case]
    found = alert(made(frame, protocol))
    assert (None if found is None else found.packet) == (None if at is None else frame[at:])


@pytest.mark.parametrize(
    "change", [{"command": 1}, {"origin": b"\1\0"}, {"reason": None}, {"symbol": None}, {"time": None}]
)  # fmt: skip
def test_what_is_no_packet_that_the_kernel_dropped(change):
    assert alert(made(**change)) is None


def test_a_name_that_is_cut():
    """The kernel gives a symbol 40 bytes."""
    told = alert(made(symbol=b"ip_rcv_finish_core.constprop.0+0x25b/0x4\0"))
    assert told.place == "ip_rcv_finish_core.constprop.0+0x25b"


@given(st.binary(max_size=200), st.integers(0, 200))
def test_any_bytes(data, at):
    """Nothing fails: of what stands in the middle of an alert, and of what is cut."""
    alert(ONE[:at] + data)
    alert(ONE[:20] + data)


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.EBUSY, TakenError), (errno.EAGAIN, TakenError), (errno.EPERM, HostError)],
)
def test_somebody_who_uses_it_is_no_refusal_of_the_host(monkeypatch, number, kind):
    """Who waits may have it."""

    def answers(*_):
        raise OSError(number, "no")

    asked = object.__new__(monitor.Monitor)
    asked._family = SimpleNamespace(number=1)
    monkeypatch.setattr(asked, "_answers", answers)
    with pytest.raises(HostError) as caught:
        asked.unseen()
    assert type(caught.value) is kind


class Monitor:
    """It, without a kernel."""

    group, tells_reasons, lost = 1, True, 0

    def require_free(self):
        pass

    def unseen(self):
        return self.lost


@pytest.fixture
def source(monkeypatch):
    """A source, and a socket to send it alerts by; ``alone``: whether there are no other namespaces."""
    sending, receiving = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiving.setblocking(False)
    world = SimpleNamespace(alone=True, monitor=Monitor(), send=sending.send)
    monkeypatch.setattr(monitor, "Monitor", lambda _: world.monitor)
    monkeypatch.setattr(monitor, "listening", lambda *_: receiving)
    monkeypatch.setattr(alerts, "_alone", lambda: world.alone)
    with sending, AlertSource(None, 77, 128) as world.source:
        world.source.receive()
        yield world


def columns(found):
    return drops.decode(found.data, found.lengths)


def test_an_alert_is_a_record(source):
    """As the program's: names have numbers, each told once; what nobody tells is 0."""
    source.send(ONE)
    source.send(made())
    source.send(b"what is this?")
    found = source.source.receive()
    assert (found.names, found.places) == (
        {"skb_drop_reason": {1: "NO_SOCKET"}}, {1: "__udp4_lib_rcv+0x9a2"},
    )  # fmt: skip
    told = columns(found)
    assert told.time_ns.tolist() == [1795857826324315423, 9]
    assert [told.place.tolist(), told.reason.tolist(), told.iif.tolist()] == [
        [1, 1],
        [1, 1],
        [2, 2],
    ]
    assert told.netns.tolist() == [77, 77]
    assert told.any_packet.tolist() == [True, True]
    assert [told.ifindex.tolist(), told.mark.tolist(), told.uid.tolist()] == [
        [0, 0],
        [0, 0],
        [-1, -1],
    ]
    ends = zip(told.start.tolist(), told.size.tolist(), strict=True)
    assert [bytes(told.data[at : at + size]) for at, size in ends] == [PACKET, PACKET]
    source.send(made(reason=b"IP_RPFILTER\0"))
    found = source.source.receive()
    assert (found.names, found.places) == ({"skb_drop_reason": {2: "IP_RPFILTER"}}, {})
    assert source.source.names == {"skb_drop_reason": {1: "NO_SOCKET", 2: "IP_RPFILTER"}}
    assert source.source.receive() is None


def test_no_address_of_the_kernel_is_kept(source):
    source.send(ONE)
    assert ONE[32:40] not in source.source.receive().data


def test_with_other_namespaces_it_is_of_an_unknown_one(source):
    """Once there were some it stays so: who is gone may have dropped it."""
    source.alone = False
    source.send(ONE)
    source.source._look_at = 0.0
    assert columns(source.source.receive()).netns.tolist() == [0]
    source.alone = True
    source.send(ONE)
    source.source._look_at = 0.0
    assert columns(source.source.receive()).netns.tolist() == [0]


def test_what_found_no_room_is_told_once(source):
    source.monitor.lost = 5
    source.source._look_at = 0.0
    found = source.source.receive()
    assert (found.lost, len(found.lengths)) == (5, 0)
    source.source._look_at = 0.0
    assert source.source.receive() is None


def test_a_kernel_whose_alerts_have_no_reasons(monkeypatch, source):
    monkeypatch.setattr(source.monitor, "tells_reasons", False, raising=False)
    with pytest.raises(HostError, match="no reasons before Linux"):
        AlertSource(None, 1, 64)


def test_what_is_there_in_the_end_is_taken(source, monkeypatch):
    """Nothing follows, and what was lost is counted once more."""
    left = []
    monkeypatch.setattr(netlink, "leave", lambda _, group: left.append(group))
    source.send(ONE)
    source.monitor.lost = 2
    source.source.finish()
    found = source.source.receive()
    assert (left, len(found.lengths), found.lost) == ([1], 1, 2)
