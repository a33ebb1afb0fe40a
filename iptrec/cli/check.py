"""``iptrec check``."""

from __future__ import annotations

import re
import sys
import time
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from iptrec.cli import selection as which
from iptrec.cli.several import HELP, split
from iptrec.errors import EXIT_DONE, EXIT_NO, UsageError, strerror

if TYPE_CHECKING:
    from iptrec.answers.expectation import Expectation
    from iptrec.api import Recording

_SELECT: Final = {
    "filter": str, "iface": str, "netns": str, "mark": str, "since": str, "until": str, "reason": str,
}  # fmt: skip
_REQUIRE: Final = {"verdict": str, "rule": str, "chain": str, "count": int, "min": int, "max": int}
_KEYS: Final = {"name": str, **_SELECT, **_REQUIRE}
# Somebody else may have written the file. Python takes dotted keys apart in the square of their length.
_LARGEST: Final = 256 << 10  # bytes
_LONGEST_LINE: Final = 4 << 10  # characters
_MOST: Final = 1_000  # expectations


def check(
    recording: Annotated[str, typer.Argument(metavar="TRACE.db", help=HELP)],
    expectations: Annotated[
        list[str], typer.Argument(metavar="EXPECTATIONS.toml", help="What must be true of it.")
    ],
    junit: Annotated[
        str,
        typer.Option(
            "--junit", metavar="FILE", help="Write the results as JUnit XML, too (times in UTC)."
        ),
    ] = "",
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line (schemas/).")
    ] = False,
    utc: which.Utc = False,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="A file; - is stdout.")
    ] = "-",
    color: Annotated[
        str, typer.Option("--color", metavar="WHEN", help="auto, always or never.")
    ] = "auto",
) -> int:
    """Check a recording against expectations.

    A regression test for a firewall; exit status 1 if an expectation fails, which is told with the first
    packet that does not comply. The file is TOML
    (schemas/expectations-v1.schema.json), a table for each expectation:

    \b
    [[expect]]
    name = "DNS is answered"
    # Which packets; also iface, netns, mark, since, until, reason.
    filter = "udp port 53"
    # What became of each; also rule = "filter/INPUT/2", chain = "nat/DOCKER".
    verdict = "ACCEPT"
    # How many there are; or min (1 unless it is given) and max.
    count = 2

    At most 1,000 of them in 256 kB; the recording is read once for all. Where the answer depends on packets
    that the filter cannot judge, for their headers were not recorded whole, or whose events were lost, it is
    ????, not known: one fails.

    Example:

      iptrec check trace.db firewall.toml --junit results.xml
    """
    from iptrec.answers.expectation import check as judge
    from iptrec.cli import recordings
    from iptrec.cli.output import colours, opened
    from iptrec.views.check import as_json, as_junit, as_text
    from iptrec.views.timestamps import Clock

    colour = colours(color, output)
    *more, path = expectations
    files, rest = split(recording, more)
    if rest:
        raise UsageError(
            f"{rest[0]} is not an iptrec recording; one file of expectations comes last"
        )
    with recordings.opened(*files, merged=True) as source, opened(output, files) as stream:
        wanted, begun = _read(source, path), time.perf_counter()
        results = judge(source.rows, wanted)
        seconds = time.perf_counter() - begun
        for one in results:
            line = as_json(one) if json else as_text(one, Clock(utc=utc), colour=colour)
            stream.write(line + "\n")
    if junit:
        with opened(junit, files) as stream:
            stream.write(as_junit(results, recording, seconds))
    return EXIT_NO if any(one.failure for one in results) else EXIT_DONE


def _read(recording: Recording, path: str) -> list[Expectation]:
    """The expectations of a file; errors name its line."""
    text = _text(path)
    lines = [
        number
        for number, line in enumerate(text.split("\n"), 1)
        if re.match(r"\s*\[\[\s*expect\s*\]\]", line)
    ]
    if len(lines) > _MOST:
        raise UsageError(
            f"{path}: {len(lines):,} expectations, {_MOST:,} is the most; split the file"
        )
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    except RecursionError:
        raise UsageError(
            f"{path}: a value is nested too deeply; no expectation needs that"
        ) from None
    tables = found.pop("expect", None)
    if not isinstance(tables, list) or len(tables) != len(lines) or found:
        raise UsageError(f"{path}: expectations are tables [[expect]], and nothing else")
    return [
        _expectation(recording, f"{path}:{line}", line, table)
        for line, table in zip(lines, tables, strict=True)
    ]


def _text(path: str) -> str:
    """What is in a file of expectations, if it is as small as one written by hand."""
    from iptrec.recording.private import opened

    try:
        with sys.stdin.buffer if path == "-" else opened(Path(path), follow=True) as file:
            raw = file.read(_LARGEST + 1)
    except OSError as error:
        raise UsageError(f"cannot open {path}: {strerror(error)}") from None
    if len(raw) > _LARGEST:
        raise UsageError(f"{path} is larger than {_LARGEST >> 10} kB; split the file")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not TOML: byte {error.start} is not UTF-8") from None
    for number, line in enumerate(text.split("\n"), 1):
        if len(line) > _LONGEST_LINE:
            raise UsageError(
                f"{path}:{number}: the line has more than {_LONGEST_LINE:,} characters; break it"
            )
    return text


def _expectation(recording: Recording, where: str, line: int, table: dict[str, Any]) -> Expectation:
    from iptrec.answers.expectation import Expectation
    from iptrec.answers.select import places, rule_places, selection

    for key, value in table.items():
        kind = _KEYS.get(key)
        if kind is None:
            raise UsageError(f"{where}: {key!r}: must be one of {', '.join(_KEYS)}")
        number = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        if not (number if kind is int else isinstance(value, kind)):
            raise UsageError(f"{where}: {key} must be {'a text' if kind is str else 'a number'}")
        if key in _SELECT and key != "filter":
            which.require_all(f"{where}: {key}", str(value))
    if "count" in table and ("min" in table or "max" in table):
        raise UsageError(f"{where}: count is exact; leave min and max out")
    count = table.get("count")
    chosen = which.Chosen(
        words=[table["filter"]] if "filter" in table else None,
        utc=True,  # a file must not mean another time elsewhere
        **{name: table.get(name, "") for name in _SELECT if name != "filter"},
    )
    try:
        return Expectation(
            name=table.get("name", f"expectation at line {line}"),
            line=line,
            selection=selection(recording.rows, chosen.filter, chosen.of(recording)),
            verdict=which.verdict(table["verdict"]) if "verdict" in table else None,
            rule=rule_places(recording.rows, which.rule(table["rule"]))
            if "rule" in table
            else None,
            chain=places(recording.rows, which.chain(table["chain"])) if "chain" in table else None,
            least=table.get("min", 1) if count is None else count,
            most=table.get("max") if count is None else count,
        )
    except UsageError as error:
        raise UsageError(f"{where}: ", *error.parts) from None
