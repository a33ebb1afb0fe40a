"""Chains that packets pass before raw: a table of our own is passed first, and every drop there is told."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import sys
from collections import Counter

import pytest
import recorder
import test_nft
from command import IPTREC, iptrec
from recorder import guardians, packets, until
from rights import LINUX
from test_nft import router
from test_nft_table import ALONE
from typer.testing import CliRunner

import iptrec as api
from iptrec.cli import app
from iptrec.kernel.nft.bases import Base
from iptrec.kernel.nft.table import Own
from iptrec.recorder.traversals import Traversals
from iptrec.recording.reader import Reader

pytestmark = test_nft.pytestmark

KILLS = int(os.environ.get("IPTREC_KILLS", "12"))
TOLD = (
    "show",
    "show --brief",
    "show --classic",
    "show --json",
    "show -v",
    "paths",
    "paths --json",
    "why",
    "why --all",
    "why --json",
)
SEND = """\
import contextlib, socket, sys
for host in sys.argv[1:]:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as out:
        for port in (999, 1000):
            with contextlib.suppress(PermissionError):  # a drop in OUTPUT
                out.sendto(b"x", (host, port))
"""
FROM_A = ("a", "10.0.2.2", "fd00:2::2")
FROM_HERE = (None, "10.0.2.2", "fd00:2::2")
CASES = {
    "prerouting": ("inet", "prerouting priority -450", FROM_A),
    "output": ("inet", "output priority -450", FROM_HERE),
    "ip": ("ip", "prerouting priority -2147483648", FROM_A),
    "ip6": ("ip6", "output priority -301", FROM_HERE),
    "helper": ("inet", "prerouting priority -310", FROM_A),
    "netdev": ("netdev", 'ingress device "to-a" priority 0', FROM_A),
    "inet ingress": ("inet", 'ingress device "to-a" priority -5', FROM_A),
}
FILTERS = {"udp": True, "udp and less 1000": False}  # whether nft can say it


def dropping(family, hook):
    """A table with a chain that drops one of two ports."""
    chain = f"chain c {{\n type filter hook {hook};\n udp dport 1000 counter drop;\n }}\n"
    return f"table {family} early {{\n {chain}}}\n"


def recorded(lab, path, rules, who, *options, before=IPTREC):
    """What the recorder says, and what nft lists of the rules afterwards."""
    lab.run(["nft", "-f", "-"], stdin=rules)
    child, said = recorder.started(lab, "--backend", "nft", "-o", path, *options, before=before)
    host, *hosts = who
    lab.run([sys.executable, "-c", SEND, *hosts], host)
    counted = lab.run(["nft", "list", "ruleset"]).stdout
    child.send_signal(signal.SIGINT)
    said += child.communicate(timeout=60)[1]
    assert child.returncode == 0, said
    return said, counted


def counted_as(path, chain, matches=()):
    """How many packets --packets counts in a recording; ``chain``: the early one."""
    with Reader(path) as reader:
        comment = f"iptrec:{reader.facts.uuid}"
        counted = Traversals(Own(comment, (), (), matches, alone=False, early=[chain]))
        (stream,) = (one.id for one in reader.streams if one.kind == "nftrace")
        return sum(counted.of(chunk.data) for chunk in reader.chunks(stream))


def bridge(lab):
    """Two hosts on a bridge of the lab's."""
    lab.ip(None, "link add br0 type bridge\nlink set br0 up\naddress add 10.5.0.1/24 dev br0")
    for number in (2, 3):
        lab.host(f"h{number}")
        lab.link(f"h{number}", "eth0", f"10.5.0.{number}/24", peer=f"p{number}", bridge="br0")
    lab.settle()
    for host in ("10.5.0.3", "10.5.0.1"):
        lab.run(["ping", "-c1", "-W9", host], "h2")


