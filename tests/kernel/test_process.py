"""Which programs are run, and with what."""

from __future__ import annotations

import ast
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from threading import Timer

import pytest

from iptrec.errors import HostError
from iptrec.kernel import process
from iptrec.kernel.deadline import Deadline

PACKAGE = Path(process.__file__).parents[1]
SYSTEM = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@pytest.mark.parametrize(
    ("uid", "path", "expected"),
    [
        (0, "", SYSTEM),
        (0, ".:/home/me/bin::bin:/usr/bin", f"{SYSTEM}:/home/me/bin"),
        (1000, "", SYSTEM),
        (1000, "/home/me/bin:.:", f"/home/me/bin:{SYSTEM}"),
    ],
)
def test_where_programs_are_looked_for(monkeypatch, uid, path, expected):
    """Root finds the system's programs first; nobody finds any in a directory without a name of its own."""
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setenv("PATH", path)
    assert process.search_path() == expected
    monkeypatch.delenv("PATH")
    assert process.environment()["PATH"] == SYSTEM


def test_a_program_of_the_current_directory_is_not_found(monkeypatch, tmp_path):
    """As it was with an empty PATH."""
    (tmp_path / "iptables-x").write_text("#!/bin/sh\n")
    (tmp_path / "iptables-x").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    assert shutil.which("iptables-x", path=":/sbin") is not None
    assert shutil.which("iptables-x", path=process.search_path()) is None


def test_programs_get_little(monkeypatch):
    """Nothing that says whose code they load."""
    for name in ("LD_LIBRARY_PATH", "LD_PRELOAD", "XTABLES_LIBDIR", "MODPROBE_OPTIONS"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("XTABLES_LOCKFILE", "/tmp/lock")  # noqa: S108
    assert {*process.environment()} == {"PATH", "LC_ALL", "XTABLES_LOCKFILE"}


def test_who_waits_for_a_program_has_it_killed_by_another():
    """It gets all that it is to read before, however long it takes."""
    until = Deadline(60)
    reads = "import sys, time; time.sleep(0.2); print(len(sys.stdin.read()))"
    done = process.run([sys.executable, "-c", reads], bytes(1 << 20), until=until)
    assert done.stdout.split() == [b"%d" % (1 << 20)]
    Timer(0.2, until.end).start()
    with pytest.raises(HostError, match="does not come to an end"):
        process.run(["sleep", "60"], until=until)
    with pytest.raises(HostError, match="does not come to an end"):
        process.run(["sleep", "60"], until=until)


def test_interpreters_are_isolated():
    """Whoever starts Python does it by `process.python`, or gives -I beside the interpreter's name."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Tuple | ast.List):
                words = [ast.unparse(one) for one in node.elts]
                if "sys.executable" in words:
                    assert words[words.index("sys.executable") + 1] == "'-I'", path


def test_ctrl_c_does_not_reach_a_program_before_its_session_is_its_own():
    """The terminal's signal is for our group, of which a new process is for a moment."""
    looked = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    assert process.run([sys.executable, "-c", looked]).stdout == b"True\n"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_ctrl_c_is_ours_while_a_program_runs():
    """It comes at once, and the program is ended."""
    code = (
        "import os, signal, sys, threading; from iptrec.kernel import process\n"
        "threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "process.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, timeout=30
    )
    assert done.returncode == -signal.SIGINT
