"""``iptrec diff``."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated, Final

import typer

from iptrec.cli import selection as which
from iptrec.cli.operands import FIRST_NS, in_files, is_recording, path_of
from iptrec.errors import EXIT_DONE, EXIT_NO, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TextIO

    from iptrec.answers.diff import Difference
    from iptrec.api import Packet, Recording
    from iptrec.views.timestamps import Clock

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
            help=f"With --traces: N flows and N paths of each kind. Without: {_SHOWN}, all in JSON.",
        ),
    ] = None,
    packets: Annotated[
        tuple[int, int] | None,
        typer.Option("--packets", metavar="N M", help="Two packets' ways, side by side."),
    ] = None,
    utc: which.Utc = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object (schemas/).")] = False,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="A file; - is stdout.")
    ] = "-",
    color: Annotated[
        str, typer.Option("--color", metavar="WHEN", help="auto, always or never.")
    ] = "auto",
) -> int:
    """Compare rulesets, paths of recordings, or two packets.

    Rulesets are compared by what their rules say; of nf_tables also sets with their elements, maps,
    flowtables, objects, hooks and priorities. Counters, times to expiry, comments of iptables-save, the order
    of tables and chains do not count. Exit status 0: the same, 1: different.

    Examples:

      iptrec diff trace.db

      iptrec diff yesterday.rules trace.db@end

      nft list ruleset | iptrec diff trace.db -

      iptrec diff --traces before.db after.db

      iptrec diff --packets 3 14 trace.db
    """
    from iptrec.cli.output import colours, opened, width
    from iptrec.views.timestamps import Clock

    if limit and not traces:
        raise UsageError("--limit is for --traces")
    if traces and packets:
        raise UsageError("--traces and --packets are two different questions; ask one")
    wanted = 1 if packets else 2
    if len(operands) > wanted or (traces and len(operands) != wanted):
        raise UsageError(
            f"diff compares {'one recording' if packets else 'two'}, not {len(operands)}"
        )
    with in_files(operands) as files, opened(output, path_of(files[0])) as stream:
        if packets:
            return _packets(files[0], packets, stream, json=json)
        if traces:
            return _traces(
                list(zip(operands, files, strict=True)),
                stream,
                Clock(utc=utc),
                limit,
                json=json,
                width=width(output),
                colour=colours(color, output),
            )
        return _rulesets(files, stream, json=json, utc=utc, colour=colours(color, output))


def _rulesets(operands: list[str], stream: TextIO, *, json: bool, utc: bool, colour: bool) -> int:
    from iptrec.answers.diff import compare
    from iptrec.answers.diff_objects import compare_objects
    from iptrec.cli.operands import both
    from iptrec.views.diff import as_json, as_text

    if len(operands) == 1:
        (alone,) = operands
        if path_of(alone) != alone:
            raise UsageError(f"{alone} is one moment of a recording: say what to compare it with")
        if not is_recording(alone):
            raise UsageError(f"{alone} is not a recording: say what to compare it with")
        operands = [f"{alone}@start", f"{alone}@end"]
    old, new = both(*operands, utc=utc)
    differences = list(compare(old.rulesets, new.rulesets))
    if old.objects is not None and new.objects is not None:
        differences += compare_objects(old.objects, new.objects)
    hits = _hits(operands, differences)
    lines = [as_json(differences, hits)] if json else as_text(differences, hits, colour=colour)
    stream.writelines(line + "\n" for line in lines)
    return EXIT_NO if differences else EXIT_DONE


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


def _traces(
    named: list[tuple[str, str]],
    stream: TextIO,
    clock: Clock,
    limit: int | None,
    *,
    json: bool,
    width: int | None,
    colour: bool,
) -> int:
    from iptrec.answers.diff_traces import compare_traces
    from iptrec.cli import recordings
    from iptrec.views.diff_traces import as_json, as_text

    names = [name for name, _ in named]
    with contextlib.ExitStack() as stack:
        before, now = (stack.enter_context(recordings.opened(one)) for _, one in named)
        found = compare_traces(
            (before.packets().columns(), before.rulesets()),
            (now.packets().columns(), now.rulesets(FIRST_NS)),
        )
        if json:
            lines = as_json(found, names, limit)
        else:
            lines = as_text(found, names, limit or _SHOWN, clock, width, colour=colour)
        stream.writelines(line + "\n" for line in lines)
        for one in (before, now):
            recordings.tell_flaws(f"diff: {one.path}", one)
    return EXIT_NO if found.any else EXIT_DONE


def _packets(operand: str, numbers: tuple[int, int], stream: TextIO, *, json: bool) -> int:
    from iptrec.cli import recordings
    from iptrec.views.side_by_side import as_json, as_text

    with recordings.opened(operand) as recording:
        found = [_packet(recording, number) for number in numbers]
    lines: Iterable[str] = [as_json(*found)] if json else as_text(*found)
    stream.writelines(line + "\n" for line in lines)
    same = [(one.table, one.chain, one.rule, one.type) for one in found[0].steps] == [
        (one.table, one.chain, one.rule, one.type) for one in found[1].steps
    ] and found[0].verdict == found[1].verdict
    return EXIT_DONE if same else EXIT_NO


def _packet(recording: Recording, number: int) -> Packet:
    try:
        return recording.packet(number)
    except LookupError as error:
        raise UsageError(str(error)) from None
