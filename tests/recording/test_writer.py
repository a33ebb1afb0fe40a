"""What is written is kept: round trips, crashes, full disks, owners, outputs that cannot be."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rights import ROOT

from iptrec.errors import RecordingError, UsageError
from iptrec.files import Place
from iptrec.recording.packing import Notes
from iptrec.recording.reader import Reader
from iptrec.recording.rows import Loss
from iptrec.recording.writer import Writer

NOBODY = 65534
PRELUDE = """
    import os, sys
    from pathlib import Path
    import numpy as np
    from iptrec.errors import RecordingError
    from iptrec.recording.reader import Reader
    from iptrec.recording.rows import Facts
    from iptrec.recording.writer import Writer
    path = Path(sys.argv[1])
    facts = Facts("u", "0.1", "Linux", "h", (), None, (), (), 256, 5, 6)
"""


def python(script, *arguments, before=()):
    """Run a script in a process of its own; ``before``: words before the interpreter."""
    source = textwrap.dedent(PRELUDE) + textwrap.dedent(script)
    return subprocess.run(
        [*before, sys.executable, "-c", source, *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def datagrams(reader):
    """(received_ns, datagram) of all."""
    found = []
    for chunk in reader.chunks():
        ends = np.cumsum(chunk.lengths, dtype=np.int64)
        found += [
            (int(time), chunk.data[end - size : end])
            for time, size, end in zip(chunk.received_ns, chunk.lengths, ends, strict=True)
        ]
    return found


def names(directory):
    return sorted(one.name for one in directory.iterdir())


def one(data):
    return np.array([len(data)], np.uint32), data


@pytest.fixture
def small_disk(tmp_path):
    """Words that run a command with 3 MiB mounted at tmp_path, or with it read-only."""
    user = [] if os.geteuid() == 0 else ["-Ur"]

    def words(mount):
        return ["unshare", "-m", *user, "sh", "-c", f'{mount} && exec "$@"', "sh"]

    tried = subprocess.run(
        [*words(f"mount -t tmpfs tmpfs {tmp_path}"), "true"], capture_output=True, check=False
    )
    if tried.returncode:
        pytest.skip(f"no mount namespace here: {tried.stderr.decode().strip()}")
    return words


def test_interrupted_while_it_lets_go(tmp_path, facts, monkeypatch):
    """Ctrl-C in the very end: the recording is whole, and no descriptor is closed twice."""
    true = Place.close

    def interrupted(self):
        true(self)
        monkeypatch.undo()
        raise KeyboardInterrupt

    writer = Writer.create(tmp_path / "t.db", facts)
    monkeypatch.setattr(Place, "close", interrupted)
    with pytest.raises(KeyboardInterrupt), writer:
        writer.close(99, "SIGINT")
    assert names(tmp_path) == ["t.db"]
    with Reader(tmp_path / "t.db") as reader:
        assert reader.facts.closed


def test_all_rows_come_back(tmp_path, write, facts):
    """Facts, namespaces, streams, snapshots, losses as written; one single file, mode 0600."""
    path = write(tmp_path / "t.db")
    with Reader(path) as reader:
        found = reader.facts
        assert (found.stopped_ns, found.stop_reason, found.closed) == (99, "SIGINT", True)
        assert found.command == facts.command
        assert [(one.name, one.inode) for one in reader.namespaces] == [("blue", 42)]
        assert reader.streams[0].detail == {"group": 0}
        assert [one.content for one in reader.snapshots()] == [b"[]", b"[]"]
        assert [one.kind for one in reader.snapshots()] == ["links", "addresses"]
        assert reader.losses == [Loss(1, 1, 2, 3, "sequence")]
    assert names(tmp_path) == ["t.db"]
    assert path.stat().st_mode & 0o777 == 0o600


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.integers(0, 2**62), st.lists(st.binary(min_size=1, max_size=50), min_size=1))
    )
)
def test_datagrams_come_back(tmp_path_factory, write, batches):
    """Every datagram with its receive time, in order."""
    path = write(tmp_path_factory.mktemp("r") / "t.db", batches)
    with Reader(path) as reader:
        assert datagrams(reader) == [(time, one) for time, data in batches for one in data]


def test_buffers_may_be_reused(tmp_path, facts):
    """What the caller does with its buffers after append changes nothing."""
    lengths, data = np.array([1, 2], np.uint32), bytearray(b"abc")
    with Writer.create(tmp_path / "t.db", facts) as writer:
        stream = writer.add_stream(writer.add_namespace(None, 1), "nflog", {})
        writer.append(stream, 7, lengths, data)
        lengths[:], data[:] = 9, b"zzz"
        writer.close(1, "x")
        assert (writer.datagrams, writer.raw_bytes) == (2, 3)
    with Reader(tmp_path / "t.db") as reader:
        assert datagrams(reader) == [(7, b"a"), (7, b"bc")]


def test_notes_come_back(tmp_path, facts):
    """When the kernel sent each datagram, and where; none of a stream without a tap."""
    notes = Notes(np.array([5, 0], np.int64), np.array([1, 65535], np.uint16))
    with Writer.create(tmp_path / "t.db", facts) as writer:
        namespace = writer.add_namespace(None, 1)
        streams = [writer.add_stream(namespace, "nflog", {}) for _ in range(2)]
        lengths = np.array([1, 2], np.uint32)
        for time_ns in (7, 8):
            writer.append(streams[0], time_ns, lengths, b"abc", notes)
        writer.append(streams[1], 7, lengths, b"abc")
        writer.close(1, "x")
    with Reader(tmp_path / "t.db") as reader:
        tapped, other = reader.chunks()
    assert [one.tolist() for one in tapped.notes] == [[5, 0, 5, 0], [1, 65535, 1, 65535]]
    assert other.notes is None


def test_streams_are_kept_apart(tmp_path, facts):
    """Chunks of one stream only, and those after a chunk already seen."""
    with Writer.create(tmp_path / "t.db", facts) as writer:
        namespace = writer.add_namespace(None, 1)
        streams = [writer.add_stream(namespace, "nflog", {}) for _ in range(2)]
        for data in (b"a", b"b"):
            for stream in streams:
                writer.append(stream, 1, *one(data))
            writer.commit()
        writer.close(1, "x")
    with Reader(tmp_path / "t.db") as reader:
        second = list(reader.chunks(streams[1]))
        assert [(chunk.stream, chunk.data) for chunk in second] == [(2, b"a"), (2, b"b")]
        assert [chunk.data for chunk in reader.chunks(streams[1], after=second[0].id)] == [b"b"]


def test_what_is_added_together_is_there_together_or_not_at_all(tmp_path, facts):
    """One commit for all of it; after an error there is nothing of it, and writing goes on."""
    with Writer.create(tmp_path / "t.db", facts) as writer:
        namespace = writer.add_namespace(None, 1)
        with contextlib.suppress(KeyError), writer.together():
            writer.add_snapshot(namespace, "links", 1, "rtnetlink", b"a")
            writer.add_snapshot(namespace, "of nobody", 1, "rtnetlink", b"b")
        with writer.together():
            writer.add_snapshot(namespace, "routes", 2, "rtnetlink", b"c")
            writer.add_snapshot(namespace, "links", 2, "rtnetlink", b"d", media="json")
            with Reader(tmp_path / "t.db") as reader:
                assert list(reader.snapshots()) == []
        writer.close(3, "test")
    with Reader(tmp_path / "t.db") as reader:
        found = [(one.kind, one.media, one.content) for one in reader.snapshots()]
    assert found == [("routes", "netlink", b"c"), ("links", "json", b"d")]


def test_equal_contents_are_stored_once(tmp_path, write):
    """Two snapshots of one content share a blob."""
    connection = sqlite3.connect(write(tmp_path / "t.db"))
    assert connection.execute("SELECT count(*) FROM snapshot").fetchone() == (2,)
    assert connection.execute("SELECT count(*) FROM blob").fetchone() == (1,)
    connection.close()


def test_much_data_commits_itself(tmp_path, facts):
    """Each MiB is a chunk; what has waited for 200 ms is committed with the next one."""
    with Writer.create(tmp_path / "t.db", facts) as writer:
        stream = writer.add_stream(writer.add_namespace(None, 1), "nflog", {})
        writer.append(stream, 1, *one(b"a"))
        assert (writer.stored_bytes, writer.pace.due) == (0, False)
        writer.pace.since_ns -= 200_000_000
        assert writer.pace.due
        writer.append(stream, 2, *one(bytes(1 << 20)))
        assert writer.stored_bytes > 0
        assert not writer.pace.due
        writer.append(stream, 2, *one(bytes(1 << 20)))
        with Reader(writer.path) as reader:
            assert [len(chunk.lengths) for chunk in reader.chunks()] == [2]


def test_who_follows_sees_it_soon(tmp_path, facts):
    """After 20 ms; but commits, which wait for the disk, take a tenth of the time at most, until 200 ms."""
    with Writer.create(tmp_path / "t.db", facts) as writer:
        writer.pace.followed = True
        stream = writer.add_stream(writer.add_namespace(None, 1), "nflog", {})
        for took, due_in in ((0, 20_000_000), (5_000_000, 50_000_000), (10**9, 200_000_000)):
            writer.append(stream, 1, *one(b"a"))
            writer.pace.took_ns = took
            writer.pace.since_ns = time.monotonic_ns() - due_in + 10**9
            assert not writer.pace.due
            writer.pace.since_ns -= 10**9
            assert writer.pace.due
            writer.commit()
            assert writer.pace.due_in_ns is None


def test_waiting_ends_with_what_comes(tmp_path, facts):
    """Each commit ends one wait, also one that came before it; where nothing comes it ends by itself."""
    with Writer.create(tmp_path / "t.db", facts) as writer:
        stream = writer.add_stream(writer.add_namespace(None, 1), "nflog", {})
        with Reader(writer.path, held=writer.descriptor) as reader:
            for number in range(2):
                writer.append(stream, number, *one(b"a"))
                writer.commit()
                reader.wait(3600)
                assert len(list(reader.chunks())) == number + 1
            reader.wait(0.01)


def test_bytes_that_are_no_text(tmp_path, facts):
    r"""A command line that is no UTF-8 is kept readable, as \xNN."""
    name = os.fsdecode(b"caf\xe9")
    odd = type(facts)(
        "u", "0.1", "Linux", "h", ("iptrec", name), name, (), (), 256, 5, 6
    )  # fmt: skip
    with Writer.create(tmp_path / name, odd) as writer:
        writer.close(1, "x")
    with Reader(tmp_path / name) as reader:
        assert (reader.facts.command[1], reader.facts.filter) == (r"caf\xe9", r"caf\xe9")


@pytest.mark.parametrize("name", ["a?mode=rw", "a#b", "a%41", ":memory:", "file:x", "a b\nc"])
def test_any_file_name(tmp_path, write, monkeypatch, name):
    """A name is a name, not a URI and not a database in memory."""
    monkeypatch.chdir(tmp_path)
    write(type(tmp_path)(name))
    assert names(tmp_path) == [name]
    with Reader(name) as reader:
        assert reader.facts.closed


def test_killed_recorder_leaves_what_was_committed(tmp_path):
    """After SIGKILL the file opens, with all commits, and says that it was cut off."""
    done = python(
        """
        writer = Writer.create(path, facts)
        stream = writer.add_stream(writer.add_namespace(None, 1), "nflog", {})
        writer.append(stream, 7, np.array([4], np.uint32), b"kept")
        writer.commit()
        writer.append(stream, 8, np.array([4], np.uint32), b"lost")
        os.kill(os.getpid(), 9)
        """,
        tmp_path / "t.db",
    )
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, "")
    with Reader(tmp_path / "t.db") as reader:
        assert not reader.facts.closed
        assert datagrams(reader) == [(7, b"kept")]
    # Even the file alone says what it is.
    shutil.copy(tmp_path / "t.db", tmp_path / "alone.db")
    with Reader(tmp_path / "alone.db") as reader:
        assert reader.facts.uuid == "u"


def test_leaving_by_an_exception_keeps_all(tmp_path, facts):
    """What was appended is committed, the recording says that it was cut off, one file is left."""

    def fail():
        with Writer.create(tmp_path / "t.db", facts) as writer:
            stream = writer.add_stream(writer.add_namespace(None, 1), "nflog", {})
            writer.append(stream, 7, *one(b"kept"))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert names(tmp_path) == ["t.db"]
    with Reader(tmp_path / "t.db") as reader:
        assert not reader.facts.closed
        assert datagrams(reader) == [(7, b"kept")]
        assert names(tmp_path) == ["t.db"]  # a reader puts nothing beside it


def test_failed_row_leaves_nothing_half_done(tmp_path, facts):
    """After a refused row the writer goes on; nothing of that row is in the file."""
    with Writer.create(tmp_path / "t.db", facts) as writer:
        with pytest.raises(RecordingError, match=r"cannot write .*t\.db: .*; what was committed"):
            writer.add_snapshot(1, "links", 0, None, b"content")
        writer.close(1, "x")
    connection = sqlite3.connect(tmp_path / "t.db")
    assert connection.execute("SELECT count(*) FROM blob").fetchone() == (0,)
    connection.close()


def test_growing_recording_can_be_followed(tmp_path, facts):
    """One reader sees what is committed meanwhile, and does not keep the writer from one file."""
    with Writer.create(tmp_path / "t.db", facts) as writer:
        stream = writer.add_stream(writer.add_namespace(None, 1), "nflog", {})
        with Reader(writer.path) as reader:
            assert datagrams(reader) == []
            writer.append(stream, 7, *one(b"a"))
            writer.commit()
            chunk = next(reader.chunks())
            assert (chunk.data, reader.facts.closed) == (b"a", False)
            writer.append(stream, 8, *one(b"b"))
            writer.commit()
            assert [other.data for other in reader.chunks(after=chunk.id)] == [b"b"]
            writer.close(1, "x")
            assert reader.facts.closed
    assert names(tmp_path) == ["t.db"]


def test_stubborn_reader_does_not_stop_the_end(tmp_path, facts):
    """Whoever holds the database open: the recording is closed, and whole without its -wal."""
    with Writer.create(tmp_path / "t.db", facts) as writer:
        stream = writer.add_stream(writer.add_namespace(None, 1), "nflog", {})
        holder = sqlite3.connect(writer.path)
        assert holder.execute("SELECT count(*) FROM chunk").fetchone() == (0,)
        writer.append(stream, 7, *one(b"a"))
        writer.close(1, "x")
    shutil.copy(tmp_path / "t.db", tmp_path / "alone.db")
    holder.close()
    with Reader(tmp_path / "alone.db") as reader:
        assert reader.facts.closed
        assert datagrams(reader) == [(7, b"a")]


def test_nobody_takes_the_file_of_a_recorder_at_work(tmp_path, facts):
    """Not by force either; once that is gone, however it ended, it is a file like others."""
    path = tmp_path / "t.db"
    with (
        Writer.create(path, facts),
        pytest.raises(
            RecordingError, match=r"t.db is being recorded by another iptrec; use another"
        ),
    ):
        Writer.create(path, facts, force=True)
    with Writer.create(path, facts, force=True):
        pass


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
def test_existing_output_is_kept(tmp_path, facts, suffix):
    """Without force an existing file, or what SQLite would take for its log, is refused untouched."""
    old = tmp_path / f"t.db{suffix}"
    old.write_text("mine")
    with pytest.raises(RecordingError, match=r"exists; use force=True or another output$"):
        Writer.create(tmp_path / "t.db", facts)
    assert old.read_text() == "mine"
    with Writer.create(tmp_path / "t.db", facts, force=True) as writer:
        writer.close(1, "x")
    assert names(tmp_path) == ["t.db"]
    with Reader(tmp_path / "t.db") as reader:
        assert reader.facts.closed


@pytest.mark.parametrize("make", ["mkdir", "symlink_to", "dangling", "fifo"])
def test_only_regular_files_are_replaced(tmp_path, facts, make):
    """A directory, a symbolic link (wherever it points), a pipe: refused even with force."""
    path, other = tmp_path / "t.db", tmp_path / "other"
    if make == "mkdir":
        path.mkdir()
    elif make == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(other)
        if make != "dangling":
            other.write_text("precious")
    with pytest.raises(
        RecordingError, match="exists and is not a regular file; use another output"
    ):
        Writer.create(path, facts, force=True)
    assert other.exists() == (make == "symlink_to")
    assert make != "symlink_to" or other.read_text() == "precious"


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("missing/t.db", "there is no directory .*missing; make it"),
        ("/proc/t.db", "cannot create /proc/t.db: "),
        ("x" * 300, "File name too long"),
        (".", "not a regular file"),
    ],
)
def test_impossible_output_is_one_line(tmp_path, facts, output, message):
    """A directory that is missing or takes no files, a name that cannot be."""
    with pytest.raises(RecordingError, match=message) as caught:
        Writer.create(tmp_path / output, facts)
    assert "\n" not in str(caught.value)


@ROOT
def test_all_files_belong_to_the_owner(tmp_path, facts, behind_sudo):
    """The file, and what SQLite has beside it, are the owner's alone while recording and after."""
    behind_sudo(NOBODY)
    with Writer.create(tmp_path / "t.db", facts) as writer:
        writer.add_namespace(None, 1)
        found = {
            one.name: (one.stat().st_uid, one.stat().st_gid, oct(one.stat().st_mode & 0o777))
            for one in tmp_path.iterdir()
        }
        owned = (NOBODY, NOBODY, "0o600")
        assert found == dict.fromkeys(["t.db", "t.db-wal", "t.db-shm", "t.db-journal"], owned)
        writer.close(1, "x")
    assert (tmp_path / "t.db").stat().st_uid == NOBODY


