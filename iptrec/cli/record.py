"""``iptrec record``."""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iptrec.cli.live import Live, levels
from iptrec.cli.output import GROUP as OUTPUT
from iptrec.errors import UsageError
from iptrec.names import ANY, BACKEND_CHOICES, FAMILIES

if TYPE_CHECKING:
    from collections.abc import Callable

    from iptrec.recorder.options import Options, Progress

_SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
WHAT, WHEN = "What to record", "When to stop"  # groups of options in --help
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[FILTER] [-- COMMAND...]",
        help="Packets to trace, in tcpdump's language (man pcap-filter); all without it. After --, a"
        " command to run: the recording ends with it and passes on its exit status. It keeps all rights of"
        " whoever starts it: only the recorder gives its own up.",
    ),
]
Family = Annotated[
    str,
    typer.Option(metavar="FAMILY", rich_help_panel=WHAT, help="ipv4, ipv6 or both."),
]
Interfaces = Annotated[
    str,
    typer.Option(
        "--iface",
        "-i",
        metavar="A,B",
        rich_help_panel=WHAT,
        help="Only packets that come in or go out by one of these; eth+ is all whose names begin so. Where"
        " this host forwards, all that come in are traced, as nobody knows yet where they will go out, and"
        " show and the others leave out those that pass none of these.",
    ),
]
NoForwarded = Annotated[
    bool,
    typer.Option(
        "--no-forwarded",
        rich_help_panel=WHAT,
        help="With --iface: leave out packets that are forwarded out by one of these and came in by another,"
        " and trace less.",
    ),
]
Netns = Annotated[
    list[str] | None,  # all that were given: to keep the last one alone in silence would mislead
    typer.Option(
        metavar="NETNS",
        rich_help_panel=WHAT,
        help="Network namespace: a name of ip netns, a path such as /proc/PID/ns/net, a pid.",
    ),
]
Inside = Annotated[
    bool,
    typer.Option(
        "--inside",
        rich_help_panel=WHAT,
        help="Run COMMAND in the namespace of --netns. Without it COMMAND runs where iptrec was started."
        " Files, /etc/netns included, are the same in both.",
    ),
]
Flush = Annotated[
    bool,
    typer.Option(
        "--flush",
        help="Empty the raw chains while recording; put back, counters included, after. What limit, quota and"
        " hashlimit have counted starts again.",
    ),
]
Conntrack = Annotated[
    bool,
    typer.Option(
        "--conntrack",
        rich_help_panel=WHAT,
        help="Record connections as well: new ones, ended ones, their NAT.",
    ),
]
Backend = Annotated[
    str,
    typer.Option(
        metavar="BACKEND",
        rich_help_panel=WHAT,
        help="Whose rules: legacy (iptables-legacy), nft (iptables-nft and nft), both, or auto: what has"
        " rules here.",
    ),
]
Numeric = Annotated[
    bool,
    typer.Option("-n", help="For tcpdump's habits: addresses and ports are always numbers."),
]
SkipModprobe = Annotated[bool, typer.Option("--skip-modprobe", help="Never load a kernel module.")]
Duration = Annotated[
    str | None,
    typer.Option(
        metavar="TIME", rich_help_panel=WHEN, help="Stop after so long: 500ms, 30s, 5m, 1h."
    ),
]
Packets = Annotated[
    int | None,
    typer.Option(
        "--packets", "-c", min=1, rich_help_panel=WHEN, help="Stop after about so many packets."
    ),
]
MaxSize = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        rich_help_panel=WHEN,
        help="Stop when the file has about this size: 500k, 100M, 2G.",
    ),
]
Ring = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE|TIME",
        rich_help_panel=OUTPUT,
        help="Keep the last events only, for days if need be: 500k, 100M, 2G or 30s, 10m, 24h. Rulesets that"
        " were replaced meanwhile take as much again, at most. SIGUSR1 writes what there is into a file of its"
        " own, and recording goes on.",
    ),
]
StopOn = Annotated[
    str | None,
    typer.Option(
        metavar="EXPR",
        rich_help_panel=WHEN,
        help="Stop when a packet fits: a verdict, a rule (TABLE/CHAIN/N), a filter, or several of them:"
        ' "DROP dst port 443".',
    ),
]
After = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        rich_help_panel=WHEN,
        help="With --stop-on: go on for so long, then stop.",
    ),
]
Snaplen = Annotated[
    int,
    typer.Option(
        min=64,
        max=65535,
        rich_help_panel=WHAT,
        help="Bytes of each packet to keep at each rule.",
    ),
]
Force = Annotated[
    bool,
    typer.Option("--force", rich_help_panel=OUTPUT, help="Replace the output file if it exists."),
]
LogLevel = Annotated[
    str,
    typer.Option(
        metavar="LEVEL",
        rich_help_panel=OUTPUT,
        help="error, warning (or warn), info or debug: what is said on stderr.",
    ),
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", rich_help_panel=OUTPUT, help="As --log-level debug."),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", rich_help_panel=OUTPUT, help="As --log-level error.")
]


