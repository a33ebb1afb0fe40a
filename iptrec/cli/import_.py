"""``iptrec import``."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import stat
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from iptrec.cli.record import require_file
from iptrec.cli.record_options import Force
from iptrec.errors import EXIT_DONE, RecordingError, UsageError, strerror
from iptrec.names import AF_INET, AF_INET6, FAMILIES, counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.pasted.opened import Opened
    from iptrec.pasted.rulesets import Made
    from iptrec.pcap.capture import Captured
    from iptrec.recording.imported import Imported
    from iptrec.recording.rows import Facts

_LARGEST = 64 << 20  # bytes of a ruleset
_FAMILY = 16  # where a datagram of nflog has it (struct nfgenmsg)
_PREFIX = re.compile(rb"\x0a\x00(TRACE: [^\0]{1,127})\0")  # the attribute NFULA_PREFIX
_MOST_SITES = 1 << 16
_SOURCES = (
    "capture",
    "kernel-log",
    "nft-monitor",
    "xtables-monitor",
)  # `opened.KINDS`, which is loaded with the command


def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="A capture of nflog (pcap, pcapng), or text of a log; - is stdin."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The recording.")] = Path(
        "trace.db"
    ),
    kind: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="KIND",
            help=f"What FILE is, where it cannot be told: {', '.join(_SOURCES)}.",
        ),
    ] = "",
    rulesets: Annotated[
        list[str] | None,
        typer.Option(
            "--ruleset",
            metavar="FILE",
            help="What iptables-save, ip6tables-save, nft -a list ruleset or nft -j list ruleset printed at"
            " that time; once for each. A file of iptables that does not say which it is is IPv4's, or"
            " ipv6:FILE.",
        ),
    ] = None,
    links: Annotated[
        str,
        typer.Option("--links", metavar="FILE", help="What ip -json link printed: their names."),
    ] = "",
    force: Force = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No word on stderr.")] = False,
) -> int:
    """Make a recording of a capture, or of lines of a log.

    For those who could not run iptrec, with TRACE rules of their own at the top of the raw table:

      iptables-legacy -t raw -I PREROUTING -p icmp -j TRACE; iptables-legacy-save >v4.rules

    The kernel logs each step of such packets:

      dmesg | iptrec import - --ruleset v4.rules

    or tcpdump captures them, with their bytes:

      sysctl net.netfilter.nf_log.2=nfnetlink_log; tcpdump -i nflog:0 -w capture.pcap; ip -json link >links.json

    With nf_tables, where a rule sets nftrace or has -j TRACE:

      nft -a list ruleset >nft.rules; nft -a monitor trace >trace.txt

      xtables-monitor --trace >trace.txt

    None has sequence numbers: nobody knows whether events are missing, and iptrec info says so. Text tells the
    headers alone. Without rulesets the steps are there, but not the rules' texts.

    Example:

      iptrec import capture.pcap --ruleset v4.rules --ruleset v6.rules --links links.json -o trace.db

      iptrec import kern.log --ruleset v4.rules -o logged.db

      iptrec import trace.txt --ruleset nft.rules -o traced.db
    """
    from iptrec.cli import gzipped
    from iptrec.pasted.opened import opened

    if kind and kind not in _SOURCES:
        raise UsageError(f"--from {kind!r}: must be one of {', '.join(_SOURCES)}")
    gzipped.require_plain(output, "import")
    require_file(output)
    named = [_named(one) for one in rulesets or ()]
    sources = [source, links, *(path for _, path in named)]
    _check_output(output, ["/dev/stdin" if one == "-" else one for one in sources if one])
    snapshots = dict(_ruleset(*one) for one in named)
    if len(snapshots) < len(named):
        raise UsageError("two rulesets of one family: give the one that was in force")
    names = _links(links) if links else {}
    contents = {one: text for one, (_, text) in snapshots.items()}
    with opened(
        source, kind or None, {name: one for one, name in names.items()}, contents
    ) as found:
        count, remarks = _record(source, found, output, snapshots, (links, names), force=force)
    if not quiet:
        from iptrec.views.escape import printable

        remarks = [f"imported {counted(count, 'event')}: {output}", *remarks]
        print(f"iptrec import: {printable('; '.join(remarks))}", file=sys.stderr)
    return EXIT_DONE


def _record(
    path: str,
    found: Opened,
    output: Path,
    rulesets: dict[str, tuple[str, bytes]],
    links: tuple[str, dict[int, str]],
    *,
    force: bool,
) -> tuple[int, list[str]]:
    """Write the recording; how many events it has, and what is to be said of them."""
    from iptrec.cli.output import built
    from iptrec.pasted.rulesets import snapshots
    from iptrec.recording.home import clear_beside, require_room
    from iptrec.recording.imported import Imported
    from iptrec.recording.rows import REMARKS

    source = found.source
    events = iter(source)
    first = next(events, None)
    if first is None:
        why = "; ".join(filter(None, [source.damage, *source.remarks]))
        raise RecordingError(f"{path} holds no packet{': ' * bool(why)}{why}")
    listed = list(snapshots(source.kind, rulesets))
    require_room(output, force=force)
    with built(str(output), [], force=force) as draft:
        with Imported(draft) as made:
            copied = _copy(made, first, events)
            listed, disproved = _in_force(listed, copied.sites)
            for one in (*listed, *source.rulesets):
                made.add_snapshot(one.kind, first.time_ns, one.path, one.content, one.media)
            for lost in source.lost:
                made.add_loss(*lost)
            given, names = links
            if names := {**source.links, **names}:
                named = [{"index": index, "name": name} for index, name in sorted(names.items())]
                content = json.dumps(named).encode()
                made.add_snapshot("links", first.time_ns, given or path, content, "json")
            remarks = [*disproved, *source.remarks, *found.others()]
            if copied.cut:
                are = "is" if copied.cut == 1 else "are"
                remarks.append(f"{copied.cut:,} of them {are} cut (tcpdump -s 0 keeps them whole)")
            if source.damage:
                remarks.append(f"{path} breaks off: {source.damage}")
            facts = _facts(first.time_ns, copied.last_ns, source.snaplen)
            detail = {**source.detail, REMARKS: remarks} if remarks else source.detail
            made.finish(facts, source.kind, detail)
        clear_beside(output)
    return copied.events, remarks


class _Copied(NamedTuple):
    """How many events, the last one's time, how many are cut, and AF_* and prefix of those of nflog."""

    events: int
    last_ns: int
    cut: int
    sites: set[tuple[int, bytes]]


