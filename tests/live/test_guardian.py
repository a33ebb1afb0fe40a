"""A recorder that is killed: its guardian undoes what it did, and nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from iptrec.recording.reader import Reader

pytestmark = pytest.mark.live

IPTREC = (sys.executable, "-m", "iptrec")
KILLS = int(os.environ.get("IPTREC_KILLS", "12"))
RAW = """\
*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
[7:700] -A PREROUTING -s 192.0.2.1/32 -j NOTRACK
[3:300] -A OUTPUT -d 192.0.2.9/32 -j DROP
COMMIT
"""
# Of the raw table of iptables-nft half is there.
NFT = """\
table inet fw {
	chain forwarded { type filter hook forward priority filter; policy accept; counter; }
}
table ip raw {
	chain OUTPUT { type filter hook output priority raw; policy accept; ip daddr 192.0.2.9 counter drop; }
}
"""
STATE = (
    "iptables-legacy-save -c; ip6tables-legacy-save -c; nft list ruleset;"
    " cat /proc/sys/net/netfilter/nf_log/2 /proc/sys/net/netfilter/nf_log/10; ls -A /run"
)


def state(lab):
    """Rules with counters, loggers, and what is in /run."""
    found = lab.run(["sh", "-c", STATE]).stdout
    return [line for line in found.splitlines() if line[:1] not in {"#", ":"}]


def rules(lab):
    """Rules alone."""
    return [line for line in state(lab) if "-A" in line]


def processes(lab):
    """Who is in the lab's namespace."""
    found = set()
    own = os.readlink(f"/proc/{lab.pid}/ns/net")  # noqa: PTH115
    for link in Path("/proc").glob("[0-9]*/ns/net"):
        with contextlib.suppress(OSError):
            if os.readlink(link) == own:  # noqa: PTH115
                found.add(int(link.parts[2]))
    return found


def until(condition, what, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.01)


@pytest.fixture
def quiet_lab(lab):
    """Rules of its own in the raw tables, and everything loaded that a recording loads."""
    lab.run(["touch", "/run/xtables.lock"])
    lab.run(["iptables-legacy-restore", "-c"], stdin=RAW)
    ipv6 = RAW.replace("192.0.2.", "fd00::").replace("/32", "/128")
    lab.run(["ip6tables-legacy-restore", "-c"], stdin=ipv6)
    lab.run(["nft", "-f", "-"], stdin=NFT)
    return lab


def start(lab, path, *options, backend="legacy"):
    command = [*IPTREC, "record", "-o", str(path), "--backend", backend, *options]
    return lab.popen(command, stderr=subprocess.PIPE, text=True)


def recording(lab, path, *options, backend="legacy"):
    """One that records."""
    child = start(lab, path, *options, backend=backend)
    line = child.stderr.readline()
    assert line.startswith("recording to"), line + child.stderr.read()
    return child


def test_killed_at_any_moment(quiet_lab, tmp_path):
    """SIGKILL in set-up, recording and clean-up: the rules, loggers and /run are as before, nobody is left."""
    before, alive = state(quiet_lab), processes(quiet_lab)
    started = time.monotonic()
    child = recording(quiet_lab, tmp_path / "t.db", "--flush", backend="both")
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=30)
    assert processes(quiet_lab) == alive
    assert state(quiet_lab) == before
    whole = time.monotonic() - started
    for number in range(KILLS):
        options = random.choice(([], ["--flush"], ["--conntrack"]))  # noqa: S311
        backend = random.choice(("legacy", "nft", "both"))  # noqa: S311
        child = start(
            quiet_lab, tmp_path / f"{number}.db", "--duration", "50ms", *options, backend=backend
        )
        moment = random.uniform(0, 1.3 * whole)  # noqa: S311
        time.sleep(moment)  # the moment to kill is what is tested, nothing is waited for
        child.kill()
        child.communicate()
        what = f"{backend} {options} killed after {moment:.3f} s"
        until(lambda: processes(quiet_lab) == alive, lambda what=what: what)
        assert state(quiet_lab) == before, what
        for path in tmp_path.glob(f"{number}.db"):
            done = quiet_lab.run([*IPTREC, "info", "--json", str(path)], check=False)
            assert done.returncode in {0, 2}
            assert "Traceback" not in done.stderr


