"""Recordings of real rulesets and of hard rules: redacted they answer as before, and tell nothing."""

from __future__ import annotations

import re
import sys
import zipfile
from pathlib import Path

import pytest
from command import iptrec
from recorder import start, stop
from redacting import everything, redact, seen

from iptrec.recording.reader import Reader

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]
REAL = [
    ROOT / "tests" / "data" / "rulesets" / "docker-libvirt-ufw.rules",
    ROOT / "samples" / "kubeadm-flannel.rules",
]
PAYLOAD = "tremendous-secret"
NAMES = ["acme-corp", "zebedee", "mulberry", "quixotic", PAYLOAD]
HARD = """\
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:zebedee - [0:0]
-A FORWARD -m iprange --src-range 10.77.0.1-10.77.0.1 -j ACCEPT
-A FORWARD -m iprange --src-range 10.77.0.3-10.77.99.7 -m comment --comment "of acme-corp" -j DROP
-A FORWARD -m iprange ! --dst-range 10.78.0.1-10.78.0.2 -j DROP
-A FORWARD -s 10.77.0.2/32 -d 10.78.0.0/23 -i mulberry+ -j zebedee
-A FORWARD -s 128.0.0.0/1 -j DROP
-A FORWARD -m mac ! --mac-source 02:00:5e:11:22:33 -p udp -m udp --dport 7 -j DROP
-A zebedee -m string --string "tremendous-secret" --algo bm --to 65535 -j LOG --log-prefix "quixotic: "
-A zebedee -p tcp -m tcp --dport 7001 -j REJECT --reject-with tcp-reset
-A zebedee -p udp -m udp --dport 7002 -j REJECT --reject-with icmp-port-unreachable
-A zebedee -p udp -m multiport --dports 7003,7005:7009 -j RETURN
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -d 10.77.0.1/32 -p udp -m udp --dport 7010 -j DNAT --to-destination 10.78.0.2:7004
-A POSTROUTING -s 10.77.0.0/24 -p udp -m udp --dport 7005 -j SNAT --to-source 10.78.0.1-10.78.0.1
COMMIT
"""
# What compares bytes, keeps lists, maps networks and ranges: each is judged, for none of them ends a packet.
BYTES = """\
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:zebedee - [0:0]
-A FORWARD -m u32 --u32 "0xc=0xa4d0002" -j zebedee
-A FORWARD -m u32 --u32 "0xc&0xffffff00=0xa4d0000" -p tcp -j zebedee
-A FORWARD -m u32 ! --u32 "0x10=0xa4e0001:0xa4e0009" -j zebedee
-A FORWARD -m u32 --u32 "0x0>>0x16&0x3c@0x8=0x7472656d" -j zebedee
-A FORWARD -m u32 ! --u32 "0xc>>0x18=0xa" -j zebedee
-A FORWARD -m bpf --bytecode "4,32 0 0 12,21 0 1 172818434,6 0 0 1,6 0 0 0" -j zebedee
-A FORWARD -m string --hex-string "|74726564|" --algo bm --to 65535 -j zebedee
-A FORWARD -m string ! --string "tremendous" --algo kmp --to 65535 -j zebedee
-A FORWARD -m iprange ! --src-range 10.77.0.5-10.77.0.9 --dst-range 10.78.0.2-10.78.0.2 -j zebedee
-A FORWARD -m recent --set --name acme-corp --mask 255.255.255.0 --rsource
-A FORWARD -m recent --rcheck --hitcount 3 --name acme-corp --mask 255.255.255.0 --rsource -j zebedee
-A FORWARD -m tos --tos 0x10/0x3f -j zebedee
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -d 10.79.0.0/24 -j NETMAP --to 10.78.0.0/24
-A PREROUTING -d 10.77.0.1/32 -p udp -m udp --dport 7010 -j DNAT --to-destination 10.78.0.2-10.78.0.9:7004-7010
-A POSTROUTING -s 10.77.0.0/24 -p udp -j SNAT --to-source 10.78.0.1-10.78.0.1:4000-5000 --random --persistent
-A POSTROUTING -s 10.77.0.0/24 -p tcp -j SNAT --to-source 10.78.0.1:1024-65535
COMMIT
"""
NFT = """\
table inet acme-corp {
	set good { type ipv4_addr; flags interval;
		elements = { 10.77.0.0/31, 10.77.0.2-10.77.0.9, 10.77.4.0-10.77.9.255 }; }
	set both { type ipv4_addr . inet_service; flags interval;
		elements = { 10.77.0.2-10.77.0.5 . 7003-7009, 10.78.0.0/24 . 7 }; }
	set six { type ipv6_addr; flags interval; elements = { fd77::/64, fd78::1-fd78::9 }; }
	set cards { type ether_addr; elements = { 02:00:5e:11:22:33 }; }
	set gates { type ifname; elements = { "mulberry0", "quixotic" }; }
	map to { type inet_service : ipv4_addr; elements = { 7010 : 10.78.0.2 }; }
	map where { type ipv4_addr : verdict; flags interval;
		elements = { 10.78.0.0/24 : jump zebedee, 10.99.0.0/16 : drop }; }
	chain pre { type nat hook prerouting priority dstnat; dnat ip to udp dport map @to; }
	chain post { type nat hook postrouting priority srcnat;
		ip saddr 10.77.0.2 udp dport 7005 snat to 10.78.0.1; }
	chain forward {
		type filter hook forward priority 0; policy accept;
		ip saddr != @good drop comment "not of acme-corp"
		iifname @gates ether saddr != @cards drop
		ip saddr & 255.255.255.0 == 10.77.0.0 counter
		@nh,96,32 0x0a4d0009 drop
		ip6 saddr @six counter
		ip daddr vmap @where
		log prefix "mulberry: "
	}
	chain zebedee {
		ip saddr . udp dport @both counter accept
		tcp dport 7001 reject with tcp reset
		udp dport 7002 reject
		oifname "quix*" counter
	}
}
"""
SEND = """
import socket, sys
for family, to in ((socket.AF_INET, "10.78.0.2"), (socket.AF_INET6, "fd78::2")):
    for port in (7, 7002, 7003, 7004, 7005, 7008):
        one = socket.socket(family, socket.SOCK_DGRAM)
        one.sendto(sys.argv[1].encode() * 3, (to, port))
    one = socket.socket(family)
    one.settimeout(0.3)
    try:
        one.connect((to, 7001))
    except OSError:
        pass
    short = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET:
        short.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)
    short.sendto(b"x", (to, 7011))
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(sys.argv[1].encode(), ("10.77.0.1", 7010))
"""


