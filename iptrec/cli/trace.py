"""``iptrec trace``: a recording with ``show --follow`` beside it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from iptrec.cli import record as recording
from iptrec.cli import selection as which
from iptrec.cli import show as showing
from iptrec.cli.follower import Follower
from iptrec.errors import EXIT_TROUBLE


def trace(
    words: recording.Words = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Keep the recording in this file.")
    ] = None,
    family: recording.Family = "both",
    interfaces: recording.Interfaces = "",
    netns: recording.Netns = None,
    flush: recording.Flush = False,
    conntrack: recording.Conntrack = False,
    backend: recording.Backend = "auto",
    skip_modprobe: recording.SkipModprobe = False,
    duration: recording.Duration = None,
    packets: recording.Packets = None,
    snaplen: recording.Snaplen = 256,
    force: recording.Force = False,
    chains: which.Chains = "",
    verdicts: which.Verdicts = "",
    phys: showing.Phys = False,
    ct: showing.Ct = False,
    rules: showing.Rules = True,
    iface_changes: showing.IfaceChanges = True,
    brief: Annotated[bool, typer.Option("--brief", help="A line a packet.")] = False,
    utc: which.Utc = False,
    json: showing.Json = False,
    color: showing.Colour = "auto",
) -> int:
    """Record and show live, until Ctrl-C, the duration or the command's end.

    The trace alone is written to stdout: what the command writes there goes to stderr.

    Examples:

      iptrec trace tcp port 443

      iptrec trace icmp -o trace.db -- ping -c1 192.0.2.1

      iptrec trace --json -- curl -s http://10.0.0.5/ | jq .verdict
    """
    from iptrec.recorder.session import record
    from iptrec.recording import private

    with contextlib.ExitStack() as stack:
        path = output or stack.enter_context(private.directory()) / "trace.db"
        options = recording.make_options(
            words, output=path, family=family, interfaces=interfaces, netns=netns, flush=flush,
            conntrack=conntrack, backend=backend,
            modprobe=not skip_modprobe, duration=duration, packets=packets, snaplen=snaplen, force=force,
        )  # fmt: skip
        viewer = Follower(
            [
                str(path), "--chain", chains, "--verdict", verdicts, "--color", color,
                "--phys" if phys else "--no-phys",
                "--ct" if ct else "--no-ct",
                "--rules" if rules else "--no-rules",
                "--iface-changes" if iface_changes else "--no-iface-changes",
                *(["--brief"] if brief else []),
                *(["--utc"] if utc else []),
                *(["--json"] if json else []),
            ]
        )  # fmt: skip
        reading, writing = os.pipe2(os.O_CLOEXEC)
        stack.callback(os.close, reading)
        life = stack.enter_context(os.fdopen(writing, "wb"))

        def begun(descriptor: int) -> None:
            viewer.start(descriptor, open_for_life=(life.fileno(),))
            life.close()

        try:
            outcome = record(
                replace(options, viewer=reading, command_stdout=_stderr()), begun=begun
            )
        except BaseException:
            viewer.stop()  # it would wait for the end of what nobody writes any more
            raise
        status = viewer.wait()
    for note in outcome.notes:
        print(f"iptrec trace: {note}", file=sys.stderr)
    if outcome.lost:
        print(f"iptrec trace: {outcome.lost:,} events were lost", file=sys.stderr)
    return EXIT_TROUBLE if status == EXIT_TROUBLE else outcome.exit_status


def _stderr() -> int:
    """Where a command writes whose stdout is not its own; nowhere if we were started without stderr."""
    return subprocess.DEVNULL if sys.stderr is None else sys.stderr.fileno()
