"""All benchmarks in one run: it ends wherever it is started, and each figure stands beside its target."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"
# As a job in the background: it waits for a Ctrl-C that never comes, and so does what it started.
WAITS = """\
import signal, subprocess, sys
print("| what | 1 | 2 |", flush=True)
child = subprocess.Popen(["sleep", "1000"])
print(child.pid, flush=True)
child.wait()
"""


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """The module, with a directory of its own for benchmarks and for the page."""
    spec = importlib.util.spec_from_file_location("bench_run", BENCH / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "HERE", tmp_path)
    monkeypatch.setattr(module, "LONGEST_S", 2)
    (tmp_path / "RESULTS.md").write_text("# Figures\n\n## Real hosts\n\nkept\n")
    return module


def test_one_that_waits_for_ever_is_ended(bench, tmp_path):
    """Also where Ctrl-C is ignored; with what it has started."""
    (tmp_path / "waits.py").write_text(WAITS)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        lines, failed = bench.run("waits.py", [])
    finally:
        signal.signal(signal.SIGINT, before)
    assert lines[0] == "| what | 1 | 2 |"
    assert failed == "not done after 2 s"
    child = int(lines[1])
    deadline = time.monotonic() + 10
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.01)  # it was killed: the kernel takes it apart when it has a processor
    assert not is_running(child)


def is_running(pid):
    """Whether there is such a process, which is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_none_reads_a_terminal(bench, tmp_path):
    """Its input is empty."""
    (tmp_path / "asks.py").write_text("import sys\nprint(repr(sys.stdin.read()))")
    assert bench.run("asks.py", []) == (["''"], "")


def test_the_page(bench, tmp_path, monkeypatch, capsys):
    """What has a target stands at the top, and is printed in the end; where one fails the others go on."""
    (tmp_path / "fails.py").write_text("raise SystemExit('no')")
    (tmp_path / "fine.py").write_text("print('| cost | 2 us | 3 us |\\n| size | 5 | |\\na line')")
    monkeypatch.setattr(bench, "BENCHMARKS", (("One", ("fails.py",)), ("Two", ("fine.py",))))
    assert bench.main() == 1
    assert capsys.readouterr().out.endswith(
        "| Two: cost | 2 us | 3 us |\nfails.py: exit status 1\n"
    )
    page = (tmp_path / "RESULTS.md").read_text()
    heads = [line for line in page.splitlines() if line.startswith("## ")]
    assert heads == ["## Targets", "## One", "## Two", "## Real hosts"]
    assert "| Two: cost | 2 us | 3 us |" in page.partition("## One")[0]
    assert "- fails.py: exit status 1" in page


def test_a_program_that_ends_instead_ends_the_benchmark():
    """Nobody reads for ever what is not written any more."""
    code = (
        f"import subprocess, sys\nsys.path.insert(0, {str(BENCH)!r})\nfrom says import until_it_says\n"
        "program = subprocess.Popen(['sh', '-c', 'echo why >&2'], stderr=subprocess.PIPE)\n"
        "until_it_says(b'ready', program)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (1, "sh ended before it said 'ready': why\n\n")