@pytest.mark.live
def test_full_disk_keeps_what_was_committed(tmp_path, small_disk):
    """The disk fills up: one line; on the full disk the file opens with every commit in it."""
    done = python(
        """
        kept = 0
        try:
            with Writer.create(path, facts) as writer:
                stream = writer.add_stream(writer.add_namespace(None, 1), "nflog", {})
                while True:
                    writer.append(stream, 1, np.array([30_000], np.uint32), os.urandom(30_000))
                    writer.commit()
                    kept += 1
        except RecordingError as error:
            print(error)
        with Reader(path) as reader:
            print(kept > 10, reader.facts.closed, sum(1 for _ in reader.chunks()) == kept)
        """,
        tmp_path / "t.db",
        before=small_disk(f"mount -t tmpfs -o size=3m tmpfs {tmp_path}"),
    )
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert first == (
        f"cannot write {tmp_path}/t.db: database or disk is full;"
        " what was committed before is kept in it and, if there is one, in t.db-wal"
    )
    assert second == "True False True"


FULL = "(No space left on device|database or disk is full)"


@pytest.mark.live
@pytest.mark.parametrize("size", ["4k", "16k", "32k", "48k", "64k"])
def test_disk_too_full_to_begin(tmp_path, small_disk, size):
    """Not even the tables fit: one line, and nothing is left."""
    done = python(
        """
        try:
            Writer.create(path, facts)
        except RecordingError as error:
            print(error, os.listdir(path.parent))
        """,
        tmp_path / "t.db",
        before=small_disk(f"mount -t tmpfs -o size={size} tmpfs {tmp_path}"),
    )
    assert done.stderr == ""
    told = rf"cannot create {tmp_path}/t\.db: ([\w /]+: )?{FULL}; use another output \[\]\n"
    assert re.fullmatch(told, done.stdout)


