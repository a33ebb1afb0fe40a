"""``iptrec why``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from iptrec.cli import selection as which
from iptrec.cli.output import GROUP as OUTPUT
from iptrec.cli.several import HELP
from iptrec.errors import EXIT_DONE, EXIT_NO, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from iptrec.answers.why import Explanation
    from iptrec.api import Recording
    from iptrec.views.text import Layout

    Text = Callable[[Explanation, Layout, int | None], Iterator[str]]


@which.selection(first=("packet", "path"))
def why(
    recording: Annotated[str, typer.Argument(metavar="TRACE.db", help=HELP)],
    chosen: which.Chosen,
    every: Annotated[
        bool,
        typer.Option(
            "--all",
            rich_help_panel=OUTPUT,
            help="Every step and every rule that was passed over, none folded.",
        ),
    ] = False,
    markdown: Annotated[
        bool,
        typer.Option(
            "--markdown",
            rich_help_panel=OUTPUT,
            help="A block to paste into an issue, with versions and losses.",
        ),
    ] = False,
    json: Annotated[
        bool,
        typer.Option("--json", rich_help_panel=OUTPUT, help="One JSON object a line (schemas/)."),
    ] = False,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            rich_help_panel=OUTPUT,
            help="A file; - is stdout.",
        ),
    ] = "-",
    color: Annotated[
        str,
        typer.Option(
            "--color", metavar="WHEN", rich_help_panel=OUTPUT, help="auto, always or never."
        ),
    ] = "auto",
) -> int:
    """Explain which rule decided, and why no earlier one did.

    The kernel reports only rules that match. What a rule wants is compared with the packet; where that
    depends on what only the kernel knew (connection tracking, limits, sets), it says so. Rules that did not
    match for the same reason share a line, as do chains that let the packet go on: a packet fits on the screen.
    Below the rule that decided stands who made it (Docker, kube-proxy, firewalld, ufw, ...), what it is for and
    which documented switch changes it, where that is known.

    Examples:

      iptrec why trace.db --packet 3

      iptrec why trace.db --packet 3 --all

      iptrec why trace.db --verdict DROP host 10.0.1.2

      iptrec why trace.db --packet 3 --markdown
    """
    from iptrec.cli import recordings
    from iptrec.cli.absent import nothing
    from iptrec.cli.output import colours, opened, width
    from iptrec.views import folded, text
    from iptrec.views import why as explained
    from iptrec.views.timestamps import Clock

    if markdown and json:
        raise UsageError("--markdown and --json are two formats; choose one")
    colour = colours(color, output) and not markdown
    layout = text.Layout(colour=colour, clock=Clock(utc=chosen.utc))
    as_text = explained.as_text if every else folded.as_text
    shown = 0
    files = [recording, *chosen.more]
    with (
        recordings.opened(*files, index=True, merged=True) as source,
        opened(output, files) as stream,
    ):
        explanations = source.explain(chosen.filter, **chosen.of(source))
        if json:
            found: Iterable[str] = map(explained.as_json, explanations)
        elif markdown:
            found = _issue(explanations, as_text, layout)
        else:
            found = _text(explanations, as_text, layout, width(output))
        for one in found:
            stream.write(one + "\n")
            shown += 1
        if markdown and shown:
            stream.writelines(line + "\n" for line in _origin(source, recording))
        none = "" if shown else nothing(source, chosen)
        recordings.tell_flaws("why", source, explanations.unjudged, none)
    return EXIT_DONE if shown else EXIT_NO


def _text(
    explanations: Iterable[Explanation], as_text: Text, layout: Layout, width: int | None
) -> Iterator[str]:
    """Each packet, and the date where it changes."""
    from iptrec.views.timestamps import Days

    days = Days(layout.clock)
    for number, one in enumerate(explanations):
        day = days.line(one.packet.time_ns)
        yield "\n" * bool(number) + day + "\n".join(as_text(one, layout, width))


def _issue(explanations: Iterable[Explanation], as_text: Text, layout: Layout) -> Iterator[str]:
    """Each packet in Markdown."""
    from iptrec.views import issue
    from iptrec.views.timestamps import Days

    for one in explanations:
        day = Days(layout.clock).line(one.packet.time_ns).splitlines()
        yield "\n".join(issue.excerpt(one.packet, [*day, *as_text(one, layout, None)]))


def _origin(source: Recording, recording: str) -> Iterator[str]:
    from iptrec.recording.hosts import hosts
    from iptrec.views import issue

    if several := hosts(source.rows):
        for one in several:
            yield f"#### {issue.code(one.name)}"
            yield ""
            yield from issue.origin(one.recording, one.file, running=one.running)
            yield ""
        return
    name = "stdin" if recording == "-" else Path(recording).name
    yield from issue.origin(source.rows, name, running=source.running)
