"""``iptrec merge``: one file answers as several do, and nothing is left where it was not made."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest
from command import iptrec
from handmade import RAW, HandMade, udp, written
from hypothesis import given, settings
from hypothesis import strategies as st
from warm import IPTREC

from iptrec.answers.packets import Packets
from iptrec.recording.reader import Reader
from iptrec.recording.several import Several, together

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "samples"
THREE = [SAMPLES / f"{name}.db" for name in ("loopback", "both", "nftables")]
VIEWS = {
    "show": ["show"], "brief": ["show", "--brief", "udp"], "json": ["show", "--json"], "why": ["why"],
    "paths": ["paths"], "rules": ["rules"], "info": ["info"], "info --json": ["info", "--json"],
    "orphans": ["show", "--orphans"],
}  # fmt: skip


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    """A file of three recordings."""
    path = tmp_path_factory.mktemp("merged") / "all.db"
    done = iptrec("merge", *THREE, "-o", path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return path


@pytest.mark.parametrize("view", VIEWS)
def test_it_answers_as_the_files_do(view, merged):
    """Byte for byte, remarks included."""
    command, *options = VIEWS[view]
    told, wanted = iptrec(command, merged, *options), iptrec(command, *THREE, *options)
    assert (told.stdout, told.stderr) == (wanted.stdout, wanted.stderr)
    assert wanted.stdout or view == "orphans"


def test_sql_is_the_same(merged):
    for table in ("recording", "namespaces", "hosts", "streams", "snapshots", "losses", "rules"):
        asked = f"SELECT * FROM {table}"
        assert iptrec("query", merged, asked).stdout == iptrec("query", *THREE, asked).stdout


def test_the_order_of_the_files_does_not_matter(merged, tmp_path):
    other = tmp_path / "other.db"
    iptrec("merge", *reversed(THREE), "-o", other)
    assert other.read_bytes() == merged.read_bytes()


def test_merged_files_are_merged(merged, tmp_path):
    two, more = tmp_path / "two.db", tmp_path / "more.db"
    iptrec("merge", *THREE[:2], "-o", two)
    assert iptrec("merge", two, THREE[2], "-o", more).returncode == 0
    assert iptrec("show", "--json", more).stdout == iptrec("show", "--json", merged).stdout
    assert iptrec("show", "--json", two, THREE[2]).stdout == iptrec("show", "--json", merged).stdout


def test_only_it_is_of_its_format(merged, tmp_path):
    """An older iptrec refuses a merged file, and no other."""
    assert int.from_bytes(merged.read_bytes()[60:64], "big") == 4
    iptrec("redact", THREE[0], "-o", tmp_path / "redacted.db")
    assert int.from_bytes((tmp_path / "redacted.db").read_bytes()[60:64], "big") == 3


REFUSED = {
    "one": (["merge", THREE[0], "-o", "x.db"], "merge takes several recordings"),
    "no recording": (["merge", THREE[0], "there.db", "-o", "x.db"], "there.db is not an iptrec recording"),
    "no file": (["merge", THREE[0], "nothing", "-o", "x.db"], "cannot open nothing: there is no such file"),
    "no match": (["merge", "nothing*.db", THREE[0], "-o", "x.db"], "no file matches 'nothing*.db'"),
    "no match behind": (["merge", THREE[0], "nothing*", "-o", "x.db"], "no file matches 'nothing*'"),
    "twice": (["merge", THREE[0], THREE[0], "-o", "x.db"], f"{THREE[0]} is given twice"),
    "a file that is there": (["merge", *THREE, "-o", "there.db"], "there.db exists; use --force"),
    "one of them": (["merge", *THREE, "mine.db", "-o", "mine.db", "--force"], "mine.db is the recording"),
    "compressed": (["merge", *THREE, "-o", "x.db.gz"], "x.db.gz: iptrec merge does not compress"),
    "diff": (["diff", "all.db", THREE[0]], "all.db holds several recordings (iptrec merge)"),
    "lake": (["export", "parquet", "lake/", "all.db"], "all.db holds several recordings (iptrec merge)"),
    "pack of some": (["pack", "all.db", "-o", "x.zip", "udp"], "a merged recording is packed whole"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case, merged, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("there.db").write_text("x")
    shutil.copy(merged, "all.db")
    shutil.copy(SAMPLES / "ipv6.db", "mine.db")
    words, message = REFUSED[case]
    done = iptrec(*words)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not [one for one in tmp_path.iterdir() if one.name.startswith("x.")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing(number, tmp_path):
    """Wherever it comes: before, while it is written, or after."""
    for after_s in (0.2, 0.5, 0.8):
        asked = subprocess.Popen(
            [*IPTREC, "merge", *map(str, THREE), "-o", str(tmp_path / "x.db")],
            stderr=subprocess.PIPE,
        )
        time.sleep(after_s)
        asked.send_signal(number)
        asked.communicate(timeout=60)
        left = [one.name for one in tmp_path.iterdir()]
        assert left == (["x.db"] if asked.returncode == 0 else [])
        for one in tmp_path.iterdir():
            one.unlink()


def change(path, *statements):
    with sqlite3.connect(path) as raw:
        for one in statements:
            raw.execute(one)
    raw.close()


HOSTILE = {
    "no such recording": (["UPDATE namespace SET recording = 9"], "belongs to a recording 9 that is not there"),
    "no recording": (["DELETE FROM recording"], "it has no row about the recording"),
    "big-endian": (["UPDATE recording SET byte_order = 'big' WHERE id = 2"], "was recorded on a big-endian"),
    "numbers too high": (["UPDATE chunk SET id = 2305843009213693952 + id"], "numbers its rows as no"),
    "numbers too low": (["UPDATE snapshot SET id = -id"], "numbers its rows as no recorder does"),
    "a stream of nobody": (["UPDATE stream SET namespace = 77"], "belongs to a namespace 77 that is not there"),
    "a chunk of nobody": (["UPDATE chunk SET stream = 12345 WHERE id = 2"], "belongs to a stream 12345 that"),
    "another format": (["PRAGMA user_version = 3"], "that no recording has"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_one_line(case, merged, tmp_path):
    path = tmp_path / "hostile.db"
    shutil.copy(merged, path)
    statements, message = HOSTILE[case]
    change(path, *statements)
    done = iptrec("show", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_hostile_names_are_printable(merged, tmp_path):
    path = tmp_path / "hostile.db"
    shutil.copy(merged, path)
    change(
        path, "UPDATE recording SET host = 'a' || char(27, 10, 8238), file = 'f' || char(27, 10)"
    )
    for words in (["show"], ["paths"], ["rules"], ["info"], ["show", "--orphans"], ["why"]):
        done = iptrec(words[0], path, *words[1:])
        assert done.returncode in (0, 1)
        assert "\x1b" not in done.stdout + done.stderr
        assert "\u202e" not in done.stdout + done.stderr


def test_redacted(merged, tmp_path):
    """Each host has another name, and no name of a file is left; all answers are those of before."""
    made = tmp_path / "redacted.db"
    done = iptrec("redact", merged, "-o", made, "--check")
    assert done.returncode == 0, done.stderr
    found = json.loads(iptrec("info", "--json", made).stdout)["hosts"]
    assert [one["file"] for one in found] == ["0001.db", "0002.db", "0003.db"]
    assert {one["recording"]["host"] for one in found} == {"redacted-0001"}
    assert b"loopback.db" not in made.read_bytes()


def test_packed(merged, tmp_path):
    made = tmp_path / "pack.zip"
    assert iptrec("pack", merged, "-o", made).returncode == 0
    assert iptrec("show", "--json", made).stdout == iptrec("show", "--json", merged).stdout
    assert iptrec("pack", merged, "--redact", "-o", tmp_path / "shared.zip").returncode == 0


def events(number):
    """A packet's way, whose content tells it from others."""
    packet = udp(b"%05d" % number, ident=number % 65535 + 1, sport=1000 + number % 50)
    return [
        ("raw:PREROUTING:policy:2", packet, {}),
        ("filter:INPUT:policy:1", packet, {}),
    ]


