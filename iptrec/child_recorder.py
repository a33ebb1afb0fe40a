"""Record in a child process, so that the caller keeps its rights, signals and namespace: `iptrec.record`.

The recorder stays in the namespace that it records and gives up its rights. Nor is anything loaded into the
caller that starts threads (numpy). The child gets its order as JSON in a file in memory, and answers on a pipe
with a line of JSON a time: how far it is, and in the end the outcome, or an error. It waits for nobody who does
not read: what is between is dropped. Once nobody reads there any more, it stops as with SIGTERM: all is undone.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from iptrec import arguments
from iptrec.errors import HostError, IptrecError, RecordingError, TakenError, UsageError, located
from iptrec.kernel.process import iptrec
from iptrec.kernel.undo import after_kill
from iptrec.names import BACKEND_CHOICES, DROPS_CHOICES, FAMILIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import IO

    from iptrec.names import BackendChoice, DropsChoice, Family
    from iptrec.recorder.options import Options

_AT_ONCE: Final = 1 << 20  # bytes; a pipe holds less (pipe(7))
_ERRORS: Final = {
    one.__name__: one for one in (TakenError, HostError, RecordingError, UsageError, IptrecError)
}


class RecorderEndedError(HostError):
    """The recorder was killed, or failed in a way that it did not expect; its host has refused nothing."""


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
    "command", the name of a signal. ``exit_status``: of the command; None where there was none, or it did not
    end by itself. ``notes``: what went on that the user should know, in words.
    """

    path: Path
    events: int
    lost: int
    packets: int | None
    reason: str
    exit_status: int | None
    notes: tuple[str, ...]


