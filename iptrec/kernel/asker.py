"""Asks the kernel, in a thread of its own, which way packets would go; it tells what was asked and answered.

In a thread: whoever changes interfaces may hold a lock of the kernel (rtnl) for long, and events are to be
fetched meanwhile. What it tells are netlink's own messages, a datagram each: a question, the answer with the
same number (nlmsg_seq), and further questions where the answer leaves something open. NLMSG_NOOP says that
routes, rules, addresses, interfaces or their settings changed. NLMSG_OVERRUN has two u32: about how many kinds
of packets the kernel was not asked, and at how many events nobody looked.
"""

from __future__ import annotations

import errno
import os
import struct
import time
from collections import deque
from itertools import count
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final, Self

from iptrec.kernel import links, netlink
from iptrec.kernel.questions import ALL, GET_NETCONF, GET_ROUTE, settings, way_out
from iptrec.kernel.watch import WatchThread
from iptrec.names import AF_INET, AF_INET6

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

    from iptrec.errors import IptrecError
    from iptrec.kernel.questions import Question

_NOOP, _OVERRUN = 1, 4  # NLMSG_
_NEW_ROUTE: Final = 24  # RTM_NEWROUTE
_UNICAST: Final = 1  # RTN_UNICAST
_TYPE_AT: Final = 7  # rtm_type
_BY_PORTS: Final = frozenset({22, 23, 24})  # FRA_IP_PROTO, FRA_SPORT_RANGE, FRA_DPORT_RANGE
_RULE_HEAD: Final = 12  # struct fib_rule_hdr
_MOST_RULES: Final = 1 << 20  # bytes
_AT_ONCE, _EACH_MS, _CHANGED_MS = 10, 10, 50  # 100 a second
_MOST_WAITING: Final = 200
_IN_THE_END_NS: Final = 500_000_000
_ATTEMPTS: Final = 3
_PATIENCE_S: Final = 1.0