def recorded(numbers, first_ns):
    made = HandMade()
    made.ruleset(RAW + "*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n")
    return made.events(
        [one for each in numbers for one in events(each)], start_ns=first_ns, per_chunk=7
    )


def payloads(*paths):
    """What tells the packets apart, with their verdicts and steps."""
    with Several([Reader(one) for one in paths]) as found:
        return sorted(
            (one.header["id"], one.header["sport"], one.verdict, len(one.steps), one.time_ns)
            for one in Packets(found)
        )


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 60), st.data())
def test_halves_have_the_packets_of_the_whole(tmp_path_factory, count, data):
    """Of a recording that is split by time, where no packet is under way."""
    at = data.draw(st.integers(1, count - 1))
    place = tmp_path_factory.mktemp("split")
    whole, first, second, both = (place / f"{name}.db" for name in "wabm")
    numbers = list(range(count))
    written(whole, recorded(numbers, 1_000))
    written(first, recorded(numbers[:at], 1_000))
    written(second, recorded(numbers[at:], 1_000 + 2_000 * at))
    assert iptrec("merge", first, second, "-o", both).returncode == 0
    assert payloads(both) == payloads(first, second)
    with Reader(whole) as reader:
        alone = sorted(
            (one.header["id"], one.header["sport"], one.verdict, len(one.steps), one.time_ns)
            for one in Packets(together([reader]))
        )
    assert payloads(both) == alone
    assert len(alone) == count


