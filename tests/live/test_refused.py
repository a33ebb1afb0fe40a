"""Connections that connection tracking refuses behind the last rule: insert_failed rises, and who may it be."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import frames
import pytest
import recorder

pytestmark = pytest.mark.live

CONNECTIONS, BATCHES, CLASHING = 60, 8, 3
SERVE = """
import socket, threading
asked, told = (socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) for _ in range(2))
asked.bind(("::", 7000)); told.bind(("::", 5000)); told.setblocking(False)
ear = socket.create_server(("::", 7001), family=socket.AF_INET6, backlog=500, dualstack_ipv6=True)
def answer():
    while True:
        asked.sendto(*asked.recvfrom(100))
def take():
    while True:
        one, _ = ear.accept()
        while data := one.recv(100):
            one.sendall(data)
        one.close()
for each in (answer, take):
    threading.Thread(target=each, daemon=True).start()
print("ready", flush=True)
input()
arrived = []
while True:
    try:
        arrived.append(told.recv(100).decode())
    except BlockingIOError:
        break
print(" ".join(arrived), flush=True)
"""
# Questions that are answered, connections, and what nobody answers, two packets each.
TALK = f"""
import socket, sys
far, sending = sys.argv[1], int(sys.argv[2])
for number in range({CONNECTIONS}):
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as one, socket.socket(socket.AF_INET6) as other:
        one.connect((far, 7000)); one.send(b"%d" % number); one.recv(100)
        other.connect((far, 7001)); other.sendall(b"x"); other.recv(100)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as one:
        one.connect((far, 7002)); one.send(b"a"); one.send(b"b")
for number in range(sending):
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as one:
        one.bind(("", 6000 + number)); one.sendto(b"%d" % (6000 + number), (far, 5000))