@pytest.fixture
def router(lab):
    """Between two hosts, whose interfaces have names of their own."""
    for name, net, peer in (("a", 77, "mulberry0"), ("b", 78, "quixotic")):
        lab.host(name)
        lab.link(name, "eth0", f"10.{net}.0.2/24", f"fd{net}::2/64", peer=peer)
        lab.ip(None, f"address add 10.{net}.0.1/24 dev {peer}")
        lab.ip(None, f"address add fd{net}::1/64 dev {peer}")
        lab.ip(name, f"route add default via 10.{net}.0.1")
        lab.ip(name, f"route add default via fd{net}::1")
    lab.ip("a", "link set eth0 address 02:00:5e:11:22:33")
    lab.sysctl(None, "net/ipv4/ip_forward", 1)
    lab.sysctl(None, "net/ipv6/conf/all/forwarding", 1)
    lab.settle()
    return lab


def recorded(router, path, *options):
    """What became of the traffic."""
    child = start(
        router,
        "-o",
        path,
        *options,
        "--drops",
        "auto",
        "--conntrack",
        "udp or tcp or icmp or icmp6",
        notes=True,
    )
    router.run([sys.executable, "-c", SEND, PAYLOAD], "a", check=False)
    stop(child)
    return path


def holds(recording, tmp_path):
    """Whether all answers are equal, and nothing is found."""
    output, done = redact(tmp_path, recording, "--check")
    assert done.returncode == 0, done.stderr
    tells_nothing(everything(output), recording)
    pack = tmp_path / "shared.zip"
    made = iptrec("pack", recording, "-o", pack, "--force", "--redact", "--key", tmp_path / "key")
    assert made.returncode == 0, made.stderr
    for name, content in parts(pack, tmp_path):
        tells_nothing(content, recording, name)
    return done.stderr


def parts(pack, tmp_path):
    """The files of a pack as they are, and all that is in the recording."""
    with zipfile.ZipFile(pack) as archive:
        yield from ((name, archive.read(name)) for name in archive.namelist())
        yield "unpacked", everything(Path(archive.extract("recording.db", tmp_path / "unpacked")))


