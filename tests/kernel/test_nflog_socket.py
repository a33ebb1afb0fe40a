"""The nflog socket on the real kernel: every event, each counted, whoever else logs to the group.

The socket is opened inside the lab by a script, which prints what the test then judges.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

SLOTS = 512

pytestmark = pytest.mark.live

RAW = "*raw\n-A OUTPUT -p udp -j TRACE\nCOMMIT\n"
# Over loopback a datagram logs two events when only the raw table is loaded: the policies of OUTPUT and
# PREROUTING (the latter has no rule).
PER_PACKET = 2

PRELUDE = """
import json, socket, struct
from iptrec.errors import HostError
from iptrec.kernel.batches import Overrun
from iptrec.kernel.legacy import nflog

out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

# How many datagrams came in for a port where nobody listens.
def arrived():
    udp = [line.split() for line in open("/proc/net/snmp") if line.startswith("Udp:")]
    return int(udp[1][udp[0].index("NoPorts")])

def send(count, size=32):
    expected = arrived() + count
    for number in range(count):
        out.sendto(b"x" * size, ("127.0.0.1", 9))
    while arrived() < expected:  # on a busy machine the kernel takes them up later
        pass

def drain(source):
    batches = []
    while True:
        try:
            batch = source.receive()
        except Overrun:
            continue
        if batch is None:
            return batches
        batches.append(batch)

def messages(batch):
    at = 0
    for length in batch.lengths.tolist():
        yield batch.data[at : at + length]
        at += length
    assert at == len(batch.data)

def numbers(batches):
    return [
        nflog._sequence(memoryview(one)) for batch in batches for one in messages(batch)
    ]
"""


@pytest.fixture(params=["tap", "no-tap"])
def inside(lab, request):
    """Runs a script in a lab where UDP is traced; gives what it printed as JSON."""
    lab.restore(None, "ipv4", RAW)
    lab.run(["tee", "/proc/sys/net/netfilter/nf_log/2"], stdin="nfnetlink_log")

    def run(script):
        tap = f"IPTREC_NO_TAP={int(request.param == 'no-tap')}"
        done = lab.run(["env", tap, sys.executable, "-c", PRELUDE + script])
        return json.loads(done.stdout)

    return run


@pytest.mark.alone
def test_every_event_is_one_datagram_in_order(inside):
    """Nothing is missing or joined; less than `SLOTS` at a time say that nothing more was there."""
    found = inside("""
from iptrec.kernel import batches as receiving
receiving.PROMPT_NS = 10**12  # else calls that had to wait for the processor are joined
with nflog.NflogSocket(snaplen=256) as source:
    nothing = source.receive()
    send(400)
    batches = drain(source)
    whole = all(
        struct.unpack_from("=I", one)[0] == len(one) for batch in batches for one in messages(batch)
    )
    print(json.dumps([nothing, [len(b.lengths) for b in batches], numbers(batches), whole,
                      sum(b.lost + b.truncated for b in batches), source.unseen()]))
""")
    nothing, sizes, *rest = found
    assert nothing is None
    assert (
        min(sizes[:-1], default=SLOTS) >= SLOTS
    )  # more where the process had to wait for its processor
    assert rest == [list(range(400 * PER_PACKET)), True, 0, 0]


def test_received_and_lost_are_what_was_sent(inside):
    """With a tiny buffer: gaps count what is followed by an event, the socket counts the rest."""
    received, lost, unseen, second_gap = inside("""
with nflog.NflogSocket(snaplen=256, receive_buffer=4096, ring_bytes=4096) as source:
    send(500)
    batches = drain(source)
    send(500)
    second = drain(source)
    batches += second
    print(json.dumps([sum(len(b.lengths) for b in batches), sum(b.lost for b in batches),
                      source.unseen(), sum(b.lost for b in second)]))
""")
    assert received + lost + unseen == 1000 * PER_PACKET
    assert unseen > 0
    assert second_gap > 0


def test_snaplen_and_slot(inside):
    """The payload is cut to snaplen; what does not fit a slot is told, its number is still read."""
    cut, truncated, lost = inside("""
import os
os.environ["IPTREC_NO_TAP"] = "1"
with nflog.NflogSocket(snaplen=64) as source:
    send(1, size=1000)
    cut = [len(one) for one in messages(drain(source)[0])]
