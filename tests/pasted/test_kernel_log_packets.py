"""A packet, the kernel's line of it, and what is read of that: the same headers."""

from __future__ import annotations

import struct

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from kernel_lines import printed

from iptrec.decode import nflog, packet
from iptrec.pasted.kernel_log import UNTOLD, KernelLog
from iptrec.pasted.packet import Told, built, checksum
from iptrec.pasted.sources import Given

BYTE, HALF, WORD = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 32))
ENDS = {4: st.binary(min_size=4, max_size=4), 6: st.binary(min_size=16, max_size=16)}
SEEN = ("src", "dst", "proto", "length")


@st.composite
def transports(draw, version):
    """The protocol, its fields, and bytes of payload that no line tells."""
    protocol = draw(
        st.sampled_from([6, 17, 136, 132, 47, 50, *((1, 51) if version == 4 else (58,))])
    )
    fields = {"protocol": protocol}
    if protocol == 6:
        options = draw(st.binary(max_size=40))
        fields |= {
            "sport": draw(HALF), "dport": draw(HALF), "seq": draw(WORD), "ack": draw(WORD),
            "tcp_flags": draw(BYTE), "window": draw(HALF), "urgent": draw(HALF),
            "reserved": draw(st.integers(0, 15)), "tcp_options": options[: len(options) // 4 * 4],
        }  # fmt: skip
    elif protocol in (17, 136):
        fields |= {"sport": draw(HALF), "dport": draw(HALF), "datagram_length": draw(HALF)}
    elif protocol in (50, 51):
        fields |= {"spi": draw(WORD)}
    elif protocol in (1, 58):
        echo = draw(st.sampled_from((0, 8) if version == 4 else (128, 129)))
        kind = draw(st.sampled_from([echo, 13 if version == 4 else 133]))
        fields |= {"kind": kind, "code": draw(BYTE)}
        fields |= {"rest": draw(st.binary(min_size=4, max_size=4))} if kind == echo else {}
    return fields


@st.composite
def packets(draw, *, quotes=True):
    """A packet, whole."""
    version = draw(st.sampled_from([4, 6]))
    fields = draw(transports(version))
    fields |= {
        "source": draw(ENDS[version]), "destination": draw(ENDS[version]), "ttl": draw(BYTE),
        "tos": draw(BYTE) & (0xFE if version == 4 else 0xFF),
    }  # fmt: skip
    if version == 4:
        options = draw(st.binary(max_size=40))
        fields |= {
            "id": draw(HALF),
            "flags": draw(st.integers(0, 7)) << 13,
            "options": options[: len(options) // 4 * 4],
        }
    else:
        fields["flow_label"] = draw(st.integers(0, (1 << 20) - 1))
    fragment = draw(st.sampled_from([0, 0, 0, 8, 1480]))
    if version == 6 and (fragment or draw(st.booleans())):
        place, number = fragment | draw(st.integers(0, 1)), draw(WORD)
        fields["extensions"] = ((44, struct.pack("!xxHI", place, number)),)
    fields["fragment"] = fragment
    if quotes and not fragment and fields["protocol"] in (1, 58) and draw(st.booleans()):
        inner = draw(packets(quotes=False).filter(lambda one: one[0] >> 4 == version))
        fields |= {"kind": 11 if version == 4 else 3, "rest": bytes(4), "body": inner}
    missing = {"tcp_flags": None} if fields["protocol"] != 6 else {}
    whole = built(Told(**fields | missing))
    payload = draw(st.binary(min_size=12, max_size=40))  # all of ESP's and AH's headers is there
    return built(Told(**fields | missing | {"length": len(whole) + len(payload)})) + payload


def read(line):
    """The packet that is made of a line."""
    source = KernelLog().read([line.encode()], Given({}, {}, 0))
    (event,) = source
    events = nflog.decode(event.datagram, np.array([len(event.datagram)], np.uint32), np.array([0]))
    assert not source.lost
    return events


def without_untold(header):
    """Without what the kernel prints of no packet of the protocol."""
    untold = {"sctp": {"sport", "dport"}, "esp": {"seq"}, "ah": {"seq"}}.get(header["proto"], set())
    kept = {name: value for name, value in header.items() if name not in untold | {"truncated"}}
    return kept | ({"inner": without_untold(kept["inner"])} if "inner" in kept else {})


@given(packets())
def test_headers_come_back(whole):
    """All that the line tells; the total length says how much of the packet there was."""
    family = 2 if whole[0] >> 4 == 4 else 10
    events = read(f"TRACE: raw:PREROUTING:rule:1 IN=eth0 OUT= MAC= {printed(whole)}")
    expected, found = (
        without_untold(packet.header(one, family, 0, UNTOLD)) for one in (whole, events.packet(0))
    )
    assert found == expected


@given(packets())
def test_whole_packets_have_right_checksums(whole):
    """What was built of all that there is sums up; what is cut is 0."""
    if whole[0] >> 4 == 4:
        assert checksum([whole[: whole[0] % 16 * 4]]) == 0


@given(
    packets(),
    st.integers(0, 400),
    st.sampled_from(["", "\r", " x", " [", " ]", " OPT (", "\x1b[31m"]),
)
def test_lines_that_are_cut(whole, end, tail):
    """What a cut line tells, if it tells a packet, is what the whole one does."""
    family = 2 if whole[0] >> 4 == 4 else 10
    text = printed(whole)
    line = f"TRACE: raw:PREROUTING:rule:1 IN=eth0 OUT= MAC= {text[:end]}{tail}"
    source = KernelLog().read([line.encode()], Given({}, {}, 0))
    events = list(source)
    assert len(events) + len(source.lost) == 1
    if (
        not events or tail or not source.shortened
    ):  # what ends within its last number reads as if whole
        return
    data = events[0].datagram
    cut = nflog.decode(data, np.array([len(data)], np.uint32), np.array([0]))
    expected = packet.header(whole, family, 0, UNTOLD)
    for name, value in packet.header(cut.packet(0), family, 0, UNTOLD).items():
        if name in SEEN or (name in expected and name not in ("inner", "seq")):
            assert value == expected[name]


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=300),
            st.text(max_size=100).map(lambda one: f"TRACE: a:b:rule:1 IN= OUT= SRC={one}".encode()),
        )
    )
)
def test_any_text(lines):
    """No line makes an error; each event can be decoded."""
    source = KernelLog().read(lines, Given({}, {}, 0))
    datagrams = [one.datagram for one in source]
    events = nflog.decode(
        b"".join(datagrams),
        np.array([*map(len, datagrams)], np.uint32),
        np.zeros(len(datagrams), np.int64),
    )
    assert not len(events.undecoded)
