"""The options of `record`, which `trace` has as well, and some of them `doctor` and `cleanup`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from iptrec.cli import selection as which
from iptrec.cli.output import GROUP as OUTPUT

WHAT, WHEN = "What to record", "When to stop"  # groups of options in --help

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
        callback=which.given,
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
Drops = Annotated[
    str,
    typer.Option(
        metavar="WHEN",
        rich_help_panel=WHAT,
        help="Record why the kernel drops packets that no rule drops: no; auto: where a program of ours may run"
        " in the kernel; yes: else by the host's drop monitor.",
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
        " own beside it (trace-20270131T120000Z.db of trace.db, and of trace.db.gz), and recording goes on.",
    ),
]
Rotate = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE|TIME",
        rich_help_panel=OUTPUT,
        help="Go on in another file when one has about this size or age: 500k, 100M, 2G or 30s, 10m, 24h. Each"
        " can be read by itself; a name without a date gets one.",
    ),
]
Keep = Annotated[
    int | None,
    typer.Option(
        min=1,
        rich_help_panel=OUTPUT,
        help="With --rotate: keep so many files, the one that is written included, and delete those that this"
        " recorder made before.",
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
Metrics = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.prom",
        rich_help_panel=OUTPUT,
        help="Keep counters for Prometheus in this file, which node_exporter's textfile collector reads:"
        " packets by verdict and deciding rule, losses, the oldest event held. It is replaced every 15 seconds."
        " In the end it stays, with iptrec_recording 0, until you delete it.",
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