def record(
    words: Words = None,
    family: Family = "both",
    interfaces: Interfaces = "",
    no_forwarded: NoForwarded = False,
    netns: Netns = None,
    inside: Inside = False,
    backend: Backend = "auto",
    conntrack: Conntrack = False,
    snaplen: Snaplen = 256,
    duration: Duration = None,
    packets: Packets = None,
    max_size: MaxSize = None,
    stop_on: StopOn = None,
    after: After = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", "-w", metavar="FILE", rich_help_panel=OUTPUT, help="The recording."
        ),
    ] = Path("trace.db"),
    force: Force = False,
    ring: Ring = None,
    log_level: LogLevel = "info",
    verbose: Verbose = False,
    quiet: Quiet = False,
    flush: Flush = False,
    skip_modprobe: SkipModprobe = False,
    _: Numeric = False,
) -> int:
    """Trace packets through iptables and nftables into a file.

    Needs root (or CAP_NET_ADMIN). Two TRACE rules a family, tagged with a comment, are put on top of the raw
    table and taken out again. Nobody else's rules are touched. For legacy iptables net.netfilter.nf_log is
    switched to nfnetlink_log meanwhile.

    Examples:

      iptrec record tcp port 443 -o trace.db
      iptrec record icmp or icmp6 --duration 30s
      iptrec record --netns web --inside -- curl -s http://10.0.0.5/
      iptrec record --ring 10m --stop-on "DROP dst port 443" --after 5s
    """
    level = levels(log_level, verbose=verbose, quiet=quiet)
    options = make_options(
        words, output=output, family=family, interfaces=interfaces,
        forwarded=not no_forwarded, netns=one_netns(netns), inside=inside,
        flush=flush, conntrack=conntrack, backend=backend, modprobe=not skip_modprobe, duration=duration,
        packets=packets, max_size=max_size, ring=ring, snaplen=snaplen, force=force,
    )  # fmt: skip
    live = Live("record", level, f"recording to {output}", line=True)
    outcome = run(options, live, stop_on, after)
    live.report(outcome)
    live.tell_nothing(outcome, output)
    live.tell(stopped_by(outcome, output, renumbers=bool(options.ring)))
    return outcome.exit_status


def stopped_by(outcome: Progress, output: Path | None, *, renumbers: bool = False) -> str:
    """What --stop-on saw, if that was the reason to stop, and how to see it; see `stop_on.stopped_by`."""
    from iptrec.cli import stop_on

    if outcome.reason != "stop-on":
        return ""
    return stop_on.stopped_by(outcome.stopped_by, output, renumbers=renumbers)


def run(
    options: Options,
    live: Live,
    stop_on: str | None,
    after: str | None,
    begun: Callable[[int], None] = lambda _: None,
) -> Progress:
    """Record. A process beside it looks for --stop-on, or counts for --packets.

    ``begun``: see `session.record`.
    """
    from iptrec.cli.stop_on import Lookout
    from iptrec.recorder.session import record as record_

    if after is not None and stop_on is None:
        raise UsageError("--after is the time to go on for after --stop-on: say what to stop on")
    options = counted_by_interface(options, stop_on)
    counts = options.trigger_packets is not None
    with Lookout(options.output, stop_on, any_packet=counts) as lookout:

        def ready(recording: int) -> None:
            lookout.start(recording)
            begun(recording)
            live.ready = True

        def tell(progress: Progress) -> None:
            live(progress)
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
    interfaces = tuple(name for name in more.pop("interfaces").split(",") if name)
    families: Any = FAMILIES if family == "both" else (family,)
    compiled = bytecodes(expression, families)
    duration = more.pop("duration")
    max_size = more.pop("max_size", None)
    ring_bytes, ring_s = _ring(more.pop("ring", None))
    options = Options(
        bytecodes=compiled,
        filter=expression or None,
        matches=matches,
        interfaces=() if ANY in interfaces else interfaces,
        duration_s=None if duration is None else seconds(duration),
        max_bytes=None if max_size is None else size(max_size, "--max-size"),
        ring_bytes=ring_bytes,
        ring_s=ring_s,
        command=command,
        argv=["iptrec", *sys.argv[1:]],
        **more,
    )
    _check_limits(options)
    return options


def counted_by_interface(options: Options, stop_on: str | None) -> Options:
    """The options, with --packets for packets of --iface where others may be traced as well.

    Who looks for --stop-on looks for nothing else: then all that are traced count.
    """
    if not (options.packets and options.interfaces and options.forwarded) or stop_on is not None:
        return options
    return replace(options, packets=None, trigger_packets=options.packets)


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
    }  # fmt: skip
    for option, limit in limits.items():
        if limit == 0:
            raise UsageError(f"{option} must be more than 0")


def size(text: str, option: str) -> int:
    """A size with its unit, in bytes."""
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([kKMG]?)", text)
    if not found:
        raise UsageError(f"{option} {text!r} is not a size; write 500k, 100M or 2G")
    return int(float(found[1]) * _SIZES[found[2].lower()])


def _ring(text: str | None) -> tuple[int | None, float | None]:
    """A size in bytes, or a time in seconds."""
    if text is None:
        return None, None
    try:
        if text.endswith(("s", "m", "h")):
            return None, seconds(text)
        return size(text, "--ring"), None
    except UsageError:
        raise UsageError(
            f"--ring {text!r}: expected a size (500k, 100M, 2G) or a time (30s, 10m, 24h)"
        ) from None
