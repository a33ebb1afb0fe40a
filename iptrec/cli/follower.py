"""A process that reads a recording while it grows. It has no rights: what it decodes comes from strangers.

`Follower` starts it; `look_as_nobody` and `give_up_rights` are what it does itself, and `while_read` ends it
when nobody reads what it writes any more.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections import Counter
from typing import IO, TYPE_CHECKING, Annotated, Final

import typer

from iptrec.errors import EXIT_DONE
from iptrec.names import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import BinaryIO, TextIO

    from iptrec.recording.rows import Recording


_PATIENCE_S: Final = 5.0
_BEHIND_OTHERS: Final = 10  # nice(2)
_BETWEEN_WORDS_NS: Final = 5_000_000_000
Held = Annotated[int | None, typer.Option("--held", hidden=True)]
Parent = Annotated[int | None, typer.Option("--parent", hidden=True)]
Tally = Annotated[bool, typer.Option("--tally", hidden=True)]


class Follower:
    """``iptrec show --follow``, or another command; ``arguments``: the recording's path, its options, a filter.

    It inherits a descriptor of the recording, opens it, and becomes a user without rights before it reads what
    was recorded. It has a session of its own: Ctrl-C is for the recorder to answer, and nothing can be typed
    into the recorder's terminal (TIOCSTI).
    """

    def __init__(self, arguments: Sequence[str], command: Sequence[str] = ("show",)) -> None:
        self._arguments, self._command = arguments, command
        self._child: subprocess.Popen[bytes] | None = None

    def start(
        self,
        descriptor: int,
        stdout: IO[bytes] | None = None,
        open_for_life: Sequence[int] = (),
        *,
        silent: bool = False,
    ) -> None:
        """Begin to follow; ``descriptor`` is the recording's.

        ``stdout``: where it writes, if not to ours. ``silent``: without a word on stderr. ``open_for_life``:
        descriptors that it inherits, so that their pipes tell when it has ended.
        """
        from iptrec.kernel.process import iptrec

        beside = f"--held={descriptor}", f"--parent={os.getpid()}"
        self._child = subprocess.Popen(
            iptrec(*self._command, "--follow", *beside, *self._arguments),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.DEVNULL if silent else None,
            pass_fds=(descriptor, *open_for_life),
            start_new_session=True,
        )

    def wait(self) -> int:
        """Until all of a closed recording is shown; Ctrl-C ends it at once. Returns the exit status."""
        if self._child is None:
            return EXIT_DONE
        try:
            return self._child.wait()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it, whatever it has still to show."""
        if self._child is not None:
            self._child.terminate()
            try:
                self._child.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:  # Python may lose the signal where it loads a module
                self._child.kill()
                self._child.wait()


def look_as_nobody(held: int | None) -> None:
    """Beside a recorder that is root: be somebody who can write no file.

    ``held``: a descriptor of its recording; None: there is no recorder.
    """
    if held is not None:
        from iptrec.kernel import host, privileges

        privileges.look_as(*host.nobody())


def give_up_rights(held: int | None, parent: int | None, *, behind_others: bool = False) -> None:
    """Beside a recorder, ``parent``: what comes next are strangers' packets.

    All code is loaded before: it may lie where only root can read it.
    ``behind_others``: run from now on only while the processor has little else to do; not before, for until
    then it has rights.
    """
    if held is not None:
        from iptrec.answers import behind
        from iptrec.decode import packet
        from iptrec.kernel import privileges, process
        from iptrec.recording import packing  # noqa: F401 - of chunks
        from iptrec.views import escape, json_lines, show, title  # noqa: F401 - escape: for errors

        packet.load()
        behind.load()
        privileges.give_up()
        if parent is not None:
            process.end_with_parent(parent)
        if behind_others:
            os.nice(_BEHIND_OTHERS)


def while_read(ticks: Iterable[int], stream: BinaryIO | TextIO) -> Iterator[int]:
    """The ticks, up to when nobody reads the pipe or the socket any more: then a BrokenPipeError.

    Where no packet comes, no write would tell.
    """
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    for tick in ticks:
        if any(state & (select.POLLERR | select.POLLHUP) for _, state in poll.poll(0)):
            raise BrokenPipeError
        yield tick


def kept_alive(
    ticks: Iterable[int], stream: BinaryIO, word: Callable[[int], bytes]
) -> Iterator[int]:
    """The ticks; now and then, of one of them (epoch, ns), a ``word`` is written.

    Who passes on what we write, as ssh does, learns only by that that nobody reads it any more.
    """
    due_ns: int | None = None
    for tick in ticks:
        if due_ns is None or tick >= due_ns:
            if due_ns is not None:
                stream.write(word(tick))
                stream.flush()
            due_ns = tick + _BETWEEN_WORDS_NS
        yield tick


def tell_tally(verdicts: Counter[str], recording: Recording) -> None:
    """What was seen, on stderr, for `iptrec trace`."""
    from iptrec.recording.rows import lost_events
    from iptrec.views.losses import how_many

    packets = counted(verdicts.total(), "packet")
    each = ", ".join(f"{number:,} {verdict}" for verdict, number in verdicts.most_common())
    lost = how_many(lost_events(recording)) or "none lost"
    print(f"traced {packets}{f': {each}' if each else ''} ({lost})", file=sys.stderr)
