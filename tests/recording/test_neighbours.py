"""What lies beside a recording that is read stays as it is, and nothing comes to lie there."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from iptrec.errors import AbandonedError
from iptrec.recording import private
from iptrec.recording.reader import Reader

LOOPBACK = Path(__file__).parents[2] / "samples" / "loopback.db"
COMMANDS = {
    "show": ["show", "{db}"],
    "show --json": ["show", "{db}", "--json"],
    "show --orphans": ["show", "{db}", "--orphans"],
    "why": ["why", "{db}", "--packet", "1"],
    "paths": ["paths", "{db}"],
    "rules": ["rules", "{db}"],
    "info": ["info", "{db}"],
    "diff": ["diff", "{db}"],
    "check": ["check", "{db}", "{out}/expect.toml"],
    "query": ["query", "{db}", "SELECT count(*) FROM packets"],
    "export ndjson": ["export", "ndjson", "{db}", "-o", "{out}/x"],
    "export pcapng": ["export", "pcapng", "{db}", "-o", "{out}/x"],
    "export sqlite": ["export", "sqlite", "{db}", "-o", "{out}/x"],
    "export parquet": ["export", "parquet", "{db}", "-o", "{out}/x"],
}


def cut_off(path):
    """What a recorder leaves behind that is killed: the last of it, a loss of 4711 events, is in the -wal."""
    with tempfile.TemporaryDirectory() as directory:
        made = Path(shutil.copy(LOOPBACK, directory))
        with contextlib.closing(sqlite3.connect(made)) as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute(
                "INSERT INTO loss (stream, first_ns, last_ns, events, how) VALUES (1, 1, 2, 4711, 'x')"
            )
            database.commit()
            for suffix in ("", "-wal", "-shm"):
                shutil.copy(f"{made}{suffix}", f"{path}{suffix}")


def noise(path, *suffixes):
    shutil.copy(LOOPBACK, path)
    for suffix in suffixes:
        Path(f"{path}{suffix}").write_bytes(b"\x37" * 100_000)


def without_shm(path):
    cut_off(path)
    Path(f"{path}-shm").unlink()


def linked_shm(path):
    cut_off(path)
    Path(f"{path}-shm").rename(f"{path}-elsewhere")
    Path(f"{path}-shm").symlink_to(f"{path}-elsewhere")


def piped_shm(path):
    without_shm(path)
    os.mkfifo(f"{path}-shm")


# How it is made, and whether the -wal has something to be read.
NEIGHBOURS = {
    "none": (noise, False),
    "a -wal of noise": (lambda path: noise(path, "-wal"), False),
    "an empty -wal": (lambda path: (noise(path), Path(f"{path}-wal").touch()), False),
    "-wal and -shm of noise": (lambda path: noise(path, "-wal", "-shm"), False),
    "a -journal of noise": (lambda path: noise(path, "-journal", "-wal"), False),
    "cut off": (cut_off, True),
    "cut off, without -shm": (without_shm, True),
    "cut off, the -shm a link": (linked_shm, True),
    "cut off, the -shm a pipe": (piped_shm, True),
}


def state(directory):
    """All that changes when somebody makes, removes or writes something there, if only for a moment."""
    found = {directory.name: directory.stat().st_mtime_ns}
    for one in directory.iterdir():
        status = one.lstat()
        owner = (
            status.st_uid,
            status.st_gid,
        )  # to whom they belong already: root's SQLite makes sure of it
        found[one.name] = status.st_mode, owner, status.st_size, status.st_mtime_ns, status.st_ino
    return found


@contextlib.contextmanager
def somebody(uid):
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def place(monkeypatch):
    """A directory that all may enter, and one for output."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/nonexistent")
    with tempfile.TemporaryDirectory() as name:
        directory, out = Path(name, "in"), Path(name, "out")
        for one in (Path(name), directory, out):
            one.mkdir(exist_ok=True)
            one.chmod(0o755)
        out.chmod(0o777)
        (out / "expect.toml").write_text("[[expect]]\n")
        yield directory, out


