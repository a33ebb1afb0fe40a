"""A short run of the fuzzers in fuzz/; longer ones are made by hand, see SECURITY.md."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TARGETS = sorted(path.name for path in (ROOT / "fuzz" / "corpus").iterdir())
RUNS = {"recordings": 300, "losses": 60, "compressed": 300, "expectations": 500, "bookmarks": 60}


@pytest.mark.parametrize("target", TARGETS)
def test_decoders(target, tmp_path):
    """Coverage-guided, from the corpus on: no traceback."""
    pytest.importorskip("atheris", reason="atheris has no wheel for this Python")
    done = subprocess.run(
        [sys.executable, "fuzz/decoders.py", target, f"-runs={RUNS.get(target, 3000)}", "-seed=1",
         "-max_len=40000", f"-artifact_prefix={tmp_path}/", str(tmp_path), f"fuzz/corpus/{target}"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done " in done.stderr


def test_every_target_has_a_corpus():
    """And every corpus a target."""
    source = "".join((ROOT / "fuzz" / name).read_text() for name in ("decoders.py", "files.py"))
    assert all(f"\ndef {target}(data: bytes)" in source for target in TARGETS)
    assert source.count("(data: bytes) -> None:") == len(TARGETS)


def test_mutated_recordings():
    """Through every view: an answer or one line."""
    done = subprocess.run(
        [sys.executable, "fuzz/recordings.py", "60"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("60 mutated recordings")
