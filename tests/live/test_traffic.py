"""Every kind of traffic, as the kernel really treats it: each traversal whole, judged, and related.

A way is written as iptables people speak of it: "raw/PREROUTING" and what was met there: a rule's number,
"p" for the policy, "r" for a chain's end.
"""

from __future__ import annotations

import os
import struct
import sys
import textwrap

import pytest
from command import IPTREC

from iptrec.answers.packets import Packets
from iptrec.recording.reader import Reader

pytestmark = pytest.mark.live

EMPTY = "*mangle\nCOMMIT\n*filter\nCOMMIT\n"
IN = "raw/PREROUTING:p mangle/PREROUTING:p mangle/INPUT:p filter/INPUT:p"
OUT = "raw/OUTPUT:p mangle/OUTPUT:p filter/OUTPUT:p mangle/POSTROUTING:p"
THROUGH = (
    "raw/PREROUTING:p mangle/PREROUTING:p mangle/FORWARD:p filter/FORWARD:p mangle/POSTROUTING:p"
)


class Net:
    """A lab and what was recorded in it last."""

    def __init__(self, lab, directory):
        self.lab = lab
        self._path = directory / "t.db"
        self.packets = []

    def hosts(self, *nets, bridge=None):
        """A host for each net, 10.0.NET.2 (on a bridge 10.0.0.NET); the lab is the router between them."""
        for net in nets:
            name = f"h{net}"
            self.lab.host(name)
            if bridge:
                self.lab.link(name, "eth0", f"10.0.0.{net}/24", peer=f"v{net}", bridge=bridge)
                continue
            self.lab.link(name, "eth0", f"10.0.{net}.2/24", f"fd00:{net}::2/64", peer=f"v{net}")
            self.lab.ip(None, f"address add 10.0.{net}.1/24 brd + dev v{net}")
            self.lab.ip(None, f"address add fd00:{net}::1/64 dev v{net}")
            for router in (f"10.0.{net}.1", f"fd00:{net}::1"):
                self.lab.ip(name, f"route add default via {router}")
        self.lab.sysctl(None, "net/ipv4/ip_forward", 1)
        self.lab.sysctl(None, "net/ipv6/conf/all/forwarding", 1)
        self.lab.settle()

    def rules(self, text=EMPTY, family="ipv4"):
        self.lab.restore(None, family, text)

    def record(self, expression, *script, host=None, options=()):
        """Record while a Python script runs on a host; gives each packet as (in, out, verdict, way)."""
        enter = ["nsenter", f"--net=/run/netns/{host}"] if host else []
        command = [*enter, *script] if len(script) > 1 else [
            *enter, sys.executable, "-c", "import socket, time\n" + textwrap.dedent(script[0])
        ]  # fmt: skip
        self.lab.run(
            [
                *IPTREC,
                "record",
                "--drops=no",  # it is the rules that are tried: nobody listens to most of it
                "-q",
                "--force",
                "-o",
                str(self._path),
                *options,
                expression,
                "--",
                *command,
            ]
        )
        with Reader(self._path) as reader:
            losses = [one for one in reader.losses if one.of_events]
            if losses and os.geteuid():
                pytest.skip(
                    "events were lost: the kernel grants this user a small receive buffer only"
                )
            assert losses == []
            self.packets = list(Packets(reader))
        return [(one.in_, one.out, one.verdict, way(one)) for one in self.packets]

    def related(self):
        """What each packet has to do with others."""
        return [[(one.kind, one.packet) for one in packet.related] for packet in self.packets]

    def certain(self):
        """Whether every trace is whole and certain."""
        return all(one.complete and not one.ambiguous for one in self.packets)


def way(packet):
    return " ".join(
        f"{step.table}/{step.chain}:{step.rule or step.type[0]}" for step in packet.steps
    )


def send(address, port=5000, payload="x", *, count=1, setup=""):
    """A script that sends a datagram, and gives its consequences a moment to be logged."""
    family = "AF_INET6" if ":" in address else "AF_INET"
    return (
        f"out = socket.socket(socket.{family}, socket.SOCK_DGRAM)\n{setup}\n"
        f"for _ in range({count}):\n    out.sendto({payload!r}.encode(), ({address!r}, {port}))\n"
    )


@pytest.fixture
def net(lab, tmp_path):
    return Net(lab, tmp_path)


