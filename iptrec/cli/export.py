"""``iptrec export``: the packets of a recording for other programs, one format a subcommand."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from iptrec.cli import selection as which
from iptrec.cli.help_ import unless_commanded
from iptrec.cli.output import Mode
from iptrec.errors import EXIT_DONE, EXIT_NO, UsageError

if TYPE_CHECKING:
    from iptrec.answers.selection import Selection
    from iptrec.recording.reader import Reader
    from iptrec.views.pcapng import Content

app = typer.Typer(
    name="export",
    callback=unless_commanded,
    invoke_without_command=True,
    help="Write packets for other programs: Wireshark, SQL, data frames.",
)

Trace = Annotated[str, typer.Argument(metavar="TRACE.db", help="The recording.")]
Output = Annotated[
    str, typer.Option("--output", "-o", metavar="OUT", help="The file to be made; - is stdout.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, no remarks.")]


@app.command()
def ndjson(
    recording: Trace,
    output: Output,
    words: which.Words = None,
    chains: which.Chains = "",
    rules: which.RuleNumbers = "",
    interfaces: which.Interfaces = "",
    verdicts: which.Verdicts = "",
    netns: which.Netns = "",
    whole: which.Whole = None,
    mark: which.Mark = "",
    since: which.Since = "",
    until: which.Until = "",
    number: which.Number = None,
    path: which.PathNumber = None,
    force: Force = False,
    mode: Mode = "",
    quiet: Quiet = False,
) -> int:
    """Write one JSON object a packet and line, as `iptrec show --json` prints it (schemas/).

    Exit status 1 when nothing fits the selection; the file is then empty.

    Example:

      iptrec export ndjson trace.db -o packets.ndjson --verdict DROP
    """
    from iptrec.answers.packets import Replay
    from iptrec.cli.index import remembered
    from iptrec.cli.output import exported
    from iptrec.cli.progress import watched
    from iptrec.recording.reader import Reader
    from iptrec.views import json_lines

    with Reader(recording) as reader:
        selection = which.make(
            reader, words=words, interfaces=interfaces, chains=chains, rules=rules,
            verdicts=verdicts, netns=netns, whole=whole, mark=mark, since=since, until=until,
            number=number, path=path,
        )  # fmt: skip
        with (
            watched(reader, "packets", quiet=quiet) as source,
            remembered(reader) as bookmarks,
            exported(output, recording, force=force, mode=mode) as stream,
        ):
            replay = Replay(source, selection, bookmarks)
            for batch in replay.in_batches():
                stream.writelines(text.encode() for text in json_lines.text(batch))
        return ending(reader, replay.count, selection, quiet=quiet)


@app.command()
def pcapng(
    recording: Trace,
    output: Output,
    words: which.Words = None,
    chains: which.Chains = "",
    rules: which.RuleNumbers = "",
    interfaces: which.Interfaces = "",
    verdicts: which.Verdicts = "",
    netns: which.Netns = "",
    whole: which.Whole = None,
    mark: which.Mark = "",
    since: which.Since = "",
    until: which.Until = "",
    number: which.Number = None,
    path: which.PathNumber = None,
    stages: Annotated[
        bool,
        typer.Option("--stages", help="A packet again after each change: before and after NAT."),
    ] = False,
    events: Annotated[
        bool, typer.Option("--events", help="The kernel's raw events instead of packets.")
    ] = False,
    link: Annotated[
        str,
        typer.Option(
            "--link",
            help="auto: with the Ethernet header where one was recorded; raw: from the IP header on;"
            " ethernet: always with a header, of zeros where none was recorded.",
        ),
    ] = "auto",
    force: Force = False,
    mode: Mode = "",
    quiet: Quiet = False,
) -> int:
    """Write packets for Wireshark, each as it first was, with its way through the rules as a comment.

    In Wireshark: frame.comment contains "DROP" finds the dropped packets; frame.packet_id is the number of
    iptrec show, frame.verdict.hw the verdict. Exit status 1 when nothing fits the selection.

    Examples:

      iptrec export pcapng trace.db -o trace.pcapng

      iptrec export pcapng trace.db -o - --stages --verdict DROP | tshark -r - -T fields -e frame.comment
    """
    from iptrec.answers.packets import Replay
    from iptrec.cli.index import remembered
    from iptrec.cli.output import exported
    from iptrec.cli.progress import watched
    from iptrec.recording.reader import Reader
    from iptrec.views.pcapng import Capture, section

    if link not in ("auto", "raw", "ethernet"):
        raise UsageError(f"--link {link!r} is none of auto, raw, ethernet")
    if stages and events:
        raise UsageError("--stages and --events are two different files; ask for one")
    with Reader(recording) as reader:
        selection = which.make(
            reader, words=words, interfaces=interfaces, chains=chains, rules=rules,
            verdicts=verdicts, netns=netns, whole=whole, mark=mark, since=since, until=until,
            number=number, path=path,
        )  # fmt: skip
        with (
            watched(reader, "packets", quiet=quiet) as source,
            remembered(reader) as bookmarks,
            exported(output, recording, force=force, mode=mode) as stream,
        ):
            capture = Capture(source.facts, link, {one.kind for one in source.streams})
            what: Content = "stages" if stages else "events" if events else "packets"
            # Among the events may be some that belong to no packet, anywhere.
            replay = Replay(source, selection, None if events else bookmarks)
            for blocks in section(capture, source, replay, what):
                stream.write(blocks)
        return ending(reader, capture.written, selection, quiet=quiet)


@app.command()
def sqlite(
    recording: Trace,
    output: Output,
    words: which.Words = None,
    chains: which.Chains = "",
    rules: which.RuleNumbers = "",
    interfaces: which.Interfaces = "",
    verdicts: which.Verdicts = "",
    netns: which.Netns = "",
    whole: which.Whole = None,
    mark: which.Mark = "",
    since: which.Since = "",
    until: which.Until = "",
    number: which.Number = None,
    path: which.PathNumber = None,
    force: Force = False,
    mode: Mode = "",
    quiet: Quiet = False,
) -> int:
    """Write a SQLite database with packets, steps, rules, snapshots and losses as ordinary tables.

    Each column says what it is (sqlite3 OUT .schema); iptrec query --tables lists them as well. Exit status
    1 when nothing fits the selection.

    Examples:

      iptrec export sqlite trace.db -o tables.db

      sqlite3 tables.db "SELECT src, count(*) FROM drops GROUP BY src"
    """
    from iptrec.answers.packets import Replay
    from iptrec.cli.output import built
    from iptrec.cli.progress import watched
    from iptrec.recording.reader import Reader
    from iptrec.views.sqlite import database, fill
    from iptrec.views.table_rows import rows
    from iptrec.views.tables import TABLES

    with Reader(recording) as reader, contextlib.ExitStack() as stack:
        selection = which.make(
            reader, words=words, interfaces=interfaces, chains=chains, rules=rules,
            verdicts=verdicts, netns=netns, whole=whole, mark=mark, since=since, until=until,
            number=number, path=path,
        )  # fmt: skip
        made = stack.enter_context(built(output, recording, force=force, mode=mode))
        source = stack.enter_context(watched(reader, "packets", quiet=quiet))
        replay = Replay(source, selection)
        with database(made) as tables:
            fill(tables, rows(source, replay, {table.name for table in TABLES}))
        return ending(reader, replay.count, selection, quiet=quiet)


@app.command()
def parquet(
    recording: Trace,
    output: Output,
    words: which.Words = None,
    chains: which.Chains = "",
    rules: which.RuleNumbers = "",
    interfaces: which.Interfaces = "",
    verdicts: which.Verdicts = "",
    netns: which.Netns = "",
    whole: which.Whole = None,
    mark: which.Mark = "",
    since: which.Since = "",
    until: which.Until = "",
    number: which.Number = None,
    path: which.PathNumber = None,
    force: Force = False,
    mode: Mode = "",
    quiet: Quiet = False,
) -> int:
    """Write a directory of Parquet files, the same tables: OUT/packets/host=HOST/date=DAY/....parquet.

    Several exports may be moved into one directory. Needs pyarrow (pip install 'iptrec[parquet]'). Exit
    status 1 when nothing fits the selection.

    Examples:

      iptrec export parquet trace.db -o traces

      duckdb -c "SELECT verdict, count(*) FROM 'traces/packets/**/*.parquet' GROUP BY verdict"
    """
    from iptrec.answers.packets import Replay
    from iptrec.cli.output import directory
    from iptrec.cli.progress import watched
    from iptrec.recording.reader import Reader
    from iptrec.views.parquet import Files, require
    from iptrec.views.table_rows import rows
    from iptrec.views.tables import TABLES

    require()
    if output == "-":
        raise UsageError("--output -: export parquet makes a directory; name one")
    with Reader(recording) as reader:
        selection = which.make(
            reader, words=words, interfaces=interfaces, chains=chains, rules=rules,
            verdicts=verdicts, netns=netns, whole=whole, mark=mark, since=since, until=until,
            number=number, path=path,
        )  # fmt: skip
        with (
            watched(reader, "packets", quiet=quiet) as source,
            directory(output, recording, force=force, mode=mode) as made,
            Files(made, source.facts) as files,
        ):
            replay = Replay(source, selection)
            files.fill(rows(source, replay, {table.name for table in TABLES}))
        return ending(reader, replay.count, selection, quiet=quiet)


def ending(reader: Reader, written: int, selection: Selection, *, quiet: bool) -> int:
    """The exit status; a selection that fits no packet is told, and what the recording lacks."""
    from iptrec.cli.output import tell_flaws

    nothing = not written and not selection.everything
    if nothing and not quiet:
        print("iptrec export: no packet fits", file=sys.stderr)
    if not quiet:
        tell_flaws("export", reader)
    return EXIT_NO if nothing else EXIT_DONE
