"""How files are made: with whose rights, with which mode, and only where nobody can lead SQLite astray."""

from __future__ import annotations

import contextlib
import os
import pwd
import tempfile
from pathlib import Path

import pytest
from rights import ROOT

from iptrec import identity
from iptrec.errors import RecordingError, UsageError
from iptrec.files import Draft, DraftDirectory, Place, connect

STRANGER = 65534


@pytest.fixture
def home():
    """A directory that everybody may enter."""
    with tempfile.TemporaryDirectory(prefix="iptrec-files-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.fixture
def theirs(home):
    """A directory of the stranger's."""
    made = home / "theirs"
    made.mkdir()
    os.chown(made, STRANGER, STRANGER)
    return made


@pytest.fixture
def umask():
    """A function that sets the umask, which is as it was afterwards."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def effective():
    """The capabilities that count, of this thread."""
    lines = Path("/proc/thread-self/status").read_text().splitlines()
    return int(next(one for one in lines if one.startswith("CapEff:")).split()[1], 16)


@ROOT
def test_acting_as_somebody_is_for_a_moment(home, behind_sudo):
    """Within it root's files are closed, nested as well; afterwards all is as before."""
    behind_sudo(STRANGER)
    secret = home / "secret"
    secret.touch(mode=0o600)
    user = identity.behind_sudo()
    before = effective()
    with identity.acting_as(user):
        with identity.acting_as(user):
            pass
        with pytest.raises(PermissionError):
            secret.open()
        with pytest.raises(PermissionError):
            (home / "new").touch()
        assert effective() != before
    secret.open().close()
    assert effective() == before


@ROOT
def test_acting_needs_no_capability_once_prepared(home, behind_sudo):
    """After CAP_SETUID and CAP_SETGID are given up, as the recorder does, it goes on."""
    from iptrec.kernel import privileges

    behind_sudo(STRANGER)
    (home / "secret").touch(mode=0o600)
    child = os.fork()
    if child == 0:
        found = 9
        with contextlib.suppress(BaseException):
            identity.prepare(identity.behind_sudo())
            privileges.keep(privileges.RECORDER)
            with identity.acting_as(identity.behind_sudo()):
                found = 1 if os.access("/proc/self/fd", os.R_OK) else 2
                with contextlib.suppress(PermissionError):
                    (home / "secret").open()
                    found = 3
        os._exit(found)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


@ROOT
def test_root_group_does_not_help(home, behind_sudo):
    """What root's group may read the user may not."""
    behind_sudo(STRANGER)
    (home / "secret").touch(mode=0o040)
    os.setgroups([0])
    with identity.acting_as(identity.behind_sudo()), pytest.raises(PermissionError):
        (home / "secret").open()


@ROOT
def test_who_is_behind_sudo(behind_sudo, monkeypatch):
    """Nobody without it or for root itself; the groups are the user's, without SUDO_GID as well."""
    monkeypatch.delenv("SUDO_UID", raising=False)
    assert identity.behind_sudo() is None
    behind_sudo(0)
    assert identity.behind_sudo() is None
    known = next(one for one in pwd.getpwall() if 0 < one.pw_uid < STRANGER)
    behind_sudo(known.pw_uid, known.pw_gid)
    monkeypatch.delenv("SUDO_GID")
    found = identity.behind_sudo()
    assert (found.uid, found.gid) == (known.pw_uid, known.pw_gid)
    assert set(found.groups) == set(os.getgrouplist(known.pw_name, known.pw_gid))
    behind_sudo(4_000_000_000)
    assert identity.behind_sudo() == (4_000_000_000, 4_000_000_000, (4_000_000_000,))
    monkeypatch.delenv("SUDO_GID")
    with pytest.raises(UsageError, match="SUDO_GID is ''"):
        identity.behind_sudo()
    monkeypatch.setattr(identity, "_mapped", lambda *_: False)
    behind_sudo(STRANGER)
    assert identity.behind_sudo() is None


@ROOT
@pytest.mark.parametrize(
    ("owner", "mode", "ours", "safe"),
    [
        (0, 0o755, True, True),
        (0, 0o700, True, True),
        (0, 0o1777, False, True),
        (0, 0o777, False, False),
        (0, 0o775, False, False),
        (STRANGER, 0o755, False, False),
        (STRANGER, 0o1777, False, False),
    ],
)
def test_directories_that_others_can_change(home, owner, mode, ours, safe):
    """By their owner, write permission, the sticky bit; and by those of the directories above."""
    directory = home / "one"
    directory.mkdir()
    directory.chmod(mode)
    os.chown(directory, owner, owner)
    with contextlib.closing(Place(directory / "t.db")) as place:
        assert (place.ours, place.safe) == (ours, safe)
    (directory / "below").mkdir(mode=0o700)
    if not safe:
        with pytest.raises(RecordingError, match=r"change where .*below leads"):
            Place(directory / "below" / "t.db")
        return
    with contextlib.closing(Place(directory / "below" / "t.db")) as place:
        assert (place.ours, place.safe) == (True, True)


LINKS = {  # what the path goes through, and whether root lets itself be led by it
    "root's link": (lambda home: (home / "l").symlink_to("vault"), "l", True),
    "root's links, one behind the other": (
        lambda home: ((home / "l").symlink_to(home / "m"), (home / "m").symlink_to("vault/../vault")),
        "l", True,
    ),
    "their link": (lambda home: linked(home / "theirs" / "l", home / "vault"), "theirs/l", False),
    "root's link in theirs": (
        lambda home: (home / "theirs" / "l").symlink_to(home / "vault"), "theirs/l", False
    ),
    "root's link to theirs": (
        lambda home: (linked(home / "theirs" / "l", "../vault"), (home / "m").symlink_to("theirs/l")),
        "m", False,
    ),
    "their link where all may make one": (
        lambda home: (shared(home / "tmp"), linked(home / "tmp" / "l", home / "vault")), "tmp/l", False
    ),
    "root's link where all may make one": (
        lambda home: (shared(home / "tmp"), (home / "tmp" / "l").symlink_to(home / "vault")),
        "tmp/l", True,
    ),
    "up from theirs": (lambda _: None, "theirs/../vault", False),
    "up": (lambda _: None, "vault/../vault", True),
}  # fmt: skip


def linked(link, aim):
    """A link of the stranger's."""
    link.symlink_to(aim)
    os.lchown(link, STRANGER, STRANGER)


def shared(directory):
    """As /tmp is."""
    directory.mkdir()
    directory.chmod(0o1777)


@ROOT
@pytest.mark.parametrize("sudo", [None, STRANGER])
@pytest.mark.parametrize("case", LINKS)
@pytest.mark.usefixtures("theirs")
def test_who_leads_root(home, behind_sudo, case, sudo):
    """Through nobody else's link, and through no directory where somebody else could put one."""
    (home / "vault").mkdir(mode=0o700)
    make, path, led = LINKS[case]
    make(home)
    if sudo:
        behind_sudo(sudo)
    if led:
        with Draft(home / path / "t.db") as draft:
            draft.publish(replace=False)
        assert (home / "vault" / "t.db").stat().st_uid == (sudo or 0)
    else:
        with pytest.raises((RecordingError, PermissionError)):
            Draft(home / path / "t.db")
        assert list((home / "vault").iterdir()) == []


@ROOT
def test_user_behind_sudo_goes_through_own_links(theirs, behind_sudo):
    """As far as that user's own rights lead."""
    behind_sudo(STRANGER)
    (theirs / "real").mkdir()
    os.chown(theirs / "real", STRANGER, STRANGER)
    linked(theirs / "l", "real")
    with Draft(theirs / "l" / "t.db") as draft:
        draft.publish(replace=False)
    assert (theirs / "real" / "t.db").stat().st_uid == STRANGER


@ROOT
@pytest.mark.parametrize("owner", [0, STRANGER, STRANGER - 1])
def test_root_replaces_nothing_of_others_for_the_user_behind_sudo(home, behind_sudo, owner):
    """In root's directory, where that user alone could not."""
    behind_sudo(STRANGER)
    (home / "t.db").write_text("precious")
    os.chown(home / "t.db", owner, owner)
    with Draft(home / "t.db") as draft:
        if owner == STRANGER:
            draft.publish(replace=True)
        else:
            with pytest.raises(RecordingError, match=f"belongs to user {owner}, not to user 65534"):
                draft.publish(replace=True)
    assert ((home / "t.db").read_text() == "precious") == (owner != STRANGER)


@ROOT
def test_sqlite_is_not_let_into_others_directories(theirs):
    """Root without sudo: one line that says whose it is to be; nothing is made."""
    with pytest.raises(
        RecordingError, match=r"others than root can change the directory .*; use one"
    ):
        Draft(theirs / "t.db", named=True)
    assert list(theirs.iterdir()) == []


@ROOT
@pytest.mark.parametrize("where", ["theirs", "root's"])
def test_files_belong_to_the_user_behind_sudo(home, theirs, behind_sudo, where):
    """In a directory of the user's, and in one that only root can change."""
    behind_sudo(STRANGER)
    parent = theirs if where == "theirs" else home
    with Draft(parent / "one") as draft:
        draft.publish(replace=False)
    with DraftDirectory(parent / "two") as made:
        with made.acting():
            (made.path / "a" / "b").mkdir(parents=True)
            (made.path / "a" / "b" / "c").touch()
        made.publish(replace=False)
    found = [parent / "one", parent / "two", *(parent / "two").rglob("*")]
    assert len(found) == 5
    for path in found:
        status = path.stat()
        expected = 0o700 if path.is_dir() else 0o600
        assert (status.st_uid, status.st_gid) == (STRANGER, STRANGER), path
        assert status.st_mode & 0o777 == expected, path


@ROOT
def test_no_more_than_the_user_may(home, behind_sudo):
    """A directory that the user may not write, though root could."""
    behind_sudo(STRANGER)
    other = home / "other"
    other.mkdir(mode=0o755)
    os.chown(other, STRANGER - 1, STRANGER - 1)
    with pytest.raises(PermissionError):
        Draft(other / "one")
    assert list(other.iterdir()) == []


@pytest.mark.parametrize(
    ("mask", "mode", "expected"),
    [
        (0o022, None, 0o600),
        (0o000, None, 0o600),
        (0o277, None, 0o400),
        (0o077, 0o644, 0o644),
        (0o022, 0o664, 0o664),
    ],
)
def test_modes(tmp_path, umask, mask, mode, expected):
    """Private, less where the umask says so, more where it is asked for by --mode alone."""
    umask(mask)
    with Draft(tmp_path / "file", mode=mode) as draft:
        draft.publish(replace=False)
    assert (tmp_path / "file").stat().st_mode & 0o777 == expected
    umask(mask & 0o077)
    with DraftDirectory(tmp_path / "directory", mode=mode) as made:
        (made.path / "file").touch()
        made.publish(replace=False)
    assert (tmp_path / "directory").stat().st_mode & 0o777 == {
        0o600: 0o700, 0o400: 0o700, 0o644: 0o755, 0o664: 0o775
    }[expected]  # fmt: skip


@pytest.mark.parametrize("named", [False, True])
def test_unpublished_draft_leaves_nothing(tmp_path, named):
    """Not a name; and there is none that is right until it is published."""
    with Draft(tmp_path / "one", named=named) as draft:
        draft.stream().close()
        assert not (tmp_path / "one").exists()
    assert list(tmp_path.iterdir()) == []


MADE = {
    "make": lambda path: Draft(path, named=True),
    "make_directory": DraftDirectory,
}


@pytest.mark.parametrize("step", MADE)
def test_interrupted_while_it_is_made(tmp_path, monkeypatch, step):
    """Ctrl-C, when the kernel has made it and we do not know yet."""
    true = getattr(Place, step)

    def interrupted(self, name):
        true(self, name)
        raise KeyboardInterrupt

    monkeypatch.setattr(Place, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        MADE[step](tmp_path / "one")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("step", MADE)
def test_interrupted_before_the_with(tmp_path, step):
    """Ctrl-C, when it is made and nobody has entered it."""
    draft = MADE[step](tmp_path / "one")
    assert len([*tmp_path.iterdir()]) == 1
    del draft
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("named", [False, True])
def test_publishing_replaces_nothing_unasked(tmp_path, named):
    """What appeared meanwhile stays; with ``replace`` a link is replaced, not followed."""
    with Draft(tmp_path / "one", named=named) as draft:
        (tmp_path / "other").write_text("mine")
        (tmp_path / "one").symlink_to("other")
        with pytest.raises(FileExistsError):
            draft.publish(replace=False)
        draft.publish(replace=True)
    assert (tmp_path / "other").read_text() == "mine"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["one", "other"]
    assert (tmp_path / "one").stat().st_size == 0


@pytest.mark.parametrize("other", ["file", "link", "missing"])
def test_sqlite_gets_this_file_or_none(tmp_path, other):
    """Under the name is another file by now: refused, and that one is neither made nor touched."""
    (tmp_path / "precious").write_bytes(b"")
    with Draft(tmp_path / "one", named=True) as draft:
        draft.connect().close()
        path = draft.path
        path.rename(tmp_path / "aside")
        if other == "file":
            path.write_bytes(b"")
        elif other == "link":
            path.symlink_to(tmp_path / "precious")
        with pytest.raises((RecordingError, connect.__globals__["sqlite3"].OperationalError)):
            draft.connect()
        path.unlink(missing_ok=True)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["aside", "precious"]
    assert (tmp_path / "precious").read_bytes() == b""


@ROOT
def test_directory_of_others_is_not_cleared(theirs):
    """Root would take away whatever has the name by then."""
    (theirs / "out").mkdir()
    with (
        DraftDirectory(theirs / "out") as made,
        pytest.raises(RecordingError, match="others than root"),
    ):
        made.publish(replace=True)
    assert [one.name for one in theirs.iterdir()] == ["out"]


def test_replaced_directory_is_put_back_on_error(tmp_path, monkeypatch):
    """When the new one cannot take its place the old one is there again."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    rename = Place.rename

    def failing(place, old, new):
        if new == "out" and not (tmp_path / "out").exists() and not failing.done:
            failing.done = True
            raise KeyboardInterrupt
        rename(place, old, new)

    failing.done = False
    monkeypatch.setattr(Place, "rename", failing)
    with pytest.raises(KeyboardInterrupt), DraftDirectory(tmp_path / "out") as made:
        made.publish(replace=True)
    assert [one.name for one in tmp_path.rglob("*")] == ["out", "old"]
