"""What the kernel logs of TRACE becomes what it counted, or is told to be incomplete."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import ground_truth
import kernel_log
import numpy as np
import pytest
import sides
from command import iptrec

from iptrec.packets.window import windows
from iptrec.recording.reader import Reader

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]
PACKETS = 4_000
TRACE = "-A {} -p udp -j TRACE\n"


def traffic(lab, count, *, paced):
    """Both sides send at each other, as `ground_truth.run` has it; ``paced``: no more than the log keeps."""
    program = ground_truth.SENDER
    if paced:
        program = program.replace("    try:\n", "    __import__('time').sleep(0.001)\n    try:\n")
    senders = [
        lab.popen([sys.executable, "-c", program, host, str(first), str(count // 2), str(cpu)], name)
        for name, host, first, cpu in (("a", "10.0.2.2", 0, 0), ("b", "10.0.1.2", count, 1))
    ]  # fmt: skip
    assert [sender.wait(timeout=120) for sender in senders] == [0, 0]


def judged(path):
    """How often each rule and policy was hit; of the packets: all, incomplete, ambiguous, mixed of several."""
    hits, found = Counter(), Counter()
    with Reader(path) as reader:
        for window in windows(reader):
            assembly = window.assembly
            for number in assembly.outcome[: window.decided].tolist():
                one = assembly.outcomes[number]
                found.update(
                    packets=1, incomplete=not one.complete, ambiguous=one.doubt is not None
                )
                for place in (window.resolver.places[each] for each in one.path):
                    if place.rule or place.builtin:
                        hits[
                            place.table, place.chain, place.rule.spec if place.rule else "policy"
                        ] += 1
            rows, first = window.rows(), assembly.first[: window.decided]
            at = window.events.payload[rows] + 4
            ids = window.events.buffer[at].astype(np.int64) << 8 | window.events.buffer[at + 1]
            different = np.maximum.reduceat(ids, first) != np.minimum.reduceat(ids, first)
            found["mixed"] += int(different.sum())
    return hits, found


def imported(lab, place):
    """The recording of the log there, by the rules of now."""
    (place / "rules").write_text(lab.run(["iptables-legacy-save"]).stdout)
    done = iptrec("import", place / "log", "--ruleset", place / "rules", "-o", place / "t.db")
    assert done.returncode == 0, done.stderr
    return place / "t.db"


def without_trace(counted):
    return {
        place: count for place, count in counted.items() if "-j TRACE" not in place[2] and count
    }


def test_hits_are_the_kernels_counters(lab, tmp_path):
    """Each rule and policy was hit as often as it counted; no trace mixes packets."""
    ground_truth.join(lab)
    trace = ":OUTPUT ACCEPT [0:0]\n" + TRACE.format("PREROUTING") + TRACE.format("OUTPUT")
    lab.restore(None, "ipv4", ground_truth.RULES.replace(":OUTPUT ACCEPT [0:0]\n", trace, 1))
    with kernel_log.logged(lab, tmp_path / "log", ["to-a", "to-b"]) as overruns:
        traffic(lab, PACKETS, paced=True)
        saved = lab.run(["iptables-legacy-save", "-c"]).stdout
    hits, found = judged(imported(lab, tmp_path))
    assert without_trace(hits) == without_trace(ground_truth.counters(saved))
    assert (found["mixed"], found["incomplete"], found["ambiguous"]) == (0, 0, 0)
    assert not overruns


REAL = {  # a ruleset -> hosts behind interfaces of its names, and where each sends to
    "tests/data/rulesets/docker-libvirt-ufw.rules": (
        {
            "docker0": ("172.17.0.2", "172.17.0.1/16"),
            "virbr0": ("192.168.122.2", "192.168.122.1/24"),
            "virbr1": ("192.168.231.2", "192.168.231.1/24"),
            "ens3": ("203.0.113.2", "203.0.113.1/24"),
        },
        ["172.17.0.2", "172.17.0.1", "192.168.122.2", "192.168.231.2", "192.168.231.1", "203.0.113.2"],
    ),
    "samples/kubeadm-flannel.rules": (
        {
            "cni0": ("10.244.0.2", "10.244.0.1/24"),
            "flannel.1": ("10.244.1.2", "10.244.1.1/24"),
            "ens3": ("172.31.7.90", "172.31.7.91/20"),
        },
        ["10.96.0.10", "10.96.0.1", "10.244.0.2", "10.244.1.2", "172.31.7.90", "172.31.7.91"],
    ),
}  # fmt: skip
PORTS = (22, 53, 67, 443, 9153)
SEND = """\
import socket, sys, time
me = sys.argv[1]
for target in sys.argv[2:]:
    for port in {ports}:
        time.sleep(0.005)
        out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        out.sendto(b"x" * 20, (target, port))
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        connection.settimeout(0.02)
        try:
            connection.connect((target, port))
            connection.sendall(b"hello")
        except OSError:
            pass
        connection.close()
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    raw.sendto(bytes.fromhex("0800f7ff00000000"), (target, 0))
"""
LISTEN = """\
import socket, threading
def serve(port):
    server = socket.create_server(("", port))
    while True:
        connection, _ = server.accept()
        connection.recv(9)
        connection.close()
