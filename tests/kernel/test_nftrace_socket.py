"""The socket of nf_tables' traces on the real kernel: traces, the numbers of its rulesets, nothing else.

The socket is opened inside the lab by a script, which prints what the test then judges.
"""

from __future__ import annotations

import json
import shutil
import sys

import pytest

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(
        shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin") is None, reason="no nft"
    ),
]

TABLE = """\
table ip t {
    set s { type ipv4_addr; }
    chain c { type filter hook output priority 0; udp dport 9 meta nftrace set 1; }
}
"""
PRELUDE = """
import json, socket, subprocess
from iptrec.kernel import netlink
from iptrec.kernel.nft import nftrace

out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

def send():
    out.sendto(b"x", ("127.0.0.1", 9))

def change(commands):
    subprocess.run(["nft", "-f", "-"], input=commands, text=True, check=True)

def told(source):
    found, beside = [], 0
    while (batch := source.receive()) is not None:
        for one in netlink.messages(batch.data):
            number = dict(netlink.attributes(one.body[4:]))[1]
            found.append(int.from_bytes(number) if one.kind == 0x0A0F else "event")
        beside += batch.beside
    return found, beside
"""


@pytest.fixture(params=["tap", "no-tap"])
def inside(lab, request):
    """Runs a script in a lab where UDP is traced; gives what it printed as JSON."""
    lab.run(["nft", "-f", "-"], stdin=TABLE)
    command = ["env", f"IPTREC_NO_TAP={int(request.param == 'no-tap')}", sys.executable, "-c"]
    return lambda script: json.loads(lab.run([*command, PRELUDE + script]).stdout)


def test_numbers_come_among_the_events(inside):
    """What holds is told before the first event, and before a change once more."""
    first, nothing, second, third = inside("""
with nftrace.NftraceSocket() as source:
    send()
    first = told(source)
    send()
    nothing = told(source)
    send()
    change("add element ip t s { 10.0.0.1 }")
    send()
    second = told(source)
    change("add element ip t s { 10.0.0.2 }")
    change("add element ip t s { 10.0.0.3 }")
    print(json.dumps([first, nothing, second, told(source)]))
""")
    events = first[0][1:]
    now = first[0][0]
    assert set(events) == {"event"}
    assert first[1] == 1
    assert nothing == [events, 0]
    told = second[0]
    again = told.index(now)
    assert again <= len(events)
    assert told.index(now + 1) == len(events) + 1
    assert (told[:again] + told[again + 1 :], second[1]) == ([*events, now + 1, *events], 2)
    assert third == [[now + 1, now + 2, now + 3], 3]


@pytest.mark.parametrize("many", [100_000])
def test_what_else_is_told_of_changes_takes_no_room(inside, many):
    """However many elements somebody adds at once: one number comes, and nothing is lost."""
    (found, beside), unseen = inside(f"""
elements = ", ".join(f"10.{{n >> 16}}.{{n >> 8 & 255}}.{{n & 255}}" for n in range({many}))
with nftrace.NftraceSocket(receive_buffer=1 << 15) as source:
    change(f"add element ip t s {{{{ {{elements}} }}}}")
    print(json.dumps([told(source), source.unseen()]))
""")
    before, after = found
    assert (after - before, beside, unseen) == (1, 2, 0)


def test_changes_of_rules_are_known_from_those_of_sets(inside):
    """Elements come and go all the time; the recorder looks more often only while rules change."""
    found = inside("""
found = []
with nftrace.ChangeSocket() as source:
    for commands in ("add element ip t s { 10.0.0.1 }", "add rule ip t c accept", "delete table ip t"):
        source.rules_ns = 0
        change(commands)
        while source.receive() is not None:
            pass
        found.append(source.rules_ns > 0)
print(json.dumps(found))
""")
    assert found == [False, True, True]


def test_after_stop_nothing_follows(inside):
    """No events; what was there can still be received, and behind it the number that holds then."""
    found = inside("""
with nftrace.NftraceSocket() as source:
    send()
    source.stop()
    send()
    change("add element ip t s { 10.0.0.1 }")
    first = told(source)
    print(json.dumps([first, told(source)]))
""")
    (first, beside), rest = found
    assert [type(one) for one in first] == [int, *[str] * (len(first) - 2), int]
    assert (first[-1], beside, rest) == (first[0] + 1, 2, [[], 0])


def test_what_is_forgotten_is_told_to_nobody(inside):
    """The number that holds is told before what comes next all the same."""
    first, second = inside("""
with nftrace.NftraceSocket() as source:
    send()
    first = told(source)[0][0]
    send()
    change("add element ip t s { 10.0.0.1 }")
    source.forget()
    send()
    print(json.dumps([first, told(source)[0]]))
""")
    assert second[0] == first + 1
    assert set(second[1:]) == {"event"}
