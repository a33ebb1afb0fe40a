"""nf_tables as the kernel really passes it: the same answers as with legacy iptables, and as nft's own."""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from pathlib import Path

import nft_truth
import pytest

from iptrec.analyze.replay import Replay
from iptrec.cli.demo import FILTER, TRAFFIC, docker_hairpin
from iptrec.recording.reader import Reader

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(
        shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin") is None, reason="nft is not installed"
    ),
]

IPTREC = (sys.executable, "-m", "iptrec")
ROOT = Path(__file__).parents[2]
CONNECTIONS = 24  # each takes one of two endpoints, by chance

SERVER = """\
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("", 53))
print("ready", flush=True)
while True:
    data, peer = server.recvfrom(500)
    server.sendto(data.upper(), peer)
"""
CLIENT = f"""\
import socket
for port in range(40000, 40000 + {CONNECTIONS}):
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(5)
    client.bind(("", port))
    client.connect(("10.96.0.10", 53))
    client.send(b"?")
    assert client.recv(10) == b"?"
"""


def packets(lab, path, expression, command, backend):
    """What `show` would tell of what a command sends."""
    lab.run(
        [*IPTREC, "record", "-q", "--backend", backend, "-o", str(path), expression, "--", *command]
    )
    with Reader(path) as reader:
        assert reader.losses == []
        return list(Replay(reader))


def told(packet):
    """All that does not differ from run to run."""
    return (
        packet.verdict,
        packet.decided_by,
        packet.complete,
        packet.ambiguous,
        packet.in_,
        packet.out,
        [one.kind for one in packet.related],
        tuple(
            (one.table, one.chain, one.type, one.rule, one.spec, one.comment, one.target, one.target_args,
             one.mark, one.in_, one.out, one.header["src"], one.header["dst"], one.header["ttl"],
             min(one.header["dport"], 40000), tuple(one.changed))
            for one in packet.steps
        ),
    )  # fmt: skip


def hairpin(lab, path, backend):
    docker_hairpin(lab, backend)
    return packets(lab, path, FILTER, TRAFFIC, backend)


def kubeadm(lab, path, backend):
    lab.ip(None, "link add cni0 type bridge\naddress add 10.244.0.1/24 dev cni0\nlink set cni0 up")
    for number in (2, 3, 9):
        pod = f"pod{number}"
        lab.host(pod)
        lab.link(pod, "eth0", f"10.244.0.{number}/24", peer=f"veth{number}", bridge="cni0")
        lab.ip(pod, "route add default via 10.244.0.1")
    lab.sysctl(None, "net/ipv4/ip_forward", 1)
    lab.restore(None, "ipv4", (ROOT / "samples/kubeadm-flannel.rules").read_text(), backend)
    lab.settle()
    for number in (2, 3):
        server = lab.popen([sys.executable, "-c", SERVER], f"pod{number}", stdout=-1, text=True)
        with server.stdout as ready:
            assert ready.readline() == "ready\n"
    command = ["nsenter", "--net=/run/netns/pod9", sys.executable, "-c", CLIENT]
    return packets(lab, path, "udp port 53", command, backend)


@pytest.mark.parametrize("case", [hairpin, kubeadm])
def test_the_same_as_with_legacy_iptables(lab_refusal, tmp_path, case):
    """Steps, rules, their numbers and texts, changes of the packet, verdicts."""
    from iptrec.kernel.lab import Lab

    if lab_refusal is not None:
        pytest.skip(lab_refusal)
    found = {}
    for backend in ("legacy", "nft"):
        with Lab() as lab:
            found[backend] = case(lab, tmp_path / f"{backend}.db", backend)
            left = lab.run(["nft", "list", "tables"]).stdout.split("\n")
            assert "table ip raw" not in left
    legacy, nft = ([told(one) for one in found[backend]] for backend in ("legacy", "nft"))
    assert legacy
    assert len(legacy) == len(nft)
    assert all(one.complete and not one.ambiguous for one in found["nft"])
    assert [*dict.fromkeys(map(str, sorted(legacy, key=str)))] == [
        *dict.fromkeys(map(str, sorted(nft, key=str)))
    ]


def test_a_native_ruleset_as_nft_monitor_tells_it(lab, tmp_path):
    """1,000 mixed packets: the same rules in the same order, and as many hits as the kernel counted."""
    nft_truth.route(lab)
    lab.run(["nft", "-f", "-"], stdin=nft_truth.RULES)
    heard = tmp_path / "monitor.txt"
    recorder = nft_truth.start(lab, tmp_path / "t.db", "udp or tcp")
    with heard.open("w") as stream:
        monitor = lab.popen(["nft", "monitor", "trace"], stdout=stream)
        listening(lab, 2)
        nft_truth.traffic(lab, 1000)
        counted = nft_truth.counters(lab)
        nft_truth.stop(recorder)
        written(heard)
        monitor.terminate()
        monitor.wait()
    ours, found = nft_truth.told_by_us(tmp_path / "t.db")
    assert len(ours) == 1000
    assert ours == nft_truth.told_by_nft(heard.read_text().splitlines())
    assert all(packet.complete and not packet.ambiguous for packet in found)
    hits = Counter(step.comment for packet in found for step in packet.steps if step.comment)
    assert {rule: hits[rule] for rule in counted} == counted
    assert len(counted) > 15


def listening(lab, count):
    """Wait until so many listen to traces: bit 8 of the mask of groups of netfilter's netlink."""

    def masks():
        lines = lab.run(["cat", "/proc/net/netlink"]).stdout.splitlines()[1:]
        fields = [line.split() for line in lines]
        return [int(one[3], 16) for one in fields if one[1] == "12"]

    until(lambda: sum(mask >> 8 & 1 for mask in masks()) >= count, masks)


