"""Recorders in a lab, and what the live tests look at."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

from command import IPTREC

from iptrec.answers.packets import Packets
from iptrec.recording.reader import Reader


def start(lab, *arguments, before=IPTREC, notes=False, **pipes):
    """A recorder that records. It says nothing before, but for ``notes``, which are left out."""
    child, said = started(lab, *arguments, before=before, **pipes)
    assert notes or said.startswith("recording to"), said
    return child


def started(lab, *arguments, before=IPTREC, **pipes):
    """A recorder that records, and all that it has said up to that.

    Without drops, unless they are asked for: it is the rules that are tried, and nobody waits for most of what
    they let pass.
    """
    command = [*before, "record", "--drops", "no", *map(str, arguments)]
    child = lab.popen(command, stderr=subprocess.PIPE, text=True, **pipes)
    said = ""
    for line in child.stderr:
        said += line
        if line.startswith("recording to"):
            return child, said
    raise AssertionError(said)


def stop(child):
    """End a recorder as Ctrl-C does; what else it said."""
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 0, said
    return said


def kill_at_any_moment(lab, tmp_path, kills, state, *command):
    """SIGKILL in set-up, recording and clean-up: ``state()`` is as before, and nobody is left.

    ``command``: up to the file to record to.
    """
    before, alive = state(), processes(lab)
    begun = time.monotonic()
    assert lab.popen([*command, str(tmp_path / "t.db")]).wait(timeout=30) == 0
    whole = time.monotonic() - begun
    assert state() == before
    for number in range(kills):
        child = lab.popen([*command, str(tmp_path / f"{number}.db")], stderr=subprocess.DEVNULL)
        moment = random.uniform(0, 1.2 * whole)  # noqa: S311
        time.sleep(moment)  # the moment to kill is what is tested, nothing is waited for
        child.kill()
        child.communicate()
        until(lambda: processes(lab) == alive, f"killed after {moment:.3f} s")
        assert state() == before, moment


def until(condition, what="it does not come to be so", seconds=30):
    """Wait for something that is true, and give it; ``what`` to say in the end, or what says it."""
    asked = time.monotonic()
    deadline = asked + seconds
    while not (found := condition()):
        now = time.monotonic()
        assert now < deadline, what() if callable(what) else what
        time.sleep(max(0.01, 2 * (now - asked)))  # who is waited for needs the processor, too
        asked = time.monotonic()
    return found


def packets(path):
    """All traversals of a recording."""
    with Reader(path) as reader:
        return list(Packets(reader))


def processes(lab):
    """Who is in the lab's own namespace."""
    found = set()
    own = os.readlink(f"/proc/{lab.pid}/ns/net")  # noqa: PTH115
    for link in Path("/proc").glob("[0-9]*/ns/net"):
        with contextlib.suppress(OSError):
            if os.readlink(link) == own:  # noqa: PTH115
                found.add(int(link.parts[2]))
    return found


def proc(pid, name):
    """What /proc tells of a process; nothing if it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_text()
    return ""


def guardians(lab):
    """The guardians in the lab."""
    return [pid for pid in processes(lab) if proc(pid, "comm") == "iptrec-guardian\n"]


def taken(pid):
    """Memory of the process's own (kB), and its descriptors."""
    (own,) = re.findall(r"RssAnon:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(own), len(list(Path(f"/proc/{pid}/fd").iterdir()))
