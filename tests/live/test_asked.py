"""What routing drops is told by the kernel's own answer: each packet is sent for real, and its end is known.

Each datagram has a number of its own as source port; `test_arrival` has who sends.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import recorder
from command import IPTREC, iptrec
from recorder import packets, stop
from test_arrival import SEND
from test_nft import router
from told_alike import ends as every_view

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(
        shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin") is None, reason="no nft"
    ),
]
ROUTES = {
    "-4": ("blackhole 10.66.0.0/24", "unreachable 10.67.0.0/24", "prohibit 10.68.0.0/24"),
    "-6": ("blackhole fd66::/64", "unreachable fd67::/64", "prohibit fd68::/64"),
}
# From host a: where to, from whom; the reason, None where it arrives.
WAYS = {
    "here": ("10.0.1.1", None, None),
    "onward": ("10.0.2.2", None, None),
    "no route": ("10.9.9.9", None, "IP_INNOROUTES"),
    "blackhole": ("10.66.0.1", None, "BLACKHOLE"),
    "unreachable": ("10.67.0.1", None, "UNREACHABLE"),
    "prohibited": ("10.68.0.1", None, "PROHIBIT"),
    "rp_filter": ("10.0.1.1", "10.0.2.99", "IP_RPFILTER"),
    "rp_filter, no way back": ("10.0.2.2", "192.0.2.7", "IP_RPFILTER"),
    "martian, of lo": ("10.0.1.1", "127.0.0.1", "IP_LOCALNET"),
    "martian, its own address": ("10.0.1.1", "10.0.2.1", "IP_LOCAL_SOURCE"),
    "martian, a group": ("10.0.1.1", "224.0.0.1", "IP_INVALID_SOURCE"),
    "here 6": ("fd00:1::1", None, None),
    "onward 6": ("fd00:2::2", None, None),
    "no route 6": ("fd99::1", None, "IP_INNOROUTES"),
    "blackhole 6": ("fd66::1", None, "BLACKHOLE"),
    "unreachable 6": ("fd67::1", None, "IP_INNOROUTES"),
    "prohibited 6": ("fd68::1", None, "IP_INNOROUTES"),
}
FIRST: int = 20000
RULES = {
    "legacy": "*mangle\nCOMMIT\n*filter\n-A INPUT -p udp --dport 4000 -j DROP\nCOMMIT\n",
    "nft": """
table inet fw {
 chain before { type filter hook prerouting priority -50; }
 chain inside { type filter hook input priority 0; }
 chain onward { type filter hook forward priority 0; }
}
""",
}


@pytest.fixture
def network(lab):
    """A router between a and b, with strict reverse path filtering."""
    router(lab)
    lab.sysctl(None, "net/ipv4/conf/all/rp_filter", 1)
    for family, routes in ROUTES.items():
        lab.run(
            ["ip", family, "-batch", "-"], stdin="".join(f"route add {one}\n" for one in routes)
        )
    return lab


def load(lab, backend):
    if backend == "nft":
        lab.run(["nft", "-f", "-"], stdin=RULES["nft"])
        return
    for family in ("ipv4", "ipv6"):
        lab.restore(None, family, RULES["legacy"])


def send(lab, ways, first=FIRST):
    lines = [f"{first + at} {to} 64 {src}\n" for at, (to, src, _) in enumerate(ways)]
    lab.run([sys.executable, "-c", SEND], "a", stdin="".join(lines))


def record(lab, path, backend, *options):
    """A recorder of datagrams, to which nobody tells what the kernel drops."""
    return recorder.start(lab, "udp", "--backend", backend, *options, "-o", path, notes=True)


def numbered(path, port=None):
    """Our packets by their numbers."""
    return {
        one.header["sport"]: one
        for one in packets(path)
        if one.header.get("dport") == 5000 and (port is None or one.header["sport"] == port)
    }


def is_there(path, number):
    """Whether the kernel's answer about a packet is in the file."""

    def look():
        one = numbered(path, number).get(number)
        return one is not None and one.end is not None and one.end.source == "asked"

    return look


