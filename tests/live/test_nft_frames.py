"""Frames of every sort at the hooks of devices and bridges: what is told was sent, and Wireshark agrees."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import frames
import pytest
import test_nft
from command import IPTREC
from frames import before, ipv6, udp

pytestmark = test_nft.pytestmark

ARP = "0001080006040001 020000000001 0a000102 000000000000 0a000101".replace(" ", "")
REPORT = bytes.fromhex("8f000000000000010400000000000000") + bytes(16)
SOURCE = "020000000001"
IP4, IP6 = {"src": frames.SRC4, "dst": frames.DST4}, {"src": frames.SRC6, "dst": frames.DST6}
NOT_KNOWN = {"src": None, "dst": None, "proto": None, "truncated": True}
UDP = {"proto": "udp", "sport": 9, "dport": 5000}
NOT_IP = {"src": None, "dst": None, "proto": None, "length": None}
FRAMES = {  # what follows the addresses; what must be told of it, the ethertype in the link header
    "later fragment": (
        "86dd" + frames.IPV6["later"].hex(), NOT_KNOWN | {"length": 72, "hop_limit": 64, "ext": ["fragment"]},
        "86dd",
    ),
    "later fragment behind options": (
        "86dd" + ipv6(*before(frames.OPTION, 0, before(bytes.fromhex("00002000000006"), 44, udp(9, 53)))).hex(),
        NOT_KNOWN | {"length": 65, "ext": ["hopopt"]}, "86dd",
    ),
    "first fragment": (
        "86dd" + frames.IPV6["first"].hex(),
        IP6 | {"proto": None, "ext": ["fragment"], "truncated": True, "length": 72}, "86dd",
    ),
    "multicast listener report": (
        "86dd" + ipv6(*before(bytes.fromhex("00050200000000"), 0, (58, REPORT))).hex(),
        IP6 | {"proto": None, "ext": ["hopopt"], "truncated": True, "length": 80}, "86dd",
    ),
    "no next header": ("86dd" + ipv6(59, b"").hex(), IP6 | {"proto": "ipv6-nonxt", "length": 40}, "86dd"),
    "ipv4 fragment": (
        "0800" + frames.IPV4["later"].hex(), IP4 | {"proto": "udp", "frag": 32, "length": 44}, "0800",
    ),
    "tagged": ("81000005" "0800" + frames.IPV4["udp"].hex(), IP4 | UDP, "0800"),
    "tagged ipv6": ("81000005" "86dd" + frames.IPV6["udp"].hex(), IP6 | UDP, "86dd"),
    "tagged arp": ("81000005" "0806" + ARP, NOT_IP | {"ethertype": "0x0806"}, "0806"),
    "arp": ("0806" + ARP, NOT_IP | {"ethertype": "0x0806"}, "0806"),
    "discovery": (
        "88cc" "0207040200000000010403020000060200780000" + "00" * 40, NOT_IP | {"ethertype": "0x88cc"}, "88cc",
    ),
    "labelled": ("8847" "45000140" + frames.IPV4["udp"].hex(), NOT_IP | {"ethertype": "0x8847"}, "8847"),
    "spanning tree": ("0026" "424203" + "00" * 40, NOT_IP | {"ethertype": None}, "0026"),
}  # fmt: skip
ABSENT = {"sport", "dport", "type", "frag"}  # unless they are told above
RULES = {
    "device": "table netdev t { chain c { type filter hook ingress device va priority 0;",
    "bridge": "table bridge t { chain c { type filter hook prerouting priority 0;",
}


def sender(lab, kind):
    """A host "a", whose frames come in at "va", the port of a bridge or not."""
    lab.host("a")
    lab.link("a", "eth0", "10.0.1.2/24", peer="va")
    if kind == "bridge":
        lab.ip(None, "link add br0 type bridge mcast_snooping 0")
        lab.ip(None, "link set br0 up")
        lab.ip(None, "link set va master br0")
    lab.settle()
    lab.run(["nft", f"{RULES[kind]} meta nftrace set 1; }}; }}"])
    return frames.mac(lab, None, "va").replace(":", "") + SOURCE


def record(lab, directory, sent):
    """A recording of these frames."""
    trace, listed = str(directory / "t.db"), directory / "frames"
    listed.write_text(json.dumps(sent))
    lab.run([*IPTREC, "record", "-q", "--backend", "nft", "-o", trace, "--", "nsenter",
             "--net=/run/netns/a", sys.executable, "-c", frames.SEND, str(listed)])  # fmt: skip
    return trace


@pytest.mark.parametrize("kind", RULES)
def test_frames(lab, tmp_path, kind):
    """Each is told once with what is known of it, and with nothing else."""
    macs = sender(lab, kind)
    trace = record(lab, tmp_path, [macs + frame for frame, *_ in FRAMES.values()])
    lines = map(json.loads, lab.run([*IPTREC, "show", "--json", trace]).stdout.splitlines())
    found = [one for one in lines if (one["link"] or {}).get("src", "").replace(":", "") == SOURCE]
    assert len(found) == len(FRAMES)
    for one, (name, (_, fields, ethertype)) in zip(found, FRAMES.items(), strict=True):
        header = one["header"]
        assert {field: header.get(field) for field in fields} == fields, name
        assert not (ABSENT - set(fields)) & set(header), (name, header)
        assert one["link"]["type"] == f"0x{ethertype}", name
        assert one["link"].get("vlan") == (5 if name.startswith("tagged") else None), name
        if "ethertype" not in fields:
            assert one["family"] == ("ipv4" if header.get("src") == frames.SRC4 else "ipv6"), name
    talkers = json.loads(lab.run([*IPTREC, "info", "--json", trace]).stdout)["talkers"]
    assert "None" not in {one["src"] for one in talkers}


@pytest.mark.skipif(shutil.which("tshark") is None, reason="no tshark")
@pytest.mark.parametrize("link", ["auto", "raw", "ethernet"])
def test_wireshark_reads_them(lab, tmp_path, link):
    """No frame is malformed, and each has the protocol that was sent."""
    macs = sender(lab, "device")
    trace = record(lab, tmp_path, [macs + frame for frame, *_ in FRAMES.values()])
    capture = str(tmp_path / "t.pcapng")
    lab.run([*IPTREC, "export", "pcapng", trace, "--link", link, "-o", capture])

    def read(*options):
        command = ["tshark", "-n", "-r", capture, *options]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert read("-Y", "_ws.malformed") == ""
    asked = {"arp": 2, "lldp": 1, "mpls": 1, "stp": 1}
    shown = {name: len(read("-Y", f"{name} && !(arp.opcode == 2)").splitlines()) for name in asked}
    shown["arp"] = len(read("-Y", "arp.src.hw_mac == 02:00:00:00:00:01").splitlines())
    assert shown == asked
    assert len(read("-Y", "udp.dstport == 5000").splitlines()) == 2 + 1  # one has a label
    assert len(read("-Y", "ipv6.src == fd00:1::2").splitlines()) == 4
    assert len(read("-Y", "ipv6").splitlines()) >= 6


def test_filters_and_frames(lab, tmp_path):
    """A filter is about IP: no frame of another protocol matches one, or is doubtful for it."""
    macs = sender(lab, "device")
    chosen = ("arp", "discovery", "labelled", "spanning tree", "tagged arp", "tagged")
    trace = record(lab, tmp_path, [macs + FRAMES[name][0] for name in chosen])
    done = lab.run([*IPTREC, "show", "--json", trace, "udp", "dst", "port", "5000"], check=False)
    (only,) = map(json.loads, done.stdout.splitlines())
    assert only["header"]["dst"] == frames.DST4
    assert done.stderr == ""
