"""What ``iptrec export pcapng`` says of a packet for programs: a comment beside the one for people.

iptrec/wireshark/iptrec.lua makes Wireshark's fields of it. Of what pcapng offers, a second comment is all that
Wireshark 4.0 both shows to a Lua script and writes again without damage. It gives scripts no custom options
(which need an enterprise number of one's own); and of an epb_verdict, which packets have as well, it writes a
damaged option when it saves packets (4.0.17, wiretap/pcapng.c).

The comment is ``iptrec:1?`` and NAME=VALUE, joined by ``&``. In a value, what is not a letter, a digit or in
`_PLAIN` is %XX of a byte of its UTF-8, so that nothing in a name or a rule can end it. docs/wireshark.md has
the names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from iptrec.views.escape import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from iptrec.answers.paths import Path, PathStep
    from iptrec.names import Backend
    from iptrec.packets.ends import Ending
    from iptrec.packets.model import RulePlace

BEGIN: Final = "iptrec:1?"
_PLAIN: Final = " #$'()*+,-.:;<>@[]^_`{|}~"
_NONE: Final = "!"  # of a part of a step: there is none
# Bytes of UTF-8, of which at most three times as many are written: all names and texts have room together.
_LONGEST_NAME: Final = 1_000
_LONGEST_TEXT: Final = 4_000  # of a rule, a reason
_LONGEST: Final = 60_000  # of all, as written; an option has at most 65,535


def fields(path: Path, told: Ending, backends: Sequence[Backend], steps: int) -> bytes:
    """The comment about a packet, ASCII.

    ``told``: of the packet, beside that path. ``backends``: whose each step of the path is. ``steps``: how many
    there are to tell. Those without room are counted, as ``more``.
    """
    end, decider = told.end, path.decider
    known = {
        "verdict": path.verdict,
        "complete": str(int(path.complete)),
        "ambiguous": str(int(path.ambiguous)),
        "host": path.host,
        "netns": path.netns,
        "end": None if end is None else end.reason,
    }
    texts = {
        "reason": told.reason,
        "end_text": None if end is None else end.text,
        "rule_text": None if decider is None else decider.spec,
    }
    said = [f"{name}={_name(one)}" for name, one in known.items() if one is not None]
    said += [f"{name}={_text(one)}" for name, one in texts.items() if one is not None]
    if path.decided_by is not None:
        said.append(f"decided_by={_decider(path.decided_by)}")
    size = sum(map(len, said)) + len(said)
    for at, (step, backend) in enumerate(zip(path.steps[:steps], backends, strict=False)):
        one = f"step={_step(step, backend)}"
        size += len(one) + 1
        if size > _LONGEST:
            said.append(f"more={steps - at}")
            break
        said.append(one)
    return f"{BEGIN}{'&'.join(said)}".encode("ascii")


def _decider(place: RulePlace) -> str:
    what = "policy" if place.rule is None else str(place.rule)
    parts = place.table, place.chain, "unlisted" if place.unlisted else what
    return "/".join(map(_name, parts))


def _step(step: PathStep, backend: Backend) -> str:
    rule = None if step.rule is None else str(step.rule)
    names = step.table, step.chain, step.type, rule, step.target, backend
    parts = [_NONE if one is None else _name(one) for one in names]
    return "/".join([*parts, _NONE if step.spec is None else _text(step.spec)])


def _name(value: str) -> str:
    return _text(value, _LONGEST_NAME)


def _text(value: str, longest: int = _LONGEST_TEXT) -> str:
    safe = printable(value)
    if len(safe) * 4 > longest and len(whole := safe.encode()) > longest:
        safe = f"{whole[:longest].decode(errors='ignore')}…"
    return quote(safe, safe=_PLAIN)
