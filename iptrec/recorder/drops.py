"""The stream of dropped packets: opened where that works, written beside the events."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Protocol

from iptrec.errors import HostError
from iptrec.kernel import netns
from iptrec.kernel.bpf.btf import VMLINUX
from iptrec.kernel.drops.source import DropSource
from iptrec.recorder.beside import Beside

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Mapping

    from iptrec.kernel.drops.source import Drops
    from iptrec.recorder.options import Options
    from iptrec.recording.writer import Writer


class Source(Protocol):
    """What records of dropped packets come out of. ``names``: of enums, value -> name of each."""

    @property
    def names(self) -> Mapping[str, Mapping[int, str]]:
        """Return the names."""

    def fileno(self) -> int:
        """For poll."""

    def receive(self) -> Drops | None:
        """Return what is there now; None if nothing is."""


class Dropped(Beside):
    """Where records of dropped packets go, with the names of reasons and places."""

    kind = "drops"

    def __init__(self, source: Source | None, refusal: str = "") -> None:
        super().__init__(None if source is None else source.fileno(), refusal)
        self._source = source
        self._places: dict[int, str] = {}

    def write_to(self, writer: Writer, namespace: int) -> None:
        """Write into this file from now on."""
        super().write_to(writer, namespace)
        if self._source is not None:
            names = json.dumps(self._source.names).encode()
            writer.add_snapshot(namespace, "drop-reasons", time.time_ns(), str(VMLINUX), names)
        self._keep(self._places)

    def take(self) -> None:
        """Move what is there into the file."""
        found = None if self._source is None else self._source.receive()
        if found is not None:
            self._write(found)
            self._places |= found.places
            self._keep(found.places)

    def _keep(self, places: Mapping[int, str]) -> None:
        """Keep the symbols of places: where the kernel is will be somewhere else after the next start."""
        if places:
            now, content = time.time_ns(), json.dumps(places).encode()
            self._writer.add_snapshot(self._namespace, "drop-places", now, "kallsyms", content)


def opened(options: Options, stack: contextlib.ExitStack) -> Dropped | None:
    """As --drops asks for it; None where nobody does. Raises `HostError` where it has to work and does not."""
    if options.drops == "no":
        return None
    try:
        source = DropSource(netns.inode(), options.snaplen)
    except HostError as error:
        if options.drops == "yes":
            raise HostError(f"--drops yes: {error}") from None
        return Dropped(None, str(error))
    return Dropped(stack.enter_context(source))
