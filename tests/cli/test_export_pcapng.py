"""`iptrec export pcapng`, read back by Wireshark's own tools."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from command import iptrec
from handmade import HandMade, udp

from iptrec.answers.packets import Packets
from iptrec.recording.rows import Loss
from iptrec.views import pcapng

ROOT = Path(__file__).parents[2]
SAMPLES = sorted((ROOT / "samples").glob("*.db"))
HAIRPIN = ROOT / "samples" / "docker_hairpin.db"
BOTH = ("both", "tapped")  # of legacy iptables and of nf_tables
MODES = {
    "packets": [], "stages": ["--stages"], "raw": ["--link", "raw"], "ethernet": ["--link", "ethernet"],
}  # fmt: skip

pytestmark = pytest.mark.skipif(
    shutil.which("tshark") is None or shutil.which("capinfos") is None,
    reason="tshark and capinfos are not installed (tools/system-packages tests)",
)


def tshark(path, *fields, which=()):
    """The fields of each frame, of each the first; tshark may say nothing else."""
    asked = [word for field in fields for word in ("-e", field)]
    done = subprocess.run(
        [
            "tshark", "-n", "-r", str(path), "-T", "fields", "-E", "separator=/t", "-E", "occurrence=f",
            *asked, *which,
        ],
        capture_output=True, check=True,
    )  # fmt: skip
    said = [line for line in done.stderr.decode().splitlines() if "Running as user" not in line]
    assert said == []
    return [line.split("\t") for line in done.stdout.decode().splitlines()]


def capinfos(path, *options):
    done = subprocess.run(["capinfos", *options, str(path)], capture_output=True, check=True)
    assert done.stderr == b""
    return done.stdout.decode()


@pytest.fixture
def export(tmp_path):
    """Exports a recording; the path of the file."""

    def run(recording, *options):
        path = tmp_path / "out.pcapng"
        done = iptrec("export", "pcapng", recording, "-o", path, "--force", *options)
        assert (done.returncode, done.stderr) == (0, "")
        return path

    return run


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_packets_are_those_of_show(sample, export):
    """Number, verdict, interface, direction, time and length of each, and a comment that begins with who."""
    path = export(sample)
    shown = [json.loads(line) for line in iptrec("show", "--json", sample).stdout.splitlines()]
    found = tshark(
        path, "frame.packet_id", "frame.verdict.hw", "frame.interface_name", "frame.time_epoch",
        "frame.packet_flags_direction", "frame.comment",
    )  # fmt: skip
    assert len(found) == len(shown)
    for packet, row in zip(shown, found, strict=True):
        number, verdict, interface, when, direction, comment = row
        assert int(number) == packet["packet"]
        assert bytes.fromhex(verdict).decode() == packet["verdict"]
        assert interface == (packet["in"] or packet["out"])
        seconds, _, rest = when.partition(".")
        assert int(seconds) * 10**9 + int(rest) == packet["time_ns"]
        assert int(direction, 16) == (1 if packet["in"] else 2)
        assert comment.startswith(packet["verdict"])
        steps = [f"{one['table']} {one['chain']} " for one in packet["steps"]]
        told = lines(comment)
        if packet["reason"]:
            assert told.pop(0) == f"({packet['reason']})"
        if "end" in packet:  # of which the samples have none that the kernel told as it happened
            assert told.pop(0) == f"end: {packet['end']['text']}"
        assert all(line.startswith(step) for line, step in zip(told, steps, strict=True))
        assert all(
            one["spec"] in comment.replace("\\\\", "\\") for one in packet["steps"] if one["spec"]
        )
    assert f"Number of packets:   {len(shown)}" in capinfos(path, "-Mc")


def lines(comment):
    """A comment's lines but the sentence; tshark escapes their ends."""
    return comment.split("\\n")[1:]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_every_kind_of_link(sample, mode, export):
    """Addresses are those of the packets, whatever the frame; nothing is malformed below the payload."""
    path = export(sample, *MODES[mode])
    shown = [json.loads(line) for line in iptrec("show", "--json", sample).stdout.splitlines()]
    known = {packet["packet"]: packet["header"] for packet in shown}
    first = set()
    fields = ("frame.packet_id", "ip.src", "ip.dst", "ipv6.src", "ipv6.dst")
    for number, *addresses in tshark(path, *fields):
        if number not in first:
            header = known[int(number)]
            assert [one.split(",")[0] for one in addresses if one] == [header["src"], header["dst"]]
        first.add(number)
    assert {int(number) for number in first} == set(known)
    kinds = set(capinfos(path, "-TmrE").strip().split(",")[1:])
    if mode in ("raw", "ethernet"):
        assert kinds == {"rawip" if mode == "raw" else "ether"}


def test_stages_show_both_sides_of_nat(export):
    """The Docker hairpin: before DNAT with the steps up to it, and after with all."""
    before, after = tshark(
        export(HAIRPIN, "--stages"), "ip.dst", "frame.comment", "frame.packet_id"
    )
    assert (before[0], after[0]) == ("172.17.0.3", "172.23.0.2")
    assert lines(before[1])[-2].startswith("nat DOCKER #1 -p tcp")
    assert lines(before[1])[-1] == "(the packet changed here)"
    assert lines(after[1])[:3] == lines(before[1])[:3]
    assert lines(after[1])[-1].startswith(
        "filter DOCKER-ISOLATION-STAGE-2 #1 -o hairpin-8-1 -j DROP"
    )
    assert before[2] == after[2] == "1"