class Asker:
    """A `watch.Watch`, and a socket with the datagrams that it tells; a context manager.

    ``by_ports``: whether rules of routing ask for protocols or ports, by the last look.
    """

    def __init__(self, failed: Callable[[IptrecError], None]) -> None:
        self.by_ports = False
        self._ways = links.WaySocket((*links.OF_WAYS, *links.SETTINGS))
        self._socket = netlink.connected(netlink.ROUTE)
        self._socket.settimeout(_PATIENCE_S)
        netlink.short_errors(self._socket)
        self._told: SimpleQueue[bytes] = SimpleQueue()
        self._telling, self._woken = (
            os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(2)
        )
        self._waiting: deque[Question] = deque()
        self._numbers = count(1)
        self._settings: set[tuple[int, int]] = set()  # that were asked for since the last change
        self._pause_ms = 0
        self.changes = 0
        self._thread = WatchThread(
            [self._ways.fileno(), self._woken],
            self._wait_ms,
            self._work,
            failed,
            "the ways of packets",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._ways.__exit__()
        self._socket.close()
        for descriptor in (self._telling, self._woken):
            os.close(descriptor)

    @property
    def working(self) -> threading.Lock:
        """See `watch.Watch`."""
        return self._thread.working

    @property
    def told(self) -> bool:
        """See `watch.Watch`."""
        return False

    def start(self) -> None:
        """Begin to ask."""
        self.by_ports = _by_ports()
        self._thread.start()

    def look(self) -> None:
        """See `watch.Watch`."""
        self._thread.work()

    def stop(self) -> None:
        """Ask what is left, as far as that is done in a moment, and end."""
        self._thread.stop()

    def fileno(self) -> int:
        """For poll: something is told."""
        return self._telling

    def receive(self) -> bytes | None:
        """The next datagram."""
        try:
            return self._told.get_nowait()
        except Empty:
            if _drained(self._telling):
                return self.receive()  # told in between
            return None

    def ask(self, question: Question) -> bool:
        """Ask soon; False where too many wait for that."""
        if len(self._waiting) >= _MOST_WAITING:
            return False
        self._waiting.append(question)
        os.eventfd_write(self._woken, 1)
        return True

    def begin_anew(self) -> None:
        """Forget which settings are told already: they are told somewhere else from now on."""
        self._settings = set()

    def tell_unasked(self, questions: int, events: int) -> None:
        """Tell of how many there was no time to ask, and at how many events to look."""
        body = struct.pack("=II", *(min(one, 2**32 - 1) for one in (questions, events)))
        self._tell([netlink.message(_OVERRUN, 0, body)])

    def _wait_ms(self) -> int:
        """Pause, so that no more is asked than may be; then wait as long as it takes."""
        pause, self._pause_ms = self._pause_ms, 0
        if pause:
            self._thread.to_end(pause)
        return -1

    def _work(self, *, last: bool) -> None:
        _drained(self._woken)
        changed = self._look_for_changes()
        self._pause_ms = _CHANGED_MS if changed else 0
        end = time.monotonic_ns() + _IN_THE_END_NS
        for asked in count():
            enough = time.monotonic_ns() > end if last else asked >= _AT_ONCE
            if enough or not self._waiting:
                break
            self._tell(self._asked(self._waiting.popleft()))
            self._pause_ms += _EACH_MS
        if self._waiting and not last:
            os.eventfd_write(self._woken, 1)

    def _look_for_changes(self) -> bool:
        if not self._ways.changed():
            return False
        self._settings = set()
        self.by_ports = _by_ports()
        self._tell([netlink.message(_NOOP, 0, b"")])
        self.changes += 1
        return True

    def _asked(self, question: Question) -> list[bytes]:
        """The question, the answer, and what else is to be known; all of one time without a change."""
        found: list[bytes] = []
        for _ in range(_ATTEMPTS):
            found = self._exchange(GET_ROUTE, question.body())
            for kind, body in self._left_open(question, found[-1]):
                found += self._exchange(kind, body)
            if not self._look_for_changes():
                break
        return found

    def _left_open(self, question: Question, answer: bytes) -> Iterator[tuple[int, bytes]]:
        """What the answer alone does not tell: rp_filter from a blackhole, no route from no forwarding."""
        message = next(netlink.messages(answer), None)
        family, wanted = question.family, list[int]()
        if message is None:
            return
        if family == AF_INET and message.code == errno.EINVAL:
            yield GET_ROUTE, way_out(family, question.src, question.tos)
            yield GET_ROUTE, way_out(family, question.dst, question.tos)
            wanted = [question.iif, ALL]
        elif family == AF_INET and message.code == errno.EHOSTUNREACH:
            wanted = [question.iif]
        elif (
            family == AF_INET6 and message.kind == _NEW_ROUTE and message.body[_TYPE_AT] == _UNICAST
        ):
            wanted = [ALL]
        for index in wanted:
            if (family, index) not in self._settings:
                self._settings.add((family, index))
                yield GET_NETCONF, settings(family, index)

    def _exchange(self, kind: int, body: bytes) -> list[bytes]:
        """The question and its answer, or the question alone."""
        number = next(self._numbers)
        question = netlink.message(kind, netlink.REQUEST, body, sequence=number)
        try:
            self._socket.send(question)
            while True:
                answer = self._socket.recv(netlink.LARGEST)
                if any(one.sequence == number for one in netlink.messages(answer)):
                    return [question, answer]
        except OSError:  # it takes too long, or the kernel has no memory
            return [question]

    def _tell(self, datagrams: list[bytes]) -> None:
        for one in datagrams:
            self._told.put(one)
        os.eventfd_write(self._telling, 1)


def _drained(descriptor: int) -> bool:
    """Whether an eventfd was set; it is not any more."""
    try:
        return bool(os.eventfd_read(descriptor))
    except BlockingIOError:
        return False


def _by_ports() -> bool:
    """Whether rules of routing ask for protocols or ports; so they may, where there are very many."""
    found = links.dumps(("ip-rules",), _MOST_RULES)["ip-rules"]
    return len(found) >= _MOST_RULES // 2 or any(
        kind in _BY_PORTS
        for message in netlink.messages(found)
        for kind, _ in netlink.attributes(message.body[_RULE_HEAD:])
    )
