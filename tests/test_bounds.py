"""Files that were made to be too much: an answer or one line, in bounded memory."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
from handmade import HandMade, datagram, udp

from iptrec.recording.writer import Writer

MOST_MB = 512
RULES = """*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A PREROUTING -j TRACE
COMMIT
*filter
:INPUT ACCEPT [0:0]
:A - [0:0]
-A INPUT -j A
-A A -p udp {}
COMMIT
"""
CIRCLE = RULES.format("-j A")  # the kernel refuses it
MEASURED = """
import atexit, re, sys
from pathlib import Path
from iptrec.cli import main
atexit.register(lambda: print(re.search(r"VmHWM.*", Path("/proc/self/status").read_text())[0], file=sys.stderr))
main()
"""


def write(path, rules, events, receipt_ns=1_000):
    """A recording of which all events came at one moment: none of its packets is over."""
    with Writer.create(path, HandMade().facts) as writer:
        namespace = writer.add_namespace(None, 1)
        stream = writer.add_stream(namespace, "nflog", {})
        writer.add_snapshot(namespace, "iptables-save", 1, "iptables-save", rules)
        for at in range(0, len(events), 512):
            part = events[at : at + 512]
            lengths = np.array([len(one) for one in part], np.uint32)
            writer.append(stream, receipt_ns, lengths, b"".join(part))
        writer.close(receipt_ns + 1, "test")


def one_packet_without_end(rules=CIRCLE):
    packet = udp()
    begin = [
        datagram("raw:PREROUTING:policy:2", packet, hook=0),
        datagram("filter:INPUT:rule:1", packet, hook=1),
    ]
    return rules.encode(), begin + [datagram("filter:A:rule:1", packet, hook=1)] * 30_000


def packets_under_way():
    first = "raw:PREROUTING:policy:2"
    return CIRCLE.encode(), [
        datagram(first, udp(number.to_bytes(4), ident=number & 0xFFFF), hook=0)
        for number in range(140_000)
    ]


def equal_packets_under_way():
    return CIRCLE.encode(), [datagram("raw:PREROUTING:policy:2", udp(), hook=0)] * 30_000


def large_ruleset(rules):
    lines = [
        f"-A A -s 10.{n >> 16}.{n >> 8 & 255}.{n & 255}/32 -p tcp -m tcp --dport 80 -j ACCEPT\n"
        for n in range(rules)
    ]
    return CIRCLE.replace("-A A", "".join(lines) + "-A A").encode(), [
        datagram("raw:PREROUTING:policy:2", udp(), hook=0)
    ]


CASES = {
    "steps": (one_packet_without_end, "cut after 4,096 steps"),
    "gotos": (lambda: one_packet_without_end(RULES.format("-g A")), "cut after 4,096 steps"),
    "under_way": (packets_under_way, "140000"),
    "equal": (equal_packets_under_way, "30000"),
    "rules": (lambda: large_ruleset(200_000), "1"),
    "too_many_rules": (lambda: large_ruleset(600_000), "take more than 200 MB of memory"),
    "one_gigabyte": (lambda: (b"#" + bytes(1 << 30), []), "holds more than can be read"),
}


@pytest.mark.parametrize("command", ["show", "info", "export", "report"])
@pytest.mark.parametrize("case", CASES)
def test_memory_is_bounded(made, case, command):
    options = ["pcapng", made(case), "-o", "-"] if command == "export" else [made(case)]
    options += ["-o", "-"] if command == "report" else []
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, command, *options],
        capture_output=True, check=False,
    )  # fmt: skip
    said = done.stderr.decode()
    *errors, peak = said.strip().splitlines()
    assert "Traceback" not in said
    assert int(re.search(r"(\d+) kB", peak)[1]) >> 10 < MOST_MB
    _, expected = CASES[case]
    if done.returncode:
        assert done.returncode == 2
        assert expected in errors[-1]
    elif command == "report":
        assert 30_000 < len(done.stdout) < 5_000_000
    elif command == "show":
        assert expected in done.stdout.decode()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The file of each case, made once."""
    directory = tmp_path_factory.mktemp("bounds")

    def make(case):
        path = directory / f"{case}.db"
        if not path.exists():
            build, _ = CASES[case]
            write(path, *build())
        return str(path)

    return make
