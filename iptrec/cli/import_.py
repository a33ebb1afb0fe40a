"""``iptrec import``."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import stat
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iptrec.cli.record import require_file
from iptrec.cli.record_options import Force
from iptrec.errors import EXIT_DONE, RecordingError, UsageError, strerror
from iptrec.names import FAMILIES, counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.pcap.capture import Captured
    from iptrec.recording.rows import Facts
    from iptrec.recording.writer import Writer

_LARGEST = 64 << 20  # bytes of a ruleset
_KINDS = {"ipv4": "iptables-save", "ipv6": "ip6tables-save"}


def import_(
    capture: Annotated[
        str, typer.Argument(metavar="CAPTURE", help="pcap or pcapng of nflog; - is stdin.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The recording.")] = Path(
        "trace.db"
    ),
    rulesets: Annotated[
        list[str] | None,
        typer.Option(
            "--ruleset",
            metavar="FILE",
            help="What iptables-save or ip6tables-save printed at that time; once for each. A file that"
            " does not say which it is is IPv4's, or ipv6:FILE.",
        ),
    ] = None,
    links: Annotated[
        str,
        typer.Option("--links", metavar="FILE", help="What ip -json link printed: their names."),
    ] = "",
    force: Force = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No word on stderr.")] = False,
) -> int:
    """Make a recording of a capture of tcpdump.

    The capture has TRACE events of nflog group 0. For those who could only run tcpdump, with TRACE rules of
    their own at the top of the raw table:

      sysctl net.netfilter.nf_log.2=nfnetlink_log; iptables-legacy -t raw -I PREROUTING -p icmp -j TRACE

      tcpdump -i nflog:0 -w capture.pcap; iptables-legacy-save >v4.rules; ip -json link >links.json

    Such a capture has no sequence numbers: nobody knows whether events are missing, and iptrec info says
    so. Without rulesets the steps are there, but not the rules' texts.

    Example:

      iptrec import capture.pcap --ruleset v4.rules --ruleset v6.rules --links links.json -o trace.db
    """
    from iptrec.cli import gzipped
    from iptrec.pcap.capture import Capture
    from iptrec.recording.writer import Writer

    gzipped.require_plain(output, "import")
    require_file(output)
    sources = [capture, links, *(_named(one)[1] for one in rulesets or ())]
    _check_output(output, ["/dev/stdin" if one == "-" else one for one in sources if one])
    snapshots = dict(_ruleset(one) for one in rulesets or ())
    if len(snapshots) < len(rulesets or ()):
        raise UsageError("two rulesets of one family: give the one that was in force")
    if links:
        snapshots["links"] = links, _links(links)
    with Capture(capture) as source:
        packets = iter(source)
        first = next(packets, None)
        if first is None:
            raise RecordingError(
                f"{capture} holds no packet{': ' * bool(source.damage)}{source.damage}"
            )
        with Writer.create(output, _facts(first.time_ns, source.snaplen), force=force) as writer:
            namespace = writer.add_namespace(None, 0)
            for kind, (path, content) in snapshots.items():
                media = "json" if kind == "links" else "text"
                writer.add_snapshot(namespace, kind, first.time_ns, path, content, media=media)
            count, last_ns, cut = _copy(writer, namespace, first, packets)
            writer.close(last_ns, "imported")
    if not quiet:
        remarks = [f"imported {counted(count, 'event')}: {output}"]
        if cut:
            remarks.append(f"{cut:,} of them are cut (tcpdump -s 0 keeps them whole)")
        if source.damage:
            remarks.append(f"{capture} breaks off: {source.damage}")
        print(f"iptrec import: {'; '.join(remarks)}", file=sys.stderr)
    return EXIT_DONE


def _copy(
    writer: Writer, namespace: int, first: Captured, others: Iterator[Captured]
) -> tuple[int, int, int]:
    """All datagrams; how many, the last one's time, and how many of them are cut."""
    import numpy as np

    from iptrec.recording.rows import Loss

    stream = writer.add_stream(namespace, "nflog", {"group": 0, "sequence": False})
    count = cut = 0
    last_ns = first.time_ns
    for one in itertools.chain([first], others):
        writer.append(stream, one.time_ns, np.array([len(one.datagram)], np.uint32), one.datagram)
        if not one.whole:
            if not cut:
                writer.add_loss(Loss(stream, one.time_ns, one.time_ns, None, "truncated"))
            cut += 1
        count += 1
        last_ns = max(last_ns, one.time_ns)
    return count, last_ns, cut


def _facts(started_ns: int, snaplen: int) -> Facts:
    from iptrec.recording.rows import Facts
    from iptrec.version import __version__

    return Facts(
        uuid=str(uuid.uuid4()),
        iptrec=__version__,
        kernel="unknown",
        host="unknown",
        command=("iptrec", *sys.argv[1:]),
        filter=None,
        families=FAMILIES,
        interfaces=(),
        snaplen=snaplen,
        started_ns=started_ns,
        started_monotonic_ns=0,
    )


def _check_output(output: Path, sources: list[str]) -> None:
    """What is read is evidence, and never replaced: not with --force, nor by another name."""
    from iptrec.recording.home import COMPANIONS

    names = [Path(f"{output}{suffix}") for suffix in ("", *COMPANIONS)]
    for source, name in itertools.product(sources, names):
        with contextlib.suppress(OSError):  # what cannot be looked at is reported when it is read
            if name.samefile(source):
                raise UsageError(f"--output {output}: {source} is read; use another -o")


def _named(given: str) -> tuple[str, str]:
    """The family of --ruleset, "" where the file has to say it, and the file."""
    family, colon, path = given.partition(":")
    return (family, path) if colon and family in _KINDS else ("", given)


def _ruleset(given: str) -> tuple[str, tuple[str, bytes]]:
    """The kind of snapshot, the file's name and its text."""
    from iptrec.decode.rulesets import iptables_save

    family, path = _named(given)
    text = _read(path)
    try:
        iptables_save.parse(text)
    except RecordingError as error:
        raise UsageError(f"{path}: {error}; is it a file of iptables-save?") from None
    said = "ipv6" if text.startswith(b"# Generated by ip6tables-save") else "ipv4"
    return _KINDS[family or said], (path, text)


def _links(path: str) -> bytes:
    """The snapshot of interfaces out of what iproute2 prints."""
    try:
        found: list[dict[str, Any]] = [
            {"index": int(one["ifindex"]), "name": str(one["ifname"])}
            for one in json.loads(_read(path))
        ]
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError):
        raise UsageError(f"{path} is not what ip -json link prints") from None
    return json.dumps(found).encode()


def _read(path: str) -> bytes:
    from iptrec.pcap.capture import open_to_read

    try:
        with open(open_to_read(path), "rb") as file:  # noqa: PTH123 - no name
            content = file.read(_LARGEST)
            pipe = stat.S_ISFIFO(os.fstat(file.fileno()).st_mode)
    except OSError as error:
        raise RecordingError(f"cannot open {path}: {strerror(error)}") from None
    if pipe and not content:
        raise RecordingError(f"{path} is a pipe to which nobody writes; start who writes first")
    return content
