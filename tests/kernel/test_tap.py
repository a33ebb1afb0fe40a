"""The tap on the real kernel: what comes through its ring, when it was sent, and what finds no room in it.

The sockets are opened inside the lab by a script, which prints what the test then judges.
"""

from __future__ import annotations

import json
import os
import sys

import pytest
from rights import since

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(os.geteuid() != 0, reason="the kernel takes programs of root alone"),
    since(5, 12, "the tap"),
    pytest.mark.skipif("IPTREC_NO_TAP" in os.environ, reason="IPTREC_NO_TAP: without the tap"),
]

RULES = {
    "legacy": "*raw\n-A OUTPUT -p udp -j TRACE\nCOMMIT\n",
    "nft": "*raw\n-A OUTPUT -p udp -j TRACE\nCOMMIT\n",
}
PRELUDE = """
import json, os, socket, sys, time
import numpy as np
from iptrec.kernel import netlink
from iptrec.kernel.batches import Overrun
from iptrec.kernel.legacy import nflog
from iptrec.kernel.nft import nftrace

backend = sys.argv[1]
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

def opened(**given):
    if backend == "legacy":
        return nflog.NflogSocket(snaplen=256, **given)
    return nftrace.NftraceSocket(**given)

def send(*numbers):
    for number in numbers:
        out.sendto(number.to_bytes(4, "big"), ("127.0.0.1", 9))

def received(source):
    batches, overrun = [], 0
    while True:
        try:
            batch = source.receive()
        except Overrun as one:
            overrun += one.events or 0
            continue
        if batch is None:
            return batches, overrun
        batches.append(batch)

def events(batches):
    for batch in batches:
        at = 0
        for length, note in zip(batch.lengths.tolist(), batch.notes.tolist()):
            datagram = batch.data[at : at + length]
            at += length
            if next(netlink.messages(datagram)).kind != 0x0A0F:
                yield datagram, note

def numbers(batches):
    # Behind the end of an UDP header: to port 9, 12 bytes. nf_tables dumps it in a chain's first event.
    head = bytes([0, 9, 0, 12])
    for datagram, _ in events(batches):
        at = datagram.find(head)
        if at >= 0:
            yield int.from_bytes(datagram[at + 6 : at + 10])

def in_order(batches):
    found = list(numbers(batches))
    return found == sorted(found)
"""


@pytest.fixture(params=["legacy", "nft"])
def inside(lab, request):
    """Runs a script in a lab where UDP is traced; gives what it printed as JSON."""
    lab.ip(None, "link set lo up")
    lab.restore(None, "ipv4", RULES[request.param], request.param)
    if request.param == "legacy":
        # An older kernel does not load it by its name, which it does not know before.
        lab.run(["modprobe", "-q", "nfnetlink_log"], check=False)
        lab.run(["tee", "/proc/sys/net/netfilter/nf_log/2"], stdin="nfnetlink_log")
    command = [sys.executable, "-c"]
    return lambda script: json.loads(lab.run([*command, PRELUDE + script, request.param]).stdout)


def test_nothing_is_queued(inside):
    """All comes through the ring; the socket stays empty, and poll is woken all the same."""
    untapped, ready, waiting, beside, idle = inside("""
import select
with opened() as source:
    poll = select.poll()
    poll.register(source.fileno(), select.POLLIN)
    idle = poll.poll(0)
    send(*range(100))
    ready = bool(poll.poll(1000))
    waiting = len(select.select([source._socket], [], [], 0)[0])
    batches, _ = received(source)
    print(json.dumps([source.untapped, ready, waiting, sum(b.overflowing for b in batches),
                      idle + poll.poll(0)]))
""")
    assert (untapped, ready, waiting, beside, idle) == ("", True, 0, 0, [])


def test_a_ring_that_fills(inside):
    """Says that it is to be read, until it was."""
    assert inside("""
with opened(ring_bytes=65536) as source:
    told = [source.pressing]
    send(1)
    told.append(source.pressing)
    send(*range(100))
    told.append(source.pressing)
    received(source)
    print(json.dumps([*told, source.pressing]))
""") == [False, False, True, False]


def test_who_waits_is_woken(inside):
    """By the first event after all were taken; not only where something waits already."""
    woken = inside("""
import select, threading
with opened() as source:
    poll = select.poll()
    poll.register(source.fileno(), select.POLLIN)
    woken = []
    for number in range(20):
        sender = threading.Timer(0.02, send, [number])
        sender.start()
        begun = time.monotonic()
        woken.append(bool(poll.poll(5000)) and time.monotonic() - begun < 4)
        sender.join()
        received(source)
    print(json.dumps(woken))
""")
    assert woken == [True] * 20


