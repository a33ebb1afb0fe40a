"""`iptrec check` of a recording that lacks events: what is missing is not taken for what did not happen."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from validation import validator

from iptrec.cli import app

LOOPBACK = Path(__file__).parents[2] / "samples" / "loopback.db"


@pytest.fixture
def check(tmp_path, capsys):
    """Judges an expectation of a recording; events were lost from its first to its second second."""

    def run(text, *, how="sequence", events=7, stream="nflog"):
        path = Path(shutil.copy(LOOPBACK, tmp_path / "t.db"))
        with contextlib.closing(sqlite3.connect(path)) as database:
            (begun,) = database.execute("SELECT started_ns FROM recording").fetchone()
            (number,) = database.execute("SELECT id FROM stream WHERE kind = 'nflog'").fetchone()
            if stream != "nflog":
                number += 100
                database.execute("INSERT INTO stream VALUES (?, 1, ?, '{}')", (number, stream))
            database.execute(
                "INSERT INTO loss (stream, first_ns, last_ns, events, how) VALUES (?, ?, ?, ?, ?)",
                (number, begun + 10**9, begun + 2 * 10**9, events, how),
            )
            database.commit()
        file = tmp_path / "expect.toml"
        file.write_text(f"[[expect]]\n{text}\n")
        status = app(["check", str(path), str(file), "--json"], standalone_mode=False)
        found = json.loads(capsys.readouterr().out)
        validator("check").validate(found)
        assert (status == 0) == found["ok"]
        return found

    return run


@pytest.mark.parametrize(
    "asked",
    [
        'filter = "tcp"\ncount = 0',
        'filter = "icmp6"\ncount = 4',
        'filter = "icmp6"\nmax = 4',
        'filter = "tcp or icmp[icmptype] == icmp-echo"\nverdict = "ACCEPT"',
        'filter = "tcp"\nmin = 1',  # it may be among what was lost
        'filter = "tcp"\nmax = 0\nmin = 0\nsince = "1.5s"\nuntil = "1.6s"',
        'filter = "tcp"\ncount = 0\nsince = "2s"',
        'filter = "tcp"\ncount = 0\nuntil = "1.1s"',
    ],
)
def test_what_may_have_been_lost_is_not_known(check, asked):
    """Neither that there were none, nor that there were too few."""
    found = check(asked)
    assert (found["result"], found["lossy"]) == ("unknown", True)
    assert "not known: 7 events of that time were lost" in found["failure"]


@pytest.mark.parametrize(
    "asked",
    [
        'filter = "icmp6"\nmin = 4',  # more cannot break it
        'filter = "tcp"\ncount = 0\nsince = "2.1s"',
        'filter = "tcp"\ncount = 0\nuntil = "1s"',
    ],
)
def test_what_holds_in_spite_of_it(check, asked):
    """At another time, or whatever was lost."""
    assert check(asked)["result"] == "ok"


@pytest.mark.parametrize(
    "asked", ['filter = "icmp6"\nmax = 3', 'filter = "icmp"\nverdict = "DROP"']
)
def test_what_fails_in_spite_of_it(check, asked):
    """Packets that were seen suffice."""
    assert check(asked)["result"] == "failed"


def test_times_without_tracing(check):
    """Nobody knows how many events there were."""
    found = check('filter = "tcp"\ncount = 0', how="rules-gone", events=None)
    assert found["failure"] == "not known: events of that time were lost or not traced"


@pytest.mark.parametrize(
    ("how", "stream"), [("overflow", "nflog"), ("ring-full", "drops"), ("enobufs", "sockets")]
)
def test_what_is_no_loss_of_events(check, how, stream):
    """Nothing that is asked for is missing."""
    found = check('filter = "tcp"\ncount = 0', how=how, stream=stream)
    assert (found["result"], found["lossy"]) == ("ok", False)
