"""The windows of a recording, read by several processes at once: what they are is the same, to the bit.

A window takes over from the one before the packets that are still under way, so it cannot be read without that
one; but mostly what is taken over follows from the last events alone. So each process reads every n-th part of
the recording, a little from before it first, and says what its first window takes over. Where that is just
what the part before hands on, nothing is different from reading both in one go. Where it is not, everything
from there on is read in one go.

Places in rules have numbers in the order in which they were met: each process has its own, see `numbered`.
What the kernel dropped is looked up where the windows come together, in their order.
"""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from iptrec.errors import HostError
from iptrec.packets import window
from iptrec.packets.numbered import Numbers, Teller, Told
from iptrec.packets.shared import Memory, Receiver, Sender, available
from iptrec.rulesets.backends import BACKENDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from iptrec.packets.window import Decided, Streams, Window
    from iptrec.recording.rows import Chunk, Recording

    # A recording once more, for a process of its own.
    Reopen = Callable[[], AbstractContextManager[Recording]]
    # The chunks of a stream, by their ids, and how many datagrams each has.
    Sizes = Sequence[tuple[int, int]]

_TOGETHER: Final = 4  # windows of a part
_BEFORE: Final = 4  # a part of a window's datagrams that is read before it
_FEWEST: Final = 2  # parts of a process


class _Part(NamedTuple):
    """Chunks after ``begin`` up to ``stop``, None: the last one; what is read first comes after ``before``."""

    before: int
    begin: int
    stop: int | None


