"""``iptrec record``."""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from iptrec import interrupts
from iptrec.cli import record_options as typed
from iptrec.cli.gzipped import Gzipped, is_gzipped
from iptrec.cli.live import Live, levels
from iptrec.cli.output import GROUP as OUTPUT
from iptrec.errors import UsageError
from iptrec.names import ANY, BACKEND_CHOICES, DROPS_CHOICES, FAMILIES

if TYPE_CHECKING:
    from collections.abc import Callable

    from iptrec.recorder.options import Options, Progress

_SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_NOT_COUNTED: Final = "--metrics: the process that counts has ended; record goes on"
DATED: Final = "-%Y%m%d-%H%M%S"
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}


def record(
    words: typed.Words = None,
    family: typed.Family = "both",
    interfaces: typed.Interfaces = "",
    no_forwarded: typed.NoForwarded = False,
    netns: typed.Netns = None,
    inside: typed.Inside = False,
    backend: typed.Backend = "auto",
    conntrack: typed.Conntrack = False,
    drops: typed.Drops = "auto",
    snaplen: typed.Snaplen = 256,
    duration: typed.Duration = None,
    packets: typed.Packets = None,
    max_size: typed.MaxSize = None,
    stop_on: typed.StopOn = None,
    after: typed.After = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            "-w",
            metavar="FILE",
            rich_help_panel=OUTPUT,
            help="The recording; %Y, %m, %d, %H, %M, %S and the others of date(1) are the local time. One named"
            " .gz is compressed in the end, and .part.db until then.",
        ),
    ] = Path(f"trace{DATED}.db"),
    force: typed.Force = False,
    ring: typed.Ring = None,
    rotate: typed.Rotate = None,
    keep: typed.Keep = None,
    metrics: typed.Metrics = None,
    log_level: typed.LogLevel = "info",
    verbose: typed.Verbose = False,
    quiet: typed.Quiet = False,
    flush: typed.Flush = False,
    skip_modprobe: typed.SkipModprobe = False,
    _: typed.Numeric = False,
) -> int:
    """Trace packets through iptables and nftables into a file.

    Needs root (or CAP_NET_ADMIN). Two TRACE rules a family, tagged with a comment, are put on top of the raw
    table and taken out again. Nobody else's rules are touched. For legacy iptables net.netfilter.nf_log is
    switched to nfnetlink_log meanwhile. The file also has interfaces, routes, settings, sets and the sockets
    that listen.

    Examples:

      iptrec record tcp port 443 -o trace.db
      iptrec record icmp or icmp6 --duration 30s
      iptrec record --netns web --inside -- curl -s http://10.0.0.5/
      iptrec record --ring 10m --stop-on "DROP dst port 443" --after 5s
      iptrec record --rotate 1h --keep 24 -o 'fr-%Y%m%d-%H%M%S.db'
    """
    level = levels(log_level, verbose=verbose, quiet=quiet)
    if rotate and is_gzipped(output):
        raise UsageError(
            "--rotate goes on in another file at once: name files that need no compressing"
        )
    pattern = rotating(output) if rotate else str(output)
    options = make_options(
        words, output=dated(pattern), pattern=pattern, rotate=rotate, keep=keep, family=family,
        interfaces=interfaces, forwarded=not no_forwarded, netns=one_netns(netns), inside=inside,
        flush=flush, conntrack=conntrack, backend=backend, drops=drops,
        modprobe=not skip_modprobe, duration=duration, packets=packets, max_size=max_size,
        ring=ring, snaplen=snaplen, force=force,
    )  # fmt: skip
    output = options.output
    with contextlib.ExitStack() as stack:
        made = None
        if is_gzipped(output):
            made = stack.enter_context(Gzipped(output, force=force))
            options = replace(options, output=made.part, pattern=str(made.part), force=False)
        then = f", which becomes {output.name} in the end" if made else ""
        live = Live("record", level, f"recording to {options.output}{then}", line=True)
        begun = made.begun if made else ignored
        outcome = run(options, live, stop_on, after, begun, metrics=metrics)
        if made is None:
            interrupts.come_too_late()  # it is recorded; there is but to tell of it
        else:
            outcome = replace(outcome, file_bytes=made.finish(), written_to=str(output))
    live.report(outcome)
    output = Path(outcome.written_to or output)
    live.tell_nothing(outcome, output)
    live.tell(stopped_by(outcome, output, renumbers=bool(options.ring)))
    return outcome.exit_status


