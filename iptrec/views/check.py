"""``iptrec check``: one line an expectation, JSON, or JUnit XML for CI."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree as ET

from iptrec.names import counted
from iptrec.views.escape import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from iptrec.answers.expectation import Result

FORMAT: Final = 1
_NO_XML: Final = re.compile("[^\t\n -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def as_text(result: Result, *, colour: bool) -> str:
    """One line, without its newline."""
    word, style = ("ok  ", "32") if result.failure is None else ("FAIL", "31")
    if result.unknown:
        word, style = "????", "33"
    outcome = (
        counted(result.packets, "packet") if result.failure is None else printable(result.failure)
    )
    head = f"\x1b[{style}m{word}\x1b[0m" if colour else word
    return f"{head} {printable(result.expectation.name)}: {outcome}"


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
            "failure": result.failure,
        },
        separators=(",", ":"),
    )


def as_junit(results: Sequence[Result], recording: str) -> str:
    """One testsuite, a testcase for each expectation."""
    failures = sum(one.failure is not None for one in results)
    suite = ET.Element(
        "testsuite",
        name="iptrec check",
        tests=str(len(results)),
        failures=str(failures),
        errors="0",
    )
    for one in results:
        case = ET.SubElement(
            suite, "testcase", classname=_text(recording), name=_text(one.expectation.name)
        )
        if one.failure is not None:
            ET.SubElement(case, "failure", type=_word(one), message=_text(one.failure))
    ET.indent(suite)
    return ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _word(result: Result) -> str:
    if result.failure is None:
        return "ok"
    return "unknown" if result.unknown else "failed"


def _text(text: str) -> str:
    """Without what XML cannot hold."""
    return _NO_XML.sub("?", text)