@pytest.mark.live
@pytest.mark.parametrize("without", ["", "-shm"])
def test_cut_off_recording_in_a_read_only_directory(tmp_path, small_disk, without):
    """What is only in the -wal is read where no -shm can be made; nothing is changed."""
    done = python(
        """
        writer = Writer.create(path, facts)
        stream = writer.add_stream(writer.add_namespace(None, 1), "nflog", {})
        writer.append(stream, 7, np.array([4], np.uint32), b"kept")
        writer.commit()
        os.kill(os.getpid(), 9)
        """,
        tmp_path / "t.db",
    )
    assert done.returncode == -signal.SIGKILL
    if without:
        (tmp_path / f"t.db{without}").unlink()
    before = names(tmp_path)
    read_only = f"mount --bind {tmp_path} {tmp_path} && mount -o remount,bind,ro {tmp_path}"
    done = python(
        "with Reader(path) as reader: print([chunk.data for chunk in reader.chunks()])",
        tmp_path / "t.db",
        before=small_disk(read_only),
    )
    assert (done.stdout, done.stderr) == ("[b'kept']\n", "")
    assert names(tmp_path) == before


def follow(writer, batches=1):
    """A stream, and batches of one datagram that are committed."""
    stream = writer.add_stream(writer.add_namespace(None, 1), "nflog", {})
    for number in range(batches):
        writer.append(stream, number, *one(b"kept"))
        writer.commit()
    return stream


