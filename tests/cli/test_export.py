"""`iptrec export`: files that are there whole or not at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import rights

ROOT = Path(__file__).parents[2]
SAMPLES = sorted((ROOT / "samples").glob("*.db"))
LOOPBACK = str(ROOT / "samples" / "loopback.db")


def iptrec(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "iptrec", *map(str, arguments)],
        capture_output=True, text=True, check=False, **options,
    )  # fmt: skip


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
    done = iptrec(
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
    assert (tmp_path / "precious").read_text().startswith("#1 ")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["link", "nowhere", "precious"]


def test_interrupted(tmp_path):
    """Ctrl-C in the middle: exit status 130, nothing is left."""
    script = (
        "import iptrec.views.json as view, signal, time\n"
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