def windows(
    recording: Recording, jobs: int, reopen: Reopen, sizes: Callable[[int], Sizes]
) -> Iterator[Window]:
    """All windows of a recording, as `window.windows` gives them.

    ``sizes``: of a stream's chunks. Raises `HostError` where one of the processes was killed.
    """
    streams = [one for one in recording.streams if one.kind in BACKENDS]
    parts = _parts(sizes(streams[0].id)) if len(streams) == 1 and available() else []
    jobs = min(jobs, len(parts) // _FEWEST)
    if jobs <= 1:
        yield from window.windows(recording)
        return
    with ExitStack() as stack:
        workers: list[_Worker] = []
        for number in range(jobs):
            others = [one.receiver for one in workers]
            workers.append(_Worker(parts[number::jobs], reopen, others))
            stack.callback(workers[-1].end)
        yield from _together(recording, parts, workers)


def _together(
    recording: Recording, parts: Sequence[_Part], workers: Sequence[_Worker]
) -> Iterator[Window]:
    """The windows of all parts, one part after the other."""
    (streams,) = window.opened(recording, {})
    (one,) = streams.assemblers
    numbers = [Numbers(one.resolver) for _ in workers]
    done, number, seam = 0, 1, one.seam
    for at in range(len(parts)):
        worker, its = workers[at % len(workers)], numbers[at % len(workers)]
        if worker.receive() != seam:
            yield from _alone(recording, streams, done, number)
            return
        while isinstance(told := worker.receive(), Told):
            yield (found := streams.finish(its.translated(told), number))
            done, number = done + 1, number + found.decided
        seam = told


def _alone(recording: Recording, streams: Streams, done: int, number: int) -> Iterator[Window]:
    """All windows but for the first ones, by this process."""
    (again,) = window.opened(recording, {})
    (one,) = again.assemblers
    teller, numbers = Teller(one.resolver), Numbers(streams.assemblers[0].resolver)
    for decided in islice(_decided(recording, again, _Part(0, 0, None)), done, None):
        yield (found := streams.finish(numbers.translated(teller.tell(decided)), number))
        number += found.decided


def _decided(recording: Recording, streams: Streams, part: _Part) -> Iterator[Decided]:
    """The windows of a part; the first one begins with what waits."""
    (one,) = streams.assemblers
    for chunk in recording.chunks(one.stream.id, part.begin):
        one.add(chunk)
        if streams.full:
            yield streams.decide(_last_ns(chunk))
            if part.stop is not None and chunk.id >= part.stop:
                return
    yield streams.decide(None)


def _parts(sizes: Sizes) -> list[_Part]:
    """Windows end where they have enough datagrams."""
    found: list[_Part] = []
    part, ended, waiting = _Part(0, 0, None), 0, 0
    since: list[tuple[int, int]] = []  # chunks of this part
    for number, count in sizes:
        waiting += count
        since.append((number, count))
        if waiting < window.WINDOW_EVENTS:
            continue
        ended, waiting = ended + 1, 0
        if ended % _TOGETHER == 0:
            found.append(part._replace(stop=number))
            part = _Part(_before(since, part.begin), number, None)
            since = []
    return [*found, part]


def _before(since: Sizes, begin: int) -> int:
    """Behind which of the chunks that come after ``begin`` so much is left as is to be read before a part."""
    read = 0
    for (number, _), (_, count) in zip([*since[-2::-1], (begin, 0)], reversed(since), strict=True):
        read += count
        if read >= window.WINDOW_EVENTS // _BEFORE:
            return number
    return begin


class _Worker:
    """A process that reads some parts; ``others``: what it has no use for."""

    def __init__(self, parts: Sequence[_Part], reopen: Reopen, others: Sequence[Receiver]) -> None:
        reading, out = os.pipe2(os.O_CLOEXEC)
        free, writing = os.pipe2(os.O_CLOEXEC)
        memory = Memory(_TOGETHER + 3)
        self._process = os.fork()
        if self._process == 0:
            for one in (reading, writing):
                os.close(one)
            for receiver in others:
                receiver.close()
            _work(Sender(out, free, memory), parts, reopen)
        os.close(out)
        os.close(free)
        self.receiver = Receiver(os.fdopen(reading, "rb"), writing, memory)

    def receive(self) -> Any:  # noqa: ANN401 - a `Told` or a `Seam`
        """What it tells next; raises what it raised."""
        try:
            found = self.receiver.receive()
        except (EOFError, OSError):
            raise HostError(
                f"a process of --jobs was ended by {self._end()}; give fewer --jobs"
            ) from None
        if isinstance(found, BaseException):
            raise found
        return found

    def end(self) -> None:
        """End the process, wherever it is."""
        self.receiver.close()
        if self._process:
            os.kill(self._process, signal.SIGKILL)
            self._end()

    def _end(self) -> str:
        """Wait for its end; by what it came, in words."""
        status, self._process = os.waitpid(self._process, 0)[1], 0
        code = os.waitstatus_to_exitcode(status)
        return signal.Signals(-code).name if code < 0 else f"itself (status {code})"


def _work(sender: Sender, parts: Sequence[_Part], reopen: Reopen) -> NoReturn:
    """The life of a process: Ctrl-C is the parent's, and so is every error."""
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with reopen() as recording:
                _read(sender, recording, parts)
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the parent tells it
            sender.send(error)
        sender.finish()
        status = 0
    finally:
        os._exit(status)


def _read(sender: Sender, recording: Recording, parts: Sequence[_Part]) -> None:
    (streams,) = window.opened(recording, {})
    (one,) = streams.assemblers
    teller = Teller(one.resolver)
    for part in parts:
        if part.begin:
            _lead_up(recording, streams, part)
        sender.send(one.seam)
        for decided in _decided(recording, streams, part):
            sender.send(teller.tell(decided))
        sender.send(one.seam)


def _lead_up(recording: Recording, streams: Streams, part: _Part) -> None:
    """Read what is between the part before, which is this process's, and this one."""
    (one,) = streams.assemblers
    one.leave()
    for chunk in recording.chunks(one.stream.id, one.seam.through):
        if chunk.id <= part.before:
            one.skip(chunk)
            continue
        one.add(chunk)
        if chunk.id >= part.begin:
            streams.decide(_last_ns(chunk), torn=True)
            return


def _last_ns(chunk: Chunk) -> int:
    return int(chunk.received_ns.max(initial=0))
