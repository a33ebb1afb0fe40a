"""Recorders in a lab, and what the live tests look at."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from pathlib import Path

from command import IPTREC

from iptrec.answers.packets import Packets
from iptrec.recording.reader import Reader


def start(lab, *arguments, before=IPTREC, notes=False, **pipes):
    """A recorder that records. It says nothing before, but for ``notes``, which are left out."""
    command = [*before, "record", *map(str, arguments)]
    child = lab.popen(command, stderr=subprocess.PIPE, text=True, **pipes)
    line = child.stderr.readline()
    while notes and line and not line.startswith("recording to"):
        line = child.stderr.readline()
    assert line.startswith("recording to"), line + child.stderr.read()
    return child


def until(condition, what="it does not come to be so", seconds=30):
    """Wait for something that is true, and give it; ``what`` to say in the end, or what says it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, what() if callable(what) else what
        time.sleep(0.01)
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
