"""Bookmarks on the disk: made by the first command, used by the next, and never believed too much."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from iptrec.cli import bookmarks
from iptrec.recording.reader import Reader

LOOPBACK = Path(__file__).parents[2] / "samples" / "loopback.db"


@pytest.fixture
def sample(tmp_path, monkeypatch):
    """A recording that is long enough, and an empty cache."""
    monkeypatch.setattr(bookmarks, "_FEWEST", 1)
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
    assert json.loads(kept.read_text())["whole"]
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
    from iptrec.analyze import window
    from iptrec.cli import app

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


@pytest.mark.parametrize(
    "content", [b"", b"x", b"[]", b"{}", b'{"format":2}', b'{"format":1,"whole":1,"windows":[[1]]}']
)
def test_damaged(sample, tmp_path, capsys, content):
    """The recording is read as a whole, and the bookmarks are made again."""
    every = show(capsys, sample)
    (kept,) = cached(tmp_path)
    kept.write_bytes(content)
    assert show(capsys, sample, "--packet", 3) == every[2:3]
    with Reader(sample) as reader, bookmarks.remembered(reader) as found:
        assert found.marks


def test_no_directory(sample, tmp_path, monkeypatch, capsys):
    """Where nothing can be kept, nothing is."""
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert show(capsys, sample)