def test_each_event_has_the_time_at_which_it_was_sent(inside):
    """Between the call that sent its packet and what follows; in order on each processor."""
    late, early, ordered, unknown = inside("""
with opened() as source:
    spans = []
    for number in range(200):
        before = time.time_ns()
        send(number)
        spans.append((before, time.time_ns()))
    notes = [note for _, note in events(received(source)[0])]
    each = len(notes) // 200
    margin = 2000  # of two clocks
    late = [n for n, (time_ns, *_) in enumerate(notes) if time_ns > spans[n // each][1] + margin]
    early = [n for n, (time_ns, *_) in enumerate(notes) if time_ns < spans[n // each][0] - margin]
    by_cpu = {}
    for time_ns, cpu, _ in notes:
        by_cpu.setdefault(cpu, []).append(time_ns)
    print(json.dumps([len(late), len(early), all(one == sorted(one) for one in by_cpu.values()),
                      sum(cpu >= os.cpu_count() for cpu in by_cpu)]))
""")
    # A softirq may be put off to another thread.
    assert late <= 20
    assert (early, ordered, unknown) == (0, True, 0)


@pytest.mark.parametrize("ring", [4096, 65536])
def test_what_finds_no_room_comes_through_the_socket_in_order(inside, ring):
    """A packet's events stay together, and packets come in the order in which they were sent."""
    count, overflowing, lost, ordered, known = inside(f"""
with opened(ring_bytes={ring}) as source:
    found, lost = [], 0
    for some in range(5):
        send(*range(400 * some, 400 * some + 400))
        batches, overrun = received(source)
        found += batches
        lost += overrun + sum(b.lost for b in batches)
    known = sum(note[0] > 0 for _, note in events(found))
    print(json.dumps([len(list(events(found))), sum(b.overflowing for b in found),
                      lost + source.unseen(), in_order(found), known]))
""")
    assert count % 2000 == 0
    assert 0 < overflowing < count
    assert known > 0
    assert (lost, ordered) == (0, True)


def test_what_is_too_long_comes_through_the_socket(inside):
    """Whole, at its place."""
    count, overflowing, ordered = inside("""
nflog._TAPPED_ROOM, nflog._CONNTRACK_ROOM, nftrace._LARGEST_TAPPED = -176, 0, 128
with opened() as source:
    send(*range(50))
    batches, _ = received(source)
    print(json.dumps([len(list(events(batches))), sum(b.overflowing for b in batches),
                      in_order(batches)]))
""")
    assert count % 50 == 0
    assert (overflowing > 0, ordered) == (True, True)


def test_loss_is_counted_to_the_event(inside):
    """Where neither the ring nor the socket has room."""
    whole, found, lost = inside("""
with opened() as source:
    send(*range(2000))
    whole = len(list(events(received(source)[0])))
with opened(ring_bytes=4096, receive_buffer=4096) as source:
    found = lost = 0
    for some in range(5):
        send(*range(400))
        batches, overrun = received(source)
        found += len(list(events(batches)))
        lost += overrun + sum(b.lost for b in batches)
    print(json.dumps([whole, found, lost + source.unseen()]))
""")
    assert found + lost == whole
    assert lost > 0


def test_switched_off(inside):
    """By its variable in the environment."""
    assert inside("""
os.environ["IPTREC_NO_TAP"] = "1"
with opened() as source:
    send(1)
    batch = source.receive()
    print(json.dumps([source.untapped, batch.notes is None, len(batch.lengths) > 0]))
""") == ["switched off by IPTREC_NO_TAP", True, True]


def test_without_rights(lab):
    """It goes on as without a tap, and says why there is none."""
    script = "from iptrec.kernel.nft import nftrace\nwith nftrace.NftraceSocket() as s: print(s.untapped)"
    caps = ["setpriv", "--bounding-set=-bpf,-sys_admin", "--inh-caps=-bpf,-sys_admin"]
    done = lab.run([*caps, sys.executable, "-c", script])
    assert done.stdout == (
        "the kernel refuses the program: Operation not permitted; it needs Linux 5.12, and CAP_BPF of the"
        " host itself, not of a container\n"
    )
