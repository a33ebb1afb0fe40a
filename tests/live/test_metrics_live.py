"""The counters of record --metrics, against those of the kernel."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import recorder
from command import IPTREC
from prometheus_client.parser import text_string_to_metric_families
from recorder import until
from rights import ROOT

from iptrec.cli import metrics
from iptrec.kernel import process
from iptrec.metrics.exposition import Counts, is_at_work, text
from iptrec.metrics.textfile import TextFile

pytestmark = pytest.mark.live

RULES = {
    "legacy": "iptables-legacy -A INPUT -p udp --dport 7 -m comment --comment 'a \"b\"' -j DROP;"
    " iptables-legacy -A INPUT -p udp --dport 8 -j ACCEPT",
    "nft": "nft add table ip f; nft add chain ip f INPUT '{ type filter hook input priority 0; }';"
    " nft add rule ip f INPUT udp dport 7 counter drop comment '\"a b\"';"
    " nft add rule ip f INPUT udp dport 8 counter accept",
}
COMMENT = {"legacy": r'--comment "a \"b\""', "nft": 'comment "a b"'}  # as each prints it
LISTED = {
    "legacy": "iptables-legacy -nvxL INPUT",
    "nft": "nft list chain ip f INPUT",
}
COUNTED = {"legacy": r"^\s*(\d+) +\d+ (?:DROP|ACCEPT)", "nft": r"counter packets (\d+)"}
SEND = (
    "import socket,sys\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n"
    "for _ in range(int(sys.argv[2])): s.sendto(b'x',('127.0.0.1',int(sys.argv[1])))"
)
# iptrec, which tells its counts all the time, so that no test waits for a quarter of a minute.
STARTED = """
from iptrec.cli import metrics
from iptrec.kernel import process
metrics.EVERY_S = 0.1
from iptrec.__main__ import main
main()
"""


def samples(path):
    return {
        (one.name, *(value for label, value in one.labels.items() if label != "netns")): one.value
        for family in text_string_to_metric_families(path.read_text())
        for one in family.samples
    }


def by_rule(path, rule, verdict):
    return sum(
        value
        for (name, *labels), value in samples(path).items()
        if name == "iptrec_packets_total" and labels[0] == verdict and labels[4] == rule
    )


def send(lab, port, count):
    lab.run([sys.executable, "-c", SEND, str(port), str(count)])


@pytest.fixture
def record(lab, tmp_path, backend):
    """Start a recorder with --metrics; the file."""
    lab.run(["sh", "-c", RULES[backend]])
    path = tmp_path / "iptrec.prom"
    children = []

    def start(*words):
        children.append(
            recorder.start(
                lab, "--backend", backend, "--metrics", path, "-o", tmp_path / "t.db", *words, "udp",
                before=[sys.executable, "-c", STARTED],
            )
        )  # fmt: skip
        return children[-1]

    yield start, path
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            child.kill()


def test_counts_are_the_kernels(lab, record, backend):
    """Each rule's own counter, while it is recorded and in the end; nothing is lost or behind."""
    start, path = record
    child = start()
    send(lab, 7, 5)
    send(lab, 8, 9)
    until(lambda: by_rule(path, "2", "ACCEPT") == 9)
    assert samples(path)[("iptrec_recording",)] == 1
    send(lab, 7, 3)
    recorder.stop(child)
    listed = lab.run(["sh", "-c", LISTED[backend]]).stdout
    drops, accepts = map(int, re.findall(COUNTED[backend], listed, re.MULTILINE))
    assert (by_rule(path, "1", "DROP"), by_rule(path, "2", "ACCEPT")) == (drops, accepts) == (8, 9)
    found = samples(path)
    assert found[("iptrec_recording",)] == 0
    zero = ("counting_failures", "chunks_uncounted", "packets_ambiguous", "packets_incomplete")
    assert not any(found[(f"iptrec_{name}_total",)] for name in zero)
    assert found[("iptrec_behind_seconds",)] == 0
    assert found[("iptrec_size_bytes",)] == Path(path.parent / "t.db").stat().st_size
    (text,) = {key[6] for key in found if key[1:2] == ("DROP",)}
    assert COMMENT[backend] in text


def test_a_rule_that_moves_counts_for_its_new_number(lab, record, backend):
    """What it has counted before stays; no counter goes down."""
    start, path = record
    child = start()
    send(lab, 7, 4)
    until(lambda: by_rule(path, "1", "DROP") == 4)
    first = {
        "legacy": "iptables-legacy -I INPUT -p udp --dport 9 -j ACCEPT",
        "nft": "nft insert rule ip f INPUT udp dport 9 accept",
    }
    lab.run(["sh", "-c", first[backend]])
    send(lab, 7, 6)
    until(lambda: by_rule(path, "2", "DROP") == 6)
    recorder.stop(child)
    assert (by_rule(path, "1", "DROP"), by_rule(path, "2", "DROP")) == (4, 6)