def test_loopback_is_one_packet_in_two_traversals(net):
    """Out and in again; the second names the first."""
    net.rules()
    assert net.record("udp", send("127.0.0.1")) == [
        (None, "lo", "ACCEPT", OUT), ("lo", None, "ACCEPT", IN),
    ]  # fmt: skip
    assert net.related() == [[], [("looped-back", 1)]]
    assert net.certain()


@pytest.mark.parametrize(
    ("address", "joined", "expected"),
    [
        ("239.1.1.1", True, [(None, "v2"), ("v2", None)]),
        ("239.1.1.1", False, []),
        ("10.0.2.255", True, [(None, "v2"), ("v2", None)]),
    ],
    ids=["multicast", "multicast_nobody_here", "broadcast"],
)
def test_multicast_is_cloned_for_the_local_listeners(net, address, joined, expected):
    """Both pass POSTROUTING, first the copy for us, which comes back in. All of them are told."""
    net.hosts(2)
    net.lab.ip(None, "route add 224.0.0.0/4 dev v2")
    net.rules()
    setup = "out.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)"
    if joined and address.startswith("239"):
        setup += (
            "\nhere = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nhere.bind(('', 5000))"
            "\ngroup = socket.inet_aton('239.1.1.1') + socket.inet_aton('10.0.2.1')"
            "\nhere.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)"
        )
    found = net.record("udp", send(address, setup=setup))
    assert found[0] == (None, "v2", "ACCEPT", OUT)
    assert [one[:2] for one in found[1:]] == expected
    assert [one.link for one in net.packets] == [None] * len(found)  # the clones never had a frame
    assert net.certain()
    assert net.related()[1:] == [[("copy", 1)], [("looped-back", 1)]][: len(expected)]


def test_tee_of_a_forwarded_packet(net):
    """The copy is a packet of the host's own; the original goes on."""
    net.hosts(1, 2, 3)
    net.rules("*mangle\n-A PREROUTING -p udp -j TEE --gateway 10.0.3.2\nCOMMIT\n*filter\nCOMMIT\n")
    assert net.record("udp", send("10.0.2.2"), host="h1") == [
        ("v1", None, "ACCEPT", THROUGH.replace("mangle/PRE", "mangle/PREROUTING:1 mangle/PRE")),
        (None, "v3", "ACCEPT", OUT),
    ]  # fmt: skip
    assert net.related() == [[], [("copy", 1)]]
    assert net.certain()


@pytest.mark.parametrize("gateway", ["10.0.3.2", "10.0.2.2"])
def test_tee_of_a_packet_of_our_own(net, gateway):
    """Copy and original are equal but for the interface, if that: the copy is through before the original."""
    net.hosts(2, 3)
    net.rules(f"*mangle\n-A OUTPUT -p udp -j TEE --gateway {gateway}\nCOMMIT\n*filter\nCOMMIT\n")
    one = OUT.replace("mangle/OUTPUT:p", "mangle/OUTPUT:1 mangle/OUTPUT:p")
    copy = "v3" if gateway == "10.0.3.2" else "v2"
    assert net.record("udp", send("10.0.2.2")) == [
        (None, "v2", "ACCEPT", one), (None, copy, "ACCEPT", one),
    ]  # fmt: skip
    assert net.related() == [[], [("copy", 1)]]
    assert net.certain()


REJECTS = {
    "icmp": ("-p udp -j REJECT", send("10.0.2.2")),
    "reset": (
        "-p tcp --dport 80 -j REJECT --reject-with tcp-reset",
        (
            "out = socket.socket()\nout.settimeout(0.2)\n"
            "try: out.connect(('10.0.2.2', 80))\nexcept OSError: pass"
        ),
    ),
}


@pytest.mark.parametrize("case", REJECTS)
@pytest.mark.parametrize("sender", ["h1", None], ids=["forwarded", "local"])
def test_answer_of_reject_names_what_it_answers(net, case, sender):
    """REJECT's packet is the host's own, and begins in OUTPUT."""
    rule, script = REJECTS[case]
    net.hosts(1, 2)
    chain = "FORWARD" if sender else "OUTPUT"
    net.rules(f"*mangle\nCOMMIT\n*filter\n-A {chain} {rule}\nCOMMIT\n")
    script = script if case == "reset" else script + "time.sleep(0.05)\n"
    if sender is None:
        script = script.replace("out.sendto", "try: out.sendto") if case == "icmp" else script
        script = script.replace("5000))\n", "5000))\n    except OSError: pass\n")
    found = net.record("udp or tcp or icmp", script, host=sender)
    verdicts = [one[2] for one in found]
    assert verdicts[0] == "REJECT"
    assert found[1][3] == OUT
    assert ("answer-of-reject", 1) in net.related()[1]
    assert net.certain()