USERS = {"owner": lambda _: contextlib.nullcontext()}
if os.geteuid() == 0:
    USERS |= {
        "root in a stranger's directory": lambda directory: (
            [
                os.chown(one, 65534, 65534, follow_symlinks=False)
                for one in (directory, *directory.iterdir())
            ],
            contextlib.nullcontext(),
        )[1],
        "another user": lambda _: somebody(65534),
        "another user who may write there": lambda directory: (
            directory.chmod(0o777),
            [one.chmod(0o666) for one in directory.iterdir() if one.is_file()],
            somebody(65534),
        )[2],
    }


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("case", NEIGHBOURS)
def test_reading_leaves_the_neighbours_alone(place, case, user):
    """Whatever they are and whoever reads; and what is in the -wal of a killed recorder is read."""
    directory, _ = place
    make, more = NEIGHBOURS[case]
    make(directory / "t.db")
    with USERS[user](directory):
        before = state(directory)
        with Reader(directory / "t.db") as reader:
            assert [one.events for one in reader.losses] == [4711] * more
            assert sum(len(chunk.lengths) for chunk in reader.chunks()) == reader.datagrams == 79
        assert state(directory) == before


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("case", ["a -wal of noise", "-wal and -shm of noise", "cut off"])
def test_every_command_leaves_the_neighbours_alone(place, capsys, case, command):
    """Not a file is made beside it, not even for a moment."""
    from iptrec.cli import app

    directory, out = place
    make, _ = NEIGHBOURS[case]
    make(directory / "t.db")
    before = state(directory)
    words = [one.format(db=directory / "t.db", out=out) for one in COMMANDS[command]]
    assert app(words, standalone_mode=False) in (0, 1)
    assert capsys.readouterr().out or (out / "x").exists() or command in ("show --orphans", "diff")
    assert state(directory) == before


@pytest.mark.parametrize(
    "head", ["377f0682 00000000 00000003", "377f0683 00000000 00020000", "377f06"]
)
def test_nobody_waits_for_noise(place, head):
    """SQLite tries for 10 seconds to make sense of some -wal beside a -shm without a recorder."""
    directory, _ = place
    noise(directory / "t.db", "-wal", "-shm")
    (directory / "t.db-wal").write_bytes(bytes.fromhex(head) + b"\1" * 50_000 * (len(head) > 6))
    begun = time.monotonic()
    with Reader(directory / "t.db") as reader:
        assert reader.datagrams == 79
    assert time.monotonic() - begun < 5


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_root_gives_nothing_away(place, suffix):
    """A file of root under the name of a stranger's -wal or -shm stays root's."""
    directory, _ = place
    cut_off(directory / "t.db")
    os.chown(directory / "t.db", 65534, 65534)
    for other in {"-wal", "-shm"} - {suffix}:
        os.chown(directory / f"t.db{other}", 65534, 65534)
    before = state(directory)
    with Reader(directory / "t.db") as reader:
        assert [one.events for one in reader.losses] == [4711]
    assert state(directory) == before


def test_a_link_to_a_recording(tmp_path):
    """What is beside the recording is read, not what is beside the link."""
    (tmp_path / "in").mkdir()
    cut_off(tmp_path / "in" / "t.db")
    (tmp_path / "link.db").symlink_to("in/t.db")
    noise(tmp_path / "other.db", "-wal")
    (tmp_path / "other.db-wal").rename(tmp_path / "link.db-wal")
    with Reader(tmp_path / "link.db") as reader:
        assert [one.events for one in reader.losses] == [4711]


def test_a_recorder_that_ends_just_then(place, monkeypatch):
    """The -wal that was there a moment ago is not missed: all that was in it is in the file."""
    directory, _ = place
    noise(directory / "t.db", "-wal")
    copied = private.copied

    def late(path, wal):
        wal.unlink()
        return copied(path, wal)

    monkeypatch.setattr(private, "copied", late)
    with Reader(directory / "t.db") as reader:
        assert reader.datagrams == 79


