"""Temporary files: nobody else reads them, and nobody else can put his own in their place."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from functools import partial
from pathlib import Path

import pytest
from rights import ROOT

from iptrec.errors import RecordingError
from iptrec.recording import private

STRANGER = 65534


@pytest.fixture
def tmpdir_is(monkeypatch):
    """A function that sets TMPDIR."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    return lambda path: monkeypatch.setenv("TMPDIR", str(path))


@pytest.fixture
def home():
    """A directory that everybody may enter."""
    with tempfile.TemporaryDirectory(prefix="private-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def test_where_and_with_which_mode(tmp_path, tmpdir_is):
    """In TMPDIR, for us alone, and gone afterwards."""
    tmpdir_is(tmp_path)
    with private.directory() as made:
        assert made.parent == tmp_path
        assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("refused", [None, errno.EOPNOTSUPP])
def test_a_file_without_a_name(tmp_path, tmpdir_is, monkeypatch, refused):
    """Where the file system has such files; it gets a name for as long as one is needed."""
    tmpdir_is(tmp_path)
    monkeypatch.setattr(os, "open", partial(opened, os.open, refused))
    with private.nameless() as file:
        assert bool(list(tmp_path.iterdir())) == (refused is not None)
        assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o600
        file.write(b"content")
        file.flush()
        path = private.path_of(file)
        assert path.read_bytes() == b"content"
        for _ in range(2):
            with private.named(one=path, other=path) as made:
                assert [(made / name).read_bytes() for name in ("one", "other")] == [b"content"] * 2
        assert not made.exists()
    assert list(tmp_path.iterdir()) == []


def opened(open_, refused, path, flags, *arguments, **options):
    if refused and flags & os.O_TMPFILE == os.O_TMPFILE:
        raise OSError(refused, os.strerror(refused), str(path))
    return open_(path, flags, *arguments, **options)


def owned(path):
    os.chown(path, STRANGER, STRANGER)


def link(path):
    path.rmdir()
    path.parent.chmod(0o1777)
    (path.parent / "real").mkdir()
    path.symlink_to("real")
    os.lchown(path, STRANGER, STRANGER)


UNSAFE = {
    "a stranger's": owned,
    "of all": lambda path: path.chmod(0o777),
    "of a group": lambda path: path.chmod(0o775),
    "below a stranger's": lambda path: owned(path.parent),
    "a stranger's link": link,
}


@ROOT
@pytest.mark.parametrize("case", UNSAFE)
def test_where_others_change_names(home, tmpdir_is, case):
    """Root makes nothing there, and says what to do."""
    path = home / "tmp"
    path.mkdir()
    UNSAFE[case](path)
    tmpdir_is(path)
    with pytest.raises(RecordingError, match=r"others than root can put .*; unset it"):
        private.directory().__enter__()
    assert not list(path.iterdir())


@ROOT
def test_where_all_may_make_files(home, tmpdir_is):
    """A sticky one will do, as /tmp is."""
    home.chmod(0o1777)
    tmpdir_is(home)
    with private.directory() as made:
        assert made.parent == home


@ROOT
def test_where_nothing_is(tmp_path, tmpdir_is):
    """One line."""
    tmpdir_is(tmp_path / "missing")
    with pytest.raises(RecordingError, match=r"cannot use TMPDIR .*missing: No such file"):
        private.directory().__enter__()


@ROOT
def test_the_room_is_that_of_where_root_puts_files(tmp_path, monkeypatch):
    """Not of another directory that Python would take: of the variables for one, root takes TMPDIR alone."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.delenv("TMPDIR", raising=False)
    monkeypatch.setenv("TEMP", str(tmp_path))
    full = os.statvfs_result((4096, 4096, 100, 20, 17, 0, 0, 0, 0, 255))
    with private.nameless() as file:
        place = Path(f"/proc/self/fd/{file.fileno()}").readlink().parent
        assert place != tmp_path
        monkeypatch.setattr(os, "statvfs", lambda _: full)
        with pytest.raises(
            RecordingError, match=rf"copied, and {place} has not twice that free: set TMP"
        ):
            private.check_room(Path("t.db"), 1 << 20, file)