def record(
    output: str | os.PathLike[str],
    *,
    filter: str | None = None,
    duration: float | None = None,
    packets: int | None = None,
    netns: str | int | os.PathLike[str] | None = None,
    backend: BackendChoice = "auto",
    drops: DropsChoice = "auto",
    command: Sequence[str | os.PathLike[str]] | None = None,
    force: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Recorded:
    """Record into a file, as `iptrec record` does, until the first limit, the command's end, or a signal.

    ``filter``: in tcpdump's language; None: all packets. ``duration``: seconds. ``packets``: about how many.
    ``netns``: a name of ip netns, a path, or a pid as a number. ``drops``: record the kernel's reasons to
    drop packets: "yes", "no", or "auto", where it tells them. ``command``: words of what to run meanwhile.
    ``force``: replace a file. ``progress``: called a few times a second, with the newest state; the recorder
    does not wait for it.

    Ctrl-C, or what ``progress`` raises, ends the recording before it is raised here. Needs root, or
    CAP_NET_ADMIN. Raises `UsageError` for what cannot be meant; `HostError` where the host refuses, and if the
    recorder is killed; `RecordingError` where the file cannot be written.
    """
    told = arguments.function("progress", progress or (lambda _: None))
    order = _order(
        output, filter=filter, duration=duration, packets=packets, netns=netns, backend=backend,
        drops=drops, command=command, force=force,
    )  # fmt: skip
    return _recorded(order, _outcome(order, told))


class Running:
    """A recording in a child process, for whoever does something meanwhile: events are recorded from now on.

    ``filter``, ``netns``, ``backend``, ``drops``: as of `record`, which says what is raised as well. If this
    process ends, so does the recording.
    """

    def __init__(
        self,
        output: str | os.PathLike[str],
        *,
        filter: str | None = None,
        netns: str | int | os.PathLike[str] | None = None,
        backend: BackendChoice = "auto",
        drops: DropsChoice = "auto",
    ) -> None:
        self._order = _order(output, filter=filter, netns=netns, backend=backend, drops=drops)
        try:
            self._output = Path(self._order.output).absolute()
            self._child, self._pipe = _started(self._order)
        except OSError as error:
            raise HostError(f"cannot start the recorder: {located(error)}") from None
        self._answers = _answers(self._pipe)
        if not self._next(lambda answer: bool(answer["begun"])):
            raise _unsaid(self._child, self._order, self._output, {})

    def stop(self) -> Recorded:
        """End it; what came of it. Raises as `record` does, also for what went wrong meanwhile."""
        self._child.send_signal(signal.SIGTERM)
        answer = self._next(lambda _: False)
        if self._child.wait() or not answer:
            raise _unsaid(self._child, self._order, self._output, answer)
        return _recorded(self._order, answer)

    def _next(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next answer that is wanted, or the last one; empty if there is none. Errors are raised."""
        answer: dict[str, Any] = {}
        try:
            for answer in self._answers:
                _raise_error(answer)
                if wanted(answer):
                    return answer
        except BaseException:
            _end(self._child, self._pipe)
            raise
        self._pipe.close()
        return answer


def _order(
    output: str | os.PathLike[str],
    *,
    filter: str | None,
    netns: str | int | os.PathLike[str] | None,
    backend: BackendChoice,
    drops: DropsChoice,
    duration: float | None = None,
    packets: int | None = None,
    command: Sequence[str | os.PathLike[str]] | None = None,
    force: bool = False,
) -> _Order:
    """What was asked for, as it can be handed on. Raises `UsageError`."""
    return _Order(
        output=_uncompressed(arguments.file("output", output)),
        filter=None if filter is None else arguments.text("filter", filter),
        duration_s=None if duration is None else arguments.seconds("duration", duration),
        packets=None if packets is None else arguments.count("packets", packets),
        netns=None if netns is None else arguments.namespace("netns", netns),
        backend=arguments.one_of("backend", backend, BACKEND_CHOICES),
        drops=arguments.one_of("drops", drops, DROPS_CHOICES),
        command=() if command is None else arguments.words("command", command),
        force=arguments.yes_or_no("force", force),
    )


def _recorded(order: _Order, outcome: dict[str, Any]) -> Recorded:
    return Recorded(
        path=Path(order.output),
        events=outcome["events"],
        lost=outcome["lost"],
        packets=None if order.packets is None else outcome["packets"],
        reason=outcome["reason"],
        exit_status=outcome["exit_status"] if outcome["reason"] == "command" else None,
        notes=tuple(outcome["notes"]),
    )


def _uncompressed(output: str) -> str:
    """The file. Raises `UsageError` for one that would not be what its name says."""
    if output.endswith(".gz"):
        raise UsageError(f"output={output!r}: iptrec record compresses, this does not; name a .db")
    return output


@dataclass(frozen=True, slots=True)
class _Order:
    """What to record, and where to; see `record`."""

    output: str
    filter: str | None
    duration_s: float | None
    packets: int | None
    netns: str | None
    backend: BackendChoice
    drops: DropsChoice
    command: tuple[str, ...]
    force: bool

    @property
    def argv(self) -> tuple[str, ...]:
        """The command line that records the same."""
        words = ["iptrec", "record", f"--output={self.output}", f"--backend={self.backend}"]
        words += [] if self.drops == "auto" else [f"--drops={self.drops}"]
        words += [] if self.duration_s is None else [f"--duration={_plain(self.duration_s)}s"]
        words += [] if self.packets is None else [f"--packets={self.packets}"]
        words += [] if self.netns is None else [f"--netns={self.netns}"]
        words += ["--force"] if self.force else []
        words += [self.filter] if self.filter else []
        return (*words, *(["--", *self.command] if self.command else []))


def _plain(seconds: float) -> str:
    """A number without an exponent."""
    return f"{seconds:.9f}".rstrip("0").rstrip(".")


def _outcome(order: _Order, progress: Callable[[Progress], None]) -> dict[str, Any]:
    """Have it recorded; the recorder's last word."""
    try:
        output = Path(order.output).absolute()  # wherever we are when it ends
        child, pipe = _started(order)
    except OSError as error:
        raise HostError(f"cannot start the recorder: {located(error)}") from None
    answer: dict[str, Any] = {}
    with pipe:
        try:
            for answer in _answers(pipe):
                _raise_error(answer)
                progress(_progress(answer))
        except BaseException:
            _end(child, pipe)
            raise
    if child.wait() or not answer:
        raise _unsaid(child, order, output, answer)
    return answer


def _end(child: subprocess.Popen[bytes], pipe: IO[bytes]) -> None:
    pipe.close()  # first: the child may be about to write
    child.terminate()
    child.wait()


def _unsaid(
    child: subprocess.Popen[bytes], order: _Order, output: Path, answer: dict[str, Any]
) -> RecorderEndedError:
    """The error of a child that ended without its last word; ``answer``: the last one that came."""
    kept = f"{order.output} has what it recorded until then; "
    return RecorderEndedError(
        f"the recorder {_ended(child.wait())}; {kept if answer.get('elapsed_ns') else ''}"
        f"{after_kill.undone(output)}"
    )


def _started(order: _Order) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    """The child, and the pipe on which it answers. Raises OSError."""
    with contextlib.ExitStack() as kept, os.fdopen(os.memfd_create("order"), "wb") as file:
        file.write(json.dumps(asdict(order)).encode())
        file.seek(0)
        reading, writing = os.pipe()
        pipe = kept.enter_context(os.fdopen(reading, "rb", buffering=0))
        try:
            words = iptrec(str(writing), str(file.fileno()), module=__name__)
            child = subprocess.Popen(words, pass_fds=(writing, file.fileno()))
        finally:
            os.close(writing)
        kept.pop_all()
    return child, pipe


def _ended(status: int) -> str:
    """How a process did that has not said why."""
    if status >= 0:
        return f"failed (exit status {status})"
    known = {one.value: one.name for one in signal.Signals}
    return f"was killed by {known.get(-status, f'signal {-status}')}"


def _answers(pipe: IO[bytes]) -> Iterator[dict[str, Any]]:
    """The newest answer, whenever there are some; the last one of all in any case."""
    rest = b""
    while found := pipe.read(_AT_ONCE):
        *lines, rest = (rest + found).split(b"\n")
        if lines:
            yield json.loads(lines[-1])


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
        raise _ERRORS[answer["error"]](answer["text"])


def main() -> None:
    """Be the child: ``argv`` has the descriptors of the pipe and of the order."""
    # Until the recorder takes signals itself: Ctrl-C is for our parent to answer, with a SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    from iptrec.recorder.session import record as run  # noqa: PLC0415 - takes a while

    answers, order = map(int, sys.argv[1:])
    os.set_inheritable(answers, False)
    with open(order, "rb") as file:  # noqa: PTH123 - no name
        given = json.load(file)
    caller = _Caller(answers)
    try:
        outcome = run(_options(given), caller.tell_progress, caller.begin)
        caller.tell_at_last(asdict(outcome) | {"begun": True})
    except (IptrecError, OSError) as error:
        caller.tell_at_last(_refusal(error))


def _refusal(error: IptrecError | OSError) -> dict[str, str]:
    """An error, of the nearest class that our caller knows."""
    if isinstance(error, OSError):
        error = HostError(located(error))
    kind = next(one for one in type(error).__mro__ if one in _ERRORS.values())
    return {"error": kind.__name__, "text": str(error)}


class _Caller:
    """Who started us, by the pipe between us."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._begun = b""  # the rest of a line, which cannot be taken back
        self._records = False
        os.set_blocking(descriptor, False)

    def begin(self, _: int) -> None:
        """From now on events are recorded."""
        self._records = True

    def tell_progress(self, progress: Any) -> None:  # noqa: ANN401 - of the recorder
        """How far it is."""
        self.tell(asdict(progress) | {"begun": self._records})

    def tell(self, answer: dict[str, Any]) -> None:
        """Tell it now or never. If nobody is there, stop as with SIGTERM."""
        try:
            self._begun = self._written(self._begun)
            if not self._begun:
                line = _line(answer)
                rest = self._written(line)
                self._begun = rest if len(rest) < len(line) else b""
        except BrokenPipeError:
            os.kill(os.getpid(), signal.SIGTERM)

    def tell_at_last(self, answer: dict[str, Any]) -> None:
        """Tell it, however long that takes: nothing is left to be done."""
        os.set_blocking(self._descriptor, True)
        left = self._begun + _line(answer)
        with contextlib.suppress(BrokenPipeError):
            while left:
                left = self._written(left)

    def _written(self, data: bytes) -> bytes:
        """What could not be written of it."""
        try:
            return data[os.write(self._descriptor, data) :] if data else b""
        except BlockingIOError:
            return data


def _line(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer).encode() + b"\n"


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
        drops=order.drops,
        duration_s=order.duration_s,
        packets=order.packets,
        command=order.command,
        argv=order.argv,
    )