for port in (53, 443, 9153):
    threading.Thread(target=serve, args=(port,), daemon=True).start()
print("listening", flush=True)
threading.Event().wait()
"""


def real_host(lab, text, links):
    """A router with a real ruleset, all traced, between hosts that listen; their names."""
    for number, (interface, (address, gateway)) in enumerate(links.items()):
        name, (router, _, bits) = f"h{number}", gateway.partition("/")
        lab.host(name)
        lab.link(name, "eth0", f"{address}/{bits}", peer=interface)
        lab.ip(None, f"address add {gateway} dev {interface}")
        lab.ip(name, f"route add default via {router}")
        child = lab.popen([sys.executable, "-c", LISTEN], name, stdout=subprocess.PIPE, text=True)
        assert child.stdout.readline() == "listening\n"
    lab.sysctl(None, "net/ipv4/ip_forward", 1)
    lab.settle()
    raw = "*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n"
    lab.restore(None, "ipv4", text)
    lab.restore(None, "ipv4", f"{raw}-A PREROUTING -j TRACE\n-A OUTPUT -j TRACE\nCOMMIT\n")
    lab.run(["iptables-legacy", "-t", "raw", "-Z"])
    return [f"h{number}" for number in range(len(links))]


@pytest.mark.parametrize("ruleset", REAL, ids=lambda path: Path(path).stem)
def test_real_rulesets(lab, tmp_path, ruleset):
    """TCP, UDP, ICMP and what answers them, through rules of Docker, libvirt, ufw and Kubernetes."""
    links, targets = REAL[ruleset]
    names = real_host(lab, (ROOT / ruleset).read_text(), links)
    with kernel_log.logged(lab, tmp_path / "log", ["lo", *links]) as overruns:
        for table in ("raw", "mangle", "nat", "filter"):
            lab.run(["iptables-legacy", "-t", table, "-Z"])
        for name in names:
            lab.run([sys.executable, "-c", SEND.format(ports=PORTS), name, *targets], name)
        saved = lab.run(["iptables-legacy-save", "-c"]).stdout
    hits, found = judged(imported(lab, tmp_path))
    assert not overruns
    assert without_trace(hits) == without_trace(ground_truth.counters(saved))
    assert (found["mixed"], found["ambiguous"]) == (0, 0)
    assert found["packets"] > 100


def test_lines_that_were_overwritten(lab, tmp_path):
    """Of a flood the kernel keeps a part: no rule has more packets than it counted, and losses are told."""
    sides.join(lab, "a", "b", peer="to-{name}")
    lab.settle()
    trace = ":OUTPUT ACCEPT [0:0]\n" + TRACE.format("PREROUTING") + TRACE.format("OUTPUT")
    lab.restore(None, "ipv4", ground_truth.RULES.replace(":OUTPUT ACCEPT [0:0]\n", trace, 1))
    with kernel_log.logged(lab, tmp_path / "log", ["to-a", "to-b"]) as overruns:
        traffic(lab, 5 * PACKETS, paced=False)
        saved = lab.run(["iptables-legacy-save", "-c"]).stdout
    if not overruns:
        pytest.skip("the log was read faster than the kernel wrote")
    hits, found = judged(imported(lab, tmp_path))
    counted = ground_truth.counters(saved)
    assert {one: (hits[one], counted[one]) for one in hits if hits[one] > counted[one]} == {}
    assert 0 < found["packets"] < 5 * PACKETS
    assert found["incomplete"] > 0
    told = json.loads(iptrec("info", "--json", tmp_path / "t.db").stdout)
    assert told["losses"]
    assert not told["complete"]


def test_nft_does_not_log(lab, tmp_path):
    """TRACE of iptables-nft is not in the log: that is said."""
    lab.run(["iptables-nft", "-t", "raw", "-A", "OUTPUT", "-p", "udp", "-j", "TRACE"])
    with kernel_log.logged(lab, tmp_path / "log", ["lo"]):
        lab.run([sys.executable, "-c", SEND.format(ports=PORTS), "x", "127.0.0.1"])
        Path("/dev/kmsg").write_text("<6>a line of another\n")
    done = iptrec("import", tmp_path / "log", "-o", tmp_path / "t.db")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "TRACE of iptables-nft and nftrace are never logged" in done.stderr


RULES6 = """\
*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A PREROUTING -j TRACE
-A OUTPUT -j TRACE
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p tcp -j MARK --set-xmark 0x7/0xff
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:in - [0:0]
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -i to-a -j in
-A FORWARD -p ipv6-icmp -j ACCEPT
-A in -p tcp -m mark --mark 0x7/0xff -m tcp --dport 443 -j ACCEPT
-A in -p tcp -m tcp --dport 22 -j REJECT --reject-with tcp-reset
-A in -p udp -m udp --dport 53 -j REJECT
-A in -p udp -m length --length 0:100 -j DROP
COMMIT
"""
SEND6 = """\
import socket
out = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
for port, size in ((53, 20), (67, 20), (68, 3000)):
    out.sendto(b"x" * size, ("fd00:2::2", port))