def test_memory_is_that_of_a_chunk(tmp_path):
    """Ten times as much to merge does not take more."""
    import sys

    peaks = []
    for count in (2_000, 20_000):
        paths = [
            written(tmp_path / f"{count}-{name}.db", recorded(range(count), 1_000)) for name in "ab"
        ]
        ask = "import resource, sys; from iptrec.cli import app; app(sys.argv[1:], standalone_mode=False);"
        ask += " print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        words = ["merge", *map(str, paths), "-o", str(tmp_path / f"{count}.db")]
        done = subprocess.run(
            [sys.executable, "-c", ask, *words], capture_output=True, text=True, check=True
        )
        peaks.append(int(done.stdout))
    assert peaks[1] < 1.3 * peaks[0]


def limited(soft, hard, *words):
    """A command that may have so many files open."""
    return subprocess.run(
        ["prlimit", f"--nofile={soft}:{hard}", *IPTREC, *map(str, words)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_more_recordings_than_files_may_be_open(tmp_path):
    """The limit is made higher where that is allowed; else one line says what to do."""
    files = [written(tmp_path / f"{one:03}.db", recorded([one], 1_000)) for one in range(60)]
    done = limited(40, 4096, "merge", *files, "-q", "-o", tmp_path / "all.db")
    assert (done.returncode, done.stderr) == (0, "")
    done = limited(40, 40, "merge", *files, "-o", tmp_path / "x.db")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "iptrec: 60 recordings cannot be open at once, the limit is 40 files (ulimit -Hn);"
        " merge them in groups: iptrec merge\n"
    )
    assert not (tmp_path / "x.db").exists()


def test_quiet_is_quiet(tmp_path):
    """Also of copies."""
    files = [written(tmp_path / f"{one}.db", recorded([1], 1_000)) for one in "ab"]
    done = iptrec("merge", *files, "-o", tmp_path / "told.db")
    assert "are copies of one recording" in done.stderr
    done = iptrec("merge", *files, "-q", "-o", tmp_path / "quiet.db")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
