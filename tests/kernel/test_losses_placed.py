"""Between which times events were lost, on the real kernel: the truth is always between them.

The sockets are opened inside the lab by a script, with little room; the test knows when which packet was sent.
"""

from __future__ import annotations

import json
import sys

import pytest
from test_tap import PRELUDE, RULES

from iptrec.kernel.bpf import tap

pytestmark = pytest.mark.live

SCRIPT = """
from dataclasses import asdict
from types import SimpleNamespace
from iptrec.recorder.options import Options, Progress, Report
from iptrec.recorder.streams import Events, Streams

class Writer:
    def __init__(self):
        self.losses, self.found, self.notes = [], [], []
    def add_stream(self, *_):
        return 1
    def add_loss(self, loss):
        self.losses.append(asdict(loss))
    def append(self, stream, time_ns, lengths, data, notes=None):
        times = [0] * len(lengths) if notes is None else notes.sent_ns.tolist()
        head, at = bytes([0, 9, 0, 12]), 0
        for length, sent in zip(lengths.tolist(), times):
            datagram = data[at : at + length]
            at += length
            where = datagram.find(head)
            if where >= 0:
                self.found.append((int.from_bytes(datagram[where + 6 : where + 10]), sent))

sent = {}
def burst(first, count):
    for number in range(first, first + count):
        before = time.time_ns()
        send(number)
        sent[number] = before, time.time_ns()

writer, progress = Writer(), Progress()
room = dict(receive_buffer=BUFFER)
if RING:
    room["ring_bytes"] = RING
with opened(**room) as source:
    options = SimpleNamespace(ring={}, packets=None, receive_buffer=0)
    streams = Streams(
        writer, 1, [], [Events(source, "events", {})], options=options,
        report=Report(progress, lambda _: None), traversals=lambda _: 0,
    )
    first = 0
    for count in COUNTS:
        burst(first, count)
        first += count
        time.sleep(0.02)
        while streams.fetch():
            pass
    streams.end_events()
    untapped = source.untapped
print(json.dumps([sent, writer.found, writer.losses, progress.lost, untapped]))
"""
# Bytes of the ring and of the socket's buffer; packets a burst, each is received before the next one.
CASES = {
    "all of it": (4096, 65536, [5, 2000, 5, 2000]),
    "few in the ring": (4096, 4096, [5, 500, 5, 500]),
    "a large ring": (65536, 65536, [5, 2000, 5]),
    "at the end": (4096, 65536, [5, 2000]),
    "from the beginning": (4096, 65536, [2000, 5]),
}


def results(lab, backend, case, *, tapped):
    """What was sent when, found with which time of its own, and lost between which times."""
    ring, buffer, counts = CASES[case]
    lab.ip(None, "link set lo up")
    lab.restore(None, "ipv4", RULES[backend], backend)
    if backend == "legacy":
        lab.run(["tee", "/proc/sys/net/netfilter/nf_log/2"], stdin="nfnetlink_log")
    script = (
        SCRIPT.replace("BUFFER", str(buffer))
        .replace("RING", str(ring))
        .replace("COUNTS", str(counts))
    )
    command = ["env", f"{tap.OFF}={'' if tapped else '1'}", sys.executable, "-c", PRELUDE + script]
    return json.loads(lab.run([*command, backend]).stdout)


@pytest.mark.parametrize("tapped", [True, False], ids=["tap", "no-tap"])
@pytest.mark.parametrize("backend", ["legacy", "nft"])
@pytest.mark.parametrize("case", CASES)
def test_a_loss_is_when_packets_were_lost(lab, backend, case, tapped):
    """Each packet of which nothing was received was sent while events were lost, as losses say."""
    sent, found, losses, lost, _ = results(lab, backend, case, tapped=tapped)
    spans = [
        (one["first_ns"], one["last_ns"])
        for one in losses
        if one["how"] in ("sequence", "enobufs") and one["events"] != 0
    ]
    assert lost > 0
    assert all(first <= last for first, last in spans)
    assert sum(one["events"] or 0 for one in losses if one["how"] != "overflow") == lost
    missing = set(map(int, sent)) - {number for number, _ in found}
    assert missing
    for number in missing:
        begun, ended = sent[str(number)]
        assert any(first <= ended and begun <= last for first, last in spans), (number, spans)
    assert all(one["events"] is not None for one in losses)


@pytest.mark.parametrize("backend", ["legacy", "nft"])
@pytest.mark.parametrize("case", CASES)
def test_each_time_is_its_own(lab, backend, case):
    """Also of what found no room in the ring: it was sent in the call that its packet was sent by."""
    sent, found, _, _, untapped = results(lab, backend, case, tapped=True)
    if untapped:
        pytest.skip(untapped)
    margin, late = 5000, 0  # of two clocks; a softirq may be put off
    for number, time_ns in found:
        begun, ended = sent[str(number)]
        if time_ns:
            assert time_ns >= begun - margin
            late += time_ns > ended + margin
    assert late <= len(found) / 10
    assert sum(time_ns > 0 for _, time_ns in found) > len(found) * 0.9
