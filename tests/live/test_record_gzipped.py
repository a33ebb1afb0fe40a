"""``record -o FILE.db.gz``: what is there in the end, and what is there when the recorder was killed."""

from __future__ import annotations

import gzip
import json

import pytest
from command import IPTREC, iptrec
from recorder import start, stop, until

from iptrec.recording.reader import Reader

pytestmark = pytest.mark.live


def packets(recording):
    return len(iptrec("show", recording, "--json").stdout.splitlines())


def ping(lab):
    lab.run(["ping", "-c1", "-W1", "127.0.0.1"])


def test_it_is_compressed_in_the_end(lab, backend, tmp_path):
    """One file is left, which every command reads; while it is recorded the other one can be read."""
    lab.ip(None, "link set lo up")
    made, part = tmp_path / "t.db.gz", tmp_path / "t.part.db"
    child = start(lab, "icmp", "--backend", backend, "-o", made)
    assert part.exists()
    assert not made.exists()
    ping(lab)
    until(lambda: packets(part))
    said = stop(child)
    assert str(made) in said
    assert {one.name for one in tmp_path.iterdir()} == {"t.db.gz"}
    assert gzip.decompress(made.read_bytes())[:15] == b"SQLite format 3"
    assert packets(made)
    with Reader(made) as reader:
        assert reader.facts.closed


def test_killed(lab, backend, tmp_path, monkeypatch):
    """What was committed can be read where it is; who looks for the other file is told, doctor tells, too."""
    lab.ip(None, "link set lo up")
    made, part = tmp_path / "t.db.gz", tmp_path / "t.part.db"
    child = start(lab, "icmp", "--backend", backend, "-o", made)
    ping(lab)
    until(lambda: packets(part))
    child.kill()
    child.communicate()
    assert not made.exists()
    assert packets(part)
    done = iptrec("show", made)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert str(part) in done.stderr
    monkeypatch.chdir(tmp_path)
    told = [json.loads(one) for one in iptrec("doctor", "--json").stdout.splitlines()]
    assert [one for one in told if "t.part.db" in one["fact"]]
    again = lab.popen([*IPTREC, "record", "-o", str(made)], stderr=-1, text=True)
    _, said = again.communicate(timeout=30)
    assert again.returncode == 2
    assert "t.part.db exists" in said


def test_what_is_there_stays(lab, tmp_path):
    """Without --force; with it, until the new one is whole."""
    lab.ip(None, "link set lo up")
    made = tmp_path / "t.db.gz"
    made.write_bytes(b"old")
    child = lab.popen([*IPTREC, "record", "-o", str(made)], stderr=-1, text=True)
    _, said = child.communicate(timeout=30)
    assert (child.returncode, "exists" in said) == (2, True)
    child = start(lab, "icmp", "-o", made, "--force")
    assert made.read_bytes() == b"old"
    stop(child)
    assert made.read_bytes()[:2] == b"\x1f\x8b"
    assert {one.name for one in tmp_path.iterdir()} == {"t.db.gz"}


def test_files_that_follow_each_other_are_not_compressed(tmp_path):
    """One line."""
    done = iptrec("record", "--rotate", "1h", "-o", tmp_path / "t.db.gz")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--rotate" in done.stderr