@pytest.mark.parametrize("how", ["deleted", "moved", "replaced", "moved in a transaction"])
def test_nothing_stays_beside_a_file_that_is_gone(tmp_path, facts, how):
    """Somebody deletes or moves the recording: one line; what was moved is whole, no log stays behind."""

    def write():
        with Writer.create(tmp_path / "t.db", facts) as writer:
            stream = follow(writer)
            if how == "deleted":
                (tmp_path / "t.db").unlink()
            else:
                (tmp_path / "t.db").rename(tmp_path / "moved.db")
            if how == "replaced":
                (tmp_path / "t.db").write_text("mine")
            if how == "moved in a transaction":
                writer.append(stream, 2, *one(bytes(1 << 20)))
            writer.append(stream, 3, *one(b"more"))
            writer.close(1, "x")

    with pytest.raises(RecordingError, match=r"t\.db: somebody moved or deleted it while it was"):
        write()
    left = {"deleted": [], "replaced": ["moved.db", "t.db"]}.get(how, ["moved.db"])
    assert names(tmp_path) == left
    if how == "replaced":
        assert (tmp_path / "t.db").read_text() == "mine"
    if how != "deleted":
        with Reader(tmp_path / "moved.db") as reader:
            assert datagrams(reader) == [(0, b"kept")]
            assert not reader.facts.closed