def test_icmp_errors_name_the_packet_that_they_speak_of(net):
    """TTL exceeded here; port unreachable from a host, through NAT: the flow they speak of is known."""
    net.hosts(1, 2)
    net.rules(EMPTY + "*nat\n-A POSTROUTING -o v2 -j MASQUERADE\nCOMMIT\n")
    script = send("10.0.2.2", setup="out.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)")
    found = net.record("udp or icmp", script + "time.sleep(0.05)", host="h1")
    assert [one[2] for one in found] == ["UNKNOWN", "ACCEPT"]  # no rule decided: the router did
    assert net.related()[1] == [("error-about", 1)]
    found = net.record("udp or icmp", send("10.0.2.2") + "time.sleep(0.05)", host="h1")
    assert [(one[0], one[2]) for one in found] == [("v1", "ACCEPT"), ("v2", "ACCEPT")]
    assert net.related()[1] == [("error-about", 1)]
    assert net.certain()


NATS = {
    "dnat": ("-p udp -j DNAT --to-destination 10.0.2.2:6000", "10.0.1.1", "dst", "10.0.2.2"),
    "redirect": ("-p udp --dport 5000 -j REDIRECT --to-ports 7000", "10.0.2.2", "dport", 7000),
    "netmap": ("-d 10.9.2.0/24 -j NETMAP --to 10.0.2.0/24", "10.9.2.2", "dst", "10.0.2.2"),
}  # fmt: skip


@pytest.mark.parametrize("case", NATS)
def test_translated_destination_is_one_packet(net, case):
    """The trace goes on with the new address, and says what changed."""
    rule, address, name, value = NATS[case]
    net.hosts(1, 2)
    net.rules(f"{EMPTY}*nat\n-A PREROUTING {rule}\nCOMMIT\n")
    ((*_, verdict, _),) = net.record("udp", send(address), host="h1")
    (packet,) = net.packets
    assert verdict == "ACCEPT"
    assert net.certain()
    at = [step.table for step in packet.steps].index("nat")
    assert packet.steps[at].rule == 1
    assert packet.steps[at + 1].changed[name][1] == value


def test_hairpin(net):
    """A host reaches itself by the router's address: translated at both ends, out where it came in."""
    net.hosts(1)
    net.rules(
        f"{EMPTY}*nat\n-A PREROUTING -d 10.0.1.1/32 -p udp -j DNAT --to-destination 10.0.1.2\n"
        "-A POSTROUTING -o v1 -j MASQUERADE\nCOMMIT\n"
    )
    found = net.record("udp", send("10.0.1.1"), host="h1")
    assert len(found) == 1
    assert found[0][3].endswith("filter/FORWARD:p mangle/POSTROUTING:p nat/POSTROUTING:1")
    assert net.certain()


def test_tproxy(net):
    """TPROXY accepts in mangle PREROUTING, sets a mark, and a routing rule makes the packet ours."""
    net.hosts(1, 2)
    net.lab.ip(None, "rule add fwmark 1 table 100\nroute add local default dev lo table 100")
    net.rules(
        "*mangle\n-A PREROUTING -p udp --dport 5000 -j TPROXY --on-port 7000 --tproxy-mark 0x1/0x1\nCOMMIT\n"
        "*filter\nCOMMIT\n"
    )
    script = """
    ours = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ours.setsockopt(socket.SOL_IP, 19, 1)  # IP_TRANSPARENT
    ours.bind(("0.0.0.0", 7000))
    """
    script = (
        textwrap.dedent(script)
        + "import subprocess, sys\n"
        + (
            f"subprocess.run(['nsenter', '--net=/run/netns/h1', sys.executable, '-c', "
            f"{'import socket' + chr(10) + send('10.0.2.2')!r}], check=True)"
        )
    )
    assert net.record("udp", script) == [
        ("v1", None, "ACCEPT", "raw/PREROUTING:p mangle/PREROUTING:1 mangle/INPUT:p filter/INPUT:p")
    ]
    assert net.packets[0].steps[2].changed["mark"] == (0, 1)
    assert net.certain()


