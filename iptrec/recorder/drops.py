"""The stream of dropped packets: opened where that works, written beside the events."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Protocol

from iptrec.errors import HostError
from iptrec.kernel import netns
from iptrec.kernel.drops import monitor
from iptrec.kernel.drops.alerts import AlertSource
from iptrec.kernel.drops.source import DropSource
from iptrec.recorder.beside import Beside

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable, Mapping

    from iptrec.kernel.drops.monitor import Asking
    from iptrec.kernel.drops.source import Drops
    from iptrec.kernel.undo.guardian import Guardian
    from iptrec.recorder.options import Options
    from iptrec.recording.writer import Writer


class Source(Protocol):
    """What records of dropped packets come out of. ``names``: of enums, value -> name of each."""

    @property
    def names(self) -> Mapping[str, Mapping[int, str]]:
        """Return the names that are known by now."""

    @property
    def names_from(self) -> str:
        """Return who tells them."""

    def fileno(self) -> int:
        """For poll."""

    def receive(self) -> Drops | None:
        """Return what is there now; None if nothing is."""


class Dropped(Beside):
    """Where records of dropped packets go, with the names of reasons and places."""

    kind = "drops"

    def __init__(
        self, source: Source | None, refusal: str = "", detail: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(None if source is None else source.fileno(), refusal, detail)
        self._source = source
        self._fetched: Drops | None = None
        self._places: dict[int, str] = {}

    @property
    def whole(self) -> bool:
        """Whether the kernel tells of all packets that are traced and that it drops, and of no others."""
        return bool(self.descriptors)

    def prepare(self, guardian: Guardian, undo: Callable[[Callable[[], None]], None]) -> None:
        """Change what of the host has to be changed for the kernel to tell: nothing."""

    def write_to(self, writer: Writer, namespace: int) -> None:
        """Write into this file from now on."""
        super().write_to(writer, namespace)
        if self._source is not None:
            self._keep_names(self._source, self._source.names)
        self._keep(self._places)

    def fetch(self) -> bool:
        """Fetch what is there; whether anything was."""
        if self._source is not None and self._fetched is None:
            self._fetched = self._source.receive()
        return self._fetched is not None

    def take(self) -> None:
        """Move what was fetched into the file."""
        source, found, self._fetched = self._source, self._fetched, None
        if source is not None and found is not None:
            self._write(found)
            self._places |= found.places
            self._keep(found.places)
            if found.names:
                self._keep_names(source, found.names)

    def finish(self) -> None:
        """Take the last ones."""
        self.fetch()
        self.take()

    def _keep_names(self, source: Source, names: Mapping[str, Mapping[int, str]]) -> None:
        """Keep the names of reasons, which are others in the next release of the kernel."""
        now, content = time.time_ns(), json.dumps(names).encode()
        self._writer.add_snapshot(self._namespace, "drop-reasons", now, source.names_from, content)

    def _keep(self, places: Mapping[int, str]) -> None:
        """Keep the symbols of places: where the kernel is will be somewhere else after the next start."""
        if places:
            now, content = time.time_ns(), json.dumps(places).encode()
            self._writer.add_snapshot(self._namespace, "drop-places", now, "kallsyms", content)


class Alerted(Dropped):
    """The same by the drop monitor: the host's, which has to be started and put back."""

    whole = False

    def __init__(self, alerts: AlertSource) -> None:
        super().__init__(alerts, detail={"source": alerts.names_from})
        self._alerts = alerts

    def prepare(self, guardian: Guardian, undo: Callable[[Callable[[], None]], None]) -> None:
        """Start it."""
        undo(guardian.give_back_monitor)
        self._alerts.start(guardian.expect_monitor)

    def finish(self) -> None:
        """Take the last ones, and count those that were lost."""
        self._alerts.finish()
        while self.fetch():
            self.take()


def asked_by(options: Options, stack: contextlib.ExitStack) -> Asking | None:
    """A socket for the kernel's drop monitor, where it may be asked for; the guardian has it as well."""
    return stack.enter_context(monitor.asking()) if options.drops == "yes" else None


def opened(options: Options, stack: contextlib.ExitStack, asking: Asking | None) -> Dropped | None:
    """As --drops asks for it; None where nobody does. Raises `HostError` where it has to work and does not.

    ``asking``: as of `asked_by`. The drop monitor costs something for every packet that is dropped on the host:
    it is for who asked for drops.
    """
    if options.drops == "no":
        return None
    try:
        return Dropped(stack.enter_context(DropSource(netns.inode(), options.snaplen)))
    except HostError as error:
        if asking is None:
            return Dropped(None, str(error))
        refusal = error
    try:
        return Alerted(stack.enter_context(AlertSource(asking, netns.inode(), options.snaplen)))
    except HostError as error:
        raise HostError(f"--drops yes: {refusal}; {error}") from None
