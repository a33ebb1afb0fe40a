"""docs/collecting.md, as it is printed: rings on nodes, pieces shipped by rsync, a lake of what came in.

Between the nodes, which have a network namespace and a host name each, and the collector there is a real sshd,
where root has one; else rsync copies between directories.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import documents
import pytest
from command import IPTREC, iptrec, program
from recorder import start, until
from rights import IS_ROOT
from sides import join

pytestmark = pytest.mark.live
PAGE = documents.ROOT / "docs" / "collecting.md"
SSHD = Path("/usr/sbin/sshd")
NODES = {"web1": "legacy", "web2": "nft"}
RULES = """*filter
-A OUTPUT -p udp --dport 5001 -m comment --comment "not there" -j DROP
-A OUTPUT -p udp --dport 5002 -j ACCEPT
COMMIT
"""
SEND = """\
import os, socket, sys
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(int(sys.argv[1])):
    try:
        out.sendto(os.urandom(200), ("10.0.3.2", 5001 + number % 2))
    except OSError:
        pass  # dropped at once
"""
SSHD_CONFIG = """\
Port 22
ListenAddress 10.0.3.2
HostKey {0}/host_key
AuthorizedKeysFile {0}/authorized_keys
StrictModes no
UsePAM no
PidFile none
"""


def printed(kind, beginning=""):
    """The block of the page of that kind that begins so."""
    (found,) = [text for where, text in documents.of_kind(kind)
                if where.startswith("docs/collecting.md") and text.startswith(beginning)]  # fmt: skip
    return found


def line(beginning):
    """The shell line of the page that begins so."""
    (found,) = [one.text for one in documents.of_pages()
                if one.where.startswith("docs/collecting.md") and one.text.startswith(beginning)]  # fmt: skip
    return found


class Fleet:
    """Two nodes that record and a collector; ``shipped``: the names of the pieces that were told."""

    def __init__(self, lab, home):
        self.lab, self.home = lab, home
        self.environment = {**os.environ, "PATH": documents.tools(home / "bin")}
        ship = home / "bin" / "iptrec-ship"
        ship.write_text(printed("script"))
        ship.chmod(0o755)
        self.desk = home / "desk"
        (self.desk / "incoming").mkdir(parents=True)
        self.collector = str(self.desk / "incoming")
        self.by_ssh = IS_ROOT and SSHD.exists() and shutil.which("rrsync") is not None
        if self.by_ssh:
            self._serve()

    def _serve(self):
        """An sshd on the collector, whose keys may write below incoming and nothing else."""
        keys = self.home / "ssh"
        keys.mkdir()
        for name in ("host_key", "node_key"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", keys / name], check=True
            )
        restricted = printed("output", "restrict,command=").replace(
            "/srv/iptrec/incoming", self.collector
        )
        public = (keys / "node_key.pub").read_text()
        (keys / "authorized_keys").write_text(
            restricted.replace("ssh-ed25519 AAAA... web1\n", public)
        )
        (keys / "sshd_config").write_text(SSHD_CONFIG.format(keys))
        self.lab.run(["mkdir", "-p", "/run/sshd"])
        log = keys / "log"
        log.touch()
        self.lab.popen([SSHD, "-D", "-E", log, "-f", keys / "sshd_config"], "desk")
        until(lambda: "listening" in log.read_text())
        self.collector = "10.0.3.2:"
        self.environment["RSYNC_RSH"] = (
            f"ssh -q -i {keys}/node_key -o UserKnownHostsFile={keys}/known -o StrictHostKeyChecking=no"
        )

    def record(self, node):
        """A recorder with a ring on a node, as the service starts it; its pieces are noted as they are told."""
        folder = self.home / node
        folder.mkdir()
        named = ("unshare", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"', node, *IPTREC)
        unit = printed("unit", "[Service]\nEnvironment=TZ=UTC\n")
        name = re.search(r"/(%H-\S+)", unit)[1].replace("%H", node, 1).replace("%%", "%")
        return start(
            self.lab, "udp", "--ring", "10m", "-o", folder / name, "--backend", NODES[node],
            before=named, host=node, env={**self.environment, "TZ": "UTC"},
        )  # fmt: skip

    def ship(self, node, *before):
        """Run the script of the page on a node; its exit status."""
        words = ["iptrec-ship", str(self.home / node), f"{self.collector.removesuffix(':')}"]
        words[2] = f"{self.collector}{node}" if self.by_ssh else f"{self.collector}/{node}"
        with self.lab.popen([*before, *words], node, env=self.environment,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:  # fmt: skip
            _, said = child.communicate(timeout=60)
        return child.returncode, said

    def export(self):
        """The line of the page that puts into the lake what came in; exit status and what it said."""
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line("find incoming -name '*.db' -print0 -o")],
            cwd=self.desk, env=self.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.returncode, done.stderr

    @property
    def incoming(self):
        return sorted((self.desk / "incoming").glob("*/*.db"))

    def ask(self, question, *words):
        done = program("lake", question, f"{self.desk}/lake/", *words, "--json")  # also of a thread
        assert done.returncode in (0, 1), done.stderr
        return [json.loads(one) for one in done.stdout.splitlines()]


@pytest.fixture
def fleet(lab, tmp_path):
    if shutil.which("rsync") is None:
        pytest.skip("rsync: not found")
    join(lab, "web1", "web2", "desk", peer="v{net}")
    for node, backend in NODES.items():
        lab.restore(node, "ipv4", RULES, backend)
    lab.settle()
    return Fleet(lab, tmp_path)


def piece(child):
    """Ask a ring for a piece; its name."""
    child.send_signal(signal.SIGUSR1)
    said = until(child.stderr.readline)
    return Path(said.removeprefix("written: ").rstrip("\n")).name


def talkers(paths):
    """Who sent what was dropped: packets and bytes by source, as each recording by itself tells it."""
    found = Counter()
    for path in paths:
        sql = "SELECT src, count(*), sum(length) FROM packets WHERE verdict IN ('DROP', 'REJECT') GROUP BY 1"
        for one in iptrec("query", path, sql, "--json").stdout.splitlines():
            src, packets, size = json.loads(one).values()
            found[src, "packets"] += packets
            found[src, "bytes"] += size
    return found


def dropped(paths):
    """Packets that rules dropped or rejected by host and rule, as each recording by itself tells it."""
    found = Counter()
    for path in paths:
        sql = "SELECT (SELECT host FROM recording), decided_spec, count(*) FROM drops GROUP BY 1, 2"
        for one in iptrec("query", path, sql, "--json").stdout.splitlines():
            host, spec, count = json.loads(one).values()
            found[host, spec] += count
    return found


def test_rings_that_are_shipped_while_others_ask(fleet):
    """Every piece comes in, whole, once; what the lake answers is what the recordings answer."""
    children = {node: fleet.record(node) for node in NODES}
    done, wrong, asked = threading.Event(), [], []

    def collecting():
        """What cron does on the nodes and the collector, meanwhile."""
        while not done.is_set():
            wrong.extend(found for node in NODES if (found := fleet.ship(node)) != (0, ""))
            if fleet.incoming:
                wrong.extend([found] if (found := fleet.export()) != (0, "") else [])
                asked.append(sum(one["packets"] for one in fleet.ask("drops")))

    told = []
    thread = threading.Thread(target=collecting)
    thread.start()
    try:
        for round_ in range(2):
            for node, child in children.items():
                fleet.lab.run([sys.executable, "-c", SEND, str(10 + 10 * round_)], node)
                time.sleep(1)  # a name has the second: one piece each
                told.append(f"{node}/{piece(child)}")
        for node, child in children.items():
            (ring,) = (fleet.home / node).glob("*.db-journal")
            told.append(f"{node}/{ring.name.removesuffix('-journal')}")
            child.send_signal(signal.SIGINT)
            _, said = child.communicate(timeout=60)
            assert child.returncode == 0, said
        until(lambda: len(fleet.incoming) == len(told), lambda: (fleet.incoming, told, wrong), 60)
    finally:
        done.set()
        thread.join()
    assert wrong == []
    assert fleet.export() == (0, "")
    assert [f"{one.parent.name}/{one.name}" for one in fleet.incoming] == sorted(told)
    assert [one for node in NODES for one in (fleet.home / node).iterdir()] == []
    wanted = dropped(fleet.incoming)
    assert {host for host, _ in wanted} == set(NODES)
    found = Counter()
    for one in fleet.ask("drops"):
        found[one["host"], one["rule"]] += one["packets"]
    assert found == wanted
    assert talkers(fleet.incoming) == {
        (one["src"], what): one[what]
        for one in fleet.ask("talkers")
        for what in ("packets", "bytes")
    }
    assert asked == sorted(asked)  # nothing that has come in is missing later
    assert len(asked) > 1
    packets = [
        json.loads(iptrec("info", one, "--json").stdout)["packets"] for one in fleet.incoming
    ]
    rows = fleet.ask("incomplete")
    assert {one["host"] for one in rows} == set(NODES)  # rings whose pieces overlap
    assert sum(packets) > sum(asked[-1:])
    before = {one: one.read_bytes() for one in (fleet.desk / "lake").rglob("*.parquet")}
    assert fleet.export() == (0, "")
    assert {one: one.read_bytes() for one in (fleet.desk / "lake").rglob("*.parquet")} == before


def test_a_transfer_that_is_cut_off(fleet):
    """On either side, while it is under way: nothing of it is seen, the source stays, the next one comes."""
    child = fleet.record("web1")
    fleet.lab.run([sys.executable, "-c", SEND, "2000"], "web1")
    time.sleep(1)
    name = piece(child)
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=60)
    for one in (fleet.home / "web1").iterdir():
        if one.name != name:
            one.unlink()  # the ring itself: one transfer is enough
    assert (fleet.home / "web1" / name).stat().st_size > 300_000  # seconds, at 100 kB/s
    target = fleet.desk / "incoming" / "web1"
    for side in ("sender", "receiver"):
        slow = fleet.home / "slow"
        slow.mkdir(exist_ok=True)
        (slow / "rsync").write_text(f'#!/bin/sh\nexec {shutil.which("rsync")} --bwlimit=100 "$@"\n')
        (slow / "rsync").chmod(0o755)
        path = f"{slow}:{fleet.environment['PATH']}"
        thread = threading.Thread(target=fleet.ship, args=("web1", "env", f"PATH={path}"))
        thread.start()
        (part,) = until(lambda: [*target.glob(f".{name}.*")])
        until(lambda part=part: part.stat().st_size > 0)
        killed = [pid for pid in rsyncs(fleet.lab) if (has_open(pid, part)) == (side == "receiver")]
        assert killed
        for pid in killed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        thread.join()
        assert fleet.incoming == []
        assert (fleet.home / "web1" / name).exists()
        assert fleet.export() == (0, "")
    assert fleet.ship("web1") == (0, "")
    assert [one.name for one in fleet.incoming] == [name]
    assert fleet.export() == (0, "")
    assert (
        sum(dropped(fleet.incoming).values())
        == sum(one["packets"] for one in fleet.ask("drops"))
        > 100
    )


def rsyncs(lab):
    """The processes of rsync in the lab, of any host."""
    found = []
    for comm in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            inside = (comm.parent / "ns" / "mnt").stat().st_ino == Path(
                f"/proc/{lab.pid}/ns/mnt"
            ).stat().st_ino
            if inside and comm.read_text() == "rsync\n":
                found.append(int(comm.parent.name))
    return found


def has_open(pid, path):
    """Whether a process has that file open."""
    with contextlib.suppress(OSError):
        return any(one.resolve() == path for one in Path(f"/proc/{pid}/fd").iterdir())
    return False


def test_a_recorder_that_was_killed(fleet):
    """What it left is not shipped by itself, as its end is elsewhere; its pack has all, and a lake takes it.

    The next one that is started puts it aside, and then its pack is shipped.
    """
    child = fleet.record("web2")
    fleet.lab.run([sys.executable, "-c", SEND, "40"], "web2")
    time.sleep(1)  # its last quarter of a second may be lost
    child.kill()
    child.communicate()
    assert fleet.ship("web2") == (0, "")
    assert fleet.incoming == []
    (path,) = (fleet.home / "web2").glob("*.db")
    pack = fleet.desk / "incoming" / "web2" / "cut.zip"
    pack.parent.mkdir()
    words = line("iptrec pack").replace("trace.db", str(path)).replace("trace.zip", str(pack))
    assert iptrec(*words.split()[1:], "-q").returncode == 0
    assert fleet.export() == (0, "")
    assert sum(one["packets"] for one in fleet.ask("drops")) == 20
    (row,) = fleet.ask("incomplete")
    assert row["closed"] == 0
    unit = printed("unit", "[Service]\nEnvironment=TZ=UTC\n")
    before = re.search(r"^ExecStartPre=-/bin/sh -c '(.*)'$", unit, re.MULTILINE)[1]
    before = (
        before.replace("$$", "$").replace("%%", "%").replace("/var/lib/iptrec", f"{path.parent}")
    )
    for _ in range(2):  # the second time there is nothing
        subprocess.run(["sh", "-c", before], check=False, stderr=subprocess.DEVNULL)
    assert fleet.ship("web2") == (0, "")
    shipped = fleet.desk / "incoming" / "web2" / f"{path.stem}.zip"
    assert sum(dropped([shipped]).values()) == 20
    assert [one for one in path.parent.rglob("*") if one.is_file()] == []


def test_what_cannot_be_read_is_no_success(fleet):
    """It stays, whatever it is called; the others go."""
    folder = fleet.home / "web1"
    folder.mkdir()
    shutil.copy(documents.ROOT / "samples" / "both.db", folder / "-x y.db")
    (folder / "broken.db").write_bytes(b"nothing of the kind")
    status, said = fleet.ship("web1")
    assert (status, said.count("\n"), "broken.db" in said) == (1, 1, True)
    assert [one.name for one in fleet.incoming] == ["-x y.db"]
    assert [one.name for one in folder.iterdir()] == ["broken.db"]


def test_a_copy_that_is_half(fleet):
    """As a program leaves it that writes to the name itself: told, others come in; then the whole one."""
    sample = documents.ROOT / "samples" / "both.db"
    folder = fleet.desk / "incoming" / "web1"
    folder.mkdir()
    shutil.copy(documents.ROOT / "samples" / "ipv6.db", folder / "other.db")
    whole = sample.read_bytes()
    for size in range(17_001, len(whole), 17_001):
        (folder / "half.db").write_bytes(whole[:size])
        status, said = fleet.export()
        assert (status != 0, said.count("\n"), "half.db" in said) == (True, 1, True), size
        assert iptrec("info", folder / "half.db").returncode == 2
    assert len(fleet.ask("incomplete")) <= 1
    (folder / "half.db").write_bytes(whole)
    assert fleet.export() == (0, "")


def test_a_day_that_goes(fleet):
    """What is left of the lake answers, and what goes from incoming as well does not come in again."""
    folder = fleet.desk / "incoming" / "web1"
    folder.mkdir()
    for name in ("both", "ipv6"):  # of other days
        shutil.copy(documents.ROOT / "samples" / f"{name}.db", folder)
    assert fleet.export() == (0, "")
    days = sorted({one.name for one in (fleet.desk / "lake" / "recordings").iterdir()})
    assert len(days) == 2
    old = folder / "ipv6.db"
    os.utime(old, (0, 0))
    for words in (
        line("find incoming -type f -mtime"),
        line("rm -rf lake").replace("dt=2026-10-30", days[0]),
    ):
        subprocess.run(["bash", "-c", words], cwd=fleet.desk, check=True)
    assert fleet.incoming == [folder / "both.db"]
    assert fleet.export() == (0, "")
    assert [one.name for one in (fleet.desk / "lake" / "packets").iterdir()] == days[1:]
    assert sum(one["packets"] for one in fleet.ask("drops")) == sum(
        dropped(fleet.incoming).values()
    )


def test_object_storage(fleet):
    """What has ended goes to a store by rclone, and from there to the collector and the lake."""
    if shutil.which("rclone") is None:
        pytest.skip("rclone: not found")
    store = fleet.home / "store"
    fleet.environment |= {
        "RCLONE_CONFIG": "/dev/null", "RCLONE_CONFIG_STORE_TYPE": "alias",
        "RCLONE_CONFIG_STORE_REMOTE": str(store),
    }  # fmt: skip
    child = fleet.record("web1")
    fleet.lab.run([sys.executable, "-c", SEND, "20"], "web1")
    time.sleep(1)
    name = piece(child)
    spool = fleet.home / "spool"
    for beginning in ("iptrec-ship /var/lib", "rclone move", "rclone copy"):
        words = line(beginning).replace("/var/lib/iptrec", str(fleet.home / "web1"))
        words = words.replace("/var/spool/iptrec", str(spool))
        with fleet.lab.popen(
            ["env", "-C", fleet.desk, "sh", "-c", words], "web1", env=fleet.environment
        ) as done:
            assert done.wait(timeout=60) == 0
    assert [one.name for one in fleet.incoming] == [name]
    assert [*fleet.home.glob("spool/*")] == []
    assert (
        fleet.home / "web1" / name.replace(name[name.rindex("-") :], ".db")
    ).exists()  # the ring goes on
    assert fleet.export() == (0, "")
    assert sum(one["packets"] for one in fleet.ask("drops")) == 10
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=60)


def test_old_pieces_go(tmp_path):
    """And neither the ring nor what is younger."""
    words = line("find /var/lib/iptrec").replace("/var/lib/iptrec", str(tmp_path))
    for name, days in (
        ("a-20261129T093012Z.db", 5),
        ("b-20261129T093012Z.db", 1),
        ("a-20261129T080000.db", 5),
        ("cut/a-20261128T080000.db-wal", 5),
        ("a-20261127T080000.zip", 5),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - days * 86_400,) * 2)
    subprocess.run(["bash", "-c", words], check=True)
    assert sorted(one.name for one in tmp_path.rglob("*") if one.is_file()) == [
        "a-20261129T080000.db",
        "b-20261129T093012Z.db",
    ]


def test_units_are_units(tmp_path):
    """As systemd reads them: those of the recorder, of the script, and what starts that."""
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("systemd-analyze: not found")
    text = "\n".join(
        block
        for where, block in documents.of_kind("unit")
        if where.startswith("docs/collecting.md")
    )
    services = re.split(r"^(?=\[)", text, flags=re.MULTILINE)[1:]
    names = ("iptrec.service", "iptrec-ship.service", "iptrec-ship.path", "iptrec-ship.timer")
    assert [re.match(r"\[(\w+)\]", one)[1].lower() for one in services] == [
        name.rpartition(".")[2] for name in names
    ]
    for name, unit in zip(names, services, strict=True):
        there = re.sub(r"/usr/local/bin/iptrec\S*", "/bin/true", unit)
        (tmp_path / name).write_text(there)
        done = subprocess.run([verify, "verify", "--man=no", tmp_path / name],
                              capture_output=True, text=True, check=False)  # fmt: skip
        assert name not in done.stderr, done.stderr
