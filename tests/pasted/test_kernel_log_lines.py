"""Lines of the kernel's log become events."""

from __future__ import annotations

import json

import numpy as np
import pytest
from command import iptrec

from iptrec.decode import nflog, packet
from iptrec.pasted.kernel_log import KernelLog
from iptrec.pasted.sources import Given

LINE = (
    "TRACE: raw:PREROUTING:policy:2 IN=eth0 OUT= MAC=02:00:00:00:00:02:02:00:00:00:00:01:08:00 SRC=10.0.0.1"
    " DST=10.0.0.2 LEN=60 TOS=0x00 PREC=0x00 TTL=64 ID=1 DF PROTO=TCP SPT=1000 DPT=22 SEQ=100 ACK=0"
    " WINDOW=64240 RES=0x00 SYN URGP=0 OPT (020405B40402080A0000000000000000) MARK=0x1 "
)


def read(*lines):
    """The events of some lines, and the source."""
    source = KernelLog().read([one.encode() for one in lines], Given({}, {}, 0))
    events = list(source)
    datagrams = b"".join(one.datagram for one in events)
    lengths = np.array([len(one.datagram) for one in events], np.uint32)
    times = np.array([one.time_ns for one in events], np.int64)
    return nflog.decode(datagrams, lengths, times), source


def test_a_line():
    """All that it tells is in the datagram."""
    events, source = read(LINE)
    assert packet.header(events.packet(0), 2) == {
        "src": "10.0.0.1", "dst": "10.0.0.2", "proto": "tcp", "length": 60, "ttl": 64, "id": 1, "tos": 0,
        "sport": 1000, "dport": 22, "flags": "SYN", "seq": 100, "ack": 0, "window": 64240,
        "csum": int.from_bytes(events.packet(0)[36:38]),
    }  # fmt: skip
    assert events.sites == [b"TRACE: raw:PREROUTING:policy:2 "]
    assert (events.hook[0], events.mark[0], source.links[int(events.indev[0])]) == (0, 1, "eth0")
    assert source.detail["sequence"] is False
    assert not source.lost


@pytest.mark.parametrize("end", range(4, len(LINE), 7))
def test_a_line_that_is_cut(end):
    """It is an event with less, or it is counted as one that is missing; never something else."""
    events, source = read(LINE[:end], LINE)
    assert len(events.datagram) + len(source.lost) in (1, 2)
    whole = packet.header(events.packet(len(events.datagram) - 1), 2)
    for name, value in packet.header(events.packet(0), 2).items():
        assert value == whole.get(name, True) or name == "csum"


def test_the_command(tmp_path):
    """It finds by itself what the file is."""
    (tmp_path / "log").write_text(f"Nov 30 10:00:00 host kernel: {LINE}\nsomething else\n")
    done = iptrec("import", tmp_path / "log", "-o", tmp_path / "t.db")
    assert done.stderr == f"iptrec import: imported 1 event: {tmp_path}/t.db\n"
    (shown,) = map(json.loads, iptrec("show", "--json", tmp_path / "t.db").stdout.splitlines())
    assert (shown["in"], shown["header"]["dport"]) == ("eth0", 22)
