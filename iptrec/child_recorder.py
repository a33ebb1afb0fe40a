"""Record in a child process, so that the caller keeps its rights, signals and namespace: `iptrec.record`.

The recorder stays in the namespace that it records and gives up its rights. Nor is anything loaded into the
caller that starts threads (numpy). The child gets its order as JSON in its arguments, and answers on a pipe
with a line of JSON a time: how far it is, and in the end the outcome, or an error. Once nobody reads there any
more, it stops as with SIGTERM: all is undone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from iptrec.errors import HostError, IptrecError, RecordingError, UsageError
from iptrec.kernel.process import iptrec
from iptrec.names import BACKEND_CHOICES, FAMILIES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import IO

    from iptrec.names import BackendChoice, Family
    from iptrec.recorder.options import Options

_ERRORS: Final = {one.__name__: one for one in (HostError, RecordingError, UsageError)}


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a recording is. ``file_bytes``: of the file; ``notes``: for the user, in words."""

    events: int
    lost: int
    file_bytes: int
    elapsed_ns: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Recorded:
    """What came of a recording.

    ``events``: of the kernel, in the file; ``lost``: that it sent beside them. ``packets``: about how many;
    None where they were not a limit, for nobody counted them. ``reason``: why it ended: "duration", "packets",
    "command", the name of a signal. ``exit_status``: of the command. ``notes``: what went on that the user
    should know, in words.
    """

    path: Path
    events: int
    lost: int
    packets: int | None
    reason: str
    exit_status: int
    notes: tuple[str, ...]


def record(
    output: str | os.PathLike[str],
    *,
    filter: str | None = None,
    duration: float | None = None,
    packets: int | None = None,
    netns: str | None = None,
    backend: BackendChoice = "auto",
    command: Sequence[str] = (),
    force: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Recorded:
    """Record into a file, as `iptrec record` does, until the first limit, the command's end, or a signal.

    ``filter``: in tcpdump's language; None: all packets. ``duration``: seconds. ``packets``: about how many.
    ``netns``: a name of ip netns, a path, a process id. ``command``: to be run meanwhile. ``force``: replace a
    file. ``progress``: called a few times a second.

    Ctrl-C, or what ``progress`` raises, ends the recording before it is raised here. Needs root, or
    CAP_NET_ADMIN. Raises `UsageError`; `HostError` where the host refuses; `RecordingError` where the file
    cannot be written.
    """
    order = _Order(
        output=str(Path(output)), filter=filter, duration_s=duration, packets=packets, netns=netns,
        backend=backend, command=tuple(command), force=force,
    )  # fmt: skip
    order.check()
    outcome = _outcome(order, progress or (lambda _: None))
    return Recorded(
        path=Path(order.output),
        events=outcome["events"],
        lost=outcome["lost"],
        packets=None if packets is None else outcome["packets"],
        reason=outcome["reason"],
        exit_status=outcome["exit_status"],
        notes=tuple(outcome["notes"]),
    )


@dataclass(frozen=True, slots=True)
class _Order:
    """What to record, and where to; see `record`."""

    output: str
    filter: str | None
    duration_s: float | None
    packets: int | None
    netns: str | None
    backend: BackendChoice
    command: tuple[str, ...]
    force: bool

    def check(self) -> None:
        """Raise `UsageError` for what cannot be meant."""
        if self.backend not in BACKEND_CHOICES:
            raise UsageError(
                f"backend={self.backend!r}: must be one of {', '.join(BACKEND_CHOICES)}"
            )
        if self.duration_s is not None and not 0 < self.duration_s < 10**9:
            raise UsageError(f"duration={self.duration_s!r}: expected seconds")
        if self.packets is not None and self.packets < 1:
            raise UsageError(f"packets={self.packets!r}: expected a number from 1")

    @property
    def argv(self) -> tuple[str, ...]:
        """The command line that records the same."""
        words = ["iptrec", "record", f"--output={self.output}", f"--backend={self.backend}"]
        words += [] if self.duration_s is None else [f"--duration={self.duration_s:g}s"]
        words += [] if self.packets is None else [f"--packets={self.packets}"]
        words += [] if self.netns is None else [f"--netns={self.netns}"]
        words += ["--force"] if self.force else []
        words += [self.filter] if self.filter else []
        return (*words, *(["--", *self.command] if self.command else []))


def _outcome(order: _Order, progress: Callable[[Progress], None]) -> dict[str, Any]:
    """Have it recorded; the recorder's last word."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as answers:
        try:
            words = iptrec(str(writing), json.dumps(asdict(order)), module=__name__)
            child = subprocess.Popen(words, pass_fds=(writing,))
        finally:
            os.close(writing)
        answer: dict[str, Any] = {}
        try:
            for line in answers:
                answer = json.loads(line)
                _raise_error(answer)
                progress(_progress(answer))
        except BaseException:
            child.terminate()
            child.wait()
            raise
    if child.wait() or not answer:
        raise HostError(
            f"the recorder's process ended by itself ({child.returncode}); {order.output} has what it"
            " recorded until then; run iptrec cleanup"
        )
    return answer


def _progress(answer: dict[str, Any]) -> Progress:
    return Progress(
        events=answer["events"],
        lost=answer["lost"],
        file_bytes=answer["file_bytes"],
        elapsed_ns=answer["elapsed_ns"],
        notes=tuple(answer["notes"]),
    )


def _raise_error(answer: dict[str, Any]) -> None:
    if "error" in answer:
        raise _ERRORS.get(answer["error"], IptrecError)(answer["text"])


def main() -> None:
    """Be the child: ``argv`` has the pipe's descriptor and the order."""
    # Until the recorder takes signals itself: Ctrl-C is for our parent to answer, with a SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    from iptrec.recorder.session import record as run  # noqa: PLC0415 - takes a while

    descriptor, order = sys.argv[1:]
    os.set_inheritable(int(descriptor), False)
    with os.fdopen(int(descriptor), "wb", buffering=0) as pipe:
        try:
            outcome = run(
                _options(json.loads(order)), lambda progress: _tell(pipe, asdict(progress))
            )
            _tell(pipe, asdict(outcome))
        except IptrecError as error:
            _tell(pipe, {"error": type(error).__name__, "text": str(error)})


def _tell(pipe: IO[bytes], answer: dict[str, Any]) -> None:
    try:
        pipe.write(json.dumps(answer).encode() + b"\n")
    except BrokenPipeError:
        os.kill(os.getpid(), signal.SIGTERM)


def _options(given: dict[str, Any]) -> Options:
    """The recorder's options out of an order."""
    from iptrec.pcap.filter import bytecodes  # noqa: PLC0415
    from iptrec.pcap.nft import matches  # noqa: PLC0415
    from iptrec.recorder.options import Options  # noqa: PLC0415

    order = _Order(**given)
    families: tuple[Family, ...] = FAMILIES
    return Options(
        output=Path(order.output),
        bytecodes=bytecodes(order.filter or "", families),
        filter=order.filter or None,
        matches=matches,
        netns=order.netns,
        force=order.force,
        backend=order.backend,
        duration_s=order.duration_s,
        packets=order.packets,
        command=order.command,
        argv=order.argv,
    )