def test_moved_directory_is_followed(tmp_path, facts):
    """The directory gets another name meanwhile: the recording goes on, and one single file is left."""
    (tmp_path / "old").mkdir()
    with Writer.create(tmp_path / "old" / "t.db", facts) as writer:
        stream = follow(writer)
        (tmp_path / "old").rename(tmp_path / "new")
        writer.append(stream, 7, *one(b"more"))
        writer.commit()
        with Reader(tmp_path / "new" / "t.db") as reader:
            assert len(datagrams(reader)) == 2
        writer.close(1, "x")
    assert names(tmp_path / "new") == ["t.db"]
    with Reader(tmp_path / "new" / "t.db") as reader:
        assert (len(datagrams(reader)), reader.facts.closed) == (2, True)


LIMITED = """
    import resource
    kept = 0
    try:
        with Writer.create(path, facts) as writer:
            writer.keeps = sys.argv[2] == "kept"
            stream = writer.add_stream(writer.add_namespace(None, 1), "nflog", {})
            resource.setrlimit(resource.RLIMIT_FSIZE, (256 << 10, 256 << 10))
            while True:
                writer.append(stream, 1, np.array([30_000], np.uint32), os.urandom(30_000))
                writer.commit()
                kept += 1
    except RecordingError as error:
        print(error)
    if path.exists():
        with Reader(path) as reader:
            print(kept, sum(1 for _ in reader.chunks()))
    else:
        print(os.listdir(path.parent))
"""