@pytest.mark.parametrize(
    "words", [["--ring", "1s"], ["--rotate", "1s", "--keep", "2"]], ids=" ".join
)
def test_no_counter_goes_down(lab, record, words):
    """A ring lets events go, files are rotated and removed: all packets stay counted."""
    start, path = record
    child = start(*words)
    sent, seen, oldest = 0, 0, set()
    while len(oldest) < 4:
        send(lab, 7, 10)
        sent += 10
        until(lambda: by_rule(path, "1", "DROP") == sent)  # noqa: B023
        now = samples(path)
        assert now[("iptrec_events_total",)] > seen
        seen = now[("iptrec_events_total",)]
        oldest.add(now[("iptrec_oldest_event_timestamp_seconds",)])
    recorder.stop(child)
    assert by_rule(path, "1", "DROP") == sent
    assert samples(path)[("iptrec_counting_failures_total",)] == 0


def test_a_killed_recorder_is_told(lab, record):
    """By the process that keeps the file, which ends then; what was counted stays."""
    start, path = record
    child = start()
    send(lab, 7, 5)
    until(lambda: by_rule(path, "1", "DROP") == 5)
    child.kill()
    child.wait()
    until(lambda: samples(path)[("iptrec_recording",)] == 0)
    assert by_rule(path, "1", "DROP") == 5
    until(lambda: not beside(lab))


def test_the_namespace_is_told(record):
    """As it was named."""
    start, path = record
    name = "/proc/self/ns/net"
    child = start("--netns", name)
    until(lambda: path.exists() and samples(path))
    recorder.stop(child)
    assert f'iptrec_recording{{netns="{name}"}} 0' in path.read_text()


def beside(lab):
    """Processes that keep the file, or count for it."""
    return {
        pid: name
        for pid in recorder.processes(lab)
        for name in re.findall(r"iptrec\.metrics\.(\w+)", recorder.proc(pid, "cmdline"))
    }


def test_who_counts_is_nobody(lab, record):
    """It reads what strangers sent: no right is left to it, and the recorder has a file of its own."""
    start, path = record
    child = start()
    until(lambda: "counter" in beside(lab).values() and path.exists() and samples(path))
    (pid,) = (pid for pid, name in beside(lab).items() if name == "counter")
    send(lab, 7, 1)
    until(lambda: by_rule(path, "1", "DROP") == 1)
    status = recorder.proc(pid, "status")
    for kind in ("Prm", "Eff", "Inh", "Amb"):
        assert re.search(rf"^Cap{kind}:\t0+$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
    if os.geteuid() == 0:
        assert re.search(r"^Uid:\t65534\t65534\t65534\t", status, re.MULTILINE)
    recorder.stop(child)


def test_code_that_only_root_can_read(lab, tmp_path):
    """Who counts has loaded everything before it gives up the right to read it."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    shutil.copytree(Path(process.__file__).parents[1], closed / "iptrec")
    path = tmp_path / "x.prom"
    words = ["record", "-q", "-o", str(tmp_path / "t.db"), "--metrics", str(path), "udp"]
    send = [sys.executable, "-c", SEND, "9", "4"]
    done = lab.run([*process.iptrec()[:-1], str(closed), *words, "--", *send], check=False)
    assert done.returncode == 0, done.stderr
    assert samples(path)[("iptrec_counting_failures_total",)] == 0
    assert samples(path)[("iptrec_events_total",)] > 0


def end(lab, which):
    """Kill who counts, or who keeps the file, when there are both."""
    until(lambda: sorted(beside(lab).values()) == ["counter", "keeper"])
    (pid,) = (pid for pid, name in beside(lab).items() if name == which)
    os.kill(pid, signal.SIGKILL)


def test_counting_that_ends_early_is_told_at_once(lab, record):
    """How far behind the counters are is not known then; the file is still replaced again and again."""
    start, path = record
    child = start()
    send(lab, 7, 5)
    until(lambda: by_rule(path, "1", "DROP") == 5)
    end(lab, "counter")
    until(lambda: samples(path)[("iptrec_counting_failures_total",)] == 1)
    found, written_ns = samples(path), path.stat().st_mtime_ns
    assert ("iptrec_behind_seconds",) not in found
    assert found[("iptrec_recording",)] == 1
    until(lambda: path.stat().st_mtime_ns > written_ns)
    said = recorder.stop(child)
    assert len(re.findall("--metrics: counting .*t.db has ended early", said)) == 1
    assert by_rule(path, "1", "DROP") == 5
    found = samples(path)
    assert found[("iptrec_counting_failures_total",)] == 1
    assert found[("iptrec_recording",)] == 0
    assert found[("iptrec_size_bytes",)] == (path.parent / "t.db").stat().st_size


def test_who_counts_no_longer_though_it_lives_leaves_the_file_to_age(lab, record):
    """Its time tells then that the figures are old."""
    start, path = record
    start()
    send(lab, 7, 5)
    until(lambda: by_rule(path, "1", "DROP") == 5)
    (pid,) = (pid for pid, name in beside(lab).items() if name == "counter")
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(1)  # ten times as long as it takes
        written_ns = path.stat().st_mtime_ns
        time.sleep(1)
        assert path.stat().st_mtime_ns == written_ns
    finally:
        os.kill(pid, signal.SIGCONT)


def test_the_next_file_is_counted_though_the_last_one_was_not(lab, record):
    """With --rotate counting goes on, and the failure stays told."""
    start, path = record
    start("--rotate", "1s")
    end(lab, "counter")
    until(lambda: samples(path)[("iptrec_counting_failures_total",)] == 1)
    until(lambda: "counter" in beside(lab).values())
    send(lab, 7, 5)
    until(lambda: by_rule(path, "1", "DROP") == 5)
    assert samples(path)[("iptrec_counting_failures_total",)] == 1


def test_the_keeper_that_ends_is_told(lab, record):
    """At once on stderr; in the end the file says that it is over, and that counters lack packets."""
    start, path = record
    child = start()
    send(lab, 7, 5)
    until(lambda: by_rule(path, "1", "DROP") == 5)
    end(lab, "keeper")
    send(lab, 7, 1)
    said = until(child.stderr.readline)
    assert "--metrics: the process that counts has ended; record goes on" in said
    recorder.stop(child)
    found = samples(path)
    assert found[("iptrec_recording",)] == 0
    assert found[("iptrec_counting_failures_total",)] == 1
    assert ("iptrec_behind_seconds",) not in found
    assert by_rule(path, "1", "DROP") == 5
    assert sorted(one.name for one in path.parent.iterdir()) == ["iptrec.prom", "t.db"]


@ROOT
@pytest.mark.parametrize("backend", ["nft"], indirect=True)
def test_what_cannot_be_mended_is_told(lab, tmp_path, record):
    """In a directory of somebody else's the recorder has no right to write any more."""
    start, _ = record
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for one in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        one.chmod(0o755)
    os.chown(theirs, 65534, 65534)
    child = start("--metrics", theirs / "x.prom")
    end(lab, "keeper")
    said = recorder.stop(child)
    assert (
        f"--metrics: {theirs / 'x.prom'} still says that the recorder is at work; delete it" in said
    )
    assert is_at_work((theirs / "x.prom").read_text())


@pytest.mark.parametrize("kept", [False, True])
def test_a_file_that_is_another_ones_by_now_is_left_alone(lab, record, kept):
    """Or that somebody has removed."""
    start, path = record
    child = start()
    end(lab, "keeper")
    other = TextFile(path)
    if kept:
        until(lambda: not beside(lab) or "keeper" not in beside(lab).values())
        other.take()
        other.write(text(Counts(events=7), started_ns=0, recording=True))
        before = path.read_text()
    else:
        path.unlink()
    recorder.stop(child)
    assert (path.read_text() == before) if kept else not path.exists()
    other.close()


def test_two_recorders_do_not_keep_one_file(lab, record, tmp_path):
    """The second one is refused, by any name of the directory; the first one is not disturbed."""
    start, path = record
    child = start()
    until(lambda: path.exists() and samples(path))
    (tmp_path / "link").symlink_to(tmp_path)
    words = [
        "record",
        "-o",
        tmp_path / "u.db",
        "--metrics",
        tmp_path / "link/iptrec.prom",
        "--",
        "true",
    ]
    done = lab.run([*IPTREC, *map(str, words)], check=False)
    assert done.returncode == 2
    assert "another recorder keeps" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "u.db").exists()
    send(lab, 7, 5)
    until(lambda: by_rule(path, "1", "DROP") == 5)
    recorder.stop(child)
    done = lab.run([*IPTREC, *map(str, words)], check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["x.prom", "link/x.prom", "y.prom", "hard.db", "soft.db"])
