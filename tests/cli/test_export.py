"""`iptrec export`: files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import rights
import warm
from command import iptrec, program

ROOT = Path(__file__).parents[2]
SAMPLES = sorted((ROOT / "samples").glob("*.db"))
LOOPBACK = str(ROOT / "samples" / "loopback.db")


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_ndjson_is_what_show_prints(sample, tmp_path):
    """Line by line, with any selection."""
    output = tmp_path / "out.ndjson"
    for selection in ([], ["--verdict", "ACCEPT"], ["udp"]):
        shown = iptrec("show", "--json", sample, *selection)
        done = iptrec("export", "ndjson", sample, "-o", output, "--force", *selection)
        assert done.returncode == shown.returncode
        assert output.read_text() == shown.stdout
    assert all(json.loads(line)["format"] == 1 for line in output.read_text().splitlines())


def test_stdout():
    """-o - in a pipe."""
    shown = iptrec("show", "--json", LOOPBACK).stdout
    assert iptrec("export", "ndjson", LOOPBACK, "-o", "-").stdout == shown
    assert iptrec("export", "ndjson", LOOPBACK, "-o", "/dev/stdout").stdout == shown


REFUSALS = {
    "there": (["{}/there"], "exists; use --force"),
    "itself": ([LOOPBACK, "--force"], "is the recording itself"),
    "directory": (["{}/nope/out"], "cannot write"),
    "a directory": (["{}", "--force"], "is a directory"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case, tmp_path):
    """One line, exit status 2, and what was there stays; nothing else is left."""
    arguments, message = REFUSALS[case]
    (tmp_path / "there").write_text("mine")
    before = Path(LOOPBACK).read_bytes()
    done = iptrec("export", "ndjson", LOOPBACK, "-o", *(one.format(tmp_path) for one in arguments))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert message in done.stderr
    assert (tmp_path / "there").read_text() == "mine"
    assert [one.name for one in tmp_path.iterdir()] == ["there"]
    assert Path(LOOPBACK).read_bytes() == before


def test_force_replaces(tmp_path):
    """--force; and what is made is private, whatever was there."""
    output = tmp_path / "out"
    output.write_text("mine")
    output.chmod(0o644)
    assert iptrec("export", "ndjson", LOOPBACK, "-o", output, "--force").returncode == 0
    assert output.read_text().startswith("{")
    assert output.stat().st_mode & 0o777 == 0o600


SQL = "SELECT count(*) FROM packets"
DERIVED = {
    "ndjson": ["export", "ndjson", LOOPBACK],
    "pcapng": ["export", "pcapng", LOOPBACK],
    "sqlite": ["export", "sqlite", LOOPBACK],
    "parquet": ["export", "parquet", LOOPBACK],
    "show": ["show", LOOPBACK],
    "query": ["query", LOOPBACK, SQL],
}


@pytest.mark.parametrize("what", DERIVED)
def test_what_is_derived_is_private(what, tmp_path):
    """Nobody else reads the packets out of an export, unless --mode says so; umask 022 does not."""
    for option, file, folder in (([], 0o600, 0o700), (["--mode", "640"], 0o640, 0o750)):
        output = tmp_path / f"out{len(option)}"
        done = iptrec(*DERIVED[what], "-o", output, *option, umask=0o022)
        assert done.returncode == 0, done.stderr
        made = [output, *output.rglob("*")] if output.is_dir() else [output]
        for path in made:
            assert path.stat().st_mode & 0o777 == (folder if path.is_dir() else file), path


@pytest.mark.parametrize("command", [["paths"], ["why"], ["rules"], ["info"], ["diff"]])
def test_views_are_private(command, tmp_path):
    """The same of all that a view writes."""
    output = tmp_path / "out"
    assert iptrec(*command, LOOPBACK, "-o", output, umask=0o022).returncode in (0, 1)
    assert output.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", ["755", "1644", "rw", "64", "-1"])
def test_mode_that_is_none(tmp_path, mode):
    """One line; nothing is made."""
    done = iptrec("export", "ndjson", LOOPBACK, "-o", tmp_path / "out", f"--mode={mode}")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "expected three octal digits" in done.stderr
    assert list(tmp_path.iterdir()) == []


@rights.ROOT
@pytest.mark.parametrize("what", DERIVED)
def test_what_is_derived_belongs_to_the_user_behind_sudo(what, tmp_path):
    """As the recording does."""
    output = tmp_path / "out"
    done = program(
        *DERIVED[what], "-o", output, env={**os.environ, "SUDO_UID": "1234", "SUDO_GID": "1234"}
    )
    assert done.returncode == 0, done.stderr
    for path in [output, *output.rglob("*")] if output.is_dir() else [output]:
        assert (path.stat().st_uid, path.stat().st_gid) == (1234, 1234), path


def test_view_goes_into_no_link(tmp_path):
    """A link is neither followed nor replaced; a file is, by a new one that can be read while it grows."""
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "link").symlink_to("precious")
    (tmp_path / "nowhere").symlink_to("missing")
    for command, name in ((["show"], "link"), (["export", "parquet", "--force"], "nowhere")):
        done = iptrec(*command, LOOPBACK, "-o", tmp_path / name)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "is a symbolic link; name what it leads to" in done.stderr
    assert (tmp_path / "precious").read_text() == "mine"
    assert iptrec("show", LOOPBACK, "-o", tmp_path / "precious").returncode == 0
    assert (tmp_path / "precious").read_text().startswith("-- 2026-11-23 ")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["link", "nowhere", "precious"]


FULL = {  # bytes that a file may have
    "show": (["show", LOOPBACK, "-o"], 1000),
    "info": (["info", LOOPBACK, "-o"], 100),
    "check": (["check", LOOPBACK, "{}/expect.toml", "--junit"], 20),
    "ndjson": (["export", "ndjson", LOOPBACK, "--force", "-o"], 1000),
}


@pytest.mark.parametrize("what", FULL)
def test_a_disk_that_is_full(what, tmp_path):
    """What was there stays as it was, and half of the new one is nowhere."""
    arguments, room = FULL[what]
    (tmp_path / "expect.toml").write_text("[[expect]]\n")
    (tmp_path / "out").write_text("mine")
    done = program(*(one.format(tmp_path) for one in arguments), tmp_path / "out", **limited(room))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "cannot write" in done.stderr
    assert (tmp_path / "out").read_text() == "mine"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["expect.toml", "out"]


def test_a_file_that_grows(tmp_path):
    """What show --follow writes has its name from the beginning, and keeps what was written."""
    done = program("show", "--follow", LOOPBACK, "-o", tmp_path / "out", **limited(1000))
    assert done.returncode == 2
    assert (tmp_path / "out").stat().st_size == 1000


def limited(size):
    """For a process whose files may not be longer."""
    return {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))}


def pipe(path):
    os.mkfifo(path)


def link_to_pipe(path):
    pipe(path.with_name("pipe"))
    path.symlink_to("pipe")


@pytest.mark.parametrize("make", [pipe, link_to_pipe])
def test_into_a_pipe(make, tmp_path):
    """It is written to, and stays; --force is not needed."""
    make(tmp_path / "out")
    before = sorted(one.name for one in tmp_path.iterdir())
    for command in (["show", LOOPBACK], ["export", "sqlite", "-q", LOOPBACK]):
        child = warm.popen([sys.executable, "-m", "iptrec", *command, "-o", str(tmp_path / "out")])
        written = (tmp_path / "out").read_bytes()
        assert child.wait() == 0
        assert written[:3] in (b"-- ", b"SQL")
    assert sorted(one.name for one in tmp_path.iterdir()) == before


@pytest.mark.parametrize("what", ["socket", "block"])
def test_what_is_neither_file_nor_pipe_stays(what, tmp_path):
    """One line."""
    if what == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(tmp_path / "out"))
    elif not rights.IS_ROOT:
        pytest.skip("only root makes devices")
    else:
        os.mknod(tmp_path / "out", 0o600 | stat.S_IFBLK, os.makedev(7, 250))
    before = (tmp_path / "out").lstat()
    for command in (["show"], ["export", "ndjson", "--force"]):
        done = iptrec(*command, LOOPBACK, "-o", tmp_path / "out")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "is not a regular file; choose another" in done.stderr
    assert os.path.samestat((tmp_path / "out").lstat(), before)


def test_killed_query_leaves_nothing(tmp_path):
    """What it has put together loses its name before the query is run."""
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT sum(i) FROM n"
    child = warm.popen(
        [sys.executable, "-m", "iptrec", "query", "-q", LOOPBACK, endless],
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    try:
        while any(tmp_path.iterdir()) or not has_open_without_name(child.pid, tmp_path):
            assert child.poll() is None
            time.sleep(0.01)
    finally:
        child.kill()
        child.wait()
    assert list(tmp_path.iterdir()) == []


def has_open_without_name(pid, directory):
    """Whether a process has a file open that was there."""
    found = []
    for one in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(one.readlink()))
    return any(one.startswith(str(directory)) and one.endswith(" (deleted)") for one in found)


def test_interrupted(tmp_path):
    """Ctrl-C in the middle: exit status 130, nothing is left."""
    script = (
        "import iptrec.views.packet_json as view, signal, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's "&" ignores it
        "def line(_): print('begun', flush=True); time.sleep(60)\n"
        "view.line = line\nfrom iptrec.cli import main\nmain()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, "export", "ndjson", LOOPBACK, "-o", str(tmp_path / "x")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with child:
        assert child.stdout.readline() == "begun\n"
        child.send_signal(signal.SIGINT)
        assert child.communicate(timeout=30)[1] == ""
    assert child.returncode == 130
    assert list(tmp_path.iterdir()) == []