for port in (22, 443):
    connection = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    connection.settimeout(1)
    try:
        connection.connect(("fd00:2::2", port))
        connection.sendall(b"hello")
        connection.recv(1)
    except OSError:
        pass
    connection.close()
raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
raw.sendto(bytes.fromhex("8000000000010001"), ("fd00:2::2", 0))
"""


def test_ipv6(lab, tmp_path):
    """Fragments, errors about them, connections; counted by ip6tables."""
    sides.join(lab, "a", "b", peer="to-{name}", ipv6=True)
    listen = LISTEN.replace(
        'create_server(("", port))', 'create_server(("::", port), family=socket.AF_INET6)'
    )
    child = lab.popen([sys.executable, "-c", listen], "b", stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "listening\n"
    lab.settle()
    lab.restore(None, "ipv6", RULES6)
    with kernel_log.logged(lab, tmp_path / "log", ["to-a", "to-b"]) as overruns:
        for table in ("raw", "mangle", "filter"):
            lab.run(["ip6tables-legacy", "-t", table, "-Z"])
        for _ in range(20):
            lab.run([sys.executable, "-c", SEND6], "a")
        saved = lab.run(["ip6tables-legacy-save", "-c"]).stdout
    (tmp_path / "rules").write_text(lab.run(["ip6tables-legacy-save"]).stdout)
    done = iptrec(
        "import",
        tmp_path / "log",
        "--ruleset",
        f"ipv6:{tmp_path / 'rules'}",
        "-o",
        tmp_path / "t.db",
    )
    assert done.returncode == 0, done.stderr
    hits, found = judged(tmp_path / "t.db")
    assert not overruns
    counted = ground_truth.counters(saved)
    # Policies are passed by what neighbours say, too, also while the tables are set to zero one by one.
    ours, theirs = (
        {place: count for place, count in without_trace(one).items() if place[2] != "policy"}
        for one in (hits, counted)
    )
    assert ours == theirs
    assert len(ours) > 5
    assert found["packets"] > 200
    assert found["ambiguous"] == 0
