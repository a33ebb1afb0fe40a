"""Who has a recording and no Linux reads it: macOS is played by a Linux that lacks what macOS has not.

What is left to a real one is its libraries: .github/workflows/test.yml runs this reader there.
"""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command import iptrec

HERE = Path(__file__).parent
SAMPLE = HERE.parent / "samples" / "nftables.db"
PLAYED = (
    "unshare", "-m" if os.geteuid() == 0 else "-Urm", "sh", HERE / "other_system.sh",
)  # fmt: skip


@pytest.fixture
def elsewhere(tmp_path):
    """Run iptrec there, in a directory with a recording, plain and compressed."""
    (tmp_path / "trace.db").write_bytes(SAMPLE.read_bytes())
    (tmp_path / "trace.db.gz").write_bytes(gzip.compress(SAMPLE.read_bytes()))
    (tmp_path / "made").mkdir()

    here = str(tmp_path)

    def run(*words, **options):
        return subprocess.run(
            [*PLAYED, tmp_path / "made", sys.executable, HERE / "other_system.py", *words],
            cwd=tmp_path, capture_output=True, text=True, check=False,
            env={**os.environ, "TMPDIR": here, "XDG_CACHE_HOME": here}, **options,
        )  # fmt: skip

    probe = run("--version")
    if "Operation not permitted" in probe.stderr:
        pytest.skip(f"no mount namespace: {probe.stderr.strip()}")
    assert probe.returncode == 0, probe.stderr
    return run


@pytest.mark.parametrize(
    "words",
    [
        ("show", "trace.db"), ("show", "trace.db.gz", "--brief"), ("why", "trace.db"), ("paths", "trace.db"),
        ("rules", "trace.db"), ("info", "trace.db"), ("query", "trace.db", "SELECT count(*) FROM steps"),
        ("show", "trace.db", "--json"), ("show", "trace.db", "udp", "port", "57"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_reads(words, elsewhere, tmp_path, monkeypatch):
    """The same as on Linux."""
    monkeypatch.chdir(tmp_path)
    done = elsewhere(*words)
    assert done.stderr == ""
    assert done.stdout == iptrec(*words).stdout != ""


@pytest.mark.parametrize(
    "words",
    [
        ("export", "sqlite", "trace.db", "-o", "out.db"), ("export", "pcapng", "trace.db", "-o", "out"),
        ("export", "ndjson", "trace.db", "-o", "out"), ("export", "parquet", "trace.db", "-o", "out"),
        ("export", "parquet", "lake/", "trace.db"), ("report", "trace.db", "-o", "out.html"),
        ("redact", "trace.db", "-o", "out.db"), ("pack", "trace.db", "-o", "out.zip"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_writes(words, elsewhere, tmp_path):
    """Whole, under its name; nothing stays beside it."""
    before = {*tmp_path.iterdir()}
    done = elsewhere(*words)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    (made,) = {*tmp_path.iterdir()} - before
    assert made.name in {words[-1], "lake"}
    assert made.stat().st_size


def test_stdin(elsewhere):
    """A recording from a pipe."""
    with SAMPLE.open("rb") as file:
        assert "by inet fw/later" in elsewhere("show", "-", "--brief", stdin=file).stdout


@pytest.mark.parametrize("command", ["record", "doctor", "demo"])
def test_records_on_linux_alone(command, elsewhere):
    """And says so in a line."""
    done = elsewhere(command)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
