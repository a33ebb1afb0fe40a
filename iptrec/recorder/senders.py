"""The stream of who sends packets: opened where that works, written beside the events."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Final, Protocol

from iptrec.errors import HostError
from iptrec.kernel import owners
from iptrec.kernel.senders.source import SenderSource
from iptrec.recorder.beside import Beside

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Mapping

    from iptrec.kernel.senders.source import Facts
    from iptrec.recorder.options import Report
    from iptrec.recording.writer import Writer

_LOOK_S: Final = 0.1  # at control groups, at most
_LOOKS: Final = 5  # for one that is not found: it is gone, or there was no time for all
_SHARE: Final = 50  # one part in so many of the time may go into looking


class Source(Protocol):
    """What facts about senders come out of."""

    def fileno(self) -> int:
        """For poll."""

    def receive(self) -> Facts | None:
        """Return what is there now; None if nothing is."""

    def tell_again(self) -> None:
        """Let what was told be told again."""


class Senders(Beside):
    """Where facts about senders go.

    Paths of control groups are looked up as they are told of: one that has gone by then has none.
    """

    kind = "senders"

    def __init__(self, source: Source | None, refusal: str = "") -> None:
        super().__init__(None if source is None else source.fileno(), refusal)
        self._source = source
        self._paths: dict[int, str] = {}
        self._asked: set[int] = set()
        self._wanted: dict[int, int] = {}  # by how many looks were in vain
        self._look_s = 0.0

    def write_to(self, writer: Writer, namespace: int) -> None:
        """Write into this file from now on."""
        super().write_to(writer, namespace)
        self._keep(self._paths)

    def tell_again(self) -> None:
        """Let facts be told again of sockets that send again: what was told before may be gone."""
        if self._source is not None:
            self._source.tell_again()

    def take(self) -> None:
        """Move what is there into the file."""
        found = None if self._source is None else self._source.receive()
        if found is not None:
            self._write(found)
            new = set(found.cgroups.tolist()) - self._asked
            self._asked |= new
            self._wanted |= dict.fromkeys(new, 0)
        if self._wanted and time.monotonic() >= self._look_s:
            self._look()

    def finish(self) -> None:
        """Take the last ones."""
        self._look_s = 0.0
        super().finish()

    def _look(self) -> None:
        """Look up control groups, seldom where that takes long."""
        begun = time.monotonic()
        found = owners.paths(set(self._wanted), begun + _LOOK_S)
        vain = {one: looks + 1 for one, looks in self._wanted.items() if one not in found}
        self._wanted = {one: looks for one, looks in vain.items() if looks < _LOOKS}
        self._look_s = time.monotonic() + _SHARE * (time.monotonic() - begun)
        self._paths |= found
        self._keep(found)

    def _keep(self, paths: Mapping[int, str]) -> None:
        if paths:
            now, content = time.time_ns(), json.dumps(paths).encode()
            self._writer.add_snapshot(self._namespace, "sender-cgroups", now, "cgroup", content)


def opened(report: Report, stack: contextlib.ExitStack) -> Senders:
    """Where the kernel allows it; else why it does not."""
    try:
        return Senders(stack.enter_context(SenderSource()))
    except HostError as error:
        report.detail(f"senders of packets are not recorded: {error}")
        return Senders(None, str(error))
