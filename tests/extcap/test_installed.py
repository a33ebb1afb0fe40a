"""What is put into Wireshark's folders, and taken out again."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from iptrec.errors import HostError, UsageError
from iptrec.extcap import parts
from iptrec.extcap.folders import Folders
from iptrec.extcap.installed import Installed, Wanted


@pytest.fixture
def memory(tmp_path):
    return tmp_path / "share" / "iptrec" / "wireshark.json"


@pytest.fixture
def wanted(tmp_path):
    return {
        tmp_path / "lib" / "extcap" / "iptrec": Wanted(b"#!/bin/sh\n", 0o755),
        tmp_path / "plugins" / "iptrec.lua": Wanted(b"-- lua\n"),
    }


def all_files(tmp_path):
    return sorted(str(one.relative_to(tmp_path)) for one in tmp_path.rglob("*") if one.is_file())


def test_once_and_again(tmp_path, memory, wanted):
    """The second time nothing is written."""
    written, kept = Installed.read(memory).put(wanted, force=False)
    assert ([*written], [*kept]) == ([*wanted], [])
    for path, one in wanted.items():
        assert path.read_bytes() == one.content
        assert path.stat().st_mode & 0o777 == one.mode
    before = {path: path.stat().st_ino for path in wanted}
    written, kept = Installed.read(memory).put(wanted, force=False)
    assert ([*written], [*kept]) == ([], [])
    assert {path: path.stat().st_ino for path in wanted} == before
    assert len(all_files(tmp_path)) == 3


def test_a_newer_one_replaces_ours(memory, wanted):
    Installed.read(memory).put(wanted, force=False)
    newer = {path: Wanted(one.content + b"# 2\n", one.mode) for path, one in wanted.items()}
    written, _ = Installed.read(memory).put(newer, force=False)
    assert [*written] == [*newer]
    assert all(path.read_bytes() == one.content for path, one in newer.items())


@pytest.mark.parametrize("kind", ["file", "link", "dangling", "directory"])
def test_what_is_foreign_stays(tmp_path, memory, wanted, kind):
    """Nothing at all is written then."""
    path = [*wanted][1]
    path.parent.mkdir(parents=True)
    target = tmp_path / "target"
    if kind == "file":
        path.write_text("theirs")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(target)
        if kind == "link":
            target.write_text("theirs")
    before = all_files(tmp_path)
    with pytest.raises(UsageError, match="iptrec did not write it"):
        Installed.read(memory).put(wanted, force=False)
    assert all_files(tmp_path) == before
    if kind == "link":
        assert target.read_text() == "theirs"


def test_force_replaces_a_link_itself(tmp_path, memory, wanted):
    """What it leads to is not touched."""
    path = [*wanted][1]
    path.parent.mkdir(parents=True)
    (tmp_path / "target").write_text("theirs")
    path.symlink_to(tmp_path / "target")
    Installed.read(memory).put(wanted, force=True)
    assert not path.is_symlink()
    assert (tmp_path / "target").read_text() == "theirs"


def test_what_was_changed_since_stays(memory, wanted):
    """Wireshark writes preferences into a profile."""
    Installed.read(memory).put(wanted, force=False)
    path = [*wanted][1]
    path.write_text("changed")
    newer = {one: Wanted(b"newer") for one in wanted}
    written, kept = Installed.read(memory).put(newer, force=False)
    assert ([*written], [*kept]) == ([next(iter(wanted))], [path])
    gone, kept = Installed.read(memory).remove(force=False)
    assert (gone, kept) == ([str(next(iter(wanted)))], [str(path)])
    assert path.read_text() == "changed"


def test_nothing_of_ours_is_left(tmp_path, memory, wanted):
    """Directories of ours go, those where others have something, or that were there, stay."""
    (tmp_path / "plugins").mkdir()
    Installed.read(memory).put(wanted, force=False)
    (tmp_path / "lib" / "other").write_text("")
    Installed.read(memory).remove(force=False)
    assert all_files(tmp_path) == ["lib/other"]
    assert (tmp_path / "plugins").is_dir()
    assert {one.name for one in tmp_path.rglob("*")} == {"lib", "other", "plugins"}
    assert Installed.read(memory).remove(force=False) == ([], [])


@pytest.mark.parametrize(
    "text",
    ["", "nothing", "[]", "{}", '{"format": 2, "files": {}, "directories": []}', "[" * 100_000,
     '{"format": 1, "files": {"a": 1}, "directories": []}', "\0", "1e999"],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_a_memory_that_is_not_ours(memory, text):
    memory.parent.mkdir(parents=True)
    memory.write_text(text)
    with pytest.raises(HostError, match="is not a list that this iptrec wrote"):
        Installed.read(memory)


def test_a_directory_that_cannot_be_made(tmp_path, memory):
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match=f"cannot write {tmp_path}/file"):
        Installed.read(memory).put({tmp_path / "file" / "a": Wanted(b"")}, force=False)


def test_the_memory_is_there_before_the_files(memory, wanted, monkeypatch):
    """What was written in part can be taken away."""
    real = os.replace

    def failing(source, target):
        if str(target).endswith("iptrec"):
            raise OSError(28, "No space left on device", str(target))
        real(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(HostError, match="No space left"):
        Installed.read(memory).put(wanted, force=False)
    assert set(json.loads(memory.read_text())["files"]) == {str(path) for path in wanted}


def test_the_program_is_this_iptrec(tmp_path):
    """Whatever PATH says, and where it is; its words come to it as they are."""
    script = tmp_path / "iptrec"
    script.write_bytes(parts.program().content)
    script.chmod(0o755)

    def run(*words):
        return subprocess.run(
            [script, *words],
            capture_output=True, text=True, check=False, env={"PATH": ""}, cwd="/",
        )  # fmt: skip

    done = run("--extcap-interfaces", "--extcap-version=4.0")
    assert (done.returncode, done.stderr) == (0, "")
    assert "interface {value=iptrec}" in done.stdout
    odd = ["--extcap-interface", "iptrec", "--extcap-capture-filter", "a  b'\"$x"]
    assert "a  b'" in run(*odd).stdout


def test_where_it_goes(tmp_path):
    found = parts.parts(Folders(tmp_path / "e", tmp_path / "l", tmp_path / "p"))
    assert found[tmp_path / "e" / "iptrec"].mode == 0o755
    assert found[tmp_path / "l" / "iptrec.lua"].content
    assert found[tmp_path / "p" / "iptrec" / "preferences"].content