@pytest.mark.parametrize("netfilter", [0, 1])
@pytest.mark.parametrize("words", FILTERS)
@pytest.mark.parametrize(
    "hook", ["prerouting priority -500", "forward priority 0", "input priority 0"]
)
def test_a_bridge_is_traced_from_its_ports_on(lab, tmp_path, hook, words, netfilter):
    """Whether br_netfilter hands its frames to IP or not."""
    bridge(lab)
    key = "net/bridge/bridge-nf-call-iptables"
    if lab.run(["test", "-e", f"/proc/sys/{key}"], check=False).returncode == 0:
        lab.sysctl(None, key, netfilter)
    elif netfilter:
        pytest.skip("br_netfilter is not loaded")
    if netfilter and hook == "forward priority 0" and LINUX < (6, 7):
        pytest.skip("br_netfilter leaves out what is at 0 there, before Linux 6.7")
    rules = dropping("bridge", hook)
    path = tmp_path / "t.db"
    who = ("h2", "10.5.0.1" if "input" in hook else "10.5.0.3")
    said, counted = recorded(lab, path, rules, who, words)
    assert "frames that do not come through IP pass there untraced" in said
    assert "not seen" not in said
    assert "counter packets 1 " in counted
    found = [
        (one.header["dport"], one.verdict, one.complete, one.decided_by and one.decided_by.table)
        for one in packets(path)
    ]
    assert found[1] == (1000, "DROP", True, "bridge early")
    seen_behind = (
        "prerouting" not in hook or netfilter
    )  # or nothing tells what the bridge made of it
    verdict = ("ACCEPT", True) if seen_behind else ("UNKNOWN", False)
    assert found[0][:3] == (999, *verdict)
    assert len(found) == 2
    # The kernel's id of a frame changes where it becomes the bridge's own: it is counted once more.
    again = "input" in hook and not netfilter
    assert counted_as(path, Base("bridge", "early", "c", 0, 0)) == 2 + again
    with api.open(path) as recording:
        assert recording.summary().complete == bool(seen_behind)


@pytest.mark.parametrize("words", FILTERS)
@pytest.mark.parametrize("case", CASES)
def test_a_drop_before_raw_is_told(lab, tmp_path, case, words):
    """As often as the rule counted it; where the filter cannot be said at ingress, that is told."""
    family, hook, who = CASES[case]
    router(lab)
    path = tmp_path / "t.db"
    rules = dropping(family, hook)
    said, counted = recorded(lab, path, rules, who, words)
    seen = FILTERS[words] or "ingress" not in hook
    assert ("may be passed before tracing begins" in said) == (not seen)
    both = family not in ("ip", "ip6")
    assert f"counter packets {1 + both} " in counted
    found = packets(path)
    dropped = [one for one in found if one.decided_by and one.decided_by.table.endswith("early")]
    assert len(dropped) == (1 + both if seen else 0)
    assert {(one.verdict, one.complete, one.header["dport"]) for one in dropped} <= {
        ("DROP", True, 1000)
    }
    whole = [
        (one.header["dport"], one.verdict, one.complete) for one in found if one not in dropped
    ]
    passed = 0 if both else 1
    assert sorted(whole) == [(999, "ACCEPT", True)] * 2 + [(1000, "ACCEPT", True)] * passed
    number = {"netdev": 0, "inet": 5}[family] if "ingress" in hook else 0
    chain = Base(family, "early", "c", number, 0, ("to-a",))
    assert counted_as(path, chain, () if FILTERS[words] else None) == len(found)
    with api.open(path) as recording:
        summary = recording.summary()
        assert (summary.complete, summary.untraced == []) == (seen, seen)
        assert not any("iptrec" in one.table for one in recording.rules())
        assert not any("iptrec" in step.table for one in recording.packets() for step in one.steps)
    assert "iptrec" not in lab.run(["nft", "list", "ruleset"]).stdout


ALL = "".join(
    f"table {family} {name} {{\n chain c {{\n type filter hook {hook};\n counter;\n }}\n}}\n"
    for name, (family, hook) in {
        "ip1": ("inet", "prerouting priority -450"),
        "ip2": ("inet", "output priority -310"),
        "dev": ("netdev", 'ingress device "lo" priority 0'),
        "br": ("bridge", "prerouting priority -500"),
    }.items()
)


