"""A short run of the fuzzers in fuzz/; longer ones are made by hand, see SECURITY.md."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TARGETS = sorted(path.name for path in (ROOT / "fuzz" / "corpus").iterdir())
RUNS = {"recordings": 300, "losses": 60, "compressed": 300, "expectations": 500, "bookmarks": 60}


# To load and instrument everything takes longer than the runs: done once, before the fork.
EACH = """
import os, sys
sys.path.insert(0, "fuzz")
import decoders
scratch, *targets = sys.argv[1:]
for one in targets:
    target, runs = one.split("=")
    child = os.fork()
    if child == 0:
        sys.argv = ["decoders.py", target, f"-runs={runs}", "-seed=1", "-max_len=40000",
                    f"-artifact_prefix={scratch}/{target}/", f"{scratch}/{target}", f"fuzz/corpus/{target}"]
        os.mkdir(f"{scratch}/{target}")
        os.dup2(os.open(f"{scratch}/{target}.said", os.O_WRONLY | os.O_CREAT), 2)
        decoders.main()
    print(target, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_decoders(tmp_path):
    """Coverage-guided, from the corpus on: no traceback of any target."""
    pytest.importorskip("atheris", reason="atheris has no wheel for this Python")
    targets = [f"{one}={RUNS.get(one, 3000)}" for one in TARGETS]
    done = subprocess.run(
        [sys.executable, "-c", EACH, str(tmp_path), *targets],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip
    said = {one: (tmp_path / f"{one}.said").read_text() for one in TARGETS}
    assert done.stdout.splitlines() == [f"{one} 0" for one in TARGETS], done.stderr + "".join(
        one[-3000:] for one in said.values() if "Done " not in one
    )
    assert [one for one, text in said.items() if "Done " not in text] == []


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
