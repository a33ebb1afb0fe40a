"""A stranger who owns the directory, and swaps whatever root makes there, wins nothing.

Won is: something was made in, or written to, what is root's; or what the recording holds can be read by the
stranger. A command that refuses in one line has not lost. `IPTREC_RACES=500 pytest tests/test_race.py` for
more rounds.
"""

from __future__ import annotations

import collections
import functools
import gzip
import itertools
import json
import os
import shutil
import signal
import sqlite3
import stat
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from attacker import STRATEGIES, TEMPORARY
from handmade import datagram, udp
from rights import ROOT

SAMPLE = str(Path(__file__).parents[1] / "samples" / "docker_hairpin.db")
STRANGER = 65534
USER = 1234  # another one, who may write where the stranger may
KNOWN = {"c.pcap", "precious.db", "own.db", "a.db.gz", "noise.db", "noise.db-wal"}
AIMS = ("private/new", "kept/precious.db")
ROUNDS = int(os.environ.get("IPTREC_RACES", "84"))
pytestmark = ROOT


def capture():
    """A pcap file of one event."""
    event = datagram("filter:INPUT:policy:1", udp(), hook=1, indev=7)[16:]
    head = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65535, 239)
    return head + struct.pack("<IIII", 1, 0, len(event), len(event)) + event


class Arena:
    """Directories of root's and of the stranger's, the stranger, and the one whom he attacks."""

    def __init__(self, home, stack):
        self.home = home
        home.chmod(0o755)
        self.theirs = home / "theirs" / "dir"
        self.theirs.mkdir(parents=True)
        for one in (self.theirs, self.theirs.parent):
            os.chown(one, STRANGER, STRANGER)
            one.chmod(0o777)
        self.private = home / "private"
        self.private.mkdir(mode=0o700)
        self.kept = home / "kept"
        self.kept.mkdir(mode=0o700)
        (self.kept / "c.pcap").write_bytes(capture())
        self.devices = home / "devices"
        self.devices.mkdir(mode=0o755)
        self.make_device()
        (self.kept / "a.db.gz").write_bytes(gzip.compress(Path(SAMPLE).read_bytes()))
        shutil.copy(SAMPLE, self.kept / "noise.db")
        (self.kept / "noise.db-wal").write_bytes(b"\x37" * 100_000)
        with sqlite3.connect(self.kept / "precious.db") as precious:
            precious.execute("CREATE TABLE precious (a)")
        precious.close()
        (self.kept / "precious.db").chmod(0o600)
        self.precious = (self.kept / "precious.db").read_bytes()
        words = [str(Path(__file__).with_name("attacker.py")), str(self.theirs), str(STRANGER)]
        self.attacker = stack(words)
        self.victim = stack([str(Path(__file__).with_name("victim.py"))])

    def make_device(self):
        """One of our own: what is tried may replace it."""
        path = self.devices / "null"
        path.unlink(missing_ok=True)
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        path.chmod(0o666)

    def round(self, number, sudo, command, strategies=tuple(STRATEGIES), owner=None):
        """A command while the stranger is at it, by one of his plans; its result, and what he has won.

        ``owner``: of what is to be kept from him; without, the user who may write where he may, or root.
        """
        plans = list(itertools.product(strategies, AIMS))
        strategy, aim = plans[number * 3 % len(plans)]
        if owner is None:
            owner = sudo if sudo not in (None, STRANGER) else 0
        self.belong(owner)
        self.tell(f"{strategy} {self.home / aim}", "ready")
        ended = command()
        self.tell("rest", "rested")
        won = [f"{strategy}: {one}" for one in self.won(sudo)]
        self.tidy()
        return ended, won

    def belong(self, owner):
        """What is to be kept from the stranger is root's, or of a user who may write where he may."""
        for one in (self.private, self.kept, *self.kept.iterdir()):
            os.chown(one, owner, owner)

    def order(self, argv, sudo, tmpdir=None):
        """Let the victim do something."""
        order = {"argv": argv, "sudo": sudo, "tmpdir": tmpdir}
        self.victim.stdin.write(json.dumps(order) + "\n")
        self.victim.stdin.flush()
        return json.loads(self.victim.stdout.readline())

    def tell(self, words, answer):
        self.attacker.stdin.write(words + "\n")
        self.attacker.stdin.flush()
        assert self.attacker.stdout.readline() == answer + "\n"

    def won(self, sudo):
        for one in self.private.iterdir():
            yield f"made {one.name} in root's directory"
        precious = self.kept / "precious.db"
        if not precious.exists() or precious.read_bytes() != self.precious:
            yield "wrote into root's database"
        if not (self.devices / "null").is_char_device():
            yield "replaced a device"
        for one in self.kept.iterdir():
            if one.name not in KNOWN:
                yield f"made {one.name} beside root's database"
        if sudo == STRANGER:
            return  # the stranger is the user: what he may read is his
        for path in self.theirs.parent.rglob("*"):
            status = path.lstat()
            readable = status.st_uid == STRANGER or status.st_mode & stat.S_IROTH
            if stat.S_ISREG(status.st_mode) and readable and status.st_size:
                yield f"reads {path.name}"

    def tidy(self):
        aside = self.theirs.with_name(f"{self.theirs.name}-aside")
        if self.theirs.is_symlink():
            self.theirs.unlink()
            aside.rename(self.theirs)
        for directory in (self.theirs, self.private):
            for one in directory.iterdir():
                if one.is_dir() and not one.is_symlink():
                    shutil.rmtree(one)
                else:
                    one.unlink()
        for one in self.kept.iterdir():
            if one.name not in KNOWN - {"precious.db", "own.db"}:
                one.unlink()
        if not (self.devices / "null").is_char_device():
            self.make_device()
        (self.kept / "precious.db").write_bytes(self.precious)
        (self.kept / "precious.db").chmod(0o600)


