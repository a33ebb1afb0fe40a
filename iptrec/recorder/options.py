"""What to record, and what the caller learns of it."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from iptrec.errors import EXIT_DONE, UsageError
from iptrec.kernel.batches import RECEIVE_BUFFER
from iptrec.kernel.bpf.tap import RING_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from iptrec.names import BackendChoice, DropsChoice, Family

# man 8 iptables, -i: the beginning of a name (net/core/dev.c, dev_valid_name), without quotes.
_WILDCARD: Final = re.compile(r"[^\s/:\"\\]{0,14}\+")
_ANSWER_S: Final = 10.0  # for which one of the kernel's will do in a ring


@dataclass(frozen=True, slots=True)
class Options:
    """What to record, and where to.

    ``bytecodes``: for each family that is recorded the filter as `iptables.TraceRule.bytecode`, None for
    all packets. ``duration_s``, ``packets``, ``max_bytes`` (of the file, about): when to stop by itself.
    ``ring_bytes``, ``ring_s``: keep the last events only. ``rotate_bytes``, ``rotate_s``: go on in
    another file when one has about this size, or this age; ``keep``: so many files of this recording, the last
    ones. ``pattern``: their names, as strftime(3) reads them. ``trigger``: a descriptor that a line can be read
    from when it is time to stop, ``after_s`` later; or ``trigger_packets`` lines. ``viewer``: a pipe that is
    closed when nobody looks at the recording any more: time to stop.
    ``backend``: "legacy", "nft", "both", or "auto": what has rules in the namespace.
    ``all_incoming``: trace all packets that come in, as they may be forwarded out by one of ``interfaces``;
    readers leave out the others then. ``forwarded``: do so where this host forwards.
    ``drops``: whether the kernel's reasons of drops are recorded; "auto": where a program may tell, "yes": else
    by the host's drop monitor.
    ``inside``: the command runs in ``netns``, not where the recorder was started.
    ``command_stdout``: as `subprocess.Popen` takes it; None: the command's stdout is ours.
    ``tap_bytes``: of the ring of each tap.
    ``matches``: gives a filter in the words of nft, for where iptables-nft is missing.
    ``packets`` counts traversals by what they log in the raw table beside our own rule: exact while that
    table has no other rules that match; otherwise the recording stops early rather than late. So it does where
    a frame that is traced in a bridge comes to its host.
    """

    output: Path
    bytecodes: Mapping[Family, str | None]
    filter: str | None = None
    interfaces: Sequence[str] = ()
    all_incoming: bool = False
    forwarded: bool = True
    netns: str | None = None
    force: bool = False
    flush: bool = False
    conntrack: bool = False
    backend: BackendChoice = "auto"
    drops: DropsChoice = "auto"
    modprobe: bool = True
    duration_s: float | None = None
    packets: int | None = None
    max_bytes: int | None = None
    ring_bytes: int | None = None
    ring_s: float | None = None
    rotate_bytes: int | None = None
    rotate_s: float | None = None
    keep: int | None = None
    pattern: str = ""
    trigger: int | None = None
    trigger_packets: int | None = None
    after_s: float = 0
    viewer: int | None = None
    snaplen: int = 256
    matches: Callable[[str | None, Family], Sequence[str]] = lambda *_: ("",)
    command: Sequence[str] = ()
    inside: bool = False
    command_stdout: int | None = None
    argv: Sequence[str] = ()
    receive_buffer: int = RECEIVE_BUFFER
    tap_bytes: int = RING_BYTES

    def check_interfaces(self, there: Sequence[str]) -> None:
        """Raise `UsageError` for an interface that is not there and is not the beginning of names."""
        for interface in self.interfaces:
            if not _WILDCARD.fullmatch(interface) and interface not in there:
                raise UsageError(f"no interface {interface!r} here; there are: {', '.join(there)}")

    @property
    def followed(self) -> bool:
        """Whether somebody looks at the recording while it grows, and waits for what comes."""
        return self.trigger is not None or self.viewer is not None

    @property
    def rotates(self) -> bool:
        """Whether it goes on in other files."""
        return self.rotate_bytes is not None or self.rotate_s is not None

    def named(self) -> Path:
        """The name of a file that is begun now."""
        return Path(time.strftime(self.pattern))

    @property
    def ring(self) -> dict[str, float]:
        """What a stream of events says of itself where older ones are let go; empty without a ring."""
        kept = {"ring_bytes": self.ring_bytes, "ring_s": self.ring_s}
        return {name: value for name, value in kept.items() if value is not None}

    @property
    def asking_again_s(self) -> float | None:
        """How long an answer of the kernel will do; None: for the whole recording.

        A ring that has only the newest events has an answer to each of them where half of it does not pass
        without one.
        """
        return min(_ANSWER_S, (self.ring_s or math.inf) / 2) if self.ring else None


@dataclass(slots=True)
class Progress:
    """How far the recording is.

    ``written_to``: the last one of several files. ``stopped_by``: what could be read from the trigger, the
    beginning of it. ``notes`` are for the user to read in the end, ``details`` for who asks for more (-v).
    """

    events: int = 0
    lost: int = 0
    packets: int = 0
    file_bytes: int = 0
    elapsed_ns: int = 0
    reason: str = ""
    stopped_by: str = ""
    written_to: str = ""
    exit_status: int = EXIT_DONE
    notes: list[str] = field(default_factory=list)
    details: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Report:
    """The progress, and who shows it."""

    progress: Progress
    show: Callable[[Progress], None]

    def tell(self) -> None:
        """Tell how far the recording is."""
        self.show(self.progress)

    def note(self, text: str) -> None:
        """Tell the user at once; the same text only once."""
        if text not in self.progress.notes:
            self.progress.notes.append(text)
            self.tell()

    def detail(self, text: str) -> None:
        """Keep a text for the user who asks for more."""
        self.progress.details.append(text)
