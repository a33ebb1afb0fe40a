"""The kernel's own reasons: who dies behind the rules is told so, with reason and place, and nobody else is."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path

import pytest
from command import IPTREC
from dying import (
    BEFORE_6_12,
    CONTROLS,
    FAR4,
    FAR6,
    IDS,
    PORTS,
    SINCE_6_13,
    WAYS,
    fate,
    number_in_crowd,
    order,
)
from frames import mac
from recorder import packets
from rights import IS_ROOT, LINUX, since
from routers import between
from told_alike import ends as every_view

from iptrec.answers.summary import summarize
from iptrec.packets.drop_words import function
from iptrec.recording.reader import Reader

pytestmark = [pytest.mark.live, since(5, 17, "reasons of drops")]
DYING = Path(__file__).with_name("dying.py")
RULES = """*filter
:INPUT ACCEPT
:FORWARD ACCEPT
-A INPUT -p udp -m udp --dport 4 -j DROP
-A FORWARD -p udp -m udp --dport 4 -j DROP
COMMIT
"""


@pytest.fixture
def router(lab):
    """A router between two hosts, with its rules of both backends' tests."""
    return between(lab, 2)


def test_ways_to_die(router, tmp_path, backend):
    for family in ("ipv4", "ipv6"):
        router.restore(None, family, RULES, backend)
    path = tmp_path / "t.db"
    asked = json.dumps(order(mac(router, "h1", "eth0"), mac(router, None, "v1")))
    router.run(
        [
            *IPTREC,
            "record",
            "-q",
            "--drops",
            "yes",
            "--backend",
            backend,
            "-o",
            str(path),
            "--",
            sys.executable,
            str(DYING),
        ],
        stdin=asked,
        timeout=600,  # an emulated processor takes minutes
    )
    found, others = {}, []
    for one in packets(path):
        if (name := whose(one)) is None:
            others += [one] * (
                one.header["proto"] == "udp"
            )  # hosts tell each other what they listen to
        else:
            found.setdefault(name, []).append(told(one))
    reasons = {name: reason_here(way) for name, way in WAYS.items()}
    expected = {
        name: ("DISCARDED", reasons[name], function_here(way), True) for name, way in WAYS.items()
    }
    assert {name: ends[-1] for name, ends in found.items()} == expected
    # A socket's buffer takes the first of those that fill it.
    assert {name for name, ends in found.items() if ("ACCEPT", None) in ends} == {
        "full buffer",
        "full buffer6",
    }
    assert [one.header for one in others if one.end is not None] == []
    assert len(others) >= 2 * len(WAYS)
    every = every_view(path, tmp_path).values()
    assert {one[1] for one in every if one is not None} >= {*reasons.values()}


def reason_here(way):
    """The word of this kernel."""
    return "NOT_SPECIFIED" if LINUX < (6, 13) and way.reason in SINCE_6_13 else way.reason


def function_here(way):
    """The function of this kernel."""
    return way.function if LINUX >= (6, 12) else BEFORE_6_12.get(way.function, way.function)


def whose(packet):
    """The way to die that a packet goes; None for those that are sent beside."""
    number = packet.header.get("id", 0) - IDS
    if packet.family == "ipv6":
        number = packet.header.get("sport", 0) - PORTS
    mine = packet.steps[0].in_ == "v1" and 0 <= number < CONTROLS - IDS and number % 100 < len(WAYS)
    return list(WAYS)[number % 100] if mine else None


def told(packet):
    """Verdict and end."""
    end = packet.end
    return packet.verdict, *((end.reason, function(end.where), end.sure) if end else [None])


REJECTING = """*filter
:INPUT ACCEPT
-A INPUT -p udp -m udp --dport 1 -j DROP
-A INPUT -p udp -m udp --dport 2 -j REJECT
COMMIT
"""
TO_RULES = """
import socket
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(50):
    for port in (1, 2, 3):
        try:
            out.sendto(b"x", ("127.0.0.1", port))
        except OSError:
            pass
"""


def test_the_kernel_agrees_with_the_rules(lab, tmp_path, backend):
    """What rules drop is netfilter's for the kernel, too; what they let pass is not."""
    lab.restore(None, "ipv4", REJECTING, backend)
    summary = recorded(lab, tmp_path / "t.db", TO_RULES, "udp", "--backend", backend)
    assert summary.disagree == 0
    assert summary.ends == {"NO_SOCKET": 50}
    assert {one: summary.verdicts[one] for one in ("DROP", "REJECT", "DISCARDED")} == {
        "DROP": 50, "REJECT": 50, "DISCARDED": 50,
    }  # fmt: skip


