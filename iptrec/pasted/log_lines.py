"""The events in the lines of a kernel's log: those that were wrapped are one again, entries of JSON are lines.

Whose lines they are the kernel's own words tell: what stands between two events is left out, and what goes on
with one has nothing but such words.
"""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_TELLS: Final = rb"(?P<place>[^:\s]{1,32}:\S.{0,64}?:(?:rule|return|policy):[1-9]\d{0,9})(?= |$)"
PLACE: Final = re.compile(rb"TRACE: " + _TELLS)
_TRACE: Final = re.compile(PLACE.pattern + rb" +IN=(?P<rest>.*)", re.DOTALL)
_BEGINS: Final = re.compile(rb"TRACE: [^:\s]{1,32}:\S")
_OF_TABLES: Final = re.compile(rb"TRACE: (?:raw|mangle|nat|filter|security):\S")
# A line that was wrapped before the place, and the place that goes on with it
_ENDS_EARLY: Final = re.compile(rb"(?:kernel:.*|[\];] *)TRACE: *$")
_GOES_ON: Final = re.compile(rb" *" + _TELLS)
# The rest of a line that somebody wrapped: words of the kernel alone
_CONTINUED: Final = re.compile(
    rb"[A-Z]{2,8}[=:]\S*|\[SRC=\S*|CE|DF|MF|CWR|ECE|URG|ACK|PSH|RST|SYN|FIN|OPT|\(?[0-9A-F]*\)?|\)?\]"
    rb"|INCOMPLETE|TRUNCATED|AH|ESP|AE|\[\d+|bytes\]"
)
LONGEST: Final = 2048  # bytes of a line; the kernel's buffer has half of that (nf_log.c, S_SIZE)
_MOST_WRAPPED: Final = 12  # lines that one line was wrapped into
_MISSED: Final = re.compile(rb"Missed (\d{1,18}) kernel messages")  # systemd-journald
NUMBERED: Final = re.compile(rb"\d{1,10},(\d{1,18}),\d{1,18},[^;]*;")  # /dev/kmsg
_BLANKS: Final = re.compile(rb"(?:[ \t]|\xc2\xa0)+")  # a web page has tabs and U+00A0 for them
_DMESG: Final = re.compile(
    rb'\s*"dmesg": *\['
)  # dmesg -J: an entry has its time on a line of its own
_TIME: Final = re.compile(rb'\s*"time": *(\d{1,12}\.\d{1,9}),?\s*')
_TEXT: Final = re.compile(rb'\s*"msg": *("TRACE: .*")\s*')


class Found(NamedTuple):
    """What is before an event in its line, its place, and what is behind IN=.

    Without a place: ``missed`` lines that the log itself says it has not got, or one that cannot be read.
    """

    before: bytes
    place: bytes
    rest: bytes
    missed: int = 0


def is_line(line: bytes) -> bool:
    """Whether there is an event of TRACE in it, or such begin."""
    if _ENDS_EARLY.search(line) or _DMESG.match(line):
        return True
    return PLACE.search(_plain(next(_entries([line]), b""))) is not None


def events(lines: Iterable[bytes]) -> Iterator[Found]:
    """All events, in the order of the lines."""
    for line in _unwrapped(lines):
        starts = [one.start() for one in _BEGINS.finditer(line)]
        before = line[: starts[0]] if starts else line
        if not starts and (missed := _MISSED.search(line)):
            yield Found(before, b"", b"", int(missed[1]))
        for start, end in pairwise([*starts, len(line)]):
            text = line[start:end]
            if found := _TRACE.match(text):
                yield Found(before, found["place"], found["rest"])
                before = b""
            elif _OF_TABLES.match(text):
                yield Found(before, b"", text)


def _unwrapped(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of TRACE, those that were wrapped as one."""
    waiting, pieces = b"", 0
    for line in map(_plain, _with_gaps(_entries(lines))):
        if b"TRACE: " not in line and not _ENDS_EARLY.search(line):
            if waiting and pieces < _MOST_WRAPPED and _continues(waiting, line):
                waiting, pieces = waiting.rstrip() + b" " + line.lstrip(), pieces + 1
                continue
            if not _MISSED.search(line):
                continue
        if waiting:
            yield waiting
        waiting, pieces = line, 1
    if waiting:
        yield waiting


def _continues(waiting: bytes, line: bytes) -> bool:
    """Whether a line has nothing but words of the kernel's, and no more than fit into one of its lines."""
    if len(line) >= LONGEST:
        return False
    if _ENDS_EARLY.search(waiting):
        found = _GOES_ON.match(line)
        return found is not None and all(map(_CONTINUED.fullmatch, line[found.end() :].split()))
    words = line.split()
    return bool(words) and all(map(_CONTINUED.fullmatch, words))


def _plain(line: bytes) -> bytes:
    """With single blanks, where they are not as the kernel prints them: a chain's name may have some."""
    if b"\t" not in line and b"\xc2\xa0" not in line and _TRACE.search(line):
        return line
    return _BLANKS.sub(b" ", line)


def _with_gaps(lines: Iterable[bytes]) -> Iterator[bytes]:
    """With a line as journald has it where numbers of messages are left out: these were overwritten."""
    last = None
    for line in lines:
        if found := NUMBERED.match(line):
            number = int(found[1])
            if last is not None and number > last + 1:
                yield found[0] + b"Missed %d kernel messages" % (number - last - 1)
            last = number
        yield line


def _entries(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Lines of JSON (journalctl -o json, dmesg -J) as these programs print others."""
    time = b""
    for line in lines:
        if line[:1] == b"{":
            yield _of_journal(line)
        elif found := _TIME.fullmatch(line):
            time = b"[%s] " % found[1]
        elif found := _TEXT.fullmatch(line):
            try:
                yield time + str(json.loads(found[1])).encode("utf-8", "replace")
            except ValueError:
                yield line
        else:
            yield line


def _of_journal(line: bytes) -> bytes:
    """An entry of journalctl -o json as journalctl -o short-unix has it."""
    try:
        entry = json.loads(line)
        message, time = entry["MESSAGE"], int(entry["__REALTIME_TIMESTAMP"])
    except (LookupError, RecursionError, TypeError, ValueError):
        return line
    if isinstance(message, list):  # bytes that are not UTF-8
        message = bytes(one for one in message if isinstance(one, int) and 0 <= one < 256)  # noqa: PLR2004
    text = message if isinstance(message, bytes) else str(message).encode("utf-8", "replace")
    return b"%d.%06d kernel: %s" % (*divmod(time, 1_000_000), text.replace(b"\n", b" "))