@pytest.fixture
def quiet_lab(lab):
    """Chains before raw of all kinds, and everything there that a recording makes."""
    lab.run(["nft", "-f", "-"], stdin=ALL)
    raw(lab)
    return lab


def raw(lab):
    """Raw tables that are not ours, whoever asks later."""
    for family in ("ipv4", "ipv6"):
        lab.restore(None, family, "*raw\n-A OUTPUT -p tcp\n-A PREROUTING -p tcp\nCOMMIT\n", "nft")


def tables(lab):
    return lab.run(["nft", "list", "tables"]).stdout


def state(lab):
    """The ruleset but for its counters, and what recorders keep in /run."""
    text = lab.run(
        ["sh", "-c", "nft list ruleset; ls -A /run/iptrec 2>/dev/null"], check=False
    ).stdout
    return re.sub(r"packets \d+ bytes \d+", "", text)


OPTIONS = ("--backend", "nft", "udp", "-o")


def test_killed_at_any_moment(quiet_lab, tmp_path):
    """SIGKILL in set-up, recording and clean-up: our tables are gone, nobody is left."""
    command = [*IPTREC, "record", "--duration", "50ms", *OPTIONS]
    recorder.kill_at_any_moment(quiet_lab, tmp_path, KILLS, lambda: state(quiet_lab), *command)


@pytest.mark.parametrize("listed", [True, False], ids=["", "without-its-list"])
def test_cleanup(quiet_lab, tmp_path, listed):
    """Guardian killed as well: doctor tells of our tables, cleanup takes them away."""
    before = state(quiet_lab)
    child = recorder.start(quiet_lab, *OPTIONS, tmp_path / "t.db", notes=True)
    (guardian,) = guardians(quiet_lab)
    os.kill(guardian, signal.SIGKILL)
    child.kill()
    child.communicate()
    if not listed:
        quiet_lab.run(["sh", "-c", "rm /run/iptrec/*"])
    found = {*re.findall(r"table (\S+) iptrec-", tables(quiet_lab))}
    assert found == {"inet", "bridge", "ip", "ip6"}
    assert "left behind" in quiet_lab.run([*IPTREC, "doctor"]).stdout
    cleanup = [*IPTREC, "cleanup", "--netns", "/proc/self/ns/net"]
    assert quiet_lab.run(cleanup).stdout.count("removed") == 1
    assert state(quiet_lab) == before
    assert quiet_lab.run(cleanup).stdout == "nothing is left behind\n"


@pytest.mark.parametrize("what", ["ruleset", "inet", "bridge", "rules"])
def test_our_tables_are_put_back(quiet_lab, tmp_path, what):
    """Whatever of them somebody takes out: the hole is told, and all is as it was in the end."""
    before = state(quiet_lab)
    child = recorder.start(quiet_lab, *OPTIONS, tmp_path / "t.db", notes=True)
    recording = tables(quiet_lab)
    (name,) = {*re.findall(r"iptrec-\S+", recording)}
    command = {
        "ruleset": f"flush ruleset; {ALL}",
        "inet": f"delete table inet {name}",
        "bridge": f"delete table bridge {name}",
        "rules": f"flush chain inet {name} early_prerouting",
    }[what]
    quiet_lab.run(["nft", "-f", "-"], stdin=command)
    assert "put back" in child.stderr.readline()
    until(lambda: {*tables(quiet_lab).splitlines()} >= {*recording.splitlines()})
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=30)
    assert child.returncode == 0
    if what == "ruleset":
        raw(quiet_lab)
    assert {*state(quiet_lab).split("\n\n")} == {*before.split("\n\n")}
    with Reader(tmp_path / "t.db") as reader:
        assert [one.how for one in reader.losses] == ["rules-gone"] * 2  # one a family


