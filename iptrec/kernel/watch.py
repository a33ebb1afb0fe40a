"""What the watches of all backends have in common."""

from __future__ import annotations

import os
import select
import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol

from iptrec.errors import HostError, IptrecError, strerror

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from iptrec.names import Family


class Working(Protocol):
    """A lock, or several as one."""

    def acquire(self, *, blocking: bool = True) -> bool:
        """Take it, unless somebody has it and it is not to block."""

    def release(self) -> None:
        """Give it back."""


class Together:
    """Several locks as one."""

    def __init__(self, *locks: threading.Lock) -> None:
        self._locks = locks

    def acquire(self, *, blocking: bool = True) -> bool:
        """Take all of them, or none."""
        for number, one in enumerate(self._locks):
            if not one.acquire(blocking=blocking):
                for taken in self._locks[:number]:
                    taken.release()
                return False
        return True

    def release(self) -> None:
        """Give them back."""
        for one in self._locks:
            one.release()


class Watch(Protocol):
    """Looks, in a thread of its own, at what may change while packets are traced."""

    @property
    def working(self) -> Working:
        """Held except while it waits: whoever holds it may fork."""

    @property
    def told(self) -> bool:
        """Whether no change is missed while it does not work: the kernel tells all, to be read later."""

    def start(self) -> None:
        """Begin to watch."""

    def look(self) -> None:
        """Look at once; to be called by who holds ``working``."""

    def stop(self) -> None:
        """End, after a last look; a second call does nothing."""


@dataclass(frozen=True, slots=True)
class Hole:
    """Nothing was traced between two times (epoch), because somebody removed what tracing needs.

    ``what``: "rules-gone" (our TRACE rules) or "logger-switched" (net.netfilter.nf_log).
    """

    family: Family
    what: Literal["rules-gone", "logger-switched"]
    first_ns: int
    last_ns: int


class WatchThread:
    """A watch's thread: it waits, works where there is something to look at, and once more in the end.

    ``awaited``: descriptors of which one is ready then. ``wait_ms``: called before each wait; how long that may
    take. ``work``: called after it, with ``last`` in the end; ``working`` is held meanwhile. ``failed`` is
    given whatever it raises, as an error about looking at ``what``: nobody would see that the thread has ended.
    """

    def __init__(
        self,
        awaited: Sequence[int],
        wait_ms: Callable[[], int],
        work: Callable[..., None],
        failed: Callable[[IptrecError], None],
        what: str,
    ) -> None:
        self.working = threading.Lock()
        self._wait_ms = wait_ms
        self._work = work
        self._failed = failed
        self._what = what
        self._ended = False
        self._stop, self._stopping = os.pipe2(os.O_CLOEXEC)
        self._poll = select.poll()
        for descriptor in (self._stop, *awaited):
            self._poll.register(descriptor, select.POLLIN)
        self._thread = threading.Thread(target=self._run, name="iptrec-watch", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> bool:
        """End, after the last work; False where that was done before."""
        if self._ended:
            return False
        self._ended = True
        if self._thread.is_alive():
            os.write(self._stopping, b"x")
            self._thread.join()
        for descriptor in (self._stop, self._stopping):
            os.close(descriptor)
        return True

    def work(self) -> None:
        """Work at once, for who holds ``working``."""
        self._try(partial(self._work, last=False))

    def work_at_once(self, work: Callable[[], None]) -> None:
        """Do another work at once, for who holds ``working``."""
        self._try(work)

    def ready(self, timeout_ms: int) -> bool:
        """Wait for something to look at, or for the end, within the work."""
        return bool(self._poll.poll(timeout_ms))

    def to_end(self, timeout_ms: int) -> bool:
        """Wait for the end alone, within the work."""
        return bool(select.select([self._stop], [], [], timeout_ms / 1000)[0])

    def _run(self) -> None:
        last = False
        while not last:
            last = self._stop in dict(self._poll.poll(self._wait_ms()))
            with self.working:
                self._try(partial(self._work, last=last))

    def _try(self, work: Callable[[], None]) -> None:
        try:
            work()
        except IptrecError as error:
            self._failed(error)
        except OSError as error:
            self._failed(HostError(f"cannot look at {self._what}: {strerror(error)}"))
        except Exception as error:  # noqa: BLE001 - see above
            self._failed(HostError(f"cannot look at {self._what}: {error!r}"))
