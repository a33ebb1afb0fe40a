"""The host's drop monitor (NET_DM), where no program may run: what it tells, and that it is put back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter

import pytest
import recorder
from command import IPTREC
from dying import IDS, PORTS, WAYS, order
from frames import mac
from recorder import guardians, kill_at_any_moment, packets, until
from rights import IS_ROOT, since
from test_drops import DYING, RULES, router, whose  # noqa: F401 - a fixture
from test_guardian import kill_both

from iptrec.decode import drops
from iptrec.errors import HostError, TakenError
from iptrec.kernel.drops import monitor
from iptrec.packets.drop_words import function, is_loss
from iptrec.recording.reader import Reader

pytestmark = [pytest.mark.live, since(5, 18, "reasons that the drop monitor tells")]
# A kernel without the types of its own: no program can be made for it.
WITHOUT_BTF = (
    "unshare", "--mount", "sh", "-ec", 'mount -t tmpfs tmpfs /sys/kernel/btf && exec "$@"', "sh",
)  # fmt: skip
CLEANUP = (*IPTREC, "cleanup", "--netns", "/proc/self/ns/net")
# Set where this host is there for the tests alone: bench/kernels.
ALONE = "IPTREC_OWN_HOST"


def missing():
    """Why there is no drop monitor that a test may use; "" if there is one."""
    if not IS_ROOT:
        return "the kernel tells root alone"
    try:
        with monitor.asking() as asking:
            monitor.Monitor(asking).require_free()
    except HostError as error:
        return str(error)
    return ""


@pytest.fixture(autouse=True, scope="module")
def there():
    if why := missing():
        pytest.skip(why)


@pytest.fixture
def host():
    """How it is set; put back as it was if the test has failed."""
    with monitor.asking() as asking:
        found = monitor.Monitor(asking)
        yield found
        found.require_free()


def is_free():
    return missing() == ""


def test_it_tells_what_a_program_tells(router, tmp_path, backend, host):  # noqa: F811
    """Each way to die, recorded both ways: the same reason and function; nobody else has an end.

    The host has other namespaces, so each end is perhaps that of an equal packet there.
    """
    for family in ("ipv4", "ipv6"):
        router.restore(None, family, RULES, backend)
    before = host.config()
    asked = json.dumps(order(mac(router, "h1", "eth0"), mac(router, None, "v1")))
    found = {}
    for name, command in (("program", IPTREC), ("monitor", (*WITHOUT_BTF, *IPTREC))):
        path = found[name] = tmp_path / f"{name}.db"
        options = ["-q", "--drops", "yes", "--backend", backend, "-o", str(path)]
        router.run(
            [*command, "record", *options, "--", sys.executable, str(DYING)],
            stdin=asked, timeout=600,
        )  # fmt: skip
    assert host.config() == before
    program, told = recorded(found["program"]), recorded(found["monitor"])
    assert program.keys() == WAYS.keys()
    assert told == program
    others = 0
    for one in packets(found["monitor"]):
        seen = one.end is not None and one.end.source == "seen"
        assert one.verdict != "DISCARDED"
        assert not (seen and one.end.sure)
        if whose(one) is None and one.header["proto"] == "udp":
            others += 1
            assert not seen, one
    assert others >= 2 * len(WAYS)


def recorded(path):
    """By the ways to die: the reasons and functions of the records of their packets."""
    found = {}
    with Reader(path) as reader:
        names, places = {}, {}
        for one in reader.snapshots("drop-reasons"):
            names |= drops.reasons(one.content)
        for one in reader.snapshots("drop-places"):
            places |= drops.places(one.content)
        (stream,) = [one.id for one in reader.streams if one.kind == "drops"]
        for chunk in reader.chunks(stream):
            records = drops.decode(chunk.data, chunk.lengths)
            for at, reason, place in zip(
                records.start.tolist(), records.reason.tolist(), records.place.tolist(), strict=True
            ):
                way = way_of(bytes(records.data[at : at + 48]))
                cause = drops.reason_name(names, reason), function(places[place])
                if way is not None and is_loss(*cause):
                    found.setdefault(way, set()).add(cause)
    return found


def way_of(packet):
    """The way to die that a packet goes, by its identification or its port; None for others."""
    at, first = (4, IDS) if packet[0] >> 4 == 4 else (40, PORTS)
    number = int.from_bytes(packet[at : at + 2]) - first
    return list(WAYS)[number % 100] if 0 <= number < 900 and number % 100 < len(WAYS) else None


TWINS = """
import ctypes, os, socket, sys
sys.path.insert(0, sys.argv[1])
from frames import ipv4, summed, udp
body = summed(udp(5000, 7, b"twin"), "127.0.0.1", "127.0.0.1")
packet = ipv4(*body, src="127.0.0.1", dst="127.0.0.1", identity=4242)
taking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
taking.bind(("127.0.0.1", 7))
ours, theirs = os.open("/proc/self/ns/net", os.O_RDONLY), os.open("/run/netns/other", os.O_RDONLY)
out = []
for namespace in (theirs, ours):
    assert ctypes.CDLL(None).setns(namespace, 0) == 0
    out.append(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW))
for _ in range(5):
    for one in out:
        one.sendto(packet, ("127.0.0.1", 0))