def test_a_device_that_goes_takes_no_tracing_along(lab, tmp_path):
    """Of a chain at ingress; what comes elsewhere is traced as before."""
    lab.ip(None, "link add v0 type veth peer name v1\nlink set v0 up\nlink set v1 up")
    lab.run(["nft", "-f", "-"], stdin=dropping("netdev", 'ingress device "v0" priority 0') + ALL)
    child = recorder.start(lab, *OPTIONS, tmp_path / "t.db", notes=True)
    lab.ip(None, "link del v0")
    lab.run([sys.executable, "-c", SEND, "127.0.0.1"])
    child.send_signal(signal.SIGINT)
    assert child.communicate(timeout=30)[1].count("\n") == 1
    assert [(one.verdict, one.complete) for one in packets(tmp_path / "t.db")] == [
        ("ACCEPT", True)
    ] * 4
    assert "iptrec" not in tables(lab)


def test_fragments_are_told_before_they_are_put_together(lab, tmp_path):
    """Connection tracking does that before raw; each packet is one, from its first chain to its end."""
    router(lab)
    rules = (
        "table inet early {\n chain c {\n type filter hook prerouting priority -450;\n counter;\n }\n}\n"
        "table inet late {\n chain c {\n type filter hook forward priority 0;\n ct state new counter;\n }\n}\n"
    )
    send = "import socket; out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)"
    send += "; out.sendto(bytes(4000), ('10.0.2.2', 1000))"
    lab.run(["nft", "-f", "-"], stdin=rules)
    child = recorder.start(lab, "--backend", "nft", "-o", tmp_path / "t.db", "ip and udp")
    lab.run([sys.executable, "-c", send], "a")
    counted = lab.run(["nft", "list", "ruleset"]).stdout
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=30)
    assert "counter packets 3 " in counted
    assert "ct state new counter packets 1 " in counted
    told = Counter((one.verdict, one.complete) for one in packets(tmp_path / "t.db"))
    assert told == {("REASSEMBLED", True): 3, ("ACCEPT", True): 1}


@pytest.mark.parametrize(
    ("backend", "before"),
    [("nft", IPTREC), ("both", IPTREC), ("nft", (*ALONE, *IPTREC))],
    ids=["nft", "both", "without-iptables-nft"],
)
def test_fragments_for_this_host_that_no_chain_of_the_users_sees_whole(
    lab, tmp_path, backend, before
):
    """They are put together behind PREROUTING, and our last chain sees what they became."""
    lab.host("h")
    lab.link("h", "eth0", "10.0.1.2/24", peer="v1")
    lab.ip(None, "address add 10.0.1.1/24 dev v1")
    lab.settle()
    options = ["--backend", backend, "--iface", "v1", "-o", tmp_path / "t.db", "ip and udp"]
    child = recorder.start(lab, *options, before=before)
    send = "import socket; out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)"
    send += "; out.sendto(bytes(4000), ('10.0.1.1', 1000))"
    lab.run([sys.executable, "-c", send], "h")
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=30)
    assert seen_by_none(tmp_path / "t.db") == (1 if before == IPTREC else 4)
    *pieces, whole = [one for one in packets(tmp_path / "t.db") if one.header["proto"] == "udp"]
    assert [(one.verdict, one.complete, one.end) for one in pieces] == [
        ("REASSEMBLED", True, None)
    ] * 3
    assert (whole.verdict, whole.complete, whole.header["length"]) == ("ACCEPT", True, 4028)
    assert (whole.steps, whole.decided_by) == ((), None)
    together = [one.packet for one in whole.related if one.kind == "reassembled"]
    assert together == [one.number for one in pieces]


def seen_by_none(path):
    """How many packets met no chain of the user's; no name of a table that the recorder made is told."""
    tables = path.with_suffix(".sqlite")
    said(["export", "sqlite", path, "-o", tables])
    with sqlite3.connect(tables) as database:
        rows = database.execute("SELECT table_name FROM steps").fetchall()
        rows += database.execute("SELECT decided_table FROM packets").fetchall()
    told = [said([*command.split(), path]) for command in TOLD]
    assert not [one for one in (*told, str(rows)) if "iptrec-" in one]
    return told[0].count("(no chain but iptrec's own saw it)")


