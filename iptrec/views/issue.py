"""``why --markdown``: a block to paste into an issue.

What comes from the recording stands in code alone, whose fences are longer than any run of backticks in it
(CommonMark 0.31, 4.5 and 6.1): no name, rule or comment of a stranger becomes a link, a mention or HTML.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Final

from iptrec.decode.rulesets.programs import program
from iptrec.names import counted
from iptrec.recording.rows import lost_events
from iptrec.version import __version__
from iptrec.views.escape import printable
from iptrec.views.losses import NOT_CLOSED, how_many
from iptrec.views.rebuilt import sources, uncounted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from iptrec.packets.model import Traversal
    from iptrec.recording.rows import Recording

_BACKTICKS: Final = re.compile("`+")
_FENCE: Final = 3  # backticks at least


def excerpt(packet: Traversal, lines: Sequence[str]) -> Iterator[str]:
    """What `why` prints of a packet. Lines without their newlines, here as below."""
    fence = "`" * max(_FENCE, 1 + _longest(lines))
    head = f"### Packet {packet.number}: {code(packet.verdict)}"
    yield from (head, "", f"{fence}text", *lines, fence, "")


def origin(recording: Recording, name: str, *, running: bool | None) -> Iterator[str]:
    """Where it comes from, and how to get the recording; ``name``: of the file. See `made_by`."""
    yield from made_by(recording, running=running)
    text = any(sources(recording))
    kept = "headers" if text else f"the first {counted(recording.facts.snaplen, 'byte')}"
    yield (
        f"- recording: {code(name)}; ask for it, or attach it if what it has may be public: {kept} of each"
        " packet, rules, addresses, routes"
    )


def made_by(recording: Recording, *, running: bool | None) -> Iterator[str]:
    """Versions, and what was lost; ``running``: see `views.info.as_json`."""
    facts = recording.facts
    found = (program(one.content) for one in recording.snapshots())
    programs = list(dict.fromkeys(one for one in found if one is not None))
    lost = how_many(lost_events(recording)) or uncounted(recording) or "none"
    if not facts.closed:
        lost += f" so far; {NOT_CLOSED[running]}"
    yield f"- iptrec: {code(__version__)}, recorded by {code(facts.iptrec)}"
    yield f"- kernel: {code(facts.kernel)}"
    yield f"- rules: {', '.join(map(code, programs)) or 'not recorded'}"
    yield f"- recorded with: {code(shlex.join(_own(facts.command)))}"
    yield f"- events lost: {lost}"
    yield from (f"- source: {one}" for one in sources(recording))


def code(text: str) -> str:
    """A text as code within a line."""
    shown = printable(text) or " "
    fence = "`" * (1 + _longest([shown]))
    return f"{fence} {shown} {fence}" if "`" in shown else f"{fence}{shown}{fence}"


def _longest(lines: Iterable[str]) -> int:
    """The length of the longest run of backticks."""
    return max((len(run) for line in lines for run in _BACKTICKS.findall(line)), default=0)


def _own(command: Sequence[str]) -> Sequence[str]:
    """Without the command that was run: its arguments may be secret."""
    if "--" not in command:
        return command
    return [*command[: command.index("--") + 1], "..."]