def stopped_by(outcome: Progress, output: Path | None, *, renumbers: bool = False) -> str:
    """What --stop-on saw, if that was the reason to stop, and how to see it; see `stop_on.stopped_by`."""
    from iptrec.cli import stop_on

    if outcome.reason != "stop-on":
        return ""
    return stop_on.stopped_by(outcome.stopped_by, output, renumbers=renumbers)


def ignored(_: int) -> None:
    """Nobody waits for the beginning."""


def run(
    options: Options,
    live: Live,
    stop_on: str | None,
    after: str | None,
    begun: Callable[[int], None] = ignored,
    *,
    metrics: Path | None = None,
) -> Progress:
    """Record. A process beside it looks for --stop-on, or counts for --packets; another one for --metrics.

    ``begun``: see `session.record`.
    """
    from iptrec.cli.metrics import Metrics
    from iptrec.cli.served import Served
    from iptrec.cli.stop_on import Lookout
    from iptrec.kernel.service import Service
    from iptrec.recorder.session import record as record_

    if after is not None and stop_on is None:
        raise UsageError("--after is the time to go on for after --stop-on: say what to stop on")
    if stop_on is not None and options.rotates:
        raise UsageError("--stop-on looks at one file: leave --rotate out, or record with --ring")
    options = counted_by_interface(options, stop_on)
    counts = options.trigger_packets is not None
    with (
        contextlib.closing(Service()) as service,
        Metrics(metrics, options.output, options.netns) as counters,
        Lookout(options.output, stop_on, any_packet=counts) as lookout,
    ):
        served = Served(service)

        def ready(recording: int) -> None:
            lookout.start(recording)
            counters.tell(str(options.output))
            begun(recording)
            live.ready = True
            served.begun()

        def tell(progress: Progress) -> None:
            live(progress)
            served(progress)
            if live.ready:
                counters.tell(progress.written_to or str(options.output))
                if counters.ended and _NOT_COUNTED not in progress.notes:
                    progress.notes.append(_NOT_COUNTED)
            if progress.reason:
                lookout.stop()

        after_s = seconds(after or "0s", "--after")
        try:
            return record_(
                replace(options, trigger=lookout.descriptor, after_s=after_s), tell, ready
            )
        finally:
            live.end()


def make_options(words: list[str] | None, *, family: str, **more: Any) -> Options:  # noqa: ANN401
    """The recorder's options out of the command line's; all that can be checked is checked here."""
    from iptrec.pcap.filter import bytecodes
    from iptrec.pcap.nft import matches
    from iptrec.recorder.options import Options

    require_file(more["output"])
    expression, command = split_command(words or [])
    if command and shutil.which(command[0]) is None:
        raise UsageError(f"command {command[0]!r} is not found")
    if more["inside"] and not (command and more["netns"]):
        raise UsageError(
            "--inside runs COMMAND in the namespace of --netns: --netns NAME --inside -- COMMAND"
        )
    if family not in ("ipv4", "ipv6", "both"):
        raise UsageError(f"--family {family!r}: must be one of ipv4, ipv6, both")
    if more["backend"] not in BACKEND_CHOICES:
        raise UsageError(
            f"--backend {more['backend']!r}: must be one of {', '.join(BACKEND_CHOICES)}"
        )
    if more["drops"] not in DROPS_CHOICES:
        raise UsageError(f"--drops {more['drops']!r}: must be one of {', '.join(DROPS_CHOICES)}")
    interfaces = tuple(name for name in more.pop("interfaces").split(",") if name)
    families: Any = FAMILIES if family == "both" else (family,)
    compiled = bytecodes(expression, families)
    duration = more.pop("duration")
    max_size = more.pop("max_size", None)
    ring_bytes, ring_s = _size_or_time(more.pop("ring", None), "--ring")
    rotate_bytes, rotate_s = _size_or_time(more.pop("rotate", None), "--rotate")
    options = Options(
        bytecodes=compiled,
        filter=expression or None,
        matches=matches,
        interfaces=() if ANY in interfaces else interfaces,
        duration_s=None if duration is None else seconds(duration),
        max_bytes=None if max_size is None else size(max_size, "--max-size"),
        ring_bytes=ring_bytes,
        ring_s=ring_s,
        rotate_bytes=rotate_bytes,
        rotate_s=rotate_s,
        command=command,
        argv=["iptrec", *sys.argv[1:]],
        **more,
    )
    _check_limits(options)
    return options


