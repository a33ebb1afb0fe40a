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
