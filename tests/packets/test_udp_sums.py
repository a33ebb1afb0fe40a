"""UDP's checksum as a witness: what NAT leaves of it, and where it is none."""

from __future__ import annotations

import numpy as np
import pytest
from handmade import sent_from, summed, udp, udp6
from hypothesis import given
from hypothesis import strategies as st

from iptrec.packets.udp_sums import UNKNOWN, Summed


def sums(*packets):
    data = np.frombuffer(b"".join(packets) + bytes(64), np.uint8)
    ends = np.cumsum([len(one) for one in packets])
    start = ends - np.array([len(one) for one in packets])
    six = np.array([one[:1] == b"\x60" for one in packets])
    return Summed(data, start, ends, six).nat_sums().tolist()


@given(
    st.sampled_from([(udp, "172.16.3.9"), (udp6, "fd00:12::9")]),
    st.binary(max_size=40),
    st.integers(1, 0xFFFF),
)
def test_nat_leaves_it(of, payload, port):
    make, source = of
    packet = summed(make(payload))
    before, after = sums(packet, sent_from(packet, source, port))
    assert before == after
    assert before != UNKNOWN or packet == summed(packet, waits=True)


@pytest.mark.parametrize("make", [udp, udp6])
def test_payloads_differ(make):
    """Beyond what nf_tables dumps: the first bytes are enough to compute it."""
    one, other = (summed(make(b"z" * 20 + last)) for last in (b"one", b"two"))
    size = len(one) - 15
    assert len(set(sums(one[:size], other[:size]))) == 2


NOTHING = {
    "without a checksum": udp(),
    "not yet": summed(udp(b"12345"), waits=True),
    "not yet, IPv6": summed(udp6(b"12345"), waits=True),
    "cut off before it": summed(udp())[:26],
    "TCP": summed(udp())[:9] + b"\6" + summed(udp())[10:],
    "a later fragment": summed(udp())[:6] + b"\0\5" + summed(udp())[8:],
    "options": b"\x46" + summed(udp())[1:20] + bytes(4) + summed(udp())[20:],
    "nothing": b"",
}


@pytest.mark.parametrize("case", NOTHING)
def test_no_witness(case):
    assert sums(NOTHING[case], summed(udp()))[0] == UNKNOWN