def written(path):
    """Wait until nothing is added any more."""
    sizes = []

    def steady():
        sizes.append(path.stat().st_size)
        return len(sizes) > 20 and len(set(sizes[-20:])) == 1

    until(steady, lambda: sizes[-5:])


def until(condition, what, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.01)


HIDDEN = 'mount --bind /dev/null $(readlink -f $(command -v iptables-nft-save)) && exec "$@"'
ALONE = ("unshare", "-m", "sh", "-c", HIDDEN, "sh")  # a shell that sees no iptables-nft
SEND = """
import socket
for address, port in (("127.0.0.1", 5001), ("127.0.0.1", 5002), ("127.0.0.2", 5001), ("::1", 5001)):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    socket.socket(family, socket.SOCK_DGRAM).sendto(b"x", (address, port))
"""
LOCAL_RULES = """
table inet fw {
    chain input { type filter hook input priority 0; policy accept; udp dport 5001 counter drop; }
}
"""


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("udp dst port 5001", [("127.0.0.1", 5001), ("127.0.0.2", 5001), ("::1", 5001)]),
        ("udp and dst host 127.0.0.2 or dst port 5002", [("127.0.0.1", 5002), ("127.0.0.2", 5001)]),
        ("ip6 and udp", [("::1", 5001)]),
    ],
)
def test_without_iptables_nft(lab, tmp_path, expression, expected):
    """A table of our own chooses the same packets as the bytecode does, and is not told of."""
    lab.run(["nft", "-f", "-"], stdin=LOCAL_RULES)
    found = []
    for enter in ((), ALONE):
        path = tmp_path / f"{len(enter)}.db"
        lab.run(
            [
                *enter,
                *IPTREC,
                "record",
                "-q",
                "-o",
                str(path),
                expression,
                "--",
                sys.executable,
                "-c",
                SEND,
            ]
        )
        with Reader(path) as reader:
            assert reader.losses == []
            found.append([one for one in Replay(reader) if one.header["proto"] == "udp"])
        assert "iptrec" not in lab.run(["nft", "list", "tables"]).stdout
    bytecode, table = found
    for one in found:
        assert all(packet.complete and not packet.ambiguous for packet in one)
        inward = [(each.header["dst"], each.header["dport"]) for each in one if each.in_ == "lo"]
        assert inward == expected
    assert [one.verdict for one in bytecode] == [one.verdict for one in table]
    assert {step.table for one in table if one.in_ for step in one.steps} == {"inet fw"}


@pytest.mark.parametrize("expression", ["tcp[13] = 2", "not udp", "host example.invalid or vlan"])
def test_what_nft_cannot_say_is_refused(lab, tmp_path, expression):
    """One line that says what to do; nothing is left."""
    done = lab.run(
        [*ALONE, *IPTREC, "record", "--backend", "nft", "-o", str(tmp_path / "t.db"), expression],
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert lab.run(["nft", "list", "tables"]).stdout == ""
    assert not (tmp_path / "t.db").exists()


def test_both_backends(lab, tmp_path):
    """A packet that passes the rules of both is told of both, each step with whose it is."""
    rules = "*filter\n-A INPUT -p udp --dport 5002 -j DROP\n-A INPUT -p udp -j ACCEPT\nCOMMIT\n"
    lab.restore(None, "ipv4", rules)
    lab.restore(None, "ipv4", rules.replace("5002", "5001"), "nft")
    path = tmp_path / "t.db"
    command = ["udp and ip", "--", sys.executable, "-c", SEND]
    done = lab.run([*IPTREC, "record", "--family", "ipv4", "-o", str(path), *command])
    assert "both are recorded" in done.stderr
    with Reader(path) as reader:
        found = list(Replay(reader))
    tables = {(step.backend, step.table) for one in found for step in one.steps}
    assert tables >= {("legacy", "filter"), ("legacy", "raw"), ("nft", "ip filter")}
    dropped = {
        (one.steps[-1].backend, one.header["dport"]) for one in found if one.verdict == "DROP"
    }
    assert dropped == {("legacy", 5002), ("nft", 5001)}
    shown = lab.run([*IPTREC, "show", str(path)]).stdout
    assert "\tlegacy filter INPUT" in shown
    assert "\tnft ip filter INPUT" in shown
    told = lab.run([*IPTREC, "rules", str(path)]).stdout
    assert "*filter (ipv4)" in told
    assert "*ip filter (ipv4)" in told


def test_rules_that_change(lab, tmp_path):
    """A rule that is put before others while packets flow: each is judged by the rules that it met."""
    lab.run(["nft", "-f", "-"], stdin=LOCAL_RULES)
    path = tmp_path / "t.db"
    send = f"{sys.executable} -c '{SEND}'; sleep 0.3"  # changes in a row are seen as one
    insert = "nft insert rule inet fw input udp dport 5002 counter drop comment new"
    script = f"{send}; {insert}; sleep 0.3; {send}; nft delete table inet fw; {send}"
    lab.run([*IPTREC, "record", "-q", "-o", str(path), "udp and ip", "--", "sh", "-c", script])
    with Reader(path) as reader:
        inward = [one for one in Replay(reader) if one.in_ == "lo"]
    told = [
        (one.header["dport"], one.verdict, one.decided_by and one.decided_by.rule) for one in inward
    ]
    first, second = (5001, "DROP", 1), (5001, "DROP", 2)
    assert told[:3] == [first, (5002, "ACCEPT", None), first]
    assert told[3:6] == [second, (5002, "DROP", 1), second]
    assert [one[1] for one in told[6:]] == ["ACCEPT"] * 3
    assert lab.run([*IPTREC, "diff", str(path)], check=False).returncode == 1