def tells_nothing(content, recording, where=""):
    """No address, MAC address, name or word of a payload of a recording is in these bytes."""
    addresses, macs = seen(recording)
    assert len(addresses) > 6
    for one in addresses:
        if where in ("", "unpacked"):  # what is compressed may have any four bytes
            assert one.packed not in content, (where, one)
        assert not re.search(
            rb"(?<![\d.:a-f])" + re.escape(str(one).encode()) + rb"(?![\d.:a-f])", content
        ), (where, one)
    for one in macs:
        assert bytes.fromhex(one.replace(":", "")) not in content, (where, one)
        assert one.encode() not in content.lower(), (where, one)
    with Reader(recording) as reader:
        paths = [one for one in reader.facts.command if "/" in one]
    for name in (*NAMES, *paths):
        assert name.encode() not in content, (where, name)


@pytest.mark.parametrize(
    "ruleset", ["hard", "bytes", *REAL], ids=["hard", "bytes", "docker", "kubernetes"]
)
def test_rules_of_iptables(router, backend, ruleset, tmp_path):
    """On both backends: ranges, ends of ranges, masks, MAC addresses, payloads, NAT, answers of REJECT."""
    known = {"hard": HARD, "bytes": BYTES}
    text = known.get(ruleset) or ruleset.read_text()
    program = "iptables-legacy-restore" if backend == "legacy" else "iptables-nft-restore"
    done = router.run([program], stdin=text, check=False)
    assert done.returncode == 0, done.stderr
    path = recorded(router, tmp_path / "t.db", "--backend", backend)
    packets = iptrec("show", path, "--json").stdout.count("\n")
    assert packets > 10
    said = holds(path, tmp_path)
    assert f"{packets} packets with equal verdicts" in said
    if ruleset == "hard" and backend == "legacy":
        assert "--string looks for" in said


def test_rules_of_nft(router, tmp_path):
    """Sets of intervals, concatenations, maps, borders, raw payload."""
    done = router.run(["nft", "-f", "-"], stdin=NFT, check=False)
    assert done.returncode == 0, done.stderr
    holds(recorded(router, tmp_path / "t.db", "--backend", "nft"), tmp_path)


def test_borders_stay_true(router, tmp_path):
    """Ranges over several /8: their ends stay, which is told; ends of networks that stay tell nothing."""
    rules = "ip daddr 10.78.0.3-11.0.0.9 drop; ip saddr < 10.0.0.0 drop; ip saddr >= 224.0.0.0 drop"
    table = f"table ip borders {{ chain one {{ type filter hook forward priority 0; {rules}; }}; }}"
    assert router.run(["nft", table], check=False).returncode == 0
    path = recorded(router, tmp_path / "t.db", "--backend", "nft")
    _, done = redact(tmp_path, path, "--check")
    assert done.returncode == 0, done.stderr
    assert "10.78.0.3-11.0.0.9" in done.stderr


@pytest.mark.parametrize(
    "rule",
    [
        "ip saddr > 10.77.0.2",
        "ip daddr >= 10.78.0.3",
        "ip saddr != 10.77.0.2 ip saddr <= 10.77.0.99",
    ],
)
def test_an_order_that_tells_an_address_is_refused(router, rule, tmp_path):
    """With the rule, and no file is left."""
    table = (
        f"table ip borders {{ chain one {{ type filter hook forward priority 0; {rule} drop; }}; }}"
    )
    assert router.run(["nft", table], check=False).returncode == 0
    path = recorded(router, tmp_path / "t.db", "--backend", "nft")
    output, done = redact(tmp_path, path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert '"table": "borders", "chain": "one"' in done.stderr
    assert not output.exists()


def test_rules_of_nft_that_change(router, tmp_path):
    """Elements and rules that come and go: what the kernel tells of them is mapped, too."""
    assert router.run(["nft", "-f", "-"], stdin=NFT, check=False).returncode == 0
    path = tmp_path / "t.db"
    child = start(router, "-o", path, "--backend", "nft", "udp or tcp or icmp", notes=True)
    for change in (
        "add element inet acme-corp good { 10.77.20.0-10.77.29.255 }",
        "add element inet acme-corp both { 10.77.0.7-10.77.0.9 . 8000-8010 }",
        'insert rule inet acme-corp forward ip saddr 10.77.3.0/24 drop comment "zebedee"',
        "delete element inet acme-corp good { 10.77.0.0/31 }",
        "add set inet acme-corp mulberry { type ipv4_addr; }",
        "add element inet acme-corp mulberry { 10.77.0.2 }",
        "add rule inet acme-corp zebedee ip saddr @mulberry counter",
    ):
        assert router.run(["nft", change], check=False).returncode == 0
        router.run([sys.executable, "-c", SEND, PAYLOAD], "a", check=False)
    stop(child)
    holds(path, tmp_path)
