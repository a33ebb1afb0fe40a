"""Questions that take for ever, asked by a program at a terminal, as a user has it who then types Ctrl-C."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time

# Asks what no engine answers in a minute, in the place of the question's own SQL; Spark tells when it is at it.
PROGRAM = """
import sys, threading
import iptrec.lake.question, iptrec.lake.spark as spark
SLOW = '''
    SELECT count(*) AS n FROM packets a, packets b, packets c, packets d, steps e, steps f, steps g, steps h
    WHERE (a.length * e.step + b.length * f.step + c.length * g.step + d.length * h.step) % 7 = 3'''
iptrec.lake.question.Question.sql = lambda *_: SLOW
def told(driver, sql, ask=spark._Driver.ask):
    if sql == SLOW:
        threading.Timer(2, lambda: print("at work", file=sys.stderr)).start()
    return ask(driver, sql)
spark._Driver.ask = told
from iptrec.__main__ import main
main()
"""


def interrupted(lake, folder, *words, at):
    """Status, what was on the terminal, and what is left in $TMPDIR: of a Ctrl-C once ``at`` is there.

    ``at``: a function of what is on the terminal and of $TMPDIR.
    """
    leader, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "lake", "talkers", str(lake), *words],
        env={**os.environ, "TMPDIR": str(folder), "TERM": "xterm"},
        stdout=subprocess.PIPE, stderr=terminal, stdin=terminal,
    ) as child:  # fmt: skip
        os.close(terminal)
        os.set_blocking(leader, False)
        said = ""
        deadline = time.monotonic() + 120
        while child.poll() is None and not at(said := said + _read(leader), folder):
            assert time.monotonic() < deadline, said
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        child.wait(60)
        said += _read(leader)
    os.close(leader)
    return child.returncode, said, sorted(one.name for one in folder.iterdir())


def _read(leader):
    try:
        return os.read(leader, 1 << 20).decode(errors="replace")
    except OSError:  # nothing new, or nobody there any more
        return ""