def test_bridged_packets(net):
    """With br_netfilter a bridged packet is forwarded by the rules; its ports are told."""
    net.lab.ip(None, "link add br0 type bridge\nlink set br0 up")
    net.hosts(2, 3, bridge="br0")
    net.lab.sysctl(None, "net/bridge/bridge-nf-call-iptables", 1)
    net.rules()
    assert net.record("udp", send("10.0.0.3"), host="h2") == [("br0", None, "ACCEPT", THROUGH)]
    ports = [(step.physin, step.physout) for step in net.packets[0].steps]
    assert ports == [("v2", None), ("v2", None), ("v2", "v3"), ("v2", "v3"), (None, "v3")]
    assert net.certain()


def test_vxlan_outer_and_inner(net):
    """Outgoing: the outer packet carries the inner one; incoming: the inner one was carried by it."""
    net.hosts(2)
    for host, dev, own, other in ((None, "v2", 1, 2), ("h2", "eth0", 2, 1)):
        net.lab.ip(
            host,
            f"link add vx type vxlan id 7 local 10.0.2.{own} remote 10.0.2.{other} dstport 4789 dev {dev}\n"
            f"address add 192.168.7.{own}/24 dev vx\nlink set vx up",
        )
    net.lab.settle()
    net.rules()
    net.lab.run(["ping", "-c1", "192.168.7.2"])  # neighbours are known from now on
    # What is inside: IPv4 and ICMP, no neighbour discovery and the like.
    inside = "udp port 4789 and ip[48:2] == 0x0800 and ip[59] == 1"
    found = net.record(f"icmp or ({inside})", "ping", "-c1", "192.168.7.2")
    assert [(one[0] or one[1], one[3]) for one in found] == [
        ("vx", OUT), ("v2", OUT), ("v2", IN), ("vx", IN),
    ]  # fmt: skip
    assert net.related() == [[], [("carries", 1)], [], [("carried-by", 3)]]
    assert net.certain()


def gre(packet):
    """A packet in GRE in IPv4 (RFC 2784), and another one in IPIP."""
    inner = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(packet), 1, 0, 64, 17, 0, b"\1\1\1\1", b"\2\2\2\2"
    )
    return struct.pack("!HH", 0, 0x0800) + inner + packet


@pytest.mark.parametrize("protocol", [47, 4], ids=["gre", "ipip"])
def test_foreign_tunnels_pass_as_what_they_are(net, protocol):
    """This kernel may not speak GRE and IPIP itself; packets of others are traced like any other."""
    net.hosts(1, 2)
    net.rules()
    payload = gre(b"\x03\xe8\x00\x35\x00\x09\x00\x00x")[4 if protocol == 4 else 0 :]
    script = (
        f"out = socket.socket(socket.AF_INET, socket.SOCK_RAW, {protocol})\n"
        f"out.sendto({payload!r}, ('10.0.2.2', 0))"
    )
    assert net.record(f"ip proto {protocol}", script, host="h1") == [
        ("v1", None, "ACCEPT", THROUGH)
    ]
    assert net.certain()


def test_queue_without_a_listener(net):
    """Nobody answers: no verdict is made up. With --queue-bypass the packet goes on in the next table."""
    net.rules(
        "*filter\n-A INPUT -p udp --dport 5000 -j NFQUEUE --queue-num 3\n"
        "-A INPUT -p udp --dport 5001 -j NFQUEUE --queue-num 3 --queue-bypass\nCOMMIT\n*security\nCOMMIT\n"
    )
    net.record("udp", send("127.0.0.1", 5000))
    packet = net.packets[1]
    assert (packet.verdict, packet.complete) == ("QUEUE", False)
    assert packet.reason.startswith("handed to userspace")
    net.record("udp", send("127.0.0.1", 5001))
    assert net.packets[1].verdict == "ACCEPT"
    assert way(net.packets[1]) == "raw/PREROUTING:p filter/INPUT:2 security/INPUT:p"
    assert net.certain()


