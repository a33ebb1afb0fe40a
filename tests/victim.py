"""Runs iptrec again and again, each time in a fork of a process that has loaded it all: a cheap round.

It reads one JSON object a line, {"argv": [...], "sudo": uid or null, "tmpdir": path or null}, and answers
{"status", "errors"}. The command "copy" makes a recording at argv[1] and copies it to argv[2], as record does
at SIGUSR1.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
from pathlib import Path

import warm_server

warm_server.load()
import iptrec.views.parquet  # noqa: E402, F401 - pyarrow as well
from iptrec.cli import main  # noqa: E402
from iptrec.errors import IptrecError  # noqa: E402
from iptrec.recording.rows import Facts  # noqa: E402
from iptrec.recording.writer import Writer  # noqa: E402

gc.freeze()


def copy(source, target):
    facts = Facts("u", "0.1", "Linux", "h", (), None, (), (), 256, 5, 6)
    with Writer.create(Path(source), facts, force=True) as writer:
        writer.copy(Path(target), 1, "SIGUSR1")


def run(order):
    command, *arguments = order["argv"]
    for name in ("SUDO_UID", "SUDO_GID"):
        os.environ.pop(name, None)
        if order["sudo"] is not None:
            os.environ[name] = str(order["sudo"])
    os.environ.pop("TMPDIR", None)
    if order["tmpdir"] is not None:
        os.environ["TMPDIR"] = order["tmpdir"]
    tempfile.tempdir = None
    if command == "copy":
        copy(*arguments)
    else:
        sys.argv = ["iptrec", command, *arguments]
        main()


def round_of(order):
    with tempfile.TemporaryFile("w+") as errors:
        child = os.fork()
        if child == 0:
            os.dup2(errors.fileno(), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            try:
                run(order)
            except SystemExit as end:
                sys.stderr.flush()
                os._exit(int(end.code or 0))
            except IptrecError as error:
                os.write(2, f"{error}\n".encode())
                os._exit(2)
            except BaseException as error:  # noqa: BLE001 - told to the test
                os.write(2, f"{type(error).__name__}: {error}".encode())
                os._exit(3)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        errors.seek(0)
        return {"status": status, "errors": errors.read()}


for line in sys.stdin:
    sys.stdout.write(json.dumps(round_of(json.loads(line))) + "\n")
    sys.stdout.flush()
