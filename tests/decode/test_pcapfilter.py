"""Filters: compiled for the kernel family by family, and run offline on stored packets."""

from __future__ import annotations

import numpy as np
import pytest
from handmade import udp, udp6

from iptrec.decode.pcapfilter import PacketFilter, compile_for_kernel
from iptrec.errors import UsageError

# expression -> matches something of ipv4, of ipv6
FAMILIES = {
    "tcp port 80": (True, True),
    "icmp6": (False, True),
    "icmp6 and (ip6[40] == 135 || ip6[40] == 136)": (False, True),
    "ip6 host ::1": (False, True),
    "host 1.2.3.4": (True, False),
    "icmp": (True, False),
    "not tcp": (True, True),
}


@pytest.mark.parametrize("expression", FAMILIES)
def test_families(expression):
    """An expression that can match one family only has no bytecode for the other."""
    found = tuple(compile_for_kernel(expression, family) is not None for family in ("ipv4", "ipv6"))
    assert found == FAMILIES[expression]


def test_bytecode_is_what_xt_bpf_takes():
    """The count, then "code jt jf k" for each instruction."""
    code = compile_for_kernel("icmp", "ipv4")
    count, *instructions = code.split(",")
    assert int(count) == len(instructions)
    assert all(len(one.split()) == 4 for one in instructions)
    assert instructions[-1].startswith("6 0 0 ")


WRONG = {
    "tcp prt 80": "syntax error",
    "tcp) or (udp": "syntax error",
    "tcp and udp": "rejects all packets",
    " or ".join(f"port {n}" for n in range(1, 400, 7)): "at most 64",
    "": "empty",
}


@pytest.mark.parametrize("expression", WRONG)
def test_wrong_expression(expression):
    """A UsageError in libpcap's own words."""
    with pytest.raises(UsageError, match=WRONG[expression]):
        compile_for_kernel(expression, "ipv4")


def test_offline():
    """One packet, and many out of one buffer; a packet that is not there never matches."""
    packets = [udp(dport=53), udp(dport=54), udp6()]
    wanted = PacketFilter("udp dst port 53")
    assert [wanted.matches(one) for one in packets] == [True, False, True]
    buffer = np.frombuffer(b"".join(packets), np.uint8)
    lengths = np.array([len(one) for one in packets] + [0], np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths[:2]), [-1]]).astype(np.int64)
    assert wanted.match_many(buffer, offsets, lengths).tolist() == [True, False, True, False]
