"""``iptrec export``: the packets of a recording for other programs, one format a subcommand."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Final

import typer

from iptrec.cli import selection as which
from iptrec.cli.follower import (
    Held,
    Parent,
    Tally,
    give_up_rights,
    kept_alive,
    look_as_nobody,
    tell_tally,
    while_read,
)
from iptrec.cli.help_ import Command, unless_commanded
from iptrec.cli.output import Jobs, Mode
from iptrec.cli.several import HELP
from iptrec.errors import EXIT_DONE, EXIT_NO, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from iptrec.answers.packets import Packets
    from iptrec.api import Recording
    from iptrec.recording import rows as recorded
    from iptrec.views.filed import Filed
    from iptrec.views.pcapng import Content

_LONGEST: Final = 200  # of a note that has words of the recording

app = typer.Typer(
    name="export",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    callback=unless_commanded,
    invoke_without_command=True,
    help="Write packets for Wireshark, SQL or data frames.",
)

Trace = Annotated[str, typer.Argument(metavar="TRACE.db", help=HELP)]
Output = Annotated[
    str, typer.Option("--output", "-o", metavar="OUT", help="The file to be made; - is stdout.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]
SchemaName = Annotated[
    str,
    typer.Option(
        "--schema",
        metavar="NAME",
        help="iptrec, or events as others define them: ocsf, ecs (schemas/).",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, no remarks.")]


@app.command(cls=Command)
@which.selection()
def ndjson(
    recording: Trace,
    output: Output,
    chosen: which.Chosen = which.NOTHING_TYPED,
    schema: SchemaName = "iptrec",
    force: Force = False,
    mode: Mode = "",
    jobs: Jobs = 1,
    quiet: Quiet = False,
) -> int:
    """Write one JSON object a packet and line.

    As iptrec show --json prints it (schemas/), or for a SIEM: --schema ocsf has events of OCSF, class Network
    Activity, --schema ecs those of the Elastic Common Schema. Exit status 1 when nothing fits the selection;
    the file is then empty.

    Examples:

      iptrec export ndjson trace.db -o packets.ndjson --verdict DROP

      iptrec export ndjson trace.db -o - --schema ecs
    """
    from iptrec.cli.output import exported
    from iptrec.lake.rows import name
    from iptrec.views import event_lines, json_lines, published

    events = published.schema(schema)
    with _chosen(recording, chosen, index=True, jobs=jobs, quiet=quiet) as asked:
        with exported(output, [recording, *chosen.more], force=force, mode=mode) as stream:
            if events is None:
                for batch in asked.packets.batches():
                    stream.writelines(json_lines.lines(batch))
            else:
                for _, one, packets in asked.each():
                    for batch in packets.batches():
                        found = event_lines.lines(events, batch, one.facts, name(one.facts))
                        stream.writelines(found)
        return asked.ending(asked.packets.count)


@app.command(cls=Command)
@which.selection()
def pcapng(
    recording: Trace,
    output: Output,
    chosen: which.Chosen = which.NOTHING_TYPED,
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
            metavar="KIND",
            help="auto: with the Ethernet header where one was recorded; raw: from the IP header on;"
            " ethernet: always with a header, of zeros where none was recorded.",
        ),
    ] = "auto",
    epb_verdict: Annotated[
        bool,
        typer.Option(
            "--epb-verdict/--no-epb-verdict",
            help="The verdict as an option of its own, too, frame.verdict.hw. Wireshark 4.0 writes a damaged"
            " file when it saves such packets.",
        ),
    ] = True,
    follow: Annotated[
        bool, typer.Option("--follow", help="Wait for more until the recording is closed.")
    ] = False,
    force: Force = False,
    mode: Mode = "",
    jobs: Jobs = 1,
    quiet: Quiet = False,
    held: Held = None,
    parent: Parent = None,
    tally: Tally = False,
) -> int:
    """Write packets for Wireshark, with their paths as comments.

    Each packet is as it first was. In Wireshark: frame.comment contains "DROP by" finds the dropped packets;
    frame.packet_id is the number of iptrec show. With iptrec's plugin there are fields, such as iptrec.verdict,
    iptrec.chain and iptrec.rule_text. Exit status 1 when nothing fits the selection.

    Examples:

      iptrec export pcapng trace.db -o trace.pcapng

      iptrec export pcapng trace.db -o - --follow | wireshark -k -i -

      iptrec export pcapng trace.db -o - --stages --verdict DROP | tshark -r - -T fields -e frame.comment
    """
    from iptrec.cli.output import exported
    from iptrec.views.pcapng import EVENTS, Capture, section

    if link not in ("auto", "raw", "ethernet"):
        raise UsageError(f"--link {link!r}: must be one of auto, raw, ethernet")
    if stages and events:
        raise UsageError("--stages and --events are two different files; ask for one")
    if follow and chosen.more:
        raise UsageError("--follow waits for more of one recording; give one")
    look_as_nobody(held)
    every = [recording, *chosen.more]
    # Among the events may be some that belong to no packet, anywhere.
    index = not (events or follow)
    with _chosen(
        recording, chosen, index=index, jobs=jobs, quiet=quiet, grows=follow, held=held
    ) as asked:
        rows = asked.recording.rows
        # Beside a recorder, stdout is what --output names.
        to, called = (output, "stdout") if held is None else ("-", output)
        with exported(to, every, force=force, mode=mode, grows=follow, called=called) as stream:
            kinds = {one.kind for one in rows.streams}
            capture = Capture(rows.facts, link, kinds, verdicts=epb_verdict)
            what: Content = "stages" if stages else "events" if events else "packets"
            give_up_rights(held, parent)
            ticks = while_read(asked.recording.ticks(), stream)
            live = kept_alive(ticks, stream, capture.alive) if follow else None
            for blocks in section(capture, rows, asked.packets, what, live):
                stream.write(blocks)
                if follow:
                    stream.flush()
        if tally:
            tell_tally(capture.verdicts, rows)
        if held is not None:
            return EXIT_DONE  # the recorder tells the rest
        if events and not quiet:
            _tell_left_out({one.kind for one in rows.streams} - EVENTS)
        return asked.ending(capture.written)


def _tell_left_out(kinds: Collection[str]) -> None:
    """Say which streams may hold events that were not written: those of a later version."""
    from iptrec.recording.kinds import STREAMS
    from iptrec.views.escape import printable

    unknown = sorted(kind for kind in kinds if kind not in STREAMS or STREAMS[kind].events)
    if unknown:
        told = printable(", ".join(unknown))[:_LONGEST]
        print(f"iptrec export: left out, not known here: {told}", file=sys.stderr)


@app.command(cls=Command)
@which.selection()
def sqlite(
    recording: Trace,
    output: Output,
    chosen: which.Chosen = which.NOTHING_TYPED,
    force: Force = False,
    mode: Mode = "",
    jobs: Jobs = 1,
    quiet: Quiet = False,
) -> int:
    """Write a SQLite database: packets, steps, rules, losses.

    Each column says what it is (sqlite3 OUT .schema); iptrec query --tables lists them as well. Exit status
    1 when nothing fits the selection.

    Examples:

      iptrec export sqlite trace.db -o tables.db

      sqlite3 tables.db "SELECT src, count(*) FROM drops GROUP BY src"
    """
    from iptrec.cli.output import built
    from iptrec.views.sqlite import database, fill

    with _chosen(recording, chosen, jobs=jobs, quiet=quiet) as asked:
        with (
            built(output, [recording, *chosen.more], force=force, mode=mode) as made,
            database(made) as tables,
        ):
            fill(tables, asked.rows())
        return asked.ending(asked.packets.count)


@app.command(cls=Command)
@which.selection(several=False)
def parquet(
    recording: Annotated[
        str, typer.Argument(metavar="TRACE.db|LAKE/", help="The recording, or a lake's directory.")
    ],
    chosen: which.Chosen = which.NOTHING_TYPED,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="DIR", help="The directory to be made.")
    ] = "",
    schema: SchemaName = "iptrec",
    force: Force = False,
    mode: Mode = "",
    jobs: Jobs = 1,
    quiet: Quiet = False,
) -> int:
    """Write Parquet files of a recording, or a lake of many.

    A directory with the same tables: OUT/packets/host=HOST/date=DAY/....parquet and so on. Several exports may
    be moved into one. Needs pyarrow (pip install 'iptrec[parquet]'). Exit status 1 when nothing fits the
    selection.

    After a directory, instead of FILTER and -o, come recordings, which are put into it: a lake, of which
    iptrec lake asks questions (docs/lake.md). One that is there whole is skipped, one that grew replaces what
    it had; --force writes all again. One that cannot be read keeps no other out.

    A lake has one schema: iptrec's tables, or with --schema ocsf or ecs one event a packet, as the Open
    Cybersecurity Schema Framework or the Elastic Common Schema name things.

    Examples:

      iptrec export parquet trace.db -o traces

      duckdb -c "SELECT verdict, count(*) FROM 'traces/packets/**/*.parquet' GROUP BY verdict"

      iptrec export parquet lake/ before.db after.db

      iptrec export parquet ocsf/ before.db after.db --schema ocsf
    """
    from iptrec.cli.output import directory
    from iptrec.views import published
    from iptrec.views.arrow import require
    from iptrec.views.parquet import Files

    require("export parquet")
    events = published.schema(schema)
    if not output:
        from iptrec.cli import into_lake

        return into_lake.put(
            recording, chosen, events, force=force, mode=mode, jobs=jobs, quiet=quiet
        )
    if events is not None:
        raise UsageError(
            f"--schema {schema} makes a lake: iptrec export parquet LAKE/ {recording} --schema {schema}"
        )
    if output == "-":
        raise UsageError("--output -: export parquet makes a directory; name one")
    recording, chosen = which.with_more(recording, chosen)
    with _chosen(recording, chosen, jobs=jobs, quiet=quiet) as asked:
        every = [recording, *chosen.more]
        with directory(output, every, force=force, mode=mode) as made:
            for host, one, packets in asked.each():
                with Files(made, replace(one.facts, host=host)) as files:
                    files.fill(_rows(one, packets))
        return asked.ending(asked.packets.count)


@dataclass(frozen=True, slots=True)
class _Chosen:
    """The packets that are to be written."""

    recording: Recording
    packets: Packets
    chosen: which.Chosen
    everything: bool
    quiet: bool

    def rows(self) -> Iterator[tuple[str, Filed]]:
        """All tables' rows."""
        return _rows(self.recording.rows, self.packets)

    def each(self) -> Iterator[tuple[str, recorded.Recording, Packets]]:
        """Each recording alone, with the name that its host has here, and its packets, numbered by itself."""
        from iptrec.answers.packets import Packets
        from iptrec.recording.hosts import Alone, hosts

        several = hosts(self.recording.rows)
        if not several:
            yield self.recording.facts.host, self.recording.rows, self.packets
        if len({one.recording.facts.begun for one in several}) < len(several):
            raise UsageError("two of the files are copies of one recording; leave one out")
        for one in several:
            found = Packets(Alone(one), self.packets.selection)
            yield one.name, Alone(one), found
            self.packets.count += found.count
            self.packets.unjudged += found.unjudged

    def ending(self, written: int) -> int:
        """The exit status; a selection that fits no packet is reported, and what the recording lacks."""
        from iptrec.cli.absent import nothing
        from iptrec.cli.recordings import tell_flaws

        none = not written and not self.everything
        if not self.quiet:
            why = nothing(self.recording, self.chosen) if none else ""
            tell_flaws("export", self.recording, self.packets.unjudged, why)
        return EXIT_NO if none else EXIT_DONE


def _rows(recording: recorded.Recording, packets: Packets) -> Iterator[tuple[str, Filed]]:
    """All tables' rows."""
    from iptrec.views.table_rows import rows
    from iptrec.views.tables import TABLES

    return rows(recording, packets, {table.name for table in TABLES})


@contextlib.contextmanager
def _chosen(
    path: str,
    chosen: which.Chosen,
    *,
    index: bool = False,
    jobs: int,
    quiet: bool,
    grows: bool = False,
    held: int | None = None,
) -> Iterator[_Chosen]:
    from iptrec.cli import recordings

    bar = not (quiet or grows)
    with recordings.opened(
        path, *chosen.more, held=held, index=index, bar=bar, jobs=jobs, merged=True
    ) as recording:
        conditions = chosen.of(recording)
        packets = recording.packets(chosen.filter, **conditions).columns()
        yield _Chosen(recording, packets, chosen, not (chosen.filter or conditions), quiet)