@pytest.mark.parametrize("stays", ["kept", "taken away"])
def test_limit_of_file_size_is_told_as_it_is(tmp_path, stays):
    """With ulimit -f: what was committed is kept, or no file is left; the message says which."""
    done = python(LIMITED, tmp_path / "t.db", stays)
    assert done.stderr == ""
    told, found = done.stdout.splitlines()
    assert re.fullmatch(rf"cannot write {tmp_path}/t\.db: [^;]*; .*", told)
    if stays == "kept":
        assert told.endswith(
            "; what was committed before is kept in it and, if there is one, in t.db-wal"
        )
        kept, stored = map(int, found.split())
        assert kept == stored > 0
    else:
        assert told.endswith("; no file is left")
        assert found == "[]"


SILENT = """
    import resource
    try:
        with Writer.create(path, facts) as writer:
            namespace = writer.add_namespace(None, 1)
            events = writer.add_stream(namespace, "nflog", {})
            links = writer.add_stream(namespace, "rtnetlink", {})
            if sys.argv[2] == "seen":
                writer.append(events, 1, np.array([4], np.uint32), b"seen")
                writer.commit()
            resource.setrlimit(resource.RLIMIT_FSIZE, (256 << 10, 256 << 10))
            while True:
                writer.append(links, 1, np.array([30_000], np.uint32), os.urandom(30_000))
                if sys.argv[2] == "at once":
                    writer.append(events, 1, np.array([900_000], np.uint32), os.urandom(900_000))
                writer.commit()
    except RecordingError as error:
        print(error)
    print(os.listdir(path.parent))
"""