def counted_by_interface(options: Options, stop_on: str | None) -> Options:
    """The options, with --packets for packets of --iface where others may be traced as well.

    Who looks for --stop-on looks for nothing else, and at one file: then all that are traced count.
    """
    beside = stop_on is not None or options.rotates
    if beside or not (options.packets and options.interfaces and options.forwarded):
        return options
    return replace(options, packets=None, trigger_packets=options.packets)


def rotating(output: Path) -> str:
    """The pattern of the names of files that follow each other: it has a date.

    Raises `UsageError` for what is no file, such as /dev/null: its directory is not where files are wanted.
    """
    if "%" in output.name:
        return str(output)
    if output.exists() and not output.is_file():
        raise UsageError(f"{output} exists and is not a regular file; use another -o")
    return str(output.with_name(f"{output.stem}{DATED}{output.suffix}"))


def dated(pattern: str) -> Path:
    """The name with the time of now in it. Raises `UsageError` for what is not a name then."""
    if "%" not in pattern:
        return Path(pattern)
    try:
        name = time.strftime(pattern)
    except ValueError as error:  # UnicodeError is one
        raise UsageError(f"--output {pattern!r}: {error}") from None
    if "\n" in name or not name:
        raise UsageError(f"--output {pattern!r} is not the name of a file: {name!r}")
    return Path(name)


def require_file(output: Path) -> None:
    """Raise `UsageError` for "-": elsewhere that is stdout."""
    if str(output) == "-":
        raise UsageError(
            "--output -: a recording is a file, which SQLite writes to everywhere; name one, such as trace.db"
        )


def one_netns(given: list[str] | None) -> str | None:
    """The network namespace. Raises `UsageError` for several."""
    if given and len(given) > 1:
        raise UsageError(
            f"--netns was given {len(given)} times; run iptrec once for each namespace: {', '.join(given)}"
        )
    return given[0] if given else None


def split_command(words: list[str]) -> tuple[str, list[str]]:
    """FILTER and COMMAND: click drops the "--", so it is looked up in what was typed."""
    if "--" not in sys.argv:
        return " ".join(words), []
    count = len(sys.argv) - sys.argv.index("--") - 1
    if count == 0:
        raise UsageError("there is no command after --")
    return " ".join(words[: len(words) - count]), words[len(words) - count :]


def seconds(text: str, option: str = "--duration") -> float:
    """A duration with its unit."""
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|)", text)
    if not found:
        raise UsageError(f"{option} {text!r} is not a time; write 500ms, 30s, 5m or 1h")
    return float(found[1]) * _UNITS[found[2]]


def _check_limits(options: Options) -> None:
    """Refuse limits that are reached before anything happens."""
    limits = {
        "--duration": options.duration_s, "--max-size": options.max_bytes,
        "--ring": options.ring_bytes if options.ring_s is None else options.ring_s,
        "--rotate": options.rotate_bytes if options.rotate_s is None else options.rotate_s,
    }  # fmt: skip
    for option, limit in limits.items():
        if limit == 0:
            raise UsageError(f"{option} must be more than 0")
    if options.keep is not None and not options.rotates:
        raise UsageError("--keep is how many files --rotate keeps: say when to rotate")
    others = {"--ring": options.ring, "--max-size": options.max_bytes, "--flush": options.flush}
    for option, given in others.items():
        if options.rotates and given:
            raise UsageError(f"--rotate goes on in another file: leave {option} out")


def size(text: str, option: str) -> int:
    """A size with its unit, in bytes."""
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([kKMG]?)", text)
    if not found:
        raise UsageError(f"{option} {text!r} is not a size; write 500k, 100M or 2G")
    return int(float(found[1]) * _SIZES[found[2].lower()])


def _size_or_time(text: str | None, option: str) -> tuple[int | None, float | None]:
    """A size in bytes, or a time in seconds; without a unit it could be either."""
    if text is None:
        return None, None
    try:
        if text.endswith(("s", "m", "h")):
            return None, seconds(text)
        if not text.strip("0").isdigit():
            return size(text, option), None
    except UsageError:
        pass
    raise UsageError(
        f"{option} {text!r}: expected a size (500k, 100M, 2G) or a time (30s, 10m, 24h)"
    )
