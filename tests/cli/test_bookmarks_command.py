"""Bookmarks on the disk: made by the first command, used by the next, and never believed too much."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from iptrec.cli import index
from iptrec.recording.reader import Reader

LOOPBACK = Path(__file__).parents[2] / "samples" / "loopback.db"


@pytest.fixture
def sample(tmp_path, monkeypatch):
    """A recording that is long enough, and an empty cache."""
    monkeypatch.setattr(index, "_FEWEST", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(shutil.copy(LOOPBACK, tmp_path / "trace.db"))


def show(capsys, *arguments):
    """What `show --json` prints."""
    from iptrec.cli import app

    app(["show", "--json", *map(str, arguments)], standalone_mode=False)
    return capsys.readouterr().out.splitlines()


def cached(tmp_path):
    return sorted((tmp_path / "cache").rglob("*.json"))


def test_made_and_used(sample, tmp_path, capsys):
    """One file, mode 0600, that holds the windows; the answers stay the same."""
    every = show(capsys, sample)
    (kept,) = cached(tmp_path)
    assert kept.stat().st_mode & 0o777 == 0o600
    assert json.loads(kept.read_text().partition("\n")[2])["whole"]
    for number, line in enumerate(every, 1):
        assert show(capsys, sample, "--packet", number) == [line]
    assert not sorted(sample.parent.glob("trace.db?*"))  # nothing beside the recording


def test_paths_make_them_too(sample, tmp_path, capsys):
    """The same ones as `show`; and numbers of paths never depend on them."""
    from iptrec.cli import app

    show(capsys, sample)
    (kept,) = cached(tmp_path)
    found = kept.read_bytes()
    kept.unlink()
    app(["paths", str(sample), "--verdict", "DROP"], standalone_mode=False)
    without = capsys.readouterr().out
    app(["paths", str(sample)], standalone_mode=False)
    (kept,) = cached(tmp_path)
    assert kept.read_bytes() == found
    capsys.readouterr()
    app(["paths", str(sample), "--verdict", "DROP"], standalone_mode=False)
    assert capsys.readouterr().out == without


@pytest.mark.parametrize(
    "command",
    [
        ["show"],
        ["why"],
        ["export", "ndjson"],
        ["export", "pcapng"],
        ["export", "pcapng", "--stages"],
        ["export", "pcapng", "--events"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("which", [["--packet", "13"], ["--since", "2ms"], ["--until", "9ms"]])
def test_answers_are_the_same(sample, tmp_path, monkeypatch, capsys, command, which):
    """Every command says of some packets what it says without bookmarks."""
    from iptrec.cli import app
    from iptrec.packets import window

    monkeypatch.setattr(window, "WINDOW_EVENTS", 20)
    words = [*command, str(sample), *which, "-o"]
    app([*words, str(tmp_path / "first")], standalone_mode=False)
    show(capsys, sample)
    app([*words, str(tmp_path / "second")], standalone_mode=False)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_short_recordings_have_none(tmp_path, monkeypatch, capsys):
    """What is read in a moment leaves no trace."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    show(capsys, LOOPBACK)
    assert not cached(tmp_path)


def test_another_file_has_others(sample, tmp_path, capsys):
    """The same name with other content: the old bookmarks are not taken."""
    show(capsys, sample)
    (kept,) = cached(tmp_path)
    shutil.copy(sample, tmp_path / "new.db")
    (tmp_path / "new.db").replace(sample)
    show(capsys, sample)
    assert len(cached(tmp_path)) > len([kept])


def first_window(content, place, value):
    """The file with another number in it."""
    checksum, _, text = content.partition(b"\n")
    changed = json.loads(text)
    changed["windows"][0][place] = value
    return checksum + b"\n" + json.dumps(changed, separators=(",", ":")).encode()