@pytest.mark.parametrize("events", ["none", "at once", "seen"])
def test_what_cannot_be_written_leaves_no_file_without_events(tmp_path, events):
    """It would read as if no packet had been traced: it stays where events were committed."""
    done = python(SILENT, tmp_path / "t.db", events)
    assert done.stderr == ""
    told, left = done.stdout.splitlines()
    if events == "seen":
        assert told.endswith(
            "; what was committed before is kept in it and, if there is one, in t.db-wal"
        )
        assert "t.db" in left
    else:
        assert told.endswith("; no file is left")
        assert left == "[]"


def test_another_error_keeps_a_file_without_events(tmp_path, facts):
    """It is true that no packet was traced until then."""
    with pytest.raises(ValueError, match="another"), Writer.create(tmp_path / "t.db", facts):
        raise ValueError("another")
    with Reader(tmp_path / "t.db") as reader:
        assert not reader.facts.closed


def test_copy_is_closed_and_whole(tmp_path, facts):
    """What there is so far as a recording of its own, with nothing beside it; never over another file."""
    with Writer.create(tmp_path / "t.db", facts) as writer:
        follow(writer, 3)
        writer.copy(tmp_path / "copy.db", 5, "SIGUSR1")
        with pytest.raises(RecordingError, match=r"copy\.db exists"):
            writer.copy(tmp_path / "copy.db", 5, "SIGUSR1")
        assert [one for one in names(tmp_path) if not one.startswith("t.db")] == ["copy.db"]
        assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600
        follow(writer)
        writer.close(9, "x")
    with Reader(tmp_path / "copy.db") as reader:
        assert datagrams(reader) == [(number, b"kept") for number in range(3)]
        assert (reader.facts.closed, reader.facts.stop_reason) == (True, "SIGUSR1")
    with Reader(tmp_path / "t.db") as reader:
        assert len(datagrams(reader)) == 4


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
def test_planted_companion_is_refused(tmp_path, facts, monkeypatch, suffix):
    """A file that appears beside the recording just after that was made is not taken for SQLite's."""
    from iptrec.files import Draft

    publish = Draft.publish

    def and_plant(draft, *, replace):
        publish(draft, replace=replace)
        (tmp_path / f"t.db{suffix}").write_text("mine")

    monkeypatch.setattr(Draft, "publish", and_plant)
    with pytest.raises(RecordingError, match="exists"):
        Writer.create(tmp_path / "t.db", facts)
    assert names(tmp_path) == [f"t.db{suffix}"]
    assert (tmp_path / f"t.db{suffix}").read_text() == "mine"


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
@pytest.mark.parametrize("how", ["touch", "hardlink"])
def test_swapped_log_is_refused(tmp_path, facts, monkeypatch, suffix, how):
    """Somebody else's file in the place of the -wal or -shm: nothing goes into it."""
    from iptrec.recording.home import Home

    connect = Home.connect
    (tmp_path / "theirs").touch()

    def swapped(home):
        name = tmp_path / f"t.db{suffix}"
        name.unlink()
        if how == "touch":
            name.touch()
        else:
            name.hardlink_to(tmp_path / "theirs")
        return connect(home)

    monkeypatch.setattr(Home, "connect", swapped)
    with pytest.raises(RecordingError, match="somebody put another file beside it"):
        Writer.create(tmp_path / "t.db", facts)
    assert {one.stat().st_size for one in tmp_path.iterdir()} == {0}


def test_filesystem_without_unnamed_files(tmp_path, write, monkeypatch):
    """Where O_TMPFILE and links are missing (vfat) a file has a name of its own until it is whole."""
    from iptrec.files import Place

    def refused(*_):
        raise PermissionError

    monkeypatch.setattr(Place, "make_unnamed", lambda _: None)
    write(tmp_path / "a.db")
    monkeypatch.setattr(Place, "link", refused)
    write(tmp_path / "b.db")
    assert names(tmp_path) == ["a.db", "b.db"]


@ROOT
@pytest.mark.parametrize("uid", ["99999999999", "-5", "4294967295", "x", "", "0" * 12 + "9" * 5000])
def test_nonsense_behind_sudo_is_one_line(tmp_path, facts, behind_sudo, uid):
    """SUDO_UID that is no id: refused before anything is made."""
    behind_sudo(uid)
    with pytest.raises(UsageError, match=r"^SUDO_UID is '.{0,20}', not a user's"):
        Writer.create(tmp_path / "t.db", facts)
    assert names(tmp_path) == []
