"""``iptrec pack``."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from iptrec.cli import selection as which
from iptrec.cli.output import GROUP as OUTPUT
from iptrec.cli.output import Mode
from iptrec.cli.redact import Keep, KeyFile
from iptrec.errors import EXIT_DONE, EXIT_NO, UsageError
from iptrec.names import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.api import Recording
    from iptrec.files import Draft
    from iptrec.pack.archive import Archive, Part
    from iptrec.pack.chosen import Choice
    from iptrec.recording import rows
    from iptrec.recording.reader import Reader
    from iptrec.recording.several import Several
    from iptrec.redact.recorded import Redacted

RECORDING: Final = "recording.db"
# zstd: what is not long is packed as small as it can be, half a second for a million bytes of messages, which
# are 80,000 in a recording; what is long takes a thirtieth of that and is 4 % larger.
_BEST, _FAST = 19, 15
_LONG: Final = 2 << 20  # bytes in the file
_LIMIT: Final = 25 << 20  # bytes that GitHub takes of a file; GitLab's and Jira's defaults are more


@which.selection(several=False)
def pack(
    recording: Annotated[str, typer.Argument(metavar="TRACE.db", help="The recording.")],
    chosen: which.Chosen,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE.zip",
            rich_help_panel=OUTPUT,
            help="The pack to be made; - is stdout. Without it the recording's name with .zip.",
        ),
    ] = "",
    redact: Annotated[
        bool,
        typer.Option("--redact", help="Take addresses, names and payloads out; see iptrec redact."),
    ] = False,
    key: KeyFile = "",
    keep: Keep = "",
    force: Annotated[
        bool, typer.Option("--force", rich_help_panel=OUTPUT, help="Replace what is there.")
    ] = False,
    mode: Mode = "",
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", rich_help_panel=OUTPUT, help="No word on stderr.")
    ] = False,
) -> int:
    """Make one file to attach to a bug report.

    A .zip with the recording (recording.db, compressed as far as its format allows), the page of iptrec report
    (report.html), why packets did not get through (why.md), and what is in it, with checksums (manifest.json).
    Every command reads it as it is: iptrec show trace.zip.

    With a selection only the packets that fit are packed, and those that belong to them (answers, copies,
    errors about them), with what the kernel told of their connections, routes and drops. Rules, routes, sets,
    sockets and all else that is of no packet stay whole. How much was left out every command says then. Numbers
    of packets are counted anew.
    Exit status 1 when nothing fits the selection.

    Examples:

      iptrec pack trace.db -o trace.zip

      iptrec pack trace.db --redact -o shared.zip

      iptrec pack trace.db --verdict DROP,REJECT host 10.0.1.2 -o drops.zip
    """
    from iptrec.cli import recordings
    from iptrec.cli.absent import nothing
    from iptrec.cli.output import exported
    from iptrec.cli.redact import kept_words, key_of
    from iptrec.pack.archive import Archive

    if (key or keep) and not redact:
        raise UsageError("--key and --keep are for --redact")
    output = output or _named(recording)
    keeps = kept_words(keep)
    with (
        recordings.opened(recording, bar=not quiet, merged=True) as source,
        exported(output, recording, force=force, mode=mode) as stream,
    ):
        rows, choice = _chosen(source, chosen)
        if choice is not None and not choice.selected:
            recordings.tell_flaws("pack", source, none=nothing(source, chosen))
            raise typer.Exit(EXIT_NO)
        secret = key_of(key) if redact else None
        made = None
        if secret is not None:
            from iptrec.redact.recorded import redacted

            made = redacted(rows, secret, keeps)
        level = _BEST if _share(choice) * source.size < _LONG else _FAST
        with _rewritten(source.reader, rows, made, level) as draft:
            name = Path(recording).name if made is None and recording != "-" else RECORDING
            with Archive(stream) as archive:
                told = _fill(archive, draft, name, utc=chosen.utc or redact)
                told["selected"] = _selected(chosen, choice, typed=made is None)
                told["redacted"] = None if made is None else {"kept": sorted(keeps)}
                archive.close(told)
        if not quiet:
            _tell(output, archive.parts, choice, made)
    return EXIT_DONE


def _named(recording: str) -> str:
    """The pack's name where none is given. Raises `UsageError` where the recording has none."""
    if recording == "-":
        raise UsageError("--output is missing: a recording from stdin has no name to make one of")
    path = Path(recording)
    return str(path.with_name(path.name.split(".db")[0] + ".zip"))