@pytest.fixture(scope="module")
def arena():
    running = []

    def start(words):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        child = subprocess.Popen(
            [sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=environment,
        )  # fmt: skip
        running.append(child)
        return child

    with tempfile.TemporaryDirectory(prefix="iptrec-race-") as home:
        try:
            yield Arena(Path(home), start)
        finally:
            for child in running:
                child.stdin.close()
                child.wait()
                child.stdout.close()


ORDERS = {
    "import": ["import", "{kept}/c.pcap", "-q", "-o", "{theirs}/x.db"],
    "copy": ["copy", "{kept}/own.db", "{theirs}/x.db"],
    "sqlite": ["export", "sqlite", SAMPLE, "-q", "-o", "{theirs}/x.db"],
    "pcapng": ["export", "pcapng", SAMPLE, "-q", "-o", "{theirs}/x"],
    "ndjson": ["export", "ndjson", SAMPLE, "-q", "-o", "{theirs}/x"],
    "parquet": ["export", "parquet", SAMPLE, "-q", "-o", "{theirs}/x"],
    "show": ["show", SAMPLE, "-o", "{theirs}/x"],
}
FORCE = {"copy": [], "show": []}  # the others take --force


@pytest.mark.parametrize("sudo", [None, STRANGER, USER], ids=["root", "sudo", "other"])
@pytest.mark.parametrize("what", ORDERS)
def test_nothing_is_won(arena, what, sudo):
    """Each command, as root and by the stranger's sudo, against each strategy."""
    argv = [one.format(kept=arena.kept, theirs=arena.theirs) for one in ORDERS[what]]
    rounds = max(4, ROUNDS // (3 * len(ORDERS)))
    check(arena, what, sudo, rounds, lambda _: arena.order(argv, sudo))


@pytest.mark.parametrize("sudo", [None, STRANGER, USER], ids=["root", "sudo", "other"])
@pytest.mark.parametrize("what", ORDERS)
def test_no_link_leads_root(arena, what, sudo):
    """A link of the stranger's in the middle of the path: always there, or now and then."""
    argv = [one.format(kept=arena.kept, theirs=arena.theirs) for one in ORDERS[what][:-1]]
    argv += [str(arena.theirs / "l" / "precious.db"), *FORCE.get(what, ["--force"])]
    plans = ("lead_away", "flip_directory")
    rounds = max(4, ROUNDS // len(ORDERS))
    check(arena, what, sudo, rounds, lambda _: arena.order(argv, sudo), plans, owner=0)


@pytest.mark.parametrize("sudo", [None, STRANGER, USER], ids=["root", "sudo", "other"])
@pytest.mark.parametrize("what", ["pcapng", "ndjson", "show", "sqlite"])
def test_no_device_leads(arena, what, sudo):
    """A link to a device that is one to something else a moment later."""
    for plan, name in (("flip_device", "x"), ("flip_devices", "l/null")):
        argv = [*ORDERS[what][:-1], str(arena.theirs / name), *FORCE.get(what, ["--force"])]
        order = functools.partial(arena.order, argv, sudo)
        check(arena, what, sudo, max(4, ROUNDS // 8), lambda _, order=order: order(), (plan,))


TEMPORARIES = {
    "gz": ["info", "{kept}/a.db.gz"],
    "wal": ["info", "{kept}/noise.db"],
    "query": ["query", SAMPLE, "SELECT count(*) FROM packets"],
    "sqlite": ["export", "sqlite", SAMPLE, "-q", "-o", "{devices}/null"],
}


@pytest.mark.parametrize("sudo", [None, STRANGER, USER], ids=["root", "sudo", "other"])
@pytest.mark.parametrize("what", TEMPORARIES)
def test_nothing_is_won_from_temporary_files(arena, what, sudo):
    """TMPDIR is a directory of the stranger's."""
    argv = [one.format(kept=arena.kept, devices=arena.devices) for one in TEMPORARIES[what]]

    def command(_):
        return arena.order(argv, sudo, str(arena.theirs))

    check(arena, what, sudo, max(4, ROUNDS // 12), command, tuple(TEMPORARY), owner=0)


@pytest.mark.live
@pytest.mark.parametrize("sudo", [None, STRANGER], ids=["root", "sudo"])
def test_nothing_is_won_from_a_recorder(arena, lab, sudo):
    """A recording, and a copy of it while it goes on (SIGUSR1), of both backends."""
    user = [] if sudo is None else [f"SUDO_UID={sudo}", f"SUDO_GID={sudo}"]

    def record(number):
        backend = ("legacy", "nft")[number % 2]
        child = lab.popen(
            ["env", *user, sys.executable, "-m", "iptrec", "record", "--backend", backend,
             "--duration", "300ms", "-o", str(arena.theirs / "x.db")],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        first = child.stderr.readline()
        if first.startswith("recording to"):
            child.send_signal(signal.SIGUSR1)
        rest = child.communicate(timeout=60)[1]
        return {
            "status": child.returncode,
            "errors": "" if child.returncode == 0 else first or rest,
        }

    check(arena, "record", sudo, max(2, ROUNDS // 40), record)


def check(arena, what, sudo, rounds, command, strategies=tuple(STRATEGIES), owner=None):
    """Nothing is won in so many rounds, in each of which the command is done or refuses in a line."""
    ends = collections.Counter()
    won = []
    for number in range(rounds):
        ended, gain = arena.round(
            number, sudo, functools.partial(command, number), strategies, owner
        )
        won += gain
        ends[ended["status"]] += 1
        assert ended["status"] in (0, 2), ended
        assert what == "record" or ended["errors"].count("\n") == (ended["status"] == 2), ended
    who = {None: "root", STRANGER: "sudo"}.get(sudo, "other")
    sys.stdout.write(f"{what} {who}: {rounds} rounds, ended {dict(ends)}, won {len(won)}\n")
    assert won == []