nflog._ATTRIBUTES_ROOM = 64
with nflog.NflogSocket(snaplen=1024) as source:
    send(3, size=1000)
    batch = drain(source)[0]
    print(json.dumps([cut, batch.truncated, batch.lost]))
""")
    assert max(cut) < 300
    assert (truncated, lost) == (3 * PER_PACKET, 0)


def test_after_stop_nothing_follows(inside):
    """What is in the socket can still be read, later events are not the socket's any more."""
    found = inside("""
with nflog.NflogSocket(snaplen=256) as source:
    send(5)
    source.stop()
    send(7)
    print(json.dumps([numbers(drain(source)), source.unseen()]))
""")
    assert found == [list(range(5 * PER_PACKET)), 0]


def test_nflog_rules_share_the_group(lab, inside):
    """-j NFLOG logs to group 0 as well and would gather 100 events a datagram: not on this socket."""
    lab.run(["iptables-legacy", "-t", "raw", "-I", "OUTPUT", "-p", "udp", "-j", "NFLOG"])
    found = inside("""
with nflog.NflogSocket(snaplen=256) as source:
    send(10)
    batches = drain(source)
    print(json.dumps([numbers(batches), sum(b.lost for b in batches)]))
""")
    # raw OUTPUT: NFLOG's own event; then the trace, in which TRACE itself comes after NFLOG
    assert found == [list(range(10 * (PER_PACKET + 1))), 0]


def test_binding_while_others_log(lab, inside):
    """An event that comes before the kernel's answer is not taken for it."""
    flood = (
        "import socket\ns=socket.socket(2,2)\nprint('begun', flush=True)\n"
        "while 1: s.sendto(b'x',('127.0.0.1',9))"
    )
    with lab.popen([sys.executable, "-c", flood], stdout=subprocess.PIPE) as noise:
        noise.stdout.readline()
        found = inside("""
lost = []
for _ in range(200):
    with nflog.NflogSocket(snaplen=256) as source:
        while not (batches := drain(source)):
            pass
        lost += [sum(b.lost for b in batches)]
print(json.dumps([len(lost), max(lost)]))
""")
        noise.kill()
    assert found[0] == 200
    if os.geteuid() == 0:  # others are granted a small buffer, which a flood may fill
        assert found[1] == 0


def test_taken_group_names_its_holder(inside):
    """The second listener is told who the first is, and leaves it alone."""
    message, still = inside("""
with nflog.NflogSocket(snaplen=256) as source:
    try:
        nflog.NflogSocket(snaplen=256)
    except HostError as error:
        message = str(error).replace(str(__import__("os").getpid()), "PID")
    send(1)
    print(json.dumps([message, len(numbers(drain(source)))]))
""")
    assert message.startswith("nflog group 0, which TRACE uses, is taken by python")
    assert "(pid PID)" in message
    assert still == PER_PACKET


def test_without_rights(lab):
    """One line that says what is needed."""
    script = (
        "from iptrec.errors import HostError\nfrom iptrec.kernel.legacy import nflog\n"
        "try: nflog.NflogSocket(snaplen=256)\nexcept HostError as e: print(e)"
    )
    caps = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]
    done = lab.run([*caps, sys.executable, "-c", script])
    assert done.stdout == "listening to nflog needs root or CAP_NET_ADMIN: run iptrec with sudo\n"


WATCHED = """
class Watching:
    counted = 0
    def count(self, opened):
        self.counted += 1
    def marks(self):
        return [((1 << 32) - 1, 1)]

watching = Watching()
with nflog.NflogSocket(snaplen=64, replacements=watching) as source:
    send(3)
    batches = drain(source)
    print(json.dumps([
        bool(source.untapped), watching.counted, sum(len(one.lengths) for one in batches),
        any(one.notes is not None and one.there for one in batches),
    ]))
"""


def test_messages_are_counted_where_no_tap_tells_their_times(inside):
    """A socket has one filter: the tap's, or the one that counts for replacements of tables."""
    untapped, counted, events, both = inside(WATCHED)
    assert (counted, events, both) == (untapped, 3 * PER_PACKET, False)