def test_what_was_recorded_is_kept(quiet_lab, tmp_path):
    """The file opens, and says that it was cut off."""
    child = recording(quiet_lab, tmp_path / "t.db", "icmp")
    quiet_lab.run(["ping", "-c3", "-i0.2", "127.0.0.1"])

    def datagrams():
        with Reader(tmp_path / "t.db") as reader:
            return sum(len(chunk.lengths) for chunk in reader.chunks())

    until(lambda: datagrams() >= 18, datagrams)
    child.kill()
    child.communicate()
    told = json.loads(quiet_lab.run([*IPTREC, "info", "--json", str(tmp_path / "t.db")]).stdout)
    assert not told["closed"]
    assert told["packets"] >= 8


def test_the_guardian_waits_for_a_change_under_way(quiet_lab, tmp_path):
    """Killed while iptables-restore waits for the lock: what it then does is undone as well."""
    before, alive = state(quiet_lab), processes(quiet_lab)
    command = ["flock", "/run/xtables.lock", "sh", "-c", "echo held; read _"]
    holder = quiet_lab.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    alive |= {holder.pid} | processes(quiet_lab)
    child = start(quiet_lab, tmp_path / "t.db")

    def restoring():
        return any(
            Path(f"/proc/{pid}/comm").read_text().startswith("iptables-legac")
            for pid in processes(quiet_lab) - alive
            if Path(f"/proc/{pid}").exists()
        )

    until(restoring, lambda: processes(quiet_lab))
    child.kill()
    child.communicate()
    holder.communicate("\n")
    until(lambda: processes(quiet_lab) <= alive, lambda: processes(quiet_lab))
    assert state(quiet_lab) == before


def test_nothing_is_put_back_that_somebody_replaced(quiet_lab, tmp_path):
    """--flush took rules out, somebody loads others, then we are killed: those others stay, alone."""
    child = recording(quiet_lab, tmp_path / "t.db", "--flush", "--family", "ipv4")
    other = "*raw\n-A PREROUTING -s 192.0.2.77/32 -j NOTRACK\nCOMMIT\n"
    quiet_lab.restore(None, "ipv4", other)
    assert "put back" in child.stderr.readline()
    child.kill()
    child.communicate()
    saved = ["iptables-legacy-save", "-t", "raw"]
    until(lambda: "TRACE" not in quiet_lab.run(saved).stdout, lambda: quiet_lab.run(saved).stdout)
    rules = [line for line in quiet_lab.run(saved).stdout.splitlines() if line.startswith("-A")]
    assert rules == ["-A PREROUTING -s 192.0.2.77/32 -j NOTRACK"]


def kill_both(lab, child):
    """The recorder and its guardian."""
    (guardian,) = (
        pid
        for pid in processes(lab)
        if Path(f"/proc/{pid}/comm").read_text() == "iptrec-guardian\n"
    )
    os.kill(guardian, signal.SIGKILL)
    child.kill()
    child.communicate()


@pytest.mark.parametrize("backend", ["legacy", "both"])
@pytest.mark.parametrize("listed", [True, False], ids=["", "without-its-list"])
def test_cleanup(quiet_lab, tmp_path, listed, backend):
    """Guardian killed as well: cleanup tells what is left, and takes that away, nobody else's."""
    quiet_lab.host("other")
    before = state(quiet_lab)
    other = recording(quiet_lab, tmp_path / "other.db", "--netns", "other")
    options = ["--flush"] if listed else []
    kill_both(quiet_lab, recording(quiet_lab, tmp_path / "t.db", *options, backend=backend))
    if not listed:
        quiet_lab.run(["sh", "-c", "rm $(grep -l /t.db /run/iptrec/*)"])
    left = state(quiet_lab)
    assert left != before
    told = quiet_lab.run([*IPTREC, "cleanup", "--dry-run"]).stdout.splitlines()
    fates = sorted(line.rpartition("): ")[2].split(":")[0] for line in told)
    assert fates == ["found", "kept"]
    assert state(quiet_lab) == left
    done = quiet_lab.run([*IPTREC, "cleanup"]).stdout.splitlines()
    assert len([line for line in done if line.endswith("removed")]) == 1
    assert len([line for line in done if "kept" in line]) == 1
    raw = ["nsenter", "--net=/run/netns/other", "iptables-legacy-save", "-t", "raw"]
    assert quiet_lab.run(raw).stdout.count("-j TRACE") == 2
    other.send_signal(signal.SIGINT)
    other.communicate(timeout=30)
    assert other.returncode == 0
    if listed:
        assert state(quiet_lab) == before
    else:  # nobody knows any more which loggers there were
        assert rules(quiet_lab) == [line for line in before if "-A" in line]
    assert quiet_lab.run([*IPTREC, "cleanup"]).stdout == "nothing is left behind\n"
