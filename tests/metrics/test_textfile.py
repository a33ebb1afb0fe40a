"""A file that is replaced again and again."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import pytest
from rights import ROOT

from iptrec.errors import IptrecError, RecordingError, UsageError
from iptrec.metrics import exposition, textfile
from iptrec.metrics.textfile import TextFile


def test_it_is_whole_at_any_time(tmp_path):
    """Who reads while it is replaced has one text or the other."""
    path = tmp_path / "a.prom"
    file = TextFile(path)
    file.write("a" * 100_000)
    done = threading.Event()
    seen = set()

    def read():
        while not done.is_set():
            seen.add(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(200):
        file.write("ab"[number % 2] * 100_000)
    done.set()
    reader.join()
    assert seen <= {"a" * 100_000, "b" * 100_000}
    assert len(seen) == 2
    assert [one.name for one in tmp_path.iterdir()] == ["a.prom"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_link_is_replaced_and_not_followed(tmp_path):
    target, path = tmp_path / "target", tmp_path / "a.prom"
    target.write_text("kept")
    path.symlink_to(target)
    TextFile(path).write("new")
    assert (target.read_text(), path.is_symlink(), path.read_text()) == ("kept", False, "new")


@pytest.mark.parametrize(
    "make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/etc/passwd")]
)
def test_what_is_no_file_of_ours_is_not_taken(tmp_path, make):
    path = tmp_path / "a.prom"
    make(path)
    before = path.lstat()
    with pytest.raises(IptrecError, match=r"not a file of --metrics|Is a directory"):
        TextFile(path).take()
    assert path.lstat() == before


@pytest.mark.parametrize("text", ["precious", "# HELP node_x"])
def test_a_file_of_something_else_is_not_taken(tmp_path, text):
    path = tmp_path / "a.prom"
    path.write_text(text)
    with pytest.raises(UsageError, match="is not a file of --metrics"):
        TextFile(path).take()
    assert path.read_text() == text


def counts(*, recording):
    return exposition.text(exposition.Counts(), started_ns=0, recording=recording)


def test_a_file_is_kept_by_one(tmp_path, monkeypatch):
    """However often it is replaced, and until its keeper lets go; nothing else lies beside it."""
    monkeypatch.setattr(textfile, "_PATIENCE_S", 0.1)
    path = tmp_path / "a.prom"
    first, second = TextFile(path), TextFile(path)
    assert first.take() == ""
    for _ in range(3):
        first.write(counts(recording=True))
        with pytest.raises(UsageError, match="another recorder keeps"):
            second.take()
    first.close()
    assert second.take() == counts(recording=True)
    assert [one.name for one in tmp_path.iterdir()] == ["a.prom"]


def test_one_that_is_about_to_end_is_waited_for(tmp_path):
    path = tmp_path / "a.prom"
    first = TextFile(path)
    first.take()
    first.write(counts(recording=True))
    ending = threading.Timer(0.3, first.close)
    ending.start()
    TextFile(path).take()
    ending.join()


def test_a_stranger_who_locks_what_has_ended_keeps_nobody_away(tmp_path, monkeypatch):
    """Everybody may read the file, and who reads may lock."""
    monkeypatch.setattr(textfile, "_PATIENCE_S", 0.1)
    path = tmp_path / "a.prom"
    path.write_text(counts(recording=False))
    with path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        TextFile(path).take()


@ROOT
@pytest.mark.parametrize("whose", [0, 65534])
def test_root_is_not_led_by_the_links_of_others(tmp_path, whose):
    """A directory of theirs may be on the way; in a directory that only root changes, a link may be."""
    for one in (tmp_path.parent, tmp_path.parent.parent):
        one.chmod(0o755)
    theirs, target = tmp_path / "theirs", tmp_path / "target"
    (theirs / "inner").mkdir(parents=True)
    target.mkdir()
    (theirs / "link").symlink_to(target)
    os.chown(theirs, whose, whose)
    os.chown(theirs / "link", whose, whose, follow_symlinks=False)
    TextFile(theirs / "inner" / "a.prom").close()
    if whose:
        with pytest.raises(RecordingError, match="can change a link"):
            TextFile(theirs / "link" / "a.prom")
    else:
        TextFile(theirs / "link" / "a.prom").close()


def test_nothing_stays_where_it_cannot_be_written(tmp_path):
    (tmp_path / "a.prom").mkdir()
    file = TextFile(tmp_path / "a.prom")
    with pytest.raises(RecordingError, match=r"cannot write .*a\.prom"):
        file.write("x")
    assert [one.name for one in tmp_path.iterdir()] == ["a.prom"]


def test_there_is_no_directory(tmp_path):
    with pytest.raises(RecordingError, match="No such file"):
        TextFile(tmp_path / "no" / "a.prom")


@ROOT
def test_roots_rights_are_not_used_for_others(tmp_path):
    """In the directory of another user it is made as that user: it can be replaced there, and is theirs."""
    os.chown(tmp_path, 65534, 65534)
    for one in (tmp_path.parent, tmp_path.parent.parent):
        one.chmod(0o755)
    path = Path("a.prom")
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.chdir(tmp_path)
            TextFile(path).write("x")
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert (tmp_path / path).stat().st_uid == 65534


@ROOT
def test_a_directory_of_somebody_else_is_refused_behind_sudo(tmp_path, monkeypatch):
    """What that user could not do, sudo iptrec does not do either."""
    os.chown(tmp_path, 65533, 65533)
    monkeypatch.setenv("SUDO_UID", "65534")
    monkeypatch.setenv("SUDO_GID", "65534")
    with pytest.raises(UsageError, match="belongs to user 65533"):
        TextFile(tmp_path / "a.prom")