def recorded(lab, path, script, *options):
    """What is recorded while a script runs."""
    lab.run(
        [*IPTREC, "record", "-q", "-o", str(path), *options, "--", sys.executable, "-c", script]
    )
    with Reader(path) as reader:
        assert not any(one.of_events for one in reader.losses)
        return summarize(reader)


TALKING = """
import contextlib, socket, struct, subprocess, threading
RESET = struct.pack("ii", 1, 0)
def served(listening, how):
    with listening.accept()[0] as other:
        if how != "says first":
            while other.recv(1 << 16):
                pass
        other.sendall(bytes(100_000))
        if how == "resets":
            other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
for address, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
    for how in ("says first", "answers", "resets"):
        with socket.create_server((address, 0), family=family) as listening:
            server = threading.Thread(target=served, args=(listening, how))
            server.start()
            with socket.create_connection(listening.getsockname()[:2]) as us:
                if how != "says first":
                    us.sendall(bytes(50_000))
                    us.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionResetError):
                    while us.recv(1 << 16):
                        pass
            server.join()
    subprocess.run(["ping", "-qc1", address], check=True)
"""


def test_nobody_who_arrives_is_lost(lab, tmp_path, backend):
    """What TCP and raw sockets drop has done its work: the end of a connection, the answer to a ping."""
    for family in ("ipv4", "ipv6"):
        lab.restore(None, family, RULES, backend)
    summary = recorded(lab, tmp_path / "t.db", TALKING, "--backend", backend, "--drops", "yes")
    assert {*summary.verdicts} <= {"ACCEPT", "DISCARDED"}
    arrived, reasons = set(), set()
    for one in packets(tmp_path / "t.db"):
        flow = tuple(one.header.get(name) for name in ("src", "sport", "dport"))
        # Where the answer is late it is sent once more; a FIN alone, even if it came with data.
        segments = {(*flow, one.header.get("seq"))} | (
            {flow} if "FIN" in one.header.get("flags", "") else set()
        )
        again = one.end is not None and one.end.reason == "TCP_OLD_DATA"
        # Of two that are equal and wait at once nobody knows which one it was: both are in doubt.
        if one.end is not None and not (again and (segments & arrived or not one.end.sure)):
            reasons.add(one.end.reason)
        elif one.in_ and one.verdict == "ACCEPT":
            arrived |= segments
    # Who is reset has no connection any more for what was on its way.
    assert reasons <= {"TCP_CLOSE", "TCP_FLAGS"}


MANY = int(os.environ.get("IPTREC_PACKETS", "10000"))
CROWD = """
import json, socket, sys
from dying import framed, of_crowd
version, count, of, at = json.loads(sys.argv[1])
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
out.bind(("eth0", 0))
for number in range(count):
    (frame,) = framed([of_crowd(version, number)], at, of)
    out.send(bytes.fromhex(frame))
"""
# What is told of those that die where no drops are recorded, if it is another word than the kernel's: lists of
# sockets tell that nobody takes a packet, and its bytes that its checksum is wrong.
BY_LISTS = {"NOT_SPECIFIED": "BLACKHOLE"}
NEVER_SURE = ("UDP_CSUM", "NO_SOCKET")


@pytest.mark.parametrize("drops", ["yes", "no"])
@pytest.mark.parametrize("version", [4, 6])
def test_one_in_a_hundred_dies(router, tmp_path, backend, version, drops):
    """In five ways: each is told right, and no other packet is blamed."""
    for host, rules in ((None, RULES), ("h2", "*raw\n-A PREROUTING -p udp -j DROP\nCOMMIT\n")):
        router.restore(host, f"ipv{version}", rules, backend)
    router.run(["ip", "-6", "route", "add", "blackhole", "2001:db8:7::/64"])
    path = tmp_path / "t.db"
    ends = [mac(router, "h1", "eth0"), mac(router, None, "v1")]
    enter = ["nsenter", "--net=/run/netns/h1", "env", f"PYTHONPATH={DYING.parent}"]
    router.run(
        [
            *IPTREC, "record", "-q", "--drops", drops, "-o", str(path), "--backend", backend, "udp", "--",
            *enter, sys.executable, "-c", CROWD, json.dumps([version, MANY, *ends]),
        ]
    )  # fmt: skip
    expected, found = Counter(), Counter()
    for number in range(MANY):
        expected[_expected(fate(version, number), drops)] += 1
    for one in packets(path):
        fates = _expected(fate(version, number_in_crowd(one.header)), drops)
        told = one.verdict, *((one.end.reason, one.end.sure) if one.end else (None, None))
        assert told == fates, one
        found[told] += 1
    assert found == expected


