"""What nft monitor trace and xtables-monitor print, imported: as it was recorded, and as the kernel counted."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections import Counter

import ground_truth
import pytest
import test_nft
from command import iptrec
from recorder import packets, stop, until
from test_kernel_log_live import judged, without_trace
from test_nft import MIXED, NATIVE, listeners, router, start
from test_nft_bridge import SEND, bridge  # noqa: F401 - a fixture
from test_nft_statements import TRAFFIC, load

pytestmark = [*test_nft.pytestmark, pytest.mark.alone]

PACKETS = 600
FROM_A = "(udp or tcp or icmp) and src host (10.0.1.2 or fd00:1::2)"
TRACE = ":OUTPUT ACCEPT [0:0]\n-A PREROUTING -p udp -j TRACE\n-A OUTPUT -p udp -j TRACE\n"
XTABLES = pytest.mark.skipif(
    shutil.which("xtables-monitor", path="/usr/sbin:/sbin:/usr/bin") is None,
    reason="no xtables-monitor",
)


@contextlib.contextmanager
def printed(lab, path, *command):
    """A monitor that writes to a file."""
    if os.geteuid():
        pytest.skip("monitors lose events: the kernel grants this user a small receive buffer only")
    before = listeners(lab)
    with path.open("w") as out:
        monitor = lab.popen(command, stdout=out)
        until(lambda: listeners(lab) > before)
        yield
        monitor.send_signal(signal.SIGINT)
        monitor.wait(timeout=60)


def imported(tmp_path, text, *rulesets):
    """A recording of a text, and what was said of it."""
    options = [one for path in rulesets for one in ("--ruleset", path)]
    done = iptrec("import", "--force", text, *options, "-o", tmp_path / "imported.db")
    assert done.returncode == 0, done.stderr
    return tmp_path / "imported.db", done.stderr


def listed(lab, tmp_path, *families):
    """Files of the ruleset as nft prints it, and of iptables' words for it."""
    paths = tmp_path / "nft.text", tmp_path / "nft.json"
    for path, options in zip(paths, (["-a"], ["-a", "-j"]), strict=True):
        path.write_text(lab.run(["nft", *options, "list", "ruleset"]).stdout)
    saves = []
    for family in families:
        saves.append(tmp_path / f"{family}.save")
        saves[-1].write_text(lab.run([f"{family}-nft-save"]).stdout)
    return [*paths, *saves]


def ways(path):
    """The way of each packet by its number, without what the recorder's own rules told."""
    found = {}
    for packet in packets(path):
        number = packet.header.get("sport", packet.header.get("icmp_id"))
        if number is None or not 20000 <= number < 21000:
            continue
        assert number not in found
        found[number] = (
            packet.verdict, packet.complete, packet.ambiguous, str(packet.decided_by),
            tuple(
                (one.table, one.chain, one.type, one.rule, one.spec, one.target, one.in_, one.out)
                for one in packet.steps if one.table != "raw" and "iptrec-" not in one.table
            ),
        )  # fmt: skip
    return found


@pytest.mark.parametrize("options", [["-a"], [], ["-nn"]], ids=["handles", "texts", "numbers"])
def test_as_it_was_recorded(lab, tmp_path, options):
    """1,000 mixed packets through maps, jumps, gotos and NAT: all as they were recorded."""
    router(lab)
    lab.run(["nft", "-f", "-"], stdin=NATIVE)
    child = start(lab, tmp_path / "t.db", FROM_A)
    text = tmp_path / "monitor"
    with printed(lab, text, "nft", *options, "monitor", "trace"):
        rulesets = listed(lab, tmp_path)
        lab.run([sys.executable, "-c", MIXED], "a")
        last(lab, "a", "10.0.2.2", text)
    stop(child)
    recorded, (path, said) = ways(tmp_path / "t.db"), imported(tmp_path, text, *rulesets)
    found = ways(path)
    alike = Counter(
        "incomplete" if not one[1] else "same" if one == recorded.get(number) else "other"
        for number, one in found.items()
    )
    different = {
        n: (one, recorded.get(n)) for n, one in found.items() if one[1] and one != recorded.get(n)
    }
    assert next(iter(different.items()), None) is None, (alike, said)
    assert found.keys() == recorded.keys()
    assert alike["same"] == 1000, (alike, said)


LAST = """
import socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"last", ({!r}, 7777))
"""


def last(lab, host, to, path, said="dport 7777"):
    """Send a packet behind all others, and wait until a monitor has printed all that it is told."""
    lab.run([sys.executable, "-c", LAST.format(to)], host)
    until(lambda: said in path.read_text())
    sizes = [0]
    until(
        lambda: sizes.append(path.stat().st_size) or (waiting(lab) == 0 and sizes[-1] == sizes[-2])
    )


def waiting(lab):
    """Bytes that listeners to traces have not read yet."""
    lines = lab.run(["cat", "/proc/net/netlink"]).stdout.splitlines()[1:]
    fields = [line.split() for line in lines]
    return sum(int(one[4]) for one in fields if one[1] == "12" and int(one[3], 16) >> 8 & 1)