def _copy(made: Imported, first: Captured, others: Iterator[Captured]) -> _Copied:
    """All datagrams."""
    count = cut = 0
    last_ns = first.time_ns
    sites: set[tuple[int, bytes]] = set()
    for one in itertools.chain([first], others):
        if (said := _PREFIX.search(one.datagram)) and len(sites) < _MOST_SITES:
            sites.add((one.datagram[_FAMILY], said[1]))
        made.append(one.time_ns, one.datagram)
        if not one.whole:
            if not cut:
                made.add_loss(one.time_ns, one.time_ns, None, "truncated")
            cut += 1
        count += 1
        last_ns = max(last_ns, one.time_ns)
    return _Copied(count, last_ns, cut, sites)


def _in_force(listed: list[Made], sites: set[tuple[int, bytes]]) -> tuple[list[Made], list[str]]:
    """The files without the tables that events contradict: of these no rule is known; what is to be said."""
    from iptrec.pasted.rulesets import FAMILY_KINDS, Made
    from iptrec.rulesets.disproved import disproved, without

    families = {FAMILY_KINDS["ipv4"]: AF_INET, FAMILY_KINDS["ipv6"]: AF_INET6}
    kept, said = [], []
    for made in listed:
        of = {site for family, site in sites if family == families.get(made.kind)}
        wrong = disproved(made.content, of) if of else {}
        said += [
            f"table {table} of {made.path} is not what these packets passed, and left out: they met {why}"
            for table, why in wrong.items()
        ]
        kept.append(made._replace(content=without(made.content, wrong)) if wrong else made)
        unknown = made.kind.replace("-save", "-unknown")
        kept += [Made(unknown, made.path, table.encode()) for table in wrong]
    return kept, said


def _facts(started_ns: int, stopped_ns: int, snaplen: int) -> Facts:
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
        stopped_ns=stopped_ns,
        stop_reason="imported",
        closed=True,
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
    return (family, path) if colon and family in FAMILIES else ("", given)


def _ruleset(family: str, path: str) -> tuple[str, tuple[str, bytes]]:
    """The kind of snapshot, the file's name and its text."""
    from iptrec.pasted.rulesets import kind_of

    text = _read(path)
    return kind_of(path, text, family), (path, text)


def _links(path: str) -> dict[int, str]:
    """The interfaces' names by their indexes, out of what iproute2 prints."""
    try:
        return {int(one["ifindex"]): str(one["ifname"]) for one in json.loads(_read(path))}
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError):
        raise UsageError(f"{path} is not what ip -json link prints") from None


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
