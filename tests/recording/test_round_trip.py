"""What is written is read; what is no recording is refused in one line."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from iptrec.errors import RecordingError
from iptrec.recording.reader import Reader
from iptrec.recording.rows import Facts, Loss
from iptrec.recording.schema import SCHEMA
from iptrec.recording.writer import Writer

FACTS = Facts("u", "0.1", "Linux", "h", ("iptrec", "record"), "tcp", ("ipv4",), ("lo",), 256, 5, 6)


def lengths(data):
    return np.array([len(one) for one in data], np.uint32)


def write(path, batches=((10, [b"abc", b"x"]), (20, [b"defg"])), *, close=True):
    with Writer.create(path, FACTS) as writer:
        namespace = writer.add_namespace("blue", 42)
        stream = writer.add_stream(namespace, "nflog", {"group": 0})
        for received, data in batches:
            writer.append(stream, received, lengths(data), b"".join(data))
        writer.add_snapshot(namespace, "links", 1, "links", b"[]")
        writer.add_snapshot(namespace, "addresses", 2, "addresses", b"[]")
        writer.add_loss(Loss(stream, 1, 2, 3, "sequence"))
        if close:
            writer.close(99, "SIGINT")
    return path


def test_frozen_schema_is_the_one_in_use():
    """schemas/recording-v1.sql is the text of format 1 for ever."""
    frozen = Path(__file__).parents[2] / "schemas" / "recording-v1.sql"
    assert frozen.read_text() == SCHEMA


def test_all_rows_come_back(tmp_path):
    """Facts, namespaces, streams, snapshots, losses as written; one single file, mode 0600."""
    path = write(tmp_path / "t.db")
    with Reader(path) as reader:
        assert reader.facts.closed
        assert (reader.facts.command, reader.facts.stop_reason) == (("iptrec", "record"), "SIGINT")
        assert [(one.name, one.inode) for one in reader.namespaces] == [("blue", 42)]
        assert reader.streams[0].detail == {"group": 0}
        assert [one.content for one in reader.snapshots()] == [b"[]", b"[]"]
        assert reader.losses == [Loss(1, 1, 2, 3, "sequence")]
    assert [one.name for one in tmp_path.iterdir()] == ["t.db"]
    assert path.stat().st_mode & 0o777 == 0o600
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT count(*) FROM blob").fetchone() == (1,)
    connection.close()


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2**62), st.lists(st.binary(min_size=1, max_size=50), min_size=1))
    )
)
def test_datagrams_come_back(tmp_path_factory, batches):
    """Every datagram with its receive time, in order."""
    path = write(tmp_path_factory.mktemp("r") / "t.db", batches)
    found = []
    with Reader(path) as reader:
        for chunk in reader.chunks():
            ends = np.cumsum(chunk.lengths, dtype=np.int64)
            found += [
                (int(time), chunk.data[end - size : end])
                for time, size, end in zip(chunk.received_ns, chunk.lengths, ends, strict=True)
            ]
    assert found == [(time, one) for time, data in batches for one in data]


def test_killed_recorder_leaves_what_was_committed(tmp_path):
    """After SIGKILL the file opens, with all commits, and says that it was cut off."""
    script = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[2]); import test_round_trip as t, os\n"
        "w = t.Writer.create(pathlib.Path(sys.argv[1]), t.FACTS)\n"
        "s = w.add_stream(w.add_namespace(None, 1), 'nflog', {})\n"
        "w.append(s, 7, t.lengths([b'kept']), b'kept'); w.commit()\n"
        "print('ready', flush=True); os.kill(os.getpid(), 9)\n"
    )
    path = tmp_path / "t.db"
    done = subprocess.run(
        [sys.executable, "-c", script, str(path), str(Path(__file__).parent)],
        capture_output=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"ready\n")
    with Reader(path) as reader:
        assert not reader.facts.closed
        assert [chunk.data for chunk in reader.chunks()] == [b"kept"]


def test_existing_output_is_kept(tmp_path):
    """Without force an existing file is refused untouched, with it replaced."""
    path = tmp_path / "t.db"
    path.write_text("mine")
    with pytest.raises(RecordingError, match="exists; use --force"):
        Writer.create(path, FACTS)
    assert path.read_text() == "mine"
    with Writer.create(path, FACTS, force=True) as writer:
        writer.close(1, "x")
    with Reader(path) as reader:
        assert reader.facts.closed


@pytest.mark.parametrize("output", ["missing/t.db", "/proc/t.db"])
def test_impossible_output_is_one_line(tmp_path, output):
    """A directory that is missing or takes no files."""
    with pytest.raises(RecordingError, match="cannot create"):
        Writer.create(tmp_path / output, FACTS)


def edit(*statements):
    def apply(path):
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA writable_schema = 1")
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        connection.close()

    return apply


def bomb(path):
    data = zstandard.ZstdCompressor().compress(bytes(100 << 20))
    connection = sqlite3.connect(path)
    connection.execute("UPDATE chunk SET data = ?, size = 40", (data,))
    connection.commit()
    connection.close()


def read_everything(path):
    with Reader(path) as reader:
        _ = reader.facts, reader.namespaces, reader.streams, reader.losses
        reader.snapshots()
        list(reader.chunks())


HOSTILE = {
    "other_application": (edit("PRAGMA application_id = 1"), "is not an iptrec recording"),
    "newer_format": (edit("PRAGMA user_version = 2"), "recorded by a newer iptrec"),
    "view": (edit("DROP TABLE loss", "CREATE VIEW loss AS SELECT 1"), "a view loss"),
    "trigger": (
        edit("CREATE TRIGGER t AFTER INSERT ON loss BEGIN SELECT 1; END"),
        "a trigger t",
    ),
    "extra_table": (edit("CREATE TABLE more (a)"), "not those of a recording"),
    "bomb": (bomb, "does not have the size"),
    "negative_size": (edit("UPDATE chunk SET size = -1"), "size -1"),
    "huge_count": (edit("UPDATE chunk SET datagrams = 1 << 60"), "cannot hold"),
    "wrong_content": (edit("UPDATE blob SET size = 0"), "damaged"),
    "bad_json": (edit("UPDATE recording SET command = '['"), "no JSON list"),
    "empty": (lambda path: path.write_bytes(b""), "is not an iptrec recording"),
    "text": (lambda path: shutil.copy("/etc/passwd", path), "is not an iptrec recording"),
    "truncated": (lambda path: os.truncate(path, 5000), "damaged"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_file_is_one_line(tmp_path, case):
    """Whatever is wrong with a file, reading all of it gives one RecordingError that says so."""
    change, message = HOSTILE[case]
    path = write(tmp_path / "t.db")
    change(path)
    with pytest.raises(RecordingError, match=message) as caught:
        read_everything(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["/nonexistent/t.db", "/"])
def test_missing_file_is_one_line(path):
    """No file, or a directory."""
    with pytest.raises(RecordingError, match="cannot open"):
        Reader(path)
