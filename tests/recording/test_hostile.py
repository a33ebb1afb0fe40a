"""A recording may come from a stranger: whatever is in it, the answer is rows or one line."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from iptrec.errors import RecordingError
from iptrec.recording.reader import Reader


def read_all(path):
    """Everything that a reader can say."""
    with Reader(path) as reader:
        return (
            reader.facts, reader.namespaces, reader.streams, reader.losses, list(reader.snapshots()),
            [(one.received_ns.tolist(), one.lengths.tolist(), one.data) for one in reader.chunks()],
        )  # fmt: skip


def edit(*statements, data=()):
    """A change to a file by SQL, its schema and types open to writing."""

    def apply(path):
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA writable_schema = 1")
        for statement in statements:
            connection.execute(statement, data)
        connection.commit()
        connection.close()

    return apply


def redefine(table, sql):
    """Another definition of a table, as an SQL expression over the old one."""
    return edit(f"UPDATE sqlite_schema SET sql = {sql} WHERE name = '{table}'")


def loose(table, change):
    """A value of another type: the table is made lax, changed, and made to look strict again."""

    def apply(path):
        redefine(table, "replace(sql, ') STRICT', ')')")(path)
        edit(f"UPDATE {table} SET {change}")(path)
        redefine(table, "sql || ' STRICT'")(path)

    return apply


def frame(size, **options):
    return zstandard.ZstdCompressor(**options).compress(bytes(size))


def go_back(path):
    """A tree whose second leaf begins with chunk 1 again: asked for what follows 1, it would for ever."""
    columns = "stream, first_ns, last_ns, datagrams, noted, encoding, size, data"
    copies = "WITH RECURSIVE n(i) AS (VALUES (2) UNION ALL SELECT i + 1 FROM n WHERE i < 120)"
    edit(f"INSERT INTO chunk {copies} SELECT i, {columns} FROM n, chunk WHERE id = 1")(path)
    # https://www.sqlite.org/fileformat2.html#b_tree_pages; all numbers here are varints of one byte
    with contextlib.closing(sqlite3.connect(path)) as database:
        (root,) = database.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'chunk'"
        ).fetchone()
        (size,) = database.execute("PRAGMA page_size").fetchone()
    raw = bytearray(path.read_bytes())
    interior = memoryview(raw)[(root - 1) * size : root * size]
    assert interior[0] == 5
    last = int.from_bytes(interior[8:12])
    leaf = memoryview(raw)[(last - 1) * size : last * size]
    assert leaf[0] == 13
    first = int.from_bytes(leaf[8:10])
    assert leaf[first + 1] > 1
    leaf[first + 1] = 1
    path.write_bytes(raw)


HOSTILE = {
    "other_application": (edit("PRAGMA application_id = 1"), "is not an iptrec recording$"),
    "newer_format": (
        edit("PRAGMA user_version = 5"),
        r"recorded by a newer iptrec \(format 5, this one reads up to 4\): update iptrec$",
    ),
    "format_zero": (edit("PRAGMA user_version = 0"), "there is no format 0"),
    "view": (edit("DROP TABLE loss", "CREATE VIEW loss AS SELECT 1"), "a view loss that no"),
    "trigger": (
        edit("CREATE TRIGGER t AFTER INSERT ON loss BEGIN SELECT 1; END"),
        "a trigger t that no",
    ),
    "virtual_table": (
        edit("DROP TABLE loss", "CREATE VIRTUAL TABLE loss USING fts5(a)"),
        "a table loss",
    ),
    "generated_column": (
        edit("ALTER TABLE loss ADD COLUMN x TEXT AS (how || how)"),
        "a table loss that no",
    ),
    "index": (edit("CREATE INDEX i ON chunk (hex(data))"), "a index i"),
    "extra_table": (edit("CREATE TABLE more (a)"), "a table more"),
    "missing_table": (edit("DROP TABLE loss"), "it has no table loss"),
    "hidden_default": (
        redefine("loss", "replace(sql, 'events INTEGER', 'events INTEGER DEFAULT 1')"),
        "loss",
    ),
    "escape_in_name": (edit('CREATE TABLE "a\n\x1b[2J" (b)'), r"a table a\\n\\x1b\[2J"),
    "no_sql": (redefine("loss", "'garbage'"), "damaged: malformed database schema"),
    "bomb": (edit("UPDATE chunk SET data = ?", data=(frame(100 << 20),)), "does not have the size"),
    "bomb_declared": (
        edit("UPDATE chunk SET size = 100 << 20, data = ?", data=(frame(100 << 20),)),
        "holds more than can be read: chunk 1 has 104,857,600 bytes",
    ),
    "bomb_unsized": (
        edit("UPDATE chunk SET data = ?", data=(frame(100 << 20, write_content_size=False),)),
        "does not have the size",
    ),
    "blob_bomb": (
        edit("UPDATE blob SET size = 300 << 20, data = ?", data=(frame(300 << 20),)),
        "holds more than can be read: blob .* has 314,572,800 bytes",
    ),
    "two_frames": (
        edit("UPDATE chunk SET data = CAST(data || data AS BLOB)"),
        "chunk 1 cannot be unpacked",
    ),
    "no_frame": (edit("UPDATE chunk SET data = x'00'"), "chunk 1 cannot be unpacked"),
    "flipped_bit": (
        edit("UPDATE chunk SET data = CAST(replace(data, 'defg', 'defh') AS BLOB)"),
        "chunk 1 cannot be unpacked",
    ),
    "negative_size": (edit("UPDATE chunk SET size = -1"), "cannot have -1 bytes"),
    "encoding": (edit("UPDATE chunk SET encoding = 'lz9'"), "unknown encoding 'lz9'"),
    "no_datagrams": (edit("UPDATE chunk SET datagrams = 0"), "cannot hold 0 datagrams"),
    "negative_count": (edit("UPDATE chunk SET datagrams = -3"), "cannot hold -3 datagrams"),
    "huge_count": (edit("UPDATE chunk SET datagrams = 1 << 60"), "cannot hold"),
    "wrong_count": (edit("UPDATE chunk SET datagrams = 2"), "do not add up"),
    "no_notes": (edit("UPDATE chunk SET noted = 1"), "do not add up|cannot hold"),
    "wrong_times": (edit("UPDATE chunk SET last_ns = 21"), "other receive times"),
    "orphan_chunk": (edit("UPDATE chunk SET stream = 9"), "chunk 1 belongs to a stream 9"),
    "orphan_loss": (edit("UPDATE loss SET stream = 9"), "loss 1 belongs to a stream 9"),
    "negative_loss": (edit("UPDATE loss SET events = -1"), "loss 1 cannot have -1 events"),
    "orphan_stream": (edit("UPDATE stream SET namespace = 9"), "stream 1 belongs to a namespace 9"),
    "orphan_snapshot": (edit("UPDATE snapshot SET namespace = 9"), "belongs to a namespace 9"),
    "lost_blob": (edit("DELETE FROM blob"), "is missing or not what it was"),
    "other_content": (
        edit("UPDATE blob SET data = ?, size = 2", data=(frame(2),)),
        "is missing or not what it was",
    ),
    "no_facts": (edit("DELETE FROM recording"), "no row about the recording"),
    "bad_json": (edit("UPDATE recording SET command = '['"), "not a JSON list"),
    "other_json": (edit("UPDATE stream SET detail = '3'"), "not a JSON dict"),
    "deep_json": (
        edit("UPDATE recording SET command = replace(hex(zeroblob(100000)), '0', '[')"),
        "not a JSON list",
    ),
    "surrogate": (edit(r"""UPDATE recording SET command = '["\ud800"]'"""), "not a JSON list"),
    "not_a_number": (edit("UPDATE stream SET detail = '{\"a\": 1e999}'"), "not a JSON dict"),
    "text_for_time": (loose("recording", "started_ns = 'now'"), "recording.started_ns holds a str"),
    "real_for_count": (loose("chunk", "datagrams = 2.5"), "chunk.datagrams holds a float"),
    "text_for_data": (loose("chunk", "data = 'abc'"), "chunk.data holds a str"),
    "blob_for_name": (loose("namespace", "name = x'00'"), "namespace.name holds a bytes"),
    "big_endian": (
        edit("UPDATE recording SET byte_order = 'big'"),
        "was recorded on a big-endian host; this iptrec reads little-endian recordings only",
    ),
    "endless_tree": (go_back, "chunk 1 comes after chunk"),
    "empty": (lambda path: os.truncate(path, 0), "is not an iptrec recording$"),
    "text": (lambda path: shutil.copy("/etc/passwd", path), "is not an iptrec recording$"),
    "truncated": (lambda path: os.truncate(path, 5000), "damaged"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_file_is_one_line(tmp_path, write, case):
    """Whatever is wrong with a file, reading all of it gives one RecordingError that says so."""
    change, message = HOSTILE[case]
    path = write(tmp_path / "t.db")
    change(path)
    with pytest.raises(RecordingError, match=message) as caught:
        read_all(path)
    assert str(caught.value).isprintable()
    assert str(path) in str(caught.value)


WHOLE = (Path(__file__).parents[2] / "samples" / "both.db").read_bytes()


@given(size=st.integers(1, len(WHOLE) - 1))
@example(size=len(WHOLE) - 1)
@example(size=len(WHOLE) - 4_095)
@example(size=len(WHOLE) - 4_096)
def test_a_copy_that_is_cut_off_is_refused(size):
    """Wherever: also where the last page alone is not whole, of which zeros would be read."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "t.db")
        path.write_bytes(WHOLE[:size])
        with pytest.raises(RecordingError, match=r"is damaged|is not an iptrec recording"):
            Reader(path)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/nonexistent/t.db", "cannot open /nonexistent/t.db: No such file or directory"),
        ("/", "cannot open /: Is a directory"),
        ("/dev/zero", "cannot open /dev/zero: it is not a regular file"),
    ],
)
def test_no_file_is_one_line(path, message):
    """Nothing there, a directory, a device."""
    with pytest.raises(RecordingError, match=message):
        Reader(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user to be")
def test_unreadable_file_is_one_line(write):
    """Somebody else's recording, in a directory that all may enter."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)  # noqa: PTH101, S103 - that is the point
        path = write(Path(directory, "t.db"))
        os.seteuid(65534)
        try:
            with pytest.raises(RecordingError, match="Permission denied; ask its owner"):
                Reader(path)
        finally:
            os.seteuid(0)


@pytest.mark.parametrize("limit", ["_MAX_ROWS", "_MAX_TEXT"])
def test_small_tables_are_bounded(tmp_path, write, monkeypatch, limit):
    """Too many rows, or too much text in them, is refused while it is read."""
    monkeypatch.setattr(f"iptrec.recording.reader.{limit}", 1)
    with pytest.raises(RecordingError, match="too much in its table"):
        read_all(write(tmp_path / "t.db"))


def test_reading_changes_nothing(tmp_path, write):
    """No byte of the file, nothing beside it."""
    path = write(tmp_path / "t.db")
    before = path.read_bytes()
    read_all(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture(scope="module")
def sound(tmp_path_factory, write):
    """A recording that stays as it is."""
    return write(tmp_path_factory.mktemp("fuzz") / "sound.db")


@settings(max_examples=300)
@given(changes=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1))
@example(changes=[(100, 0)])
def test_damaged_bytes_never_raise_anything_else(sound, changes):
    """Any bytes changed anywhere: rows or a RecordingError of one line."""
    damaged = bytearray(sound.read_bytes())
    path = sound.with_name("t.db")
    for place, value in changes:
        damaged[place % len(damaged)] = value
    path.write_bytes(damaged)
    try:
        read_all(path)
    except RecordingError as error:
        assert str(error).isprintable()  # noqa: PT017 - either outcome is right


def test_reader_does_not_import_the_writer():
    """What only the writer needs costs a reader nothing."""
    code = "import sys, iptrec.recording.reader; print('sqlite_utils' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
