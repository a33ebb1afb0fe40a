"""Losses that a stranger wrote: more events than any counter has, fewer than none, times of all kinds."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import struct
from pathlib import Path

import pytest
from validation import fits

from iptrec.cli import app
from iptrec.errors import RecordingError

ROOT = Path(__file__).parents[2]
HAIRPIN = ROOT / "samples" / "docker_hairpin.db"
MOST = (1 << 63) - 1
LEAST = -1 << 63
COMMANDS = {
    "show": ["show", "{db}"],
    "show --json": ["show", "{db}", "--json"],
    "why": ["why", "{db}"],
    "paths": ["paths", "{db}"],
    "rules": ["rules", "{db}"],
    "info": ["info", "{db}"],
    "info --json": ["info", "{db}", "--json"],
    "report": ["report", "{db}", "-o", "{out}"],
    "query": ["query", "{db}", "SELECT * FROM losses", "--json"],
    "export ndjson": ["export", "ndjson", "{db}", "-o", "{out}"],
    "export pcapng": ["export", "pcapng", "{db}", "-o", "{out}"],
    "export pcapng --stages": ["export", "pcapng", "{db}", "--stages", "-o", "{out}"],
    "export pcapng --events": ["export", "pcapng", "{db}", "--events", "-o", "{out}"],
    "export sqlite": ["export", "sqlite", "{db}", "-o", "{out}"],
    "export parquet": ["export", "parquet", "{db}", "-o", "{out}"],
}
READ_LOSSES = {"paths", "rules"}  # commands that may have nothing to say about them
LOSSES = {
    "sum over 64 bits": [(1, 2, MOST, "sequence")] * 3,
    "unknown": [(1, 2, None, "enobufs")],
    "none": [(1, 2, 0, "truncated")],
    "times": [(LEAST, MOST, 1, "rules-gone"), (MOST, LEAST, 1, "logger-switched")],
    "words": [(1, 2, 1, "\x1b[2J\u202e")],
}


@pytest.fixture
def recording(tmp_path):
    """Writes a recording with such losses."""

    def write(losses):
        path = Path(shutil.copy(HAIRPIN, tmp_path / "t.db"))
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.executemany(
                "INSERT INTO loss (stream, first_ns, last_ns, events, how)"
                " SELECT id, ?, ?, ?, ? FROM stream WHERE kind = 'nflog'",
                losses,
            )
            database.commit()
        return path

    return write


def run(path, command):
    """Its exit status."""
    out = path.with_name("out")
    words = [one.format(db=path, out=out) for one in COMMANDS[command]]
    return app(words, standalone_mode=False)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("case", LOSSES)
def test_answered(recording, capsys, case, command):
    """Every command has an answer, and nothing in it that a terminal obeys."""
    assert run(recording(LOSSES[case]), command) == 0
    said = capsys.readouterr()
    assert not set(said.out + said.err) & set("\x1b\u202e")


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - READ_LOSSES))
def test_less_than_none(recording, command):
    """Refused in one line."""
    with pytest.raises(RecordingError, match=r"is damaged: loss 1 cannot have -1 events$"):
        run(recording([(1, 2, -1, "sequence")]), command)


def test_a_sum_over_64_bits_is_reported(recording, capsys):
    """In words and in JSON; the field of pcapng has the most that it holds, its comment the sum."""
    path = recording(LOSSES["sum over 64 bits"])
    said = "27,670,116,110,564,327,421"
    assert run(path, "show") == 0
    assert f"{said} events lost" in capsys.readouterr().err
    assert run(path, "info") == 0
    assert f"{said} lost" in capsys.readouterr().out
    assert run(path, "info --json") == 0
    found = fits("info", capsys.readouterr().out)
    assert (found["lost"], [one["events"] for one in found["losses"]]) == (3 * MOST, [MOST] * 3)
    assert run(path, "export pcapng") == 0
    content = path.with_name("out").read_bytes()
    assert struct.pack("<HHQ", 5, 8, (1 << 64) - 1) in content  # isb_ifdrop
    assert f"{said} events lost".encode() in content


def test_what_is_missing_beside_the_events(recording, capsys):
    """No command calls it events."""
    path = recording([])
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("INSERT INTO stream VALUES (9, 1, 'sockets', '{}')")
        database.execute("INSERT INTO loss VALUES (9, 9, 1, 2, NULL, 'enobufs')")
        database.commit()
    for command in COMMANDS:
        path.with_name("out").unlink(missing_ok=True)
        assert run(path, command) == 0
        said = capsys.readouterr()
        assert "not known how many" not in said.out + said.err
    assert run(path, "show") == 0
    assert "no room for all of the stream sockets" in capsys.readouterr().err


def test_sums_in_sql(recording, capsys):
    """Count what is missing of packets: not what came beside the ring, nor what is missing beside them."""
    path = recording([(1, 2, 5, "sequence"), (3, 4, 7, "overflow"), (5, 6, None, "enobufs")])
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("INSERT INTO stream VALUES (9, 1, 'drops', '{}')")
        database.execute("INSERT INTO loss VALUES (9, 9, 1, 2, 11, 'ring-full')")
        database.commit()
    asked = "SELECT sum(lost), sum(events) FROM losses"
    app(["query", str(path), asked, "--csv"], standalone_mode=False)
    assert capsys.readouterr().out.split() == ["sum(lost),sum(events)", "5,23"]


def test_a_loss_is_told_where_it_began(tmp_path, capsys):
    """Before what may lack something, however long it took; also where nobody knows how many events it was."""
    path = Path(shutil.copy(ROOT / "samples" / "loopback.db", tmp_path / "t.db"))
    app(["show", str(path), "--json"], standalone_mode=False)
    times = [json.loads(line)["time_ns"] for line in capsys.readouterr().out.splitlines()]
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute(
            "INSERT INTO loss (stream, first_ns, last_ns, events, how)"
            " SELECT id, ?, ?, NULL, 'enobufs' FROM stream WHERE kind = 'nflog'",
            (times[8], times[-1] + 1),
        )
        database.commit()
    app(["show", str(path), "--brief"], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    (at,) = (number for number, one in enumerate(lines) if "events lost, not known how many" in one)
    assert "#10 " in lines[at - 1]
    assert "#11 " in lines[at + 1]
