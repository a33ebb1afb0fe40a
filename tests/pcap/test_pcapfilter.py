"""Filters: compiled for the kernel family by family, and run offline on stored packets."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from handmade import udp, udp6
from hypothesis import given
from hypothesis import strategies as st

from iptrec.errors import RecordingError, UsageError
from iptrec.pcap.filter import PacketFilter, compile_for_kernel

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


# As tcpdump -ddd -y RAW prints them, but for the 65535 bytes that a match returns.
BYTECODE = {
    ("icmp6", "ipv6"): "10,48 0 0 0,84 0 0 240,21 0 6 96,48 0 0 6,21 3 0 58,21 0 3 44,"
    "48 0 0 40,21 0 1 58,6 0 0 65535,6 0 0 0",
    ("host 1.2.3.4", "ipv4"): "9,48 0 0 0,84 0 0 240,21 0 5 64,32 0 0 12,21 2 0 16909060,"
    "32 0 0 16,21 0 1 16909060,6 0 0 65535,6 0 0 0",
    ("not tcp", "ipv4"): "7,48 0 0 0,84 0 0 240,21 0 3 64,48 0 0 9,21 1 0 6,6 0 0 65535,6 0 0 0",
}


@pytest.mark.parametrize(("expression", "family"), BYTECODE)
def test_known_bytecode(expression, family):
    """Instruction by instruction what tcpdump makes of it."""
    assert compile_for_kernel(expression, family) == BYTECODE[expression, family]


def ports(count):
    """An expression that grows with count."""
    return " or ".join(f"udp dst port {n}" for n in range(1, 2 * count, 2))


@pytest.mark.live
@pytest.mark.parametrize("expression", [*FAMILIES, ports(20)])
def test_kernel_takes_the_bytecode(lab, expression):
    """What is compiled is loaded by legacy iptables, in each family that has any."""
    for family, command in (("ipv4", "iptables-legacy"), ("ipv6", "ip6tables-legacy")):
        code = compile_for_kernel(expression, family)
        if code is not None:
            lab.run([command, "-A", "INPUT", "-m", "bpf", "--bytecode", code])
            assert f'--bytecode "{code}"' in lab.run([f"{command}-save"]).stdout


@pytest.mark.live
def test_kernel_refuses_loops(lab):
    """A jump back, the reason to refuse protochain, is nothing that the kernel would take."""
    rule = ["-m", "bpf", "--bytecode", "2,5 0 0 4294967295,6 0 0 0"]
    assert lab.run(["iptables-legacy", "-A", "INPUT", *rule], check=False).returncode != 0


WRONG = {
    "tcp prt 80": "syntax error",
    "tcp) or (udp": "syntax error",
    "tcp and udp": "rejects all packets",
    " or ".join(f"port {n}" for n in range(1, 400, 7)): "at most 64",
    "": "empty",
    "tcp\0": "NUL",
    "inbound": "outside of the packet",
    "ip[4294963200] = 1": "outside of the packet",
    "ip6 protochain 6": "loop",
    "ip broadcast": "netmask not known",
    "tcp\nport": "syntax error",
}


@pytest.mark.parametrize("expression", WRONG)
def test_wrong_expression(expression):
    """A UsageError in libpcap's own words."""
    with pytest.raises(UsageError, match=WRONG[expression]) as caught:
        compile_for_kernel(expression, "ipv4")
    assert str(caught.value).isprintable()


def test_offline():
    """One packet, and many out of one buffer; a packet that is not there never matches."""
    packets = [udp(dport=53), udp(dport=54), udp6()]
    wanted = PacketFilter("udp dst port 53")
    assert [wanted.matches(one) for one in packets] == [True, False, True]
    buffer = np.frombuffer(b"".join(packets), np.uint8)
    lengths = np.array([len(one) for one in packets] + [0], np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths[:2]), [-1]]).astype(np.int64)
    assert wanted.match_many(buffer, offsets, lengths).tolist() == [True, False, True, False]


def test_cut_packets_keep_their_length():
    """What was not captured does not match, but the length is the IP header's."""
    whole = udp(b"x" * 100)
    assert PacketFilter("greater 128").matches(whole[:20])
    assert not PacketFilter("greater 129").matches(whole[:20])
    assert not PacketFilter("udp dst port 53").matches(whole[:20])
    assert PacketFilter("greater 129").matches(whole[:20], length=129)
    assert not PacketFilter("ip").matches(b"")


@pytest.mark.parametrize(("offset", "length"), [(0, 31), (30, 1), (5, 26), (0, -1), (2**62, 1)])
def test_packet_outside_of_the_buffer(offset, length):
    """No byte is read that is not the recording's."""
    buffer = np.zeros(30, np.uint8)
    with pytest.raises(RecordingError, match="outside"):
        PacketFilter("ip").match_many(
            buffer, np.array([offset], np.int64), np.array([length], np.int32)
        )


@given(st.lists(st.binary(max_size=60), max_size=20))
def test_many_as_one_by_one(packets):
    """match_many and matches agree on any bytes."""
    wanted = PacketFilter("ip[0] & 1 = 0 or len > 30 or tcp")
    lengths = np.array([len(one) for one in packets], np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])[: len(packets)].astype(np.int64)
    found = wanted.match_many(np.frombuffer(b"".join(packets), np.uint8), offsets, lengths)
    assert found.tolist() == [wanted.matches(one) for one in packets]


MEASURED = """
import re, sys
from pathlib import Path
from iptrec.pcap.filter import PacketFilter
peak = lambda: int(re.search(r"VmHWM:\\s*([0-9]+)", Path("/proc/self/status").read_text())[1]) >> 10
PacketFilter("tcp")
before = peak()
PacketFilter(sys.argv[1])
print(peak() - before)
"""
LONG = {
    "ports": "port " + " or ".join(map(str, range(1, 1000))),
    "ranges": "portrange " + " or ".join(f"{one}-{one + 1}" for one in range(1, 2000, 3)),
    "and": " and ".join(["tcp"] * 1000),
    "not": " and ".join(f"not port {one}" for one in range(1000)),
    "parentheses": "(" * 1022 + "tcp" + ")" * 1022,
}


@pytest.mark.parametrize("case", LONG)
def test_memory_is_bounded(case):
    """The longest filters that are compiled take less than 100 MB."""
    text = LONG[case][:2048] if case == "parentheses" else LONG[case][:2040].rpartition(" ")[0]
    text = text.removesuffix(" or").removesuffix(" and").removesuffix(" not").removesuffix(" and")
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, text], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 100


@pytest.mark.parametrize("compiled", [PacketFilter, lambda text: compile_for_kernel(text, "ipv4")])
def test_longest(compiled):
    """2,048 bytes; one more is refused in one short line, for the kernel as for stored packets."""
    text = "tcp and " * 255 + "tcp     "
    compiled(text)
    with pytest.raises(UsageError, match="2,049 bytes, and 2,048 is the most") as caught:
        compiled(text + " ")
    assert len(str(caught.value)) < 400
