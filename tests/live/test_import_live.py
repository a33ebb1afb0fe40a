"""What tcpdump captured of the same packets gives the same traces as our own recording."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from command import IPTREC, iptrec

from iptrec.answers.packets import Packets
from iptrec.recording.reader import Reader

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(
        shutil.which("tcpdump") is None
        and shutil.which("tcpdump", path="/usr/bin:/usr/sbin") is None,
        reason="tcpdump is not installed (tools/system-packages tests)",
    ),
]

RULES = """\
*mangle
-A PREROUTING -p udp -m udp --dport 9 -j MARK --set-xmark 0x2/0xffffffff
COMMIT
*nat
-A OUTPUT -p udp -m udp --dport 53 -j DNAT --to-destination 127.0.0.1:9
COMMIT
*filter
:in:put -
-A INPUT -p udp -j in:put
-A INPUT -j ACCEPT
-A in:put -p udp -m udp --dport 7 -j RETURN
-A in:put -p udp -m udp --sport 4001 -j DROP
COMMIT
"""
SEND = """\
import socket
for source, port in ((4000, 7), (4001, 9), (4002, 9), (4003, 53)):
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    out.bind(("127.0.0.1", source))
    out.sendto(b"x" * 20, ("127.0.0.1", port))
"""


def traces(path):
    """Of each packet what does not depend on who listened."""
    with Reader(path) as reader:
        return [
            (
                one.verdict, one.complete, one.in_, one.out, one.header["sport"], one.header["dport"],
                [
                    (step.table, step.chain, step.type, step.spec, step.target, step.mark)
                    for step in one.steps
                    if step.target != "TRACE"
                ],
            )
            for one in Packets(reader)
        ]  # fmt: skip


def test_tcpdump_and_iptrec_see_the_same(lab, tmp_path):
    """The same packets twice; the TRACE rules are tcpdump's user's own the second time."""
    lab.restore(None, "ipv4", RULES)
    lab.run(
        [sys.executable, "-c", SEND]
    )  # the nat table looks at the first packet of a connection only
    own = tmp_path / "own.db"
    lab.run([*IPTREC, "record", "-q", "--drops=no", "udp", "--family", "ipv4", "-o", str(own), "--",
             sys.executable, "-c", SEND])  # fmt: skip
    with Reader(own) as reader:
        assert reader.losses == []
        events = sum(
            len(chunk.lengths)
            for stream in reader.streams
            if stream.kind == "nflog"
            for chunk in reader.chunks(stream.id)
        )
    for chain in ("PREROUTING", "OUTPUT"):
        rule = ["-I", chain, "1", "-p", "udp", "-j", "TRACE"]
        lab.run(["iptables-legacy", "-t", "raw", *rule])
    lab.run(["tee", "/proc/sys/net/netfilter/nf_log/2"], stdin="nfnetlink_log")
    capture = tmp_path / "capture.pcap"
    with capture.open("wb") as file:  # tcpdump gives its own file away, which not every root may
        listener = lab.popen(
            ["tcpdump", "-i", "nflog:0", "-Z", "root", "-U", "-w", "-", "-c", str(events)],
            stdout=file, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        said = ""
        while "listening on" not in (line := listener.stderr.readline()):
            said += line
            if not line and os.geteuid():
                listener.communicate()
                pytest.skip(f"tcpdump does not work for this user: {said}")
            assert line, said
        lab.run([sys.executable, "-c", SEND])
        listener.communicate(timeout=30)
    (tmp_path / "rules").write_text(lab.run(["iptables-legacy-save"]).stdout)
    (tmp_path / "links").write_text(lab.run(["ip", "-json", "link"]).stdout)
    done = iptrec("import", capture, "--ruleset", tmp_path / "rules", "--links", tmp_path / "links",
                  "-o", tmp_path / "t.db")  # fmt: skip
    assert done.returncode == 0, done.stderr
    ours, theirs = traces(own), traces(tmp_path / "t.db")
    assert len(ours) == 8
    assert [one[0] for one in ours].count("DROP") == 1
    assert theirs == ours
    told = json.loads(iptrec("info", "--json", str(tmp_path / "t.db")).stdout)
    assert told["events"] == events