def test_each_end_is_the_kernels_own(network, tmp_path, backend):
    """In both families; what goes on has none."""
    load(network, backend)
    path = tmp_path / "t.db"
    child = record(network, path, backend)
    send(network, WAYS.values())
    stop(child)
    found = numbered(path)
    ends = {}
    for at, (name, (_, _, reason)) in enumerate(WAYS.items()):
        one = found[FIRST + at]
        ends[name] = one.end and one.end.reason if one.verdict == "UNKNOWN" else None
        assert (one.verdict == "ACCEPT") == (reason is None), name
        assert ends[name] is None or (one.end.sure and one.end.source == "asked"), (name, one.end)
    assert ends == {name: reason for name, (_, _, reason) in WAYS.items()}
    filtered = found[FIRST + [*WAYS].index("rp_filter")]
    assert filtered.end.text.endswith("net.ipv4.conf.all.rp_filter is 1")
    said = iptrec("why", path, "--packet", found[FIRST + 2].number)
    assert "the kernel says (asked" in said.stdout
    every_view(path, tmp_path)


SETTINGS = {
    "forwarding off": (
        {"net/ipv4/ip_forward": 0, "net/ipv6/conf/all/forwarding": 0},
        {
            "10.0.2.2": "IP_INADDRERRORS",
            "10.66.0.1": "IP_INADDRERRORS",
            "fd00:2::2": "IP_INADDRERRORS",
        },
    ),
    "loose rp_filter": (
        {"net/ipv4/conf/all/rp_filter": 2},
        {"10.0.2.2 192.0.2.7": "IP_RPFILTER", "10.0.2.2 10.0.2.99": None},
    ),
    "no rp_filter": (
        {f"net/ipv4/conf/{one}/rp_filter": 0 for one in ("all", "to-a")},
        {"10.0.2.2 192.0.2.7": None, "10.66.0.1": "BLACKHOLE"},
    ),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_count_as_they_are(network, tmp_path, backend, case):
    settings, expected = SETTINGS[case]
    load(network, backend)
    for key, value in settings.items():
        network.sysctl(None, key, value)
    path = tmp_path / "t.db"
    child = record(network, path, backend)
    send(network, [(*words.split(), None, None)[:3] for words in expected])
    stop(child)
    found = numbered(path)
    ends = [found[FIRST + at].end for at in range(len(expected))]
    assert [one and one.reason for one in ends] == list(expected.values())


def test_a_route_that_changes_makes_another_answer(network, tmp_path, backend):
    """Each packet's is that of its time; who is asked again is asked at once."""
    load(network, backend)
    path = tmp_path / "t.db"
    child = record(network, path, backend)
    changes = (
        "", "route add unreachable 10.9.9.0/24", "route replace prohibit 10.9.9.0/24",
        "route replace 10.9.9.0/24 via 10.0.2.2",
    )  # fmt: skip
    for number, change in enumerate(changes, FIRST):
        if change:
            network.ip(None, change)
        send(network, [("10.9.9.9", None, None)], number)
        if number < FIRST + 3:
            recorder.until(is_there(path, number), f"no answer after {change!r}")
    stop(child)
    found = numbered(path)
    reasons = ["IP_INNOROUTES", "UNREACHABLE", "PROHIBIT", None]
    assert [found[number].end and found[number].end.reason for number in sorted(found)] == reasons


def test_many_senders_are_not_all_asked_about(network, tmp_path, backend):
    """What was not is counted; the recorder loses nothing."""
    load(network, backend)
    path = tmp_path / "t.db"
    child = record(network, path, backend)
    sources = [f"10.0.1.{3 + one % 250}" for one in range(10_000)]
    ways = [(f"10.9.{one // 250}.9", source, None) for one, source in enumerate(sources)]
    send(network, ways, 10_000)
    stop(child)
    found = [one for one in packets(path) if one.header.get("dport") == 5000]
    told = [one.end for one in found if one.end is not None]
    assert len(found) == 10_000
    assert {one.reason for one in told} == {"IP_INNOROUTES"}
    info = json.loads(iptrec("info", "--json", path).stdout)
    asked = info["asked"]
    assert info["lost"] == 0
    assert asked["questions"] >= 100
    assert asked["not_asked"] + asked["not_looked_at"] > 0
    assert len(told) >= asked["questions"] * 0.9


def test_a_user_in_a_namespace_of_its_own_may_ask(tmp_path):
    """Nothing of it needs rights."""
    if subprocess.run(["unshare", "-Urn", "true"], check=False).returncode:
        pytest.skip("no user namespaces")
    script = f"""
    ip link set lo up; ip link add a0 type veth peer name a1; ip address add 10.0.1.1/24 dev a0
    unshare -n sleep 60 & until [ "$(readlink /proc/$!/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do :; done
    ip link set a1 netns $!; ip link set a0 up
    in="nsenter -t $! -n"
    $in ip address add 10.0.1.2/24 dev a1; $in ip link set a1 up; $in ip route add default via 10.0.1.1
    echo 1 > /proc/sys/net/ipv4/ip_forward
    {" ".join(map(str, IPTREC))} record udp --drops no -o {tmp_path}/t.db -- $in {sys.executable} -c '
import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("10.9.9.9", 5000))'
    status=$?; kill $!; exit $status
    """
    done = subprocess.run(
        ["unshare", "-Urn", "sh", "-c", script], capture_output=True, text=True, check=False,
        env={"XTABLES_LOCKFILE": str(tmp_path / "lock"), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (one,) = packets(tmp_path / "t.db")
    assert (one.end.reason, one.end.sure) == ("IP_INNOROUTES", True)


AGAIN = f"""
import select, socket, sys
number = {FIRST}
while not select.select([sys.stdin], [], [], 0.05)[0]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.bind(("", number))
        out.sendto(b"x", ("10.9.9.9", 5000))
    number = number + 1 if number < {FIRST + 9999} else {FIRST}
"""


def questions(path):
    return json.loads(iptrec("info", "--json", path).stdout)["asked"]["questions"]


def test_a_ring_lets_go_of_answers(network, tmp_path, backend):
    """And asks again: what is in it has one."""
    load(network, backend)
    path = tmp_path / "t.db"
    child = record(network, path, backend, "--ring", "1s")
    sender = network.popen([sys.executable, "-c", AGAIN], "a", stdin=subprocess.PIPE)
    answered = set()

    def of_another_moment():
        """Each datagram has a number: none of the first that was answered is there now, but answers are."""
        now = {at for at, one in numbered(path).items() if one.end and one.end.source == "asked"}
        answered.update(now if not answered else ())
        return now and not now & answered

    recorder.until(of_another_moment, "no answer")
    sender.communicate(b"", timeout=30)
    recorder.until(lambda: not numbered(path), "it stays")
    # What was asked of the last packet may be answered after that has gone.
    recorder.until(lambda: questions(path) == 0, "its question stays")
    stop(child)
    assert questions(path) == 0
    assert Path(path).stat().st_size < 1 << 20


def test_the_reason_is_a_line_of_show(network, tmp_path, backend):
    load(network, backend)
    path = tmp_path / "t.db"
    child = record(network, path, backend)
    send(network, [("10.9.9.9", None, None)])
    stop(child)
    shown = iptrec("show", path, "udp").stdout
    assert re.search(r"\(incomplete: not seen after .* PREROUTING\)", shown)
    assert re.search(
        r"\tend: the kernel says \(asked \d+ ms later\): no route to 10\.9\.9\.9\n", shown
    )


PACKETS = int(os.environ.get("IPTREC_PACKETS", "20000"))
DYING = [ways for ways in WAYS.values() if ways[2] is not None and ":" not in ways[0]]
FLOOD = """\
import socket, struct, sys
out = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
for line in sys.stdin:
    number, source, to = line.split()
    head = struct.pack("!BBHHHBBH", 0x45, 0, 29, int(number) & 0xffff, 0, 64, 17, 0)
    udp = struct.pack("!HHHH", int(number) & 0xffff, 6000 + (int(number) >> 16), 9, 0) + b"x"
    out.sendto(head + socket.inet_aton(source) + socket.inet_aton(to) + udp, (to, 0))
"""


def test_one_in_a_hundred_dies(network, tmp_path, backend):
    """No end is wrong, none of the others is blamed; where there was no time to ask nothing is told."""
    load(network, backend)
    path = tmp_path / "t.db"
    fates, lines = {}, []
    for number in range(PACKETS):
        to, source, reason = "10.0.2.2", None, None
        if number % 100 == 50:
            to, source, reason = DYING[number // 100 % len(DYING)]
        fates[number] = reason
        lines.append(f"{number} {source or f'10.0.1.{3 + number % 250}'} {to}\n")
    child = record(network, path, backend)
    network.run([sys.executable, "-c", FLOOD], "a", stdin="".join(lines))
    stop(child)
    told = {"right": 0, "wrong": 0, "unknown": 0, "unsure": 0}
    for one in packets(path):
        header = one.header
        if header.get("dport", 0) < 6000 or header["src"] == "10.0.2.2":
            continue
        reason = fates.pop(header["sport"] + (header["dport"] - 6000 << 16))
        if one.end is None:
            told["unknown"] += reason is not None
            continue
        told["unsure"] += not one.end.sure
        told["right" if one.end.reason == reason else "wrong"] += 1
    assert fates == {}
    assert (told["wrong"], told["unsure"]) == (0, 0)
    assert told["right"] >= 0.8 * PACKETS // 100, told
