"""The stream of dropped packets: opened where that works, written beside the events."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Protocol

from iptrec.errors import HostError
from iptrec.kernel import netns
from iptrec.kernel.bpf.btf import VMLINUX
from iptrec.kernel.drops.source import DropSource
from iptrec.recording.rows import Loss

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


class Dropped:
    """Where records of dropped packets go. Without a source the stream says why there are none."""

    def __init__(self, source: Source | None, refusal: str = "") -> None:
        self._source = source
        self._refusal = refusal
        self._places: dict[int, str] = {}
        self._last_ns = time.time_ns()

    @property
    def descriptors(self) -> frozenset[int]:
        """What to wait for."""
        return frozenset() if self._source is None else frozenset([self._source.fileno()])

    def write_to(self, writer: Writer, namespace: int) -> None:
        """Write into this file from now on."""
        self._writer, self._namespace = writer, namespace
        detail = {"not_recorded": self._refusal} if self._source is None else {}
        self._stream = writer.add_stream(namespace, "drops", detail)
        if self._source is not None:
            names = json.dumps(self._source.names).encode()
            writer.add_snapshot(namespace, "drop-reasons", time.time_ns(), str(VMLINUX), names)
        self._keep(self._places)

    def take(self) -> None:
        """Move what is there into the file."""
        found = None if self._source is None else self._source.receive()
        if found is None:
            return
        self._writer.append(self._stream, found.received_ns, found.lengths, found.data)
        if found.lost:
            self._writer.add_loss(
                Loss(self._stream, self._last_ns, found.received_ns, found.lost, "ring-full")
            )
        self._last_ns = found.received_ns
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
