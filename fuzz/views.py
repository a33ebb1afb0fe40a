"""Every view of a recording at once, for the fuzzers."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from iptrec.answers.diff_traces import TraceDifferences
from iptrec.answers.expectation import Expectation, check
from iptrec.answers.fates import Fates, fates
from iptrec.answers.packets import Packets
from iptrec.answers.path_counts import count_paths
from iptrec.answers.path_words import Language
from iptrec.answers.rules import count_rules
from iptrec.answers.selection import Selection
from iptrec.answers.summary import summarize
from iptrec.answers.why import explain
from iptrec.errors import IptrecError
from iptrec.files import Draft, DraftDirectory
from iptrec.recording.reader import Reader
from iptrec.views import check as check_view
from iptrec.views import diff_traces as traces_view
from iptrec.views import (
    folded,
    info,
    issue,
    json_lines,
    parquet,
    pcapng,
    show,
    sqlite,
    table_rows,
    tables,
    text,
    title,
)
from iptrec.views import packet_json as as_json
from iptrec.views import paths as paths_view
from iptrec.views import rules as rules_view
from iptrec.views import why as why_view
from iptrec.views.timestamps import Clock

if TYPE_CHECKING:
    from collections.abc import Iterator

LAYOUT = text.Layout(phys=True, ct=True)
LOCAL = Clock()
EVERYTHING = Selection()
EXPECTATIONS = [Expectation("accepted", 1, EVERYTHING, verdict="ACCEPT")]
MEMORY = next((one for one in ("/dev/shm", None) if one is None or os.access(one, os.W_OK)), None)  # noqa: S108


@contextlib.contextmanager
def refused_in_one_line() -> Iterator[None]:
    """An error that the command line would print is as good as an answer."""
    try:
        yield
    except IptrecError as error:
        assert "\n" not in str(error)  # noqa: S101, PT017


def look(path: Path) -> None:
    """Through every view; nothing that a terminal obeys comes out."""
    with Reader(path) as reader:
        said = []
        for traversal in Packets(reader):
            said += [text.render(traversal, LAYOUT), as_json.line(traversal)]
            said += [show.as_text(traversal, LAYOUT), title.brief(traversal, LAYOUT)]
        said += [*text.holes(reader.losses), *text.holes(reader.losses, LOCAL.full)]
        summary = summarize(reader)
        said.append(info.as_json(reader, summary, size=reader.size))
        for width in (None, 80):
            said.append(info.as_text(reader, summary, LOCAL, width=width))
            for one in count_paths(reader, EVERYTHING):
                said += [paths_view.as_text(one, LOCAL, width), paths_view.as_json(one)]
            found = count_rules(reader, EVERYTHING)
            said += rules_view.as_text(found, LOCAL, LOCAL.day(reader.facts.started_ns), width)
        for result in check(reader, EXPECTATIONS):
            said += [check_view.as_text(result, LOCAL, colour=False), check_view.as_json(result)]
        check_view.as_junit(check(reader, EXPECTATIONS), "name", 0.0)
        for one in explain(reader, Packets(reader)):
            folds = list(folded.as_text(one, LAYOUT))
            said += [*folds, *why_view.as_text(one, LAYOUT, 80), why_view.as_json(one)]
            said += issue.excerpt(one.packet, folds)
        said += issue.origin(reader, "t.db", running=False)
        taken = fates(Packets(reader), Language({}, plain=False))
        for other in (taken, Fates()):
            differ = TraceDifferences(taken, other)
            said += traces_view.as_json(differ, ["a", "b"], None)
            said += traces_view.as_text(differ, ["a", "b"], None, LOCAL, 80, colour=False)
        for line in said:
            line.encode()
            assert not set(line) & set("\x1b\x9b\u202e\u2066"), ascii(line)  # noqa: S101
        _export(reader)


def _export(reader: Reader) -> None:
    for what in ("packets", "stages", "events"):
        capture = pcapng.Capture(reader.facts, "auto")
        b"".join(pcapng.section(capture, reader, Packets(reader), what))
    for batch in Packets(reader).batches():
        "".join(json_lines.text(batch)).encode()
    every = {table.name for table in tables.TABLES}
    with tempfile.TemporaryDirectory(prefix="iptrec-fuzz-", dir=MEMORY) as directory:
        with (
            Draft(Path(directory, "tables.db"), named=True) as draft,
            sqlite.database(draft) as made,
        ):
            sqlite.fill(made, table_rows.rows(reader, Packets(reader), every))
        with (
            DraftDirectory(Path(directory, "parquet")) as draft,
            parquet.Files(draft, reader.facts) as files,
        ):
            files.fill(table_rows.rows(reader, Packets(reader), every))