DAMAGES = {
    "empty": lambda _: b"",
    "a letter": lambda _: b"x",
    "no checksum": lambda content: content.partition(b"\n")[2],
    "cut": lambda content: content[:-1],
    "more": lambda content: content + b" ",
    "deep": lambda content: content.partition(b"\n")[0] + b"\n" + b"[" * 200_000,
    "infinite": lambda content: first_window(content, 3, 1e400),
    "another packet": lambda content: first_window(content, 2, 6),
    "no packet": lambda content: first_window(content, 3, 0),
    "another stream": lambda content: first_window(content, 0, 99),
    "less": lambda content: content.replace(b'"whole":true', b'"whole":false'),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damaged(sample, tmp_path, capsys, case):
    """The recording is read as a whole, and the bookmarks are made again."""
    every = show(capsys, sample)
    (kept,) = cached(tmp_path)
    sound = kept.read_bytes()
    damaged = DAMAGES[case](sound)
    assert damaged != sound
    kept.write_bytes(damaged)
    assert show(capsys, sample, "--packet", 3) == every[2:3]
    assert show(capsys, sample, "--since", "0s") == every
    assert kept.read_bytes() == sound


def test_any_byte_damaged(sample, tmp_path, monkeypatch):
    """Whatever bit of it turns over, none of it is believed."""
    from iptrec.answers.packets import Packets
    from iptrec.packets import window

    monkeypatch.setattr(window, "WINDOW_EVENTS", 20)
    with Reader(sample) as reader:
        with index.remembered(reader) as found:
            list(Packets(reader, None, found))
        assert len(found.marks) > 1
        (kept,) = cached(tmp_path)
        sound = kept.read_bytes()
        with index.remembered(reader) as found:
            assert found.marks
        for at in range(len(sound)):
            kept.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
            with index.remembered(reader) as found:
                assert not found.marks, at


def test_those_of_another_recording(sample, tmp_path, capsys):
    """Under the name of this one they are not taken, sound as they are."""
    show(capsys, sample)
    (kept,) = cached(tmp_path)
    sound = kept.read_bytes()
    other = shutil.copy(LOOPBACK, tmp_path / "other.db")
    show(capsys, other)
    (others,) = set(cached(tmp_path)) - {kept}
    kept.write_bytes(others.read_bytes())
    assert kept.read_bytes() != sound
    with Reader(sample) as reader, index.remembered(reader) as found:
        assert not found.marks


def forged(marks, key):
    content = json.dumps({"format": 2, "whole": True, "windows": marks}).encode()
    return index._sealed(content, key)


@pytest.mark.parametrize(
    "marks",
    [
        [[1, None, 2, 3, 0, 0, 0]],
        [[9, None, 1, 3, 0, 0, 0]],
        [[1, None, 1, -3, 0, 0, 0]],
        [[1, None, 1, 3, -1, 0, 0]],
        [[1, [2, 1, [], [0]], 1, 3, 0, 0, 0]],
        [[1, [0, 0, [], []], 1, 3, 0, 0, 0]],
        [[1, None, 1, 3, 0, 0, 0], [1, None, 3, 3, 0, 0, 0]],
        [[1, None, 1, 1e400, 0, 0, 0]],
        [[1, [0, 0, [1 << 70], [0]], 1, 3, 0, 0, 0]],
        [1],
        {},
    ],
    ids=str,
)
def test_no_bookmarks_of_this_recording(sample, tmp_path, capsys, marks):
    """What could not be windows of the recording is not taken, though its checksum is right."""
    show(capsys, sample)
    (kept,) = cached(tmp_path)
    kept.write_bytes(forged(marks, kept.stem))
    with Reader(sample) as reader, index.remembered(reader) as found:
        assert not found.marks


def swap_for_fifo(path):
    path.unlink()
    os.mkfifo(path, 0o600)


def swap_for_link(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


FOREIGN = {
    "writable for the group": lambda path: path.chmod(0o620),
    "writable for all": lambda path: path.chmod(0o602),
    "in a directory that all may write": lambda path: path.parent.chmod(0o777),
    "a pipe": swap_for_fifo,
    "a link": swap_for_link,
}
if os.geteuid() == 0:
    FOREIGN |= {
        "of another user": lambda path: os.chown(path, 65534, 65534),
        "in a directory of another user": lambda path: os.chown(path.parent, 65534, 65534),
    }


@pytest.mark.parametrize("case", FOREIGN)
def test_what_others_could_have_written(sample, tmp_path, capsys, case):
    """Is not read, sound as it is."""
    every = show(capsys, sample)
    (kept,) = cached(tmp_path)
    FOREIGN[case](kept)
    with Reader(sample) as reader, index.remembered(reader) as found:
        assert not found.marks
    assert show(capsys, sample, "--packet", 3) == every[2:3]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user's directory")
@pytest.mark.parametrize("there", ["", "cache", "cache/iptrec"])
def test_nothing_is_made_in_a_directory_of_somebody_else(
    sample, tmp_path, monkeypatch, capsys, there
):
    """As root with a user's HOME or XDG_CACHE_HOME, whatever of it is there already."""
    home = tmp_path / "home"
    (home / there).mkdir(parents=True)
    for one in (home, *home.rglob("*")):
        os.chown(one, 65534, 65534)
    before = sorted(home.rglob("*"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    assert show(capsys, sample)
    assert sorted(home.rglob("*")) == before
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(home))
    assert show(capsys, sample)
    assert sorted(home.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user's directory")
@pytest.mark.parametrize("sudo", [False, True])
def test_nothing_is_made_behind_a_link_of_somebody_else(
    sample, tmp_path, monkeypatch, capsys, behind_sudo, sudo
):
    """Where XDG_CACHE_HOME is a link to a directory of root's."""
    (tmp_path / "vault").mkdir(mode=0o700)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "cache").symlink_to(tmp_path / "vault")
    for one in (tmp_path / "home", tmp_path / "home" / "cache"):
        os.chown(one, 65534, 65534, follow_symlinks=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home" / "cache"))
    if sudo:
        behind_sudo(1234)
    assert show(capsys, sample)
    assert list((tmp_path / "vault").iterdir()) == []


def test_no_directory(sample, tmp_path, monkeypatch, capsys):
    """Where nothing can be kept, nothing is."""
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert show(capsys, sample)


def test_no_home(sample, tmp_path, monkeypatch, capsys):
    """A user without a home has no bookmarks, and all answers."""
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(Path, "expanduser", _no_home)
    assert show(capsys, sample)
    assert [one.name for one in tmp_path.iterdir()] == ["trace.db"]


def _no_home(_):
    raise RuntimeError("Could not determine home directory.")
