"""What the kernel logs of TRACE becomes what it counted, or is told to be incomplete."""

from __future__ import annotations

import sys
from collections import Counter

import ground_truth
import kernel_log
import numpy as np
import pytest
import sides
from command import iptrec

from iptrec.packets.window import windows
from iptrec.recording.reader import Reader

pytestmark = pytest.mark.live

PACKETS = 4_000
TRACE = "-A {} -p udp -j TRACE\n"


def traffic(lab, count, *, paced):
    """Both sides send at each other, as `ground_truth.run` has it; ``paced``: no more than the log keeps."""
    program = ground_truth.SENDER
    if paced:
        program = program.replace("    try:\n", "    __import__('time').sleep(0.0005)\n    try:\n")
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


def without_trace(counted):
    return {
        place: count for place, count in counted.items() if "-j TRACE" not in place[2] and count
    }


def test_hits_are_the_kernels_counters(lab, tmp_path):
    """Each rule and policy was hit as often as it counted; no trace mixes packets."""
    sides.join(lab, "a", "b", peer="to-{name}")
    for name in ("a", "b"):
        lab.restore(name, "ipv4", "*filter\n-A OUTPUT -p icmp -j DROP\nCOMMIT\n")
    for conf in ("all", "to-a", "to-b"):
        lab.sysctl(None, f"net/ipv4/conf/{conf}/send_redirects", 0)
    lab.settle()
    trace = ":OUTPUT ACCEPT [0:0]\n" + TRACE.format("PREROUTING") + TRACE.format("OUTPUT")
    lab.restore(None, "ipv4", ground_truth.RULES.replace(":OUTPUT ACCEPT [0:0]\n", trace, 1))
    with kernel_log.logged(lab, tmp_path / "log") as overruns:
        traffic(lab, PACKETS, paced=True)
        saved = lab.run(["iptables-legacy-save", "-c"]).stdout
    (tmp_path / "rules").write_text(lab.run(["iptables-legacy-save"]).stdout)
    done = iptrec(
        "import", tmp_path / "log", "--ruleset", tmp_path / "rules", "-o", tmp_path / "t.db"
    )
    assert done.returncode == 0, done.stderr
    hits, found = judged(tmp_path / "t.db")
    assert without_trace(hits) == without_trace(ground_truth.counters(saved))
    assert (found["mixed"], found["incomplete"], found["ambiguous"]) == (0, 0, 0)
    assert not overruns
