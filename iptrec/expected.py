"""Packets that were recorded while a test ran, and what is expected of them: for the plugin of pytest."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final, cast

from iptrec import api
from iptrec.answers import expectation, select
from iptrec.child_recorder import Running
from iptrec.errors import UsageError
from iptrec.views import check, folded, text, title

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Unpack

    from iptrec.answers.expectation import Result
    from iptrec.answers.select import Select
    from iptrec.api import Packet, Recording

_MOST: Final = 10  # packets that are listed: of all where none fits, of those that are too many
_LAYOUT: Final = text.Layout()


class Recorded:
    """A recording of a test; ``path``: the file. What is asked is answered once recording has ended.

    ``tell``: takes what the report of the test is to have of it, by name.
    """

    def __init__(self, path: Path, tell: Callable[[str, object], None]) -> None:
        self.path = path
        self._tell = tell
        self._running: Running | None = None
        self._ended = False

    def __repr__(self) -> str:
        return f"<recording of a test: {self.path}>"

    def start(self, filter: str | None, **options: Any) -> None:  # noqa: A002, ANN401 - of `Running`
        """Record; see `Running`, also for errors."""
        self._running = Running(self.path, filter=filter, **options)

    def stop(self) -> None:
        """End it; again: nothing. Raises `IptrecError` where something went wrong meanwhile."""
        running, self._running = self._running, None
        if running is None:
            return
        outcome = running.stop()
        self._ended = True
        self._tell("iptrec_recording", str(self.path))
        with self.open() as recording:
            verdicts = recording.summary().verdicts
        told = ", ".join(f"{verdict} {count}" for verdict, count in verdicts.items())
        self._tell("iptrec_verdicts", told or "no packet")
        if outcome.lost:
            self._tell("iptrec_lost", outcome.lost)

    def open(self) -> Recording:
        """The file, see `iptrec.open`. Raises `UsageError` while it is being recorded."""
        if not self._ended:
            raise UsageError(
                "the packets are known once recording has ended: ask behind the with block"
            )
        return api.open(self.path)

    def packets(
        self,
        filter: str | None = None,  # noqa: A002 - the word everywhere
        **conditions: Unpack[Select],
    ) -> list[Packet]:
        """The selected packets; see `iptrec.Recording.packets`."""
        with self.open() as recording:
            return list(recording.packets(filter, **conditions))

    def expect(
        self,
        filter: str | None = None,  # noqa: A002 - the word everywhere
        *,
        verdict: str | None = None,
        rule: tuple[str, str, int] | None = None,
        chain: tuple[str, str] | None = None,
        count: int | None = None,
        min: int = 1,  # noqa: A002 - as in the file of `iptrec check`
        max: int | None = None,  # noqa: A002
        **conditions: Any,  # noqa: ANN401 - those of `Select` but for the three above
    ) -> list[Packet]:
        """Assert that there are such packets and that each complies; they are returned.

        ``filter`` and the conditions select packets, as those of `packets` do. ``verdict``: how each ends;
        ``rule``: (table, chain, number) that matches it; ``chain``: (table, chain) that it passes. ``count``:
        so many there are; else ``min`` at least, and ``max`` at most.

        Raises AssertionError with the packet that does not comply: its addresses and ports, the rule that
        decided, and why the rules before that did not match. If there are too many, that is the first one
        beyond as many as there may be, and those after it are listed. So it does if the answer is not known,
        because events were lost.
        """
        __tracebackhide__ = True
        with self.open() as recording:
            wanted = self._wanted(
                recording, filter, verdict=verdict, rule=rule, chain=chain, count=count,
                least=min, most=max, conditions=conditions,
            )  # fmt: skip
            (result,) = expectation.check(recording.rows, [wanted])
            selected = recording.packets(filter, **conditions)
            if result.failure is not None:
                self._fail(recording, result, selected)
            return list(selected)

    def _wanted(
        self,
        recording: Recording,
        filter: str | None,  # noqa: A002
        *,
        verdict: str | None,
        rule: tuple[str, str, int] | None,
        chain: tuple[str, str] | None,
        count: int | None,
        least: int,
        most: int | None,
        conditions: dict[str, Any],
    ) -> expectation.Expectation:
        if verdict is not None and verdict not in select.VERDICTS:
            raise UsageError(f"verdict={verdict!r}: must be one of {', '.join(select.VERDICTS)}")
        rows = recording.rows
        return expectation.Expectation(
            name=filter or "packets",
            line=0,
            selection=select.selection(rows, filter, cast("Select", conditions)),
            verdict=verdict,
            rule=None if rule is None else select.rule_places(rows, [rule]),
            chain=None if chain is None else select.places(rows, [chain]),
            least=least if count is None else count,
            most=most if count is None else count,
        )

    def _fail(self, recording: Recording, result: Result, selected: Iterator[Packet]) -> None:
        __tracebackhide__ = True
        told = [check.as_text(result, _LAYOUT.clock, colour=False)]
        self._tell("iptrec_failure", told[0])
        told += _why(recording, result, selected)
        raise AssertionError("\n".join([*told, f"recording: {self.path}"]))


def _why(recording: Recording, result: Result, selected: Iterator[Packet]) -> Iterator[str]:
    """Why the packet that does not comply ended so, and which others are too many; else which there are."""
    if result.packet is not None:
        yield from folded.as_text(recording.why(result.packet.number), _LAYOUT)
        if result.excess:
            yield from _listed(itertools.islice(selected, result.packets - result.excess + 1, None))
    elif not result.packets:
        yield from _listed(recording.packets())


def _listed(packets: Iterator[Packet]) -> Iterator[str]:
    """A line for each of the first ones."""
    for packet in itertools.islice(packets, _MOST):
        yield title.brief(packet, _LAYOUT)
    if next(packets, None) is not None:
        yield "  and others"