def said(arguments):
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("before", [IPTREC, (*ALONE, *IPTREC)], ids=["", "without-iptables-nft"])
@pytest.mark.parametrize(
    ("interface", "seen"), [("to-a", 2), ("to-b", 2), ("to-b --no-forwarded", 0), ("to+", 2)]
)
@pytest.mark.parametrize("case", ["prerouting", "netdev"])
def test_of_one_interface_alone(lab, tmp_path, case, interface, seen, before):
    """What comes in by others is traced before raw, too, as it may be forwarded; not with --no-forwarded."""
    family, hook, who = CASES[case]
    router(lab)
    path = tmp_path / "t.db"
    rules = dropping(family, hook)
    said, _ = recorded(lab, path, rules, who, "udp", "--iface", *interface.split(), before=before)
    assert "before tracing begins" not in said
    told = Counter(one.verdict for one in packets(path))
    assert told == Counter({"DROP": seen, "ACCEPT": seen})
    assert "iptrec" not in tables(lab)


def test_what_vanishes_behind_ingress_is_not_called_accepted(lab, tmp_path):
    """A frame for another host: IP drops it before its first hook."""
    router(lab)
    lab.ip("a", "neighbour replace 10.0.1.1 lladdr 02:00:00:00:00:99 dev eth0")
    path = tmp_path / "t.db"
    hook = 'ingress device "to-a" priority 0'
    _, counted = recorded(lab, path, dropping("netdev", hook), FROM_A[:2], "udp")
    assert "counter packets 1 " in counted
    found = [(one.header["dport"], one.verdict, one.complete) for one in packets(path)]
    assert found == [(999, "UNKNOWN", False), (1000, "DROP", True)]


def test_with_both_backends(lab, tmp_path):
    """What is traced before raw is traced for legacy iptables, too."""
    router(lab)
    lab.restore(None, "ipv4", "*filter\n-A FORWARD -p udp --dport 999 -j DROP\nCOMMIT\n", "legacy")
    path = tmp_path / "t.db"
    rules = dropping("inet", "prerouting priority -450")
    said, _ = recorded(lab, path, rules, FROM_A[:2], "udp", "--backend", "both")
    assert "before tracing begins" not in said
    told = {(one.header["dport"], one.verdict, one.decided_by.table) for one in packets(path)}
    assert {(1000, "DROP", "inet early"), (999, "DROP", "legacy filter")} <= told


def test_our_tables_are_no_difference(lab, tmp_path):
    """Between two recordings of the same rules."""
    router(lab)
    for name in "ab":
        lab.run(["nft", "flush", "ruleset"])
        recorded(
            lab,
            tmp_path / f"{name}.db",
            dropping("inet", "prerouting priority -450"),
            FROM_A,
            "udp",
        )
    done = iptrec("diff", tmp_path / "a.db", tmp_path / "b.db")
    assert done.returncode == 0


DUPLICATES = """\
table netdev early {
 chain c { type filter hook ingress device "to-a" priority 0; udp dport 1000 counter dup to "to-b"; }
 chain d { type filter hook egress device "to-b" priority 0; meta l4proto udp counter; }
}
"""


def test_what_is_duplicated_at_ingress_is_a_copy(lab, tmp_path):
    """The rule that does it is told after what the copy met."""
    router(lab)
    path = tmp_path / "t.db"
    _, counted = recorded(lab, path, DUPLICATES, ("a", *["10.0.2.2", "fd00:2::2"] * 5), "udp")
    assert "counter packets 30 " in counted
    found = [one for one in packets(path) if one.header["dport"] == 1000]
    assert [(one.verdict, one.complete, one.ambiguous) for one in found] == [
        ("ACCEPT", True, False)
    ] * 20
    whole = [one for one in found if one.in_ == "to-a"]
    copies = [one for one in found if one.in_ != "to-a"]
    assert len(whole) == 10
    assert [one.related[0].kind for one in copies] == ["copy"] * 10
    assert [one.related[0].packet for one in copies] == [one.number for one in whole]
    chains = [[step.chain for step in one.steps if step.table == "netdev early"] for one in found]
    assert all(
        {*some} == {"c", "d"} for some, one in zip(chains, found, strict=True) if one in whole
    )
    assert all({*some} == {"d"} for some, one in zip(chains, found, strict=True) if one in copies)