def test_a_recorder_that_ends_while_we_look_at_its_log(place, monkeypatch):
    """The same a moment earlier."""
    directory, _ = place
    noise(directory / "t.db", "-wal", "-shm")
    opened = private.opened

    def late(path, **options):
        path.unlink()
        return opened(path, **options)

    monkeypatch.setattr(private, "opened", late)
    with Reader(directory / "t.db") as reader:
        assert reader.datagrams == 79


def test_no_room_for_a_copy(place, monkeypatch):
    """One line that says what can be done."""
    directory, _ = place
    without_shm(directory / "t.db")
    status = os.statvfs_result((4096, 4096, 100, 20, 3, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: status)
    with pytest.raises(Exception, match=r"t\.db takes .* set TMPDIR to a directory with more$"):
        Reader(directory / "t.db")


def test_a_pipe_as_wal(place):
    """Nobody waits for who writes into it."""
    directory, _ = place
    noise(directory / "t.db")
    os.mkfifo(directory / "t.db-wal")
    with pytest.raises(Exception, match=r"t\.db-wal: it is not a regular file$"):
        Reader(directory / "t.db")


RECORDER = """
import sys
from dataclasses import replace
import numpy as np
from handmade import HandMade
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from iptrec.recording.writer import Writer
with Writer.create(Path(sys.argv[1]), replace(HandMade().facts, closed=False)) as writer:
    stream = writer.add_stream(writer.add_namespace(None, 1), "nflog", {})
    for number, line in enumerate(sys.stdin):
        writer.append(stream, number, np.array([4], np.uint32), b"more")
        writer.commit()
        print("written", flush=True)
"""


def recorder_at_work(path):
    """It writes once for each line."""
    return subprocess.Popen(
        [sys.executable, "-c", RECORDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip


def write_more(recorder):
    recorder.stdin.write("more\n")
    recorder.stdin.flush()
    assert recorder.stdout.readline() == "written\n"


def test_a_recorder_at_work(tmp_path):
    """Its -shm is shared, and its -wal is read, again and again while it goes on; through a link, too."""
    path, link = tmp_path / "in" / "t.db", tmp_path / "link.db"
    path.parent.mkdir()
    link.symlink_to(path)
    with recorder_at_work(path) as recorder:
        for count in range(1, 30):
            write_more(recorder)
            before = state(path.parent)
            assert {"t.db-wal", "t.db-shm"} < {*before}
            with Reader(link) as reader:
                assert reader.running
            with Reader(path) as reader:
                assert reader.running
                assert reader.datagrams == count
                assert sum(len(chunk.lengths) for chunk in reader.chunks()) == count
            assert state(path.parent) == before
        recorder.stdin.close()
    assert recorder.returncode == 0


def test_a_commit_under_way(tmp_path):
    """The two headers of the -shm differ (walformat.html of SQLite): who follows waits for the recorder."""
    path = tmp_path / "t.db"
    with recorder_at_work(path) as recorder, contextlib.ExitStack() as stack:
        write_more(recorder)
        held = stack.enter_context(path.open("rb"))
        shm = stack.enter_context(Path(f"{path}-shm").open("r+b"))
        with Reader(path, held.fileno()) as reader:
            assert len([*reader.chunks()]) == 1
            whole = shm.read(48)

            def change(first):
                shm.seek(0)
                shm.write(first)
                shm.flush()

            change(bytes(48))
            with ThreadPoolExecutor() as other:
                found = other.submit(lambda: len([*reader.chunks()]))
                with pytest.raises(TimeoutError):
                    found.result(0.1)
                change(whole)
                assert found.result(10) == 1
            change(bytes(48))
            recorder.kill()
            recorder.wait()
            with pytest.raises(AbandonedError, match="left it unfinished"):
                list(reader.chunks())