def test_the_recording_is_not_read_as_counters(lab, tmp_path, name):
    """Nor replaced by them: node_exporter reads all files of that ending."""
    (tmp_path / "link").symlink_to(tmp_path)
    path = tmp_path / "x.prom"
    if name == "hard.db":
        path.write_text("")
        (tmp_path / name).hardlink_to(path)
    if name == "soft.db":
        (tmp_path / name).symlink_to(path)
    words = ["record", "--force", "-o", tmp_path / name, "--metrics", path, "--", "true"]
    done = lab.run([*IPTREC, *map(str, words)], check=False)
    assert done.returncode == 2
    assert "node_exporter would read it" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no/x.prom", "No such file or directory"),
        ("x.txt", r"named *.prom alone"),
        ("precious.prom", "is not a file of --metrics"),
    ],
)
def test_a_file_that_cannot_be_is_refused(lab, tmp_path, name, reason):
    """Before anything is recorded."""
    (tmp_path / "precious.prom").write_text("precious")
    words = [
        "record",
        "-o",
        str(tmp_path / "t.db"),
        "--metrics",
        str(tmp_path / name),
        "--",
        "true",
    ]
    done = lab.run([*IPTREC, *words], check=False)
    assert done.returncode == 2
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "t.db").exists()
    assert (tmp_path / "precious.prom").read_text() == "precious"


def test_it_is_told_as_often_as_the_help_says():
    """The tests above tell more often."""
    help_ = subprocess.run(
        [*IPTREC, "record", "--help"], capture_output=True, text=True, check=True
    )
    assert f"every {metrics.EVERY_S:.0f} seconds" in " ".join(
        re.sub(r"[│|]", " ", help_.stdout).split()
    )
