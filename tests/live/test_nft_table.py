"""nf_tables without iptables-nft, by a table of our own; and rules that change in between."""

from __future__ import annotations

import os
import shutil
import signal
import sys

import pytest
import recorder
from command import IPTREC, iptrec
from recorder import guardians

from iptrec.answers.packets import Packets
from iptrec.recording.reader import Reader

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(
        shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin") is None, reason="nft is not installed"
    ),
]

KILLS = int(os.environ.get("IPTREC_KILLS", "12"))
HIDDEN = 'mount --bind /dev/null $(readlink -f $(command -v iptables-nft-save)) && exec "$@"'
ALONE = ("unshare", "-m", "sh", "-c", HIDDEN, "sh")  # a shell that sees no iptables-nft
SEND = """
import socket
for address, port in (("127.0.0.1", 5001), ("127.0.0.1", 5002), ("127.0.0.2", 5001), ("::1", 5001)):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    socket.socket(family, socket.SOCK_DGRAM).sendto(b"x", (address, port))
"""
LOCAL_RULES = """
table inet fw {
    chain input { type filter hook input priority 0; policy accept; udp dport 5001 counter drop; }
}
"""


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("udp dst port 5001", [("127.0.0.1", 5001), ("127.0.0.2", 5001), ("::1", 5001)]),
        ("udp and dst host 127.0.0.2 or dst port 5002", [("127.0.0.1", 5002), ("127.0.0.2", 5001)]),
        ("ip6 and udp", [("::1", 5001)]),
    ],
)
def test_without_iptables_nft(lab, tmp_path, expression, expected):
    """A table of our own chooses the same packets as the bytecode does, and is not told of."""
    lab.run(["nft", "-f", "-"], stdin=LOCAL_RULES)
    found = []
    for enter in ((), ALONE):
        path = tmp_path / f"{len(enter)}.db"
        lab.run(
            [
                *enter,
                *IPTREC,
                "record",
                "-q",
                "-o",
                str(path),
                expression,
                "--",
                sys.executable,
                "-c",
                SEND,
            ]
        )
        with Reader(path) as reader:
            if reader.losses and os.geteuid():
                pytest.skip(
                    "events were lost: the kernel grants this user a small receive buffer only"
                )
            assert reader.losses == []
            found.append([one for one in Packets(reader) if one.header["proto"] == "udp"])
        assert "iptrec" not in lab.run(["nft", "list", "tables"]).stdout
    bytecode, table = found
    for one in found:
        assert all(packet.complete and not packet.ambiguous for packet in one)
        inward = [(each.header["dst"], each.header["dport"]) for each in one if each.in_ == "lo"]
        assert inward == expected
    assert [one.verdict for one in bytecode] == [one.verdict for one in table]
    assert {step.table for one in table if one.in_ for step in one.steps} == {"inet fw"}