"""


def test_a_twin_in_another_namespace_is_not_blamed(lab, tmp_path, backend, host):  # noqa: ARG001
    """Equal packets by lo: ours arrive, those of another namespace die; it is sure of none."""
    lab.restore(None, "ipv4", RULES, backend)
    lab.host("other")
    lab.ip("other", "link set lo up")
    twins = [sys.executable, "-c", TWINS, str(DYING.parent)]
    path = tmp_path / "t.db"
    options = ["-q", "--drops", "yes", "--backend", backend, "-o", str(path), "udp"]
    lab.run([*WITHOUT_BTF, *IPTREC, "record", *options, "--", *twins])
    found = packets(path)
    assert len(found) == 10
    assert {one.verdict for one in found} == {"ACCEPT"}
    ends = [one.end for one in found if one.end is not None]
    assert {(one.reason, one.sure, one.source) for one in ends} == {("NO_SOCKET", False, "seen")}


@pytest.mark.skipif(
    ALONE not in os.environ, reason=f"it records the host's own namespace: set {ALONE}"
)
def test_without_other_namespaces_it_is_sure(tmp_path, host):  # noqa: ARG001
    path = tmp_path / "t.db"
    send = "for n in 1 2 3 4; do echo x >/dev/udp/127.0.0.1/9 || true; done"
    command = [
        *IPTREC,
        "record",
        "-q",
        "--drops",
        "yes",
        "-o",
        path,
        "udp",
        "--",
        "bash",
        "-c",
        send,
    ]
    subprocess.run([*WITHOUT_BTF, *command], check=True)
    ends = Counter(
        (one.verdict, one.end and (one.end.reason, one.end.sure))
        for one in packets(path)
        if one.in_ == "lo"
    )
    assert ends == {("DISCARDED", ("NO_SOCKET", True)): 4}


def recording(lab, path, *options):
    return recorder.start(
        lab, "-o", path, "--drops", "yes", *options, before=(*WITHOUT_BTF, *IPTREC), notes=True
    )


@pytest.mark.parametrize("end", ["INT", "KILL", "cleanup"])
def test_it_is_stopped_and_put_back(lab, tmp_path, host, end):
    """By the recorder, its guardian, or cleanup."""
    lab.restore(None, "ipv4", RULES)
    before = host.config()
    child = recording(lab, tmp_path / "t.db")
    assert not is_free()
    assert host.config() != before
    if end == "INT":
        recorder.stop(child)
    elif end == "KILL":
        child.kill()
        child.communicate()
        until(lambda: not guardians(lab))
    else:
        kill_both(lab, child)
        assert not is_free()
        lab.run(CLEANUP)
    assert is_free()
    assert host.config() == before
    assert lab.run(CLEANUP).stdout == "nothing is left behind\n"


def test_killed_at_any_moment(lab, tmp_path, host):
    """Whenever that is, it is free and set as before."""
    lab.restore(None, "ipv4", RULES)
    command = [*WITHOUT_BTF, *IPTREC, "record", "-q", "--drops", "yes", "--duration", "50ms", "-o"]
    kills = int(os.environ.get("IPTREC_KILLS", "6"))
    kill_at_any_moment(lab, tmp_path, kills, lambda: (is_free(), host.config()), *command)


def test_what_somebody_else_uses_is_left_alone(lab, tmp_path, host):
    """One line says so, nothing is recorded, and theirs goes on as they set it."""
    lab.restore(None, "ipv4", RULES)
    theirs = []
    host.borrow(100, theirs.append)
    try:
        config = host.config()
        command = [*WITHOUT_BTF, *IPTREC, "record", "--drops", "yes", "-o", str(tmp_path / "t.db")]
        done = lab.run([*command, "--", "true"], check=False)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "somebody else uses the kernel's drop monitor" in done.stderr
        assert not (tmp_path / "t.db").exists()
        assert (is_free(), host.config()) == (False, config)
        with pytest.raises(TakenError, match="somebody else uses"):
            host.require_free()
    finally:
        host.give_back(theirs[0])


def test_auto_does_not_start_it(lab, tmp_path, host):
    """The file says why drops are not recorded, and doctor how they can be."""
    lab.restore(None, "ipv4", RULES)
    child = recorder.start(
        lab, "-o", tmp_path / "t.db", "--drops", "auto", before=(*WITHOUT_BTF, *IPTREC)
    )
    assert is_free()
    recorder.stop(child)
    with Reader(tmp_path / "t.db") as reader:
        (stream,) = [one for one in reader.streams if one.kind == "drops"]
    assert "BTF" in stream.detail["not_recorded"]
    told = lab.run([*WITHOUT_BTF, *IPTREC, "doctor"], check=False).stdout
    assert "record --drops yes lets the host's drop monitor tell" in told
    host.require_free()


FLOOD = """
import os, socket, time
from iptrec.kernel.drops import alerts, monitor
alerts._RECEIVE_BUFFER = 1 << 15
kept = []
with monitor.asking() as asking, alerts.AlertSource(asking, os.stat("/proc/self/ns/net").st_ino, 64) as source:
    source.start(kept.append)
    try:
        out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        def send(count):
            for _ in range(count):
                try:
                    out.sendto(b"x", ("127.0.0.1", 9))
                except OSError:
                    pass
        def whole(count):
            records = lost = 0
            until = time.monotonic() + 20
            while records + lost < count and time.monotonic() < until:
                source._look_at = 0.0
                if (found := source.receive()) is not None:
                    records, lost = records + len(found.lengths), lost + found.lost
            return records, lost
        send(3000)
        time.sleep(2)
        first = whole(3000)
        send(1)
        print(*first, *whole(1))
    finally:
        monitor.Monitor(asking).give_back(kept[0])
"""


def test_what_finds_no_room_is_counted(lab, host):  # noqa: ARG001
    """All that was dropped was recorded or counted, by the kernel's queue or by our socket, and it goes on."""
    lab.ip(None, "link set lo up")
    records, lost, more, _ = map(int, lab.run([sys.executable, "-c", FLOOD]).stdout.split())
    assert records + lost >= 3000
    assert min(records, lost) > 0
    assert more >= 1
