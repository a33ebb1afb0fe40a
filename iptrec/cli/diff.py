"""``iptrec diff``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple, TextIO

import typer

from iptrec.cli import layout as printing
from iptrec.cli import selection as which
from iptrec.cli.operands import FIRST_NS, in_files, is_recording, path_of
from iptrec.cli.output import GROUP as OUTPUT
from iptrec.errors import EXIT_DONE, EXIT_NO, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.answers.diff import Difference
    from iptrec.api import Packet, Recording

_SHOWN: Final = 20  # flows, and paths, of each kind


def diff(
    operands: Annotated[
        list[str],
        typer.Argument(
            metavar="A [B]",
            help="A recording, TRACE.db@start, @end or @TIME, or a file of iptables-save, nft list ruleset or"
            " nft -j list ruleset. A recording alone: its first ruleset against its last.",
        ),
    ],
    traces: Annotated[
        bool,
        typer.Option(
            "--traces",
            help="Flows whose fate changed, and paths that only one of two recordings has.",
        ),
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            metavar="N",
            min=1,
            help=f"Of --traces N flows and N paths of each kind, not {_SHOWN}; in JSON not all.",
        ),
    ] = None,
    packets: Annotated[
        tuple[int, int] | None,
        typer.Option("--packets", metavar="N M", help="Two packets' ways, side by side."),
    ] = None,
    utc: which.Utc = False,
    json: Annotated[
        bool,
        typer.Option(
            "--json",
            rich_help_panel=OUTPUT,
            help="One JSON object, of --traces one a line (schemas/).",
        ),
    ] = False,
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="FILE", rich_help_panel=OUTPUT, help="A file; - is stdout."
        ),
    ] = "-",
    color: Annotated[
        str,
        typer.Option(
            "--color", metavar="WHEN", rich_help_panel=OUTPUT, help="auto, always or never."
        ),
    ] = "auto",
    pager: printing.Pager = True,
) -> int:
    """Compare rulesets, the fate of packets, or two packets.

    Rulesets are compared by what their rules say; of nf_tables also sets with their elements, maps,
    flowtables, objects, hooks, priorities, flags and comments, as far as nft prints them: its JSON leaves some
    out. Counters, times to expiry, comments of iptables-save, the order of tables and chains do not count. Exit
    status 0: the same, 1: different.

    With --traces: flows whose fate changed, and by which rule, the most packets first; then paths that one
    recording has alone. A flow has a protocol, two addresses and the port that is served, all before NAT;
    "out" is what the host itself sends. A path is what its rules say and how it ends, whatever their numbers.
    Nothing is concluded from packets that were not seen whole.

    Examples:

      iptrec diff trace.db

      iptrec diff yesterday.rules trace.db@end

      nft list ruleset | iptrec diff trace.db -

      iptrec diff --traces before.db after.db

      iptrec diff --packets 3 14 trace.db
    """
    from iptrec.cli.output import colours, width

    if limit and not traces:
        raise UsageError("--limit is for --traces")
    if traces and packets:
        raise UsageError("--traces and --packets are two different questions; ask one")
    wanted = 1 if packets else 2
    if len(operands) > wanted or (traces and len(operands) != wanted):
        raise UsageError(
            f"diff compares {'one recording' if packets else 'two'}, not {len(operands)}"
        )
    form = _Form(json=json, utc=utc, colour=colours(color, output), width=width(output))
    with in_files(operands) as files:
        with _stream(output, path_of(files[0]), paged=pager and not json) as stream:
            if packets:
                answer = _packets(files[0], packets, form)
            elif traces:
                answer = _traces(operands, files, limit, form)
            else:
                answer = _rulesets(files, form)
            stream.writelines(line + "\n" for line in answer.lines)
        for remark in answer.remarks:
            print(f"iptrec diff: {remark}", file=sys.stderr)
    return EXIT_NO if answer.differ else EXIT_DONE


@dataclass(frozen=True, slots=True)
class _Form:
    """How an answer is told; ``width``: of the terminal."""

    json: bool
    utc: bool
    colour: bool
    width: int | None


class _Answer(NamedTuple):
    """What is told, without newlines; ``remarks``: on stderr."""

    lines: Iterable[str]
    differ: bool
    remarks: Sequence[str] = ()


@contextlib.contextmanager
def _stream(output: str, recording: str, *, paged: bool) -> Iterator[TextIO]:
    from iptrec.cli.output import opened
    from iptrec.cli.pager import paged as through_pager

    with opened(output, recording) as stream:
        if paged and output == "-" and stream.isatty():
            with through_pager() as stream:  # noqa: PLW2901
                yield stream
        else:
            yield stream


def _rulesets(operands: list[str], form: _Form) -> _Answer:
    from iptrec.answers.diff_objects import compare_all
    from iptrec.cli.operands import both
    from iptrec.views.diff import as_json, as_text

    if len(operands) == 1:
        (alone,) = operands
        if path_of(alone) != alone:
            raise UsageError(f"{alone} is one moment of a recording: say what to compare it with")
        if not is_recording(alone):
            raise UsageError(f"{alone} is not a recording: say what to compare it with")
        operands = [f"{alone}@start", f"{alone}@end"]
    old, new = both(*operands, utc=form.utc)
    differences = compare_all(old, new)
    hits = _hits(operands, differences)
    if form.json:
        return _Answer([as_json(differences, hits)], bool(differences))
    lines = as_text(differences, hits, colour=form.colour, width=form.width)
    return _Answer(lines, bool(differences))


def _hits(operands: list[str], differences: list[Difference]) -> dict[int, list[int]] | None:
    """The packets that hit a rule that is not the same on both sides; None without a recording."""
    from iptrec.answers.hits import packets_that_hit
    from iptrec.cli import recordings

    paths = dict.fromkeys(path_of(one) for one in operands if is_recording(path_of(one)))
    if not paths or not differences:
        return None if not paths else {}
    path = list(paths)[-1]
    with recordings.opened(path) as recording:
        return packets_that_hit(recording.rows, differences)


def _traces(names: list[str], files: list[str], limit: int | None, form: _Form) -> _Answer:
    from iptrec.answers.diff_traces import compare_traces
    from iptrec.cli import recordings
    from iptrec.views.diff_traces import as_json, as_text
    from iptrec.views.timestamps import Clock

    with contextlib.ExitStack() as stack:
        both = [stack.enter_context(recordings.opened(one)) for one in files]
        before, now = both
        found = compare_traces(
            (before.packets().columns(), before.rulesets()),
            (now.packets().columns(), now.rulesets(FIRST_NS)),
        )
        remarks = [
            f"{name}: {'; '.join(flaws)}"
            for name, one in zip(names, both, strict=True)
            if (flaws := recordings.flaws(one))
        ]
    if form.json:
        return _Answer(as_json(found, names, limit), found.any, remarks)
    lines = as_text(
        found, names, limit or _SHOWN, Clock(utc=form.utc), form.width, colour=form.colour
    )
    return _Answer(lines, found.any, remarks)


def _packets(operand: str, numbers: tuple[int, int], form: _Form) -> _Answer:
    from iptrec.cli import recordings
    from iptrec.views.side_by_side import as_json, as_text

    with recordings.opened(operand) as recording:
        found = [_packet(recording, number) for number in numbers]
    ways = [
        ([(one.table, one.chain, one.rule, one.type) for one in packet.steps], packet.verdict)
        for packet in found
    ]
    lines: Iterable[str] = [as_json(*found)] if form.json else as_text(*found)
    return _Answer(lines, ways[0] != ways[1])


def _packet(recording: Recording, number: int) -> Packet:
    try:
        return recording.packet(number)
    except LookupError as error:
        raise UsageError(str(error)) from None
