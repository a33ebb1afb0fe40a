"""``iptrec check``: a line an expectation and one for the packet that fails it, JSON, or JUnit XML for CI."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree as ET

from iptrec.names import counted
from iptrec.views.escape import printable
from iptrec.views.packet_json import iso_time
from iptrec.views.style import styled
from iptrec.views.text import place_of
from iptrec.views.title import ends, flow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from iptrec.answers.expectation import Result
    from iptrec.views.timestamps import Clock

FORMAT: Final = 1
_NO_XML: Final = re.compile("[^\t\n -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def as_text(result: Result, clock: Clock, *, colour: bool) -> str:
    """A line, and the packet that does not comply on another; without the last newline."""
    word, style = ("ok  ", "32") if result.failure is None else ("FAIL", "31")
    if result.unknown:
        word, style = "????", "33"
    head = styled(word, style, colour=colour)
    outcome = printable(result.failure or _packets(result))
    packet = "".join(f"\n{' ' * len(word)} {line}" for line in _packet(result, clock.full))
    return f"{head} {printable(result.expectation.name)}: {outcome}{packet}"


def as_json(result: Result) -> str:
    """One JSON object, ASCII only; schemas/check-v1.schema.json describes it."""
    return json.dumps(
        {
            "format": FORMAT,
            "name": result.expectation.name,
            "line": result.expectation.line,
            "packets": result.packets,
            "ok": result.failure is None,
            "result": _word(result),
            "unjudged": result.unjudged,
            "lossy": result.lossy,
            "packet": None if result.packet is None else result.packet.number,
            "failure": result.failure,
        },
        separators=(",", ":"),
    )


def as_junit(results: Sequence[Result], recording: str, seconds: float) -> str:
    """One testsuite, a testcase for each expectation. ``seconds``: what all of it took."""
    failures = sum(one.failure is not None for one in results)
    suite = ET.Element(
        "testsuite",
        name="iptrec check",
        tests=str(len(results)),
        failures=str(failures),
        errors="0",
        time=_seconds(seconds),
    )
    for one in results:
        case = ET.SubElement(
            suite,
            "testcase",
            classname=_text(recording),
            name=_text(one.expectation.name),
            time=_seconds(one.seconds),
        )
        if one.failure is not None:
            about = "" if one.packet is None else f" ({flow(one.packet)})"
            failure = ET.SubElement(
                case, "failure", type=_word(one), message=_text(f"{one.failure}{about}")
            )
            failure.text = _text("\n".join(_packet(one, iso_time))) or None
        ET.SubElement(case, "system-out").text = _packets(one)
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _packet(result: Result, when: Callable[[int], str]) -> Iterator[str]:
    """The packet that does not comply, as `show` has it: how it ended, who sent it, by which rule."""
    packet, path = result.packet, result.path
    if packet is None or path is None:
        return
    words = [f"#{packet.number}", when(packet.time_ns), printable(path.verdict)]
    words += [flow(packet), *ends(packet)]
    if path.decided_by is not None:
        words.append(f"by {place_of(path.decided_by)}")
    elif path.by_kernel is not None:
        words.append(printable(path.by_kernel))
    rule = "" if path.decider is None or path.decider.spec is None else f": {path.decider.spec}"
    yield " ".join(words) + printable(rule)


def _packets(result: Result) -> str:
    return counted(result.packets, "packet")


def _seconds(seconds: float) -> str:
    return f"{seconds:.6f}"


def _word(result: Result) -> str:
    if result.failure is None:
        return "ok"
    return "unknown" if result.unknown else "failed"


def _text(text: str) -> str:
    """Without what XML cannot hold."""
    return _NO_XML.sub("?", text)
