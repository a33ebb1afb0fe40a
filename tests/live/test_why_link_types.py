"""`iptrec why` of conditions on the link layer, of packets of devices that have another or none."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
from command import IPTREC
from judged import claims

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(
        shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin") is None, reason="no nft"
    ),
]
ADDRESS = "02:00:00:00:00:99"
NATIVE = [
    f"ether saddr != {ADDRESS}",
    "ether saddr 00:00:00:00:00:00",
    f"ether saddr {{ {ADDRESS}, 00:00:00:00:00:00 }}",
    f"ether daddr != {ADDRESS}",
    "ether type ip",
    f"ether daddr . ip daddr != {{ {ADDRESS} . 10.0.9.9 }}",
    "meta iiftype ether",
    "meta iiftype != ether",
    "meta iiftype { loopback, 65534 }",
    "meta protocol ip",
]
OF_IPTABLES = [f"-m mac ! --mac-source {ADDRESS}", "-m mac --mac-source 00:00:00:00:00:00"]
SENDS = "socket.socket(2, 2).sendto(b'x', ({!r}, 5000))"
# Of a device without a link layer: a packet that a program behind it writes (linux/if_tun.h).
WRITES = """
import fcntl, os, struct
tun = os.open('/dev/net/tun', os.O_RDWR)
fcntl.ioctl(tun, 0x400454CA, struct.pack('16sH', b't0', 0x1001))
packet = bytearray.fromhex('4500001d00000000401100000a0003020a000301' '138813880009000078')
words = struct.unpack('>10H', packet[:20])
total = sum(words)
packet[10:12] = struct.pack('>H', 0xFFFF - (total & 0xFFFF) - (total >> 16))
os.write(tun, packet)
"""
WAYS = {
    "loopback": ([], f"import socket; {SENDS.format('127.0.0.1')}"),
    "ether": (["nsenter", "--net=/run/netns/h"], f"import socket; {SENDS.format('10.0.1.1')}"),
    "none": ([], WRITES),
}


@pytest.fixture
def host(lab):
    """A host behind v1, and a tunnel t0."""
    lab.host("h")
    lab.link("h", "eth0", "10.0.1.2/24", peer="v1")
    lab.ip(None, "address add 10.0.1.1/24 dev v1")
    lab.settle()
    lab.ip(None, "tuntap add dev t0 mode tun")  # carries once a program is behind it
    lab.ip(None, "address add 10.0.3.1/24 dev t0")
    lab.ip(None, "link set t0 up")
    return lab


def _told(host, path, way, chain, *backend):
    enter, script = WAYS[way]
    options = ["-q", "-o", str(path), *backend, "udp port 5000"]
    host.run([*IPTREC, "record", *options, "--", *enter, sys.executable, "-c", script])
    return [(rule.spec, matched, found) for _, rule, matched, found in claims(path, chain)]


@pytest.mark.parametrize(
    ("way", "hook"),
    [(way, "input") for way in WAYS] + [("loopback", "output"), ("loopback", "postrouting")],
)
def test_rules_of_nft(host, tmp_path, way, hook):
    """They ask that the packet came in by an Ethernet device: nft compiles that in, and does not print it."""
    rules = "\n\t\t".join(f"{match} counter" for match in NATIVE)
    base = f"type filter hook {hook} priority 0\n\t\tudp dport 5000 jump c"
    chain = f"chain c {{\n\t\t{rules}\n\t}}\n\tchain base {{\n\t\t{base}\n\t}}"
    (tmp_path / "rules.nft").write_text(f"table inet t {{\n\t{chain}\n}}\n")
    host.run(["nft", "-f", str(tmp_path / "rules.nft")])
    told = _told(host, tmp_path / "t.db", way, ("inet t", "c"), "--backend", "nft")
    listing = json.loads(host.run(["nft", "-j", "list", "chain", "inet", "t", "c"]).stdout)
    counted = [
        next(part["counter"]["packets"] for part in one["rule"]["expr"] if "counter" in part)
        for one in listing["nftables"]
        if "rule" in one
    ]
    assert [bool(one) for one in counted] == [matched for _, matched, _ in told]
    judged = [
        (spec, matched, found.fits) for spec, matched, found in told if found.fits is not None
    ]
    assert all(fits is matched for _, matched, fits in judged), judged
    # Kernels differ in whose type it is where a packet goes out.
    assert len(judged) == len(told) or hook == "postrouting"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_rules_of_iptables(host, tmp_path, backend, way):
    """xt_mac.c: no other device's packet matches, whatever is negated."""
    text = "".join(f"-A INPUT {match}\n" for match in OF_IPTABLES)
    host.restore(None, "ipv4", f"*filter\n{text}COMMIT\n", backend)
    chain = ("filter", "INPUT")
    told = _told(host, tmp_path / "t.db", way, chain, "--backend", backend)
    saved = host.run([f"iptables-{backend}-save", "-c", "-t", "filter"]).stdout
    counted = [line.startswith("[1:") for line in saved.splitlines() if "-A INPUT" in line]
    assert counted == [matched for _, matched, _ in told]
    assert counted == [bool(found.fits) for _, _, found in told]
    assert all(found.fits is not None for _, _, found in told)