LISTENER = """
import struct, sys
queue = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
def ask(kind, number, *attributes):
    body = struct.pack("!BBH", 0, 0, number)
    for one, value in attributes:
        body += struct.pack("=HH", 4 + len(value), one) + value + bytes(-len(value) % 4)
    queue.send(struct.pack("=IHHII", 16 + len(body), 3 << 8 | kind, 1, 0, 0) + body)
ask(2, 3, (1, struct.pack("!BBH", 1, 0, 2)))  # bind
ask(2, 3, (2, struct.pack("!IB", 0, 1)))  # no payload
def answer(*verdicts):
    for verdict in verdicts:
        while True:
            message = queue.recv(65536)
            if struct.unpack_from("=H", message, 4)[0] == 3 << 8:
                break
        ask(1, 3, (2, struct.pack("!I", verdict) + message[24:28]))
"""
DROP, ACCEPT, REPEAT = 0, 1, 4
QUEUED = "raw/PREROUTING:p filter/INPUT:1"
ANSWERS = {
    "accept": ((ACCEPT,), "ACCEPT", f"{QUEUED} security/INPUT:p", True),
    "drop": ((DROP,), "QUEUE", QUEUED, False),  # no event tells what userspace said
    "repeat": ((REPEAT, ACCEPT), "ACCEPT", f"{QUEUED} filter/INPUT:1 security/INPUT:p", True),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_queue_with_a_listener(net, case):
    """What userspace decides is seen by what comes next, and only by that."""
    verdicts, verdict, expected, complete = ANSWERS[case]
    net.rules("*filter\n-A INPUT -p udp -j NFQUEUE --queue-num 3\nCOMMIT\n*security\nCOMMIT\n")
    net.record("udp", LISTENER + send("127.0.0.1") + f"answer{verdicts}".replace(",)", ",)"))
    packet = net.packets[1]
    assert (packet.verdict, way(packet), packet.complete) == (verdict, expected, complete)


@pytest.mark.skipif(os.geteuid() != 0, reason="the kernel tells root alone")
@pytest.mark.parametrize(
    ("listener", "answered", "why"),
    [
        (LISTENER, f"answer({DROP})", "the program behind NFQUEUE dropped it"),
        ("", "", "no program takes it from NFQUEUE, or the queue is full"),
    ],
)
def test_the_kernel_tells_what_userspace_drops(net, listener, answered, why):
    """No event does."""
    net.rules("*filter\n-A INPUT -p udp -j NFQUEUE --queue-num 3\nCOMMIT\n")
    net.record("udp", listener + send("127.0.0.1") + answered, options=["--drops=yes"])
    packet = net.packets[1]
    assert (packet.verdict, way(packet), packet.complete) == ("DISCARDED", QUEUED, True)
    assert packet.end.text == why


def test_rerouted_after_mangle_output(net):
    """A mark and a routing rule: the same packet leaves by another interface than it was to."""
    net.hosts(1, 2)
    net.lab.ip(None, "rule add fwmark 7 table 100\nroute add default via 10.0.1.2 table 100")
    net.rules("*mangle\n-A OUTPUT -p udp -j MARK --set-mark 7\nCOMMIT\n*filter\nCOMMIT\n")
    assert net.record("udp", send("10.0.2.2")) == [
        (None, "v2", "ACCEPT", OUT.replace("mangle/OUTPUT:p", "mangle/OUTPUT:1 mangle/OUTPUT:p"))
    ]
    assert net.packets[0].steps[-1].changed["out"] == ("v2", "v1")
    assert net.certain()


@pytest.mark.parametrize("tracking", [False, True])
def test_fragments_for_this_host(net, tracking):
    """Put together after PREROUTING, or with connection tracking before it; each piece has its place."""
    net.hosts(1)
    nat = "*nat\n-A PREROUTING -p tcp -j REDIRECT --to-ports 1\nCOMMIT\n" if tracking else ""
    net.rules(EMPTY + nat)
    found = net.record("udp", send("10.0.1.1", payload="y" * 4000), host="h1")
    if tracking:
        assert [one[2] for one in found] == ["ACCEPT"]
        assert found[0][3].startswith(
            "raw/PREROUTING:p mangle/PREROUTING:p nat/PREROUTING:p mangle/INPUT:p"
        )
    else:
        piece = ("v1", None, "REASSEMBLED", "raw/PREROUTING:p mangle/PREROUTING:p")
        assert found == [piece] * 3 + [("v1", None, "ACCEPT", "mangle/INPUT:p filter/INPUT:p")]
        assert net.related()[3] == [("reassembled", 1), ("reassembled", 2), ("reassembled", 3)]
    assert net.certain()


def test_fragments_of_ipv6(net):
    """IPv6 reassembles behind INPUT: each fragment passes whole, none is mixed up with another."""
    net.hosts(1)
    net.rules(family="ipv6")
    found = net.record("ip6[6] == 44", send("fd00:1::1", payload="y" * 4000), host="h1")
    assert found == [("v1", None, "ACCEPT", IN)] * 3
    assert [packet.header["frag"] for packet in net.packets] == [0, 1448, 2896]
    assert net.certain()


def test_fragments_forwarded(net):
    """Without connection tracking each fragment is a packet of its own."""
    net.hosts(1, 2)
    net.rules()
    found = net.record("udp", send("10.0.2.2", payload="y" * 4000), host="h1")
    assert found == [("v1", None, "ACCEPT", THROUGH)] * 3
    assert net.certain()


@pytest.mark.parametrize("address", ["10.0.2.2", "fd00:2::2"])
def test_equal_packets_one_after_the_other(net, address):
    """The same bytes a hundred times (IPv6 has no id at all): each is a trace of its own."""
    net.hosts(1, 2)
    net.rules()
    net.rules(family="ipv6")
    found = net.record("udp", send(address, count=100), host="h1")
    assert found == [("v1", None, "ACCEPT", THROUGH)] * 100
    assert net.certain()


def test_retransmission(net):
    """The first SYN is dropped, its retransmission passes: two packets, two verdicts."""
    net.hosts(1, 2)
    net.rules(
        "*filter\n-A FORWARD -p tcp --syn -m recent --name seen --update --hitcount 1 -j ACCEPT\n"
        "-A FORWARD -p tcp --syn -m recent --name seen --set -j DROP\nCOMMIT\n"
    )
    script = """
    out = socket.socket()
    try: out.connect(("10.0.2.2", 80))
    except OSError: pass
    """
    net.record("tcp[tcpflags] == tcp-syn", script, host="h1")

    first, second = net.packets
    assert [first.verdict, second.verdict] == ["DROP", "ACCEPT"]
    assert first.header["seq"] == second.header["seq"]
    assert net.certain()


def test_nested_chains_gotos_and_matches_with_memory(net):
    """Jumps, gotos and returns; statistic, limit and marks decide as they decided."""
    net.hosts(1, 2)
    net.rules(
        "*filter\n:one -\n:two -\n:three -\n"
        "-A FORWARD -p udp -j one\n-A FORWARD -j ACCEPT\n"
        "-A one -m statistic --mode nth --every 2 --packet 0 -g two\n-A one -j three\n-A one -j DROP\n"
        "-A two -m limit --limit 1/hour --limit-burst 1 -j RETURN\n-A two -j DROP\n"
        "-A three -j RETURN\nCOMMIT\n"
    )
    found = net.record("udp", send("10.0.2.2", count=4), host="h1")
    start = "raw/PREROUTING:p filter/FORWARD:1 filter/one:"
    assert [(one[2], one[3]) for one in found] == [
        ("ACCEPT", f"{start}1 filter/two:1 filter/FORWARD:2"),
        ("DROP", f"{start}2 filter/three:1 filter/one:3"),
        ("DROP", f"{start}1 filter/two:2"),
        ("DROP", f"{start}2 filter/three:1 filter/one:3"),
    ]
    assert net.certain()


def test_notrack_and_ipset(net):
    """NOTRACK goes on in raw; a set matches what is in it."""
    net.hosts(1, 2)
    script = "from pyroute2 import IPSet\nwith IPSet() as s:\n s.create('bad')\n s.add('bad', '10.0.1.2')"
    made = net.lab.run([sys.executable, "-c", script], check=False)
    if made.returncode:
        pytest.skip(f"no ipset here: {made.stderr.splitlines()[-1]}")
    net.rules(
        "*raw\n-A PREROUTING -p udp -j NOTRACK\nCOMMIT\n"
        "*filter\n-A FORWARD -m set --match-set bad src -j DROP\nCOMMIT\n"
    )
    assert net.record("udp", send("10.0.2.2"), host="h1") == [
        ("v1", None, "DROP", "raw/PREROUTING:1 raw/PREROUTING:p filter/FORWARD:1")
    ]
    assert net.certain()


def test_softirqs_interrupt_a_local_sender(net):
    """A local flood and an incoming one at once, with equal payloads: no trace has events of both."""
    net.hosts(1)
    net.rules()
    flood = "import socket\n" + send("10.0.1.1", 5001, count=3000)
    script = (
        "import subprocess, sys\n"
        f"other = subprocess.Popen(['nsenter', '--net=/run/netns/h1', sys.executable, '-c', {flood!r}])\n"
        + send("10.0.1.2", 5002, count=3000)
        + "other.wait()\n"
    )
    found = net.record("udp", script)
    ways = {(None, "v1", "ACCEPT", OUT), ("v1", None, "ACCEPT", IN)}
    assert set(found) == ways
    assert len(found) == 6000
    assert net.certain()
    assert all(step.changed.keys() <= {"csum"} for packet in net.packets for step in packet.steps)