"""
SNAT = {
    "legacy": "*nat\n-A POSTROUTING -o to-b -p udp -m udp --dport 5000 -j SNAT --to-source {to}\n"
              "-A POSTROUTING -o to-b -j MASQUERADE\nCOMMIT\n*filter\n-A FORWARD -j ACCEPT\nCOMMIT\n",
    "nft": "table {proto} t {{\nchain c {{ type nat hook postrouting priority 100;\n"
           "oif to-b udp dport 5000 snat to {to};\noif to-b masquerade;\n}}\n}}\n",
}  # fmt: skip
TO = {4: "10.0.2.1:5999", 6: "[fd00:2::1]:5999"}
FAR = {4: "::ffff:10.0.2.2", 6: "fd00:2::2"}


@pytest.fixture
def router(lab):
    """Between a and b, whose ports 7000 and 7001 answer."""
    for number, name in enumerate("ab", 1):
        lab.host(name)
        lab.link(name, "eth0", f"10.0.{number}.2/24", f"fd00:{number}::2/64", peer=f"to-{name}")
        lab.ip(None, f"address add 10.0.{number}.1/24 dev to-{name}")
        lab.ip(None, f"address add fd00:{number}::1/64 dev to-{name}")
        lab.ip(name, f"route add default via 10.0.{number}.1")
        lab.ip(name, f"route add default via fd00:{number}::1")
    lab.restore("b", "ipv4", "*filter\n-A OUTPUT -p icmp -j DROP\nCOMMIT\n")
    lab.restore("b", "ipv6", "*filter\n-A OUTPUT -p icmpv6 --icmpv6-type 1 -j DROP\nCOMMIT\n")
    lab.sysctl(None, "net/ipv4/ip_forward", 1)
    lab.sysctl(None, "net/ipv6/conf/all/forwarding", 1)
    lab.settle()
    return lab


def talked(lab, path, backend, version, drops):
    """The packets of many connections, three of which get one address and port; which of these arrived."""
    if backend == "legacy":
        lab.restore(None, f"ipv{version}", SNAT["legacy"].format(to=TO[version]))
    else:
        proto = "ip6" if version == 6 else "ip"
        lab.run(["nft", "-f", "-"], stdin=SNAT["nft"].format(to=TO[version], proto=proto))
    pipe = subprocess.PIPE
    far = lab.popen([sys.executable, "-c", SERVE], "b", stdin=pipe, stdout=pipe, text=True)
    assert far.stdout.readline() == "ready\n"
    words = ["--backend", backend, "--family", f"ipv{version}", "--drops", drops, "-o", path]
    child = recorder.start(lab, "tcp", "or", "udp", *words, notes=True)
    for batch in range(BATCHES):
        sending = str(CLASHING if batch == BATCHES // 2 else 0)
        lab.run([sys.executable, "-c", TALK, FAR[version], sending], "a")
    recorder.stop(child)
    arrived, _ = far.communicate("\n", timeout=30)
    return recorder.packets(path), {int(one) for one in arrived.split()}


@pytest.mark.parametrize("drops", ["no", "yes"])
@pytest.mark.parametrize("version", [4, 6])
def test_who_may_have_been_refused(router, tmp_path, backend, version, drops):
    """None of whom more was seen, or the kernel would have told; who was is never sure to have passed."""
    found, arrived = talked(router, tmp_path / "t.db", backend, version, drops)
    assert len(found) >= 5_000
    assert len(arrived) == 1
    clashing = {one.header["sport"]: one for one in found if one.header["dport"] == 5000}
    assert len(clashing) == CLASHING
    lost = {sport: one for sport, one in clashing.items() if sport not in arrived}
    unsure = Counter(one.header["dport"] for one in found if one.ambiguous)
    if drops == "yes":
        assert {one.verdict for one in lost.values()} == {"DISCARDED"}
        assert not unsure
        assert sum(one.verdict == "DISCARDED" for one in found) == CLASHING - 1
        return
    assert all(
        one.ambiguous and "(insert_failed), perhaps this one" in one.reason for one in lost.values()
    )
    assert sum(unsure.values()) <= 0.01 * len(found)


ZONES = (
    "*raw\n-A PREROUTING -p 253 -m ttl --ttl-eq 60 -j CT --zone-orig 1\n"
    "-A PREROUTING -p 253 -m ttl --ttl-eq 61 -j CT --zone-orig 2\nCOMMIT\n"
    "*filter\n-A INPUT -m conntrack --ctstate INVALID\nCOMMIT\n"
)
# What a raw socket gets, behind all rules, up to a second after it was sent.
HEARD = """
import select, socket, struct, subprocess, sys
heard = socket.socket(socket.AF_INET, socket.SOCK_RAW, 253)
subprocess.run(["nsenter", "--net=/run/netns/h", sys.executable, "-c", *sys.argv[1:]], check=True)
while select.select([heard], [], [], 1)[0]:
    print(struct.unpack_from("!H", heard.recv(100), 4)[0])
"""


@pytest.mark.parametrize("drops", ["no", "yes"])
def test_refused_without_nat(lab, tmp_path, backend, drops):
    """Two connections of different zones have the same answers: the second is refused, whatever the rules."""
    frames.neighbour(lab)
    lab.restore(None, "ipv4", ZONES, backend)
    both = [frames.ipv4(253, bytes(8), identity=number, ttl=53 + number) for number in (7, 8)]
    sent, path = tmp_path / "frames.json", tmp_path / "t.db"
    sent.write_text(json.dumps(frames.of_neighbour(lab, both)))
    words = ["--family", "ipv4", "--iface", "v1", "--drops", drops, "-o", path]
    child = recorder.start(lab, "--backend", backend, *words, notes=True)
    told = lab.run([sys.executable, "-c", HEARD, frames.SEND, str(sent)]).stdout
    recorder.stop(child)
    assert told.split() == ["7"]
    found = {one.header["id"]: one for one in recorder.packets(path)}
    lost, passed = found[8], found[7]
    assert passed.verdict == "ACCEPT"
    if drops == "yes":
        assert (lost.verdict, passed.ambiguous) == ("DISCARDED", False)
    else:
        assert (lost.verdict, lost.ambiguous) == ("ACCEPT", True)
        assert "(insert_failed), perhaps this one" in lost.reason