def outline(path, key):
    """How often packets took each way, told by what each one is; a rule by its number."""
    return Counter(
        (
            key(one.header), one.verdict, one.complete, one.ambiguous, str(one.decided_by),
            tuple((step.table, step.chain, step.type, step.rule) for step in one.steps if _theirs(step)),
        )
        for one in packets(path) if one.header.get("dport") != 7777
    )  # fmt: skip


def _theirs(step):
    return "iptrec" not in step.table and step.table != "raw"


@pytest.mark.parametrize("options", [["-a"], [], ["-nn"]], ids=["handles", "texts", "numbers"])
def test_odd_statements(lab, tmp_path, options):
    """All that nft takes, comments that look like rules among it: as recorded, or without a number."""
    router(lab)
    load(lab)
    child = start(lab, tmp_path / "t.db", FROM_A)
    text = tmp_path / "monitor"
    with printed(lab, text, "nft", *options, "monitor", "trace"):
        rulesets = listed(lab, tmp_path)
        lab.run([sys.executable, "-c", TRAFFIC], "a")
        last(lab, "a", "10.0.2.2", text)
    stop(child)

    def key(header):
        return header["src"], header.get("sport"), header.get("icmp_id")

    path, said = imported(tmp_path, text, *rulesets)
    recorded, found = outline(tmp_path / "t.db", key), outline(path, key)
    assert "could not be read" not in said
    if "-a" in options:
        assert found == recorded
    assert len(found) == len(recorded)
    for one, other in zip(sorted(found, key=repr), sorted(recorded, key=repr), strict=True):
        assert one[:5] == other[:5]
        assert [step[:3] for step in one[5]] == [step[:3] for step in other[5]]
        numbers = [(step[3], met[3]) for step, met in zip(one[5], other[5], strict=True)]
        assert all(number in (None, real) for number, real in numbers)


def test_a_bridge(bridge, tmp_path):  # noqa: F811
    """Frames that pass chains of a bridge and of IP: as they were recorded."""
    child = start(bridge, tmp_path / "t.db", "udp")
    text = tmp_path / "monitor"
    with printed(bridge, text, "nft", "monitor", "trace"):
        rulesets = listed(bridge, tmp_path)
        bridge.run([sys.executable, "-c", SEND], "h2")
        last(bridge, "h2", "10.5.0.3", text)
    stop(child)
    path, said = imported(tmp_path, text, *rulesets)

    def key(header):
        return header.get("dport")

    assert outline(path, key) == outline(tmp_path / "t.db", key), said
    assert outline(path, key).total() == 80


def rules(lab):
    """A router with rules of iptables-nft that trace and count."""
    ground_truth.join(lab)
    text = ground_truth.RULES.replace(":OUTPUT ACCEPT [0:0]\n", TRACE, 1)
    lab.restore(None, "ipv4", text, "nft")


def traffic(lab, count, pause):
    """Both sides send at each other, no faster than a monitor prints."""
    program = ground_truth.SENDER.replace(
        "    try:\n", f"    __import__('time').sleep({pause})\n    try:\n"
    )
    senders = [
        lab.popen([sys.executable, "-c", program, host, str(first), str(count // 2), str(cpu)], name)
        for name, host, first, cpu in (("a", "10.0.2.2", 0, 0), ("b", "10.0.1.2", count, 1))
    ]  # fmt: skip
    assert [sender.wait(timeout=120) for sender in senders] == [0, 0]


@pytest.mark.parametrize(
    ("command", "said", "pause"),
    [
        (["nft", "-a", "monitor", "trace"], "dport 7777", 0.001),
        (["nft", "monitor", "trace"], "dport 7777", 0.001),
        pytest.param(["xtables-monitor", "--trace"], "DPORT=7777", 0.02, marks=XTABLES),
    ],
    ids=["handles", "texts", "xtables-monitor"],
)
def test_hits_are_the_kernels_counters(lab, tmp_path, command, said, pause):
    """Each rule and policy of iptables-nft was hit as often as it counted, and no trace mixes packets."""
    rules(lab)
    text = tmp_path / "monitor"
    with printed(lab, text, *command):
        traffic(lab, PACKETS, pause)
        last(lab, "a", "10.0.2.2", text, said)
        saved = lab.run(["iptables-nft-save", "-c"]).stdout
    files = listed(lab, tmp_path, "iptables")
    # xtables-monitor tells handles and iptables' words: then these are enough.
    for rulesets in [files, files[2:]] if "xtables-monitor" in command else [files]:
        path, remarks = imported(tmp_path, text, *rulesets)
        hits, found = judged(path)
        assert without_trace(hits) == without_trace(ground_truth.counters(saved)), (found, remarks)
        assert (found["mixed"], found["incomplete"], found["ambiguous"]) == (0, 0, 0)
