"""`iptrec export`: files that are there whole or not at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

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
    """--force, and the mode is that of any new file."""
    output = tmp_path / "out"
    output.write_text("mine")
    assert iptrec("export", "ndjson", LOOPBACK, "-o", output, "--force").returncode == 0
    assert output.read_text().startswith("{")
    mask = os.umask(0)
    os.umask(mask)
    assert output.stat().st_mode & 0o777 == 0o666 & ~mask


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
        assert list(tmp_path.iterdir()) != []
        child.send_signal(signal.SIGINT)
        assert child.communicate(timeout=30)[1] == ""
    assert child.returncode == 130
    assert list(tmp_path.iterdir()) == []
