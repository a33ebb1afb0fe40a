"""A stream of what programs in the kernel tell beside the events, or of why they do not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar

from iptrec.recording.rows import Loss

if TYPE_CHECKING:
    from collections.abc import Mapping

    from iptrec.kernel.drops.source import Drops
    from iptrec.kernel.senders.source import Facts
    from iptrec.recording.writer import Writer


class Beside:
    """Where they go. ``descriptor``: what they come out of; None where they do not, and why: ``refusal``.

    ``detail``: what the stream says of itself.
    """

    kind: ClassVar[str]  # of the stream

    def __init__(
        self, descriptor: int | None, refusal: str, detail: Mapping[str, Any] | None = None
    ) -> None:
        self.descriptors = frozenset() if descriptor is None else frozenset([descriptor])
        self._detail = detail or {} if self.descriptors else {"not_recorded": refusal}
        self._last_ns = time.time_ns()

    def write_to(self, writer: Writer, namespace: int) -> None:
        """Write into this file from now on."""
        self._writer, self._namespace = writer, namespace
        self._stream = writer.add_stream(namespace, self.kind, {**self._detail})

    def fetch(self) -> bool:
        """Fetch what is there, for `take`, if it is to be behind events; whether anything was."""
        return False

    def take(self) -> None:
        """Move what is there, or was fetched, into the file."""
        raise NotImplementedError

    def finish(self) -> None:
        """Take the last ones."""
        self.take()

    def _write(self, found: Drops | Facts) -> None:
        self._writer.append(self._stream, found.received_ns, found.lengths, found.data)
        if found.lost:
            self._writer.add_loss(
                Loss(self._stream, self._last_ns, found.received_ns, found.lost, "ring-full")
            )
        self._last_ns = found.received_ns