def test_selection_by_verdict_and_comment(export):
    """What can be asked of any Wireshark."""
    path = export(ROOT / "samples" / "loopback.db")
    dropped = iptrec("show", "--json", ROOT / "samples" / "loopback.db", "--verdict", "DROP").stdout
    count = len(dropped.splitlines())
    assert count > 0
    for expression in ('frame.verdict.hw contains "DROP"', 'frame.comment contains "DROP by"'):
        assert len(tshark(path, "frame.number", which=["-Y", expression])) == count


def test_what_wireshark_4_0_cannot_save_can_be_left_out(export):
    """It writes options of verdicts that nobody can read; without them what it saves is whole."""
    path = export(HAIRPIN, "--no-epb-verdict")
    saved = path.with_suffix(".saved")
    subprocess.run(["tshark", "-r", path, "-w", saved], capture_output=True, check=True)
    rows = [
        tshark(one, "frame.packet_id", "frame.verdict.hw", "frame.comment") for one in (path, saved)
    ]
    assert rows[0] == rows[1]
    assert {verdict for _, verdict, _ in rows[0]} == {""}


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_events_are_read_by_their_dissector(sample, export):
    """As many as the recording has: nflog's with the kernel's prefix, nf_tables' as netlink."""
    path = export(sample, "--events")
    found = tshark(path, "frame.protocols", "nflog.prefix", "frame.interface_name")
    events = json.loads(iptrec("info", "--json", sample).stdout)["events"]
    assert len(found) == events
    if sample.stem in BOTH:
        assert {name for *_, name in found} == {"nftrace", "nflog:0"}
        for protocols, prefix, name in found:
            netlink = protocols.startswith("netlink:netlink-netfilter")
            assert (netlink, prefix.startswith("TRACE: ")) == (name == "nftrace", name == "nflog:0")
    elif "nft" in sample.stem:
        assert all(protocols.startswith("netlink:netlink-netfilter") for protocols, *_ in found)
        assert {name for *_, name in found} == {"nftrace"}
    else:
        assert all(prefix.startswith("TRACE: ") for _, prefix, _ in found)
        assert {name for *_, name in found} == {"nflog:0"}
    some = export(sample, "--events", "--packet", "1")
    steps = json.loads(iptrec("show", "--json", "--packet", "1", sample).stdout)["steps"]
    # Our own rule, and of nf_tables base chains that go on into others.
    more = 5 if sample.stem in BOTH or "nft" in sample.stem else 1
    assert len(steps) <= len(tshark(some, "frame.number")) <= len(steps) + more


def test_names_and_facts(export):
    """Who recorded what, how complete it is, and names for the host's addresses."""
    told = capinfos(export(HAIRPIN))
    assert "filter: tcp port 1242; no event was lost; closed cleanly" in told
    assert "Capture application: iptrec" in told
    assert "Number of resolved IPv4 addresses in file: 4" in told


def section(recording, what="packets"):
    capture = pcapng.Capture(recording.facts, "auto")
    return b"".join(pcapng.section(capture, recording, Packets(recording), what))


def blocks(data):
    """(type, body) of each block; sizes at both ends agree."""
    at = 0
    while at < len(data):
        kind, size = struct.unpack_from("<II", data, at)
        assert struct.unpack_from("<I", data, at + size - 4) == (size,)
        yield kind, data[at + 8 : at + size - 4]
        at += size


def test_losses_are_reported(tmp_path):
    """As statistics of an interface of their own, with when and how many."""
    recording = HandMade().ruleset("*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n")
    recording.events([("filter:INPUT:policy:1", udp(), {"indev": 1})])
    recording.losses.append(Loss(1, 10, 20, 5, "sequence"))
    data = section(recording)
    statistics = [body for kind, body in blocks(data) if kind == 5]
    assert [struct.pack("<HHQ", 5, 8, 5) in body for body in statistics] == [False, True]
    assert b"sequence, 5 events" in statistics[1]
    (tmp_path / "x.pcapng").write_bytes(data)
    assert "5 events lost" in capinfos(tmp_path / "x.pcapng")


def test_hostile_names_and_endless_ways(tmp_path):
    """Escapes are made visible, and a comment stays below what an option holds."""
    chain = "a\x1b[31mb\u202ec"
    rules = "".join(f"-A {chain} -m comment --comment {'x' * 200}{n}\n" for n in range(400))
    recording = HandMade().ruleset(
        f"*filter\n:INPUT ACCEPT [0:0]\n:{chain} - [0:0]\n-A INPUT -j {chain}\n{rules}COMMIT\n"
    )
    places = ["filter:INPUT:rule:1", *(f"filter:{chain}:rule:{n}" for n in range(1, 401))]
    recording.events([(place, udp(), {"indev": 1}) for place in places])
    path = tmp_path / "x.pcapng"
    path.write_bytes(section(recording))
    ((comment, interface),) = tshark(path, "frame.comment", "frame.interface_name")
    assert "\x1b" not in comment
    assert "\u202e" not in comment
    assert "more steps" in comment
    assert interface == "if1"