def _expected(reason, drops):
    """Verdict, and of the end its word and whether it is sure."""
    if reason is None:
        return "ACCEPT", None, None
    if drops == "yes":
        return "DISCARDED", reason, True
    sure = reason not in NEVER_SURE
    return "UNKNOWN" if sure else "ACCEPT", BY_LISTS.get(reason, reason), sure


EQUAL = """
import json, socket, sys
from dying import FAR4, FAR6, four, framed, six
six_wanted, of, at = json.loads(sys.argv[1])
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
out.bind(("eth0", 0))
for number in range(40):
    far, gone = four(FAR4), four(f"203.0.113.{number}")
    if six_wanted:
        far, gone = six(FAR6), six(f"fd99::{number:x}")
    for make in (far, gone):
        (frame,) = framed([make(0)], at, of)
        out.send(bytes.fromhex(frame))
"""


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_many_that_go_elsewhere(router, tmp_path, backend, family):
    """Their destinations alone differ: who goes to a blackhole is told so, and no other packet is blamed."""
    router.restore(None, family, RULES, backend)
    router.run(["ip", "route", "add", "blackhole", "203.0.113.0/24"])
    router.run(["ip", "-6", "route", "add", "blackhole", "fd99::/64"])
    path = tmp_path / "t.db"
    ends = [family == "ipv6", mac(router, "h1", "eth0"), mac(router, None, "v1")]
    enter = ["nsenter", "--net=/run/netns/h1", "env", f"PYTHONPATH={DYING.parent}"]
    router.run(
        [
            *IPTREC, "record", "-q", "--drops", "yes", "-o", str(path), "--backend", backend, "udp",
            "--", *enter, sys.executable, "-c", EQUAL, json.dumps(ends),
        ]
    )  # fmt: skip
    found = Counter(
        (one.header["dst"] in (FAR4, FAR6), one.verdict, one.ambiguous, one.end and one.end.sure)
        for one in packets(path)
        if one.in_ == "v1"
    )
    assert found == {(True, "ACCEPT", False, None): 40, (False, "DISCARDED", False, True): 40}


FLOOD = """
import socket, struct
from iptrec.kernel.drops import source
source._RING_BYTES = 1 << 12
with source.DropSource(__import__("os").stat("/proc/self/ns/net").st_ino, 256) as drops:
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for _ in range(50):
        try:
            out.sendto(b"x", ("127.0.0.1", 9))
        except OSError:
            pass
    found = drops.receive()
    out.sendto(b"x", ("127.0.0.1", 9))
    print(len(found.lengths), found.lost, len(drops.receive().lengths), drops.receive())
"""


@pytest.mark.skipif(not IS_ROOT, reason="the kernel tells root alone")
def test_what_finds_no_room_is_counted(lab):
    """All that was dropped was recorded or counted, and the ring goes on."""
    lab.restore(None, "ipv4", "*raw\n-A OUTPUT -p udp -j TRACE\nCOMMIT\n")
    told = lab.run([sys.executable, "-c", FLOOD]).stdout.split()
    whole, lost, after, nothing = told
    assert (int(whole) + int(lost), after, nothing) == (50, "1", "None")
    assert int(lost) > 0


REFUSED = """
ip link set lo up
iptables-legacy -A OUTPUT -p udp -j ACCEPT
{iptrec} record -q {options} -o {path} -- {python} -c 'import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9))'
"""


def without_rights(lab, path, options):
    script = REFUSED.format(
        iptrec=" ".join(IPTREC), options=options, path=path, python=sys.executable
    )
    command = ["unshare", "--user", "--map-root-user", "unshare", "--net", "sh", "-c", script]
    return lab.run(["env", f"XTABLES_LOCKFILE={path}.lock", *command], check=False)


def test_without_rights_all_else_is_recorded(lab, tmp_path):
    """And the file says why drops are not."""
    done = without_rights(lab, tmp_path / "t.db", "")
    assert (done.returncode, done.stderr) == (0, "")
    assert {one.verdict for one in packets(tmp_path / "t.db")} >= {"ACCEPT"}
    told = lab.run([*IPTREC, "info", str(tmp_path / "t.db")]).stdout
    assert (
        "drop reason: not recorded (the kernel refuses the program: Operation not permitted" in told
    )


def test_who_asks_for_drops_without_rights_gets_no_recording(lab, tmp_path):
    done = without_rights(lab, tmp_path / "t.db", "--drops yes")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "iptrec: --drops yes: the kernel refuses the program: Operation not permitted; it needs"
    )
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "t.db").exists()