@pytest.mark.parametrize("expression", ["tcp[13] = 2", "not udp", "host example.invalid or vlan"])
def test_what_nft_cannot_say_is_refused(lab, tmp_path, expression):
    """One line that says what to do; nothing is left."""
    done = lab.run(
        [*ALONE, *IPTREC, "record", "--backend", "nft", "-o", str(tmp_path / "t.db"), expression],
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert lab.run(["nft", "list", "tables"]).stdout == ""
    assert not (tmp_path / "t.db").exists()


def test_rules_that_change(lab, tmp_path):
    """A rule that is put before others while packets flow: each is judged by the rules that it met."""
    lab.run(["nft", "-f", "-"], stdin=LOCAL_RULES)
    path = tmp_path / "t.db"
    send = f"{sys.executable} -c '{SEND}'; sleep 0.3"  # changes in a row are seen as one
    insert = "nft insert rule inet fw input udp dport 5002 counter drop comment new"
    script = f"{send}; {insert}; sleep 0.3; {send}; nft delete table inet fw; {send}"
    record = [*IPTREC, "record", "-q", "--drops=no", "-o", str(path), "udp and ip"]
    lab.run([*record, "--", "sh", "-c", script])
    with Reader(path) as reader:
        inward = [one for one in Packets(reader) if one.in_ == "lo"]
    told = [
        (one.header["dport"], one.verdict, one.decided_by and one.decided_by.rule) for one in inward
    ]
    first, second = (5001, "DROP", 1), (5001, "DROP", 2)
    assert told[:3] == [first, (5002, "ACCEPT", None), first]
    assert told[3:6] == [second, (5002, "DROP", 1), second]
    assert len(told[6:]) == 3
    # Without a chain at INPUT nothing tells that they arrived, until there is one of ours.
    assert {one[1] for one in told[6:]} <= {"ACCEPT", "UNKNOWN"}
    assert iptrec("diff", str(path)).returncode == 1


def state(lab):
    """The ruleset, and what recorders keep in /run."""
    return lab.run(
        ["sh", "-c", "nft list ruleset; ls -A /run /run/iptrec 2>/dev/null"], check=False
    ).stdout


@pytest.fixture
def quiet_lab(lab):
    """Rules of its own, and everything there that a recording makes."""
    lab.run(["nft", "-f", "-"], stdin=LOCAL_RULES)
    lab.run(["mkdir", "-p", "/run/mount"])  # as mount(8) does
    return lab


def test_killed_at_any_moment(quiet_lab, tmp_path):
    """SIGKILL in set-up, recording and clean-up: our table is gone, nobody is left."""
    command = [
        *ALONE,
        *IPTREC,
        "record",
        "tcp port 80",
        "--backend",
        "nft",
        "--duration",
        "50ms",
        "-o",
    ]
    recorder.kill_at_any_moment(quiet_lab, tmp_path, KILLS, lambda: state(quiet_lab), *command)


@pytest.mark.parametrize("listed", [True, False], ids=["", "without-its-list"])
def test_cleanup(quiet_lab, tmp_path, listed):
    """Guardian killed as well: doctor tells of our table, cleanup takes it away."""
    before = quiet_lab.run(["nft", "list", "ruleset"]).stdout
    options = ("-o", tmp_path / "t.db", "--backend", "nft")
    child = recorder.start(quiet_lab, *options, before=(*ALONE, *IPTREC))
    assert (
        quiet_lab.run([*IPTREC, "cleanup", "--netns", "/proc/self/ns/net"]).stdout.count("kept")
        == 1
    )
    (guardian,) = guardians(quiet_lab)
    os.kill(guardian, signal.SIGKILL)
    child.kill()
    child.communicate()
    if not listed:
        quiet_lab.run(["sh", "-c", "rm /run/iptrec/*"])
    assert "table inet iptrec-" in quiet_lab.run(["nft", "list", "tables"]).stdout
    assert "left behind" in quiet_lab.run([*IPTREC, "doctor"]).stdout
    assert (
        quiet_lab.run([*IPTREC, "cleanup", "--netns", "/proc/self/ns/net"]).stdout.count("removed")
        == 1
    )
    assert quiet_lab.run(["nft", "list", "ruleset"]).stdout == before
    assert (
        quiet_lab.run([*IPTREC, "cleanup", "--netns", "/proc/self/ns/net"]).stdout
        == "nothing is left behind\n"
    )


def test_our_table_is_put_back(quiet_lab, tmp_path):
    """Somebody flushes all rules: the hole is told, and what follows is traced."""
    options = ("-o", tmp_path / "t.db", "--backend", "nft")
    child = recorder.start(quiet_lab, *options, before=(*ALONE, *IPTREC))
    quiet_lab.run(["nft", "flush", "ruleset"])
    assert "put back" in child.stderr.readline()
    assert "table inet iptrec-" in quiet_lab.run(["nft", "list", "tables"]).stdout
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=30)
    assert quiet_lab.run(["nft", "list", "ruleset"]).stdout == ""
    with Reader(tmp_path / "t.db") as reader:
        assert [one.how for one in reader.losses] == ["rules-gone"] * 2  # one a family
