"""``iptrec trace``: a recording with ``show --follow`` beside it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from iptrec.cli import record as recording
from iptrec.cli import record_options as option
from iptrec.cli import selection as which
from iptrec.cli import show as showing
from iptrec.cli.follower import Follower
from iptrec.cli.gzipped import is_gzipped
from iptrec.cli.live import INFO, Live, levels
from iptrec.cli.output import GROUP as OUTPUT
from iptrec.cli.output import exported
from iptrec.errors import EXIT_TROUBLE, UsageError


def trace(
    words: option.Words = None,
    family: option.Family = "both",
    interfaces: option.Interfaces = "",
    no_forwarded: option.NoForwarded = False,
    netns: option.Netns = None,
    inside: option.Inside = False,
    backend: option.Backend = "auto",
    conntrack: option.Conntrack = False,
    drops: option.Drops = "auto",
    snaplen: option.Snaplen = 256,
    duration: option.Duration = None,
    packets: option.Packets = None,
    max_size: option.MaxSize = None,
    stop_on: option.StopOn = None,
    after: option.After = None,
    chains: which.Chains = "",
    verdicts: which.Verdicts = "",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            "-w",
            metavar="FILE",
            rich_help_panel=OUTPUT,
            help="Keep the recording in this file.",
        ),
    ] = None,
    force: option.Force = False,
    phys: showing.Phys = False,
    ct: showing.Ct = False,
    rules: showing.Rules = True,
    iface_changes: showing.IfaceChanges = True,
    brief: Annotated[
        bool, typer.Option("--brief", rich_help_panel=OUTPUT, help="A line a packet.")
    ] = False,
    utc: which.Utc = False,
    json: showing.Json = False,
    pcapng: Annotated[
        str,
        typer.Option(
            "--pcapng",
            metavar="FILE",
            rich_help_panel=OUTPUT,
            help="Instead of text, pcapng for Wireshark, each packet at once with its path as a comment;"
            " - is stdout.",
        ),
    ] = "",
    epb_verdict: Annotated[
        bool,
        typer.Option(
            "--epb-verdict/--no-epb-verdict",
            rich_help_panel=OUTPUT,
            help="With --pcapng: the verdict as an option of its own, too, frame.verdict.hw. Wireshark 4.0"
            " writes a damaged file when it saves such packets.",
        ),
    ] = True,
    color: showing.Colour = "auto",
    log_level: option.LogLevel = "info",
    verbose: option.Verbose = False,
    quiet: option.Quiet = False,
    flush: option.Flush = False,
    skip_modprobe: option.SkipModprobe = False,
    _: option.Numeric = False,
) -> int:
    """Record and show live.

    Until Ctrl-C, the duration or the command's end. The trace alone is written to stdout: what the command
    writes there goes to stderr, where trace says when it is ready, and how many packets there were.

    Examples:

      iptrec trace tcp port 443
      iptrec trace icmp -o trace.db -- ping -c1 10.0.0.5
      iptrec trace --json -- curl -s http://10.0.0.5/ | jq .verdict
      iptrec trace --pcapng - tcp port 443 | wireshark -k -i -
    """
    from iptrec.kernel.undo.outlived import outlived
    from iptrec.recording import private

    level = levels(log_level, verbose=verbose, quiet=quiet)
    name = recording.one_netns(netns)
    live = Live("trace", level, _doing(words, name), line=False)
    with contextlib.ExitStack() as stack:
        at_work: list[int] = []
        if output is None:
            place = stack.enter_context(private.directory())
            at_work.append(stack.enter_context(outlived(place)))
            path = place / "trace.db"
        else:
            path = output = recording.dated(str(output))
            if is_gzipped(output):
                raise UsageError(f"--output {output}: iptrec record compresses, trace does not")
        options = recording.make_options(
            words, output=path, family=family, interfaces=interfaces,
            forwarded=not no_forwarded, netns=name, inside=inside,
            flush=flush, conntrack=conntrack, backend=backend, drops=drops,
            modprobe=not skip_modprobe, duration=duration, packets=packets, max_size=max_size,
            snaplen=snaplen, force=force,
        )  # fmt: skip
        wanted = [
            str(path),
            *(["--chain", chains] if chains else []),
            *(["--verdict", verdicts] if verdicts else []),
            *(["--tally"] if level >= INFO else []),
        ]
        stdout = None
        if pcapng:
            if json or brief:
                raise UsageError(
                    "--pcapng is written instead of text; leave --json and --brief out"
                )
            stdout = stack.enter_context(_capture(pcapng, path, force=force))
            told = "--epb-verdict" if epb_verdict else "--no-epb-verdict"
            viewer = Follower([*wanted, f"--output={pcapng}", told], ["export", "pcapng"])
        else:
            viewer = Follower(
                [
                    *wanted, "--color", color,
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
            viewer.start(descriptor, stdout, (life.fileno(), *at_work))
            life.close()

        try:
            options = replace(options, viewer=reading, command_stdout=_stderr())
            outcome = recording.run(options, live, stop_on, after, begun)
        except BaseException:
            viewer.stop()  # it would wait for the end of what nobody writes any more
            raise
        status = viewer.wait()
        live.tell_nothing(outcome, path)
    live.tell_end(outcome)
    live.tell(recording.stopped_by(outcome, output))
    return EXIT_TROUBLE if status == EXIT_TROUBLE else outcome.exit_status


def _capture(target: str, recording: Path, *, force: bool) -> BinaryIO:
    """Where the pcapng goes; a file has its name from the beginning on."""
    if target != "-" and Path(target).absolute() == recording.absolute():
        raise UsageError(f"--pcapng {target} is the recording itself; choose another file")
    with exported(target, [], force=force, grows=True, option="--pcapng") as stream:
        return os.fdopen(os.dup(stream.fileno()), "wb")


def _doing(words: list[str] | None, netns: str | None) -> str:
    """What is traced."""
    expression, _ = recording.split_command(words or [])
    return f"tracing {expression or 'all packets'}{f' in {netns}' if netns else ''}"


def _stderr() -> int:
    """Where a command writes whose stdout is not its own; nowhere if we were started without stderr."""
    return subprocess.DEVNULL if sys.stderr is None else sys.stderr.fileno()