def _chosen(source: Recording, chosen: which.Chosen) -> tuple[rows.Recording, Choice | None]:
    """The recording with the packets that are selected; None: with all."""
    from iptrec.pack.chosen import choice
    from iptrec.pack.picked import picked
    from iptrec.recording.hosts import hosts

    conditions = chosen.of(source)
    if not (chosen.filter or conditions):
        return source.rows, None
    if hosts(source.rows):
        raise UsageError("a merged recording is packed whole; leave the selection out")
    found = choice(source.rows, source.packets(chosen.filter, **conditions).columns())
    return picked(source.rows, found), found


def _share(choice: Choice | None) -> float:
    """How much of all packets is packed."""
    if choice is None:
        return 1.0
    return (choice.selected + choice.related) / max(choice.packets, 1)


@contextlib.contextmanager
def _rewritten(
    whole: Reader | Several, found: rows.Recording, made: Redacted | None, level: int
) -> Iterator[Draft]:
    """The recording that is packed, in a file that is gone afterwards; ``whole``: what it was chosen of."""
    from iptrec.cli.redact import write
    from iptrec.files import Draft
    from iptrec.recording import private
    from iptrec.recording.hosts import hosts
    from iptrec.recording.rewrite import Rewrite
    from iptrec.recording.several import Several

    with private.directory() as place, Draft(place / RECORDING, named=True) as draft:
        with Rewrite(draft, level, merged=bool(hosts(found))) as rewrite:
            if made is None and isinstance(whole, Several):
                rewrite.merge(whole)
            elif made is None:
                rewrite.copy(found)
            else:
                write(made, rewrite)
        yield draft


def _fill(archive: Archive, draft: Draft, name: str, *, utc: bool) -> dict[str, Any]:
    """Put the recording into the pack, and what is made of it; what is to be told of it."""
    from iptrec.api import Recording
    from iptrec.cli.report import answers_of
    from iptrec.recording.reader import Reader
    from iptrec.recording.several import together
    from iptrec.views import why_page
    from iptrec.views.report import page
    from iptrec.views.text import Layout
    from iptrec.views.timestamps import Clock

    layout = Layout(colour=False, clock=Clock(utc=utc))
    with Reader(draft.path) as reader:
        recording = Recording(together([reader]))
        answers = answers_of(recording, name, which.Chosen(utc=utc))
        summary = answers.summary
        report = page(answers)
        packets = recording.packets().columns()
        why = why_page.page(recording.rows, packets, layout, RECORDING, running=recording.running)
        facts = recording.facts
    archive.add("report.html", "iptrec report: open it in any browser", io.BytesIO(report.encode()))
    archive.add("why.md", "why packets did not get through", io.BytesIO(why.encode()))
    with open(draft.descriptor, "rb", closefd=False) as file:
        file.seek(0)
        archive.add(RECORDING, "the recording: iptrec show, why, ... read it", file)
    return {
        "recording": {
            "uuid": facts.uuid,
            "iptrec": facts.iptrec,
            "kernel": facts.kernel,
            "closed": facts.closed,
            "events": summary.events,
            "lost": summary.lost,
            "packets": summary.packets,
        }
    }


def _selected(chosen: which.Chosen, choice: Choice | None, *, typed: bool) -> dict[str, Any] | None:
    """How many packets were chosen; what was ``typed`` only where it may be told."""
    if choice is None:
        return None
    return {
        "packets": choice.selected,
        "related": choice.related,
        "of": choice.packets,
        "selection": which.in_words(chosen) if typed else None,
    }


def _tell(output: str, parts: list[Part], choice: Choice | None, made: Redacted | None) -> None:
    """On stderr: how large each part is, and what was left out or redacted."""
    from iptrec.cli.redact import taken_out

    total = sum(one.packed for one in parts)
    print(f"iptrec pack: packed: {output}, {total:,} bytes", file=sys.stderr)
    width = max(len(one.name) for one in parts)
    for one in parts:
        print(
            f"  {one.name:<{width}} {one.packed:>11,} bytes ({one.size:,} unpacked)",
            file=sys.stderr,
        )
    remarks = [] if made is None else ["redacted", *taken_out(made)]
    if choice is not None:
        some = f"{counted(choice.selected, 'packet')} of {choice.packets:,}"
        belong = "belongs" if choice.related == 1 else "belong"
        more = f", and {choice.related:,} that {belong} to them" if choice.related else ""
        remarks.append(f"{some}{more}; the others were left out")
    if total > _LIMIT:
        remarks.append(
            f"it is larger than the {_LIMIT >> 20} MB that trackers take: choose packets (--verdict DROP,"
            " --since, FILTER)"
        )
    for remark in remarks:
        print(f"iptrec pack: {remark}", file=sys.stderr)
