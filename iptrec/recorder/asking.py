"""Has the kernel asked about packets that came in and went no further, about each kind once.

What that costs is bounded: looking for them may take a small part of the recorder's own time, and questions
are asked elsewhere (`kernel.asker`), so many a second. What there was no time for is told.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from iptrec.kernel.batches import joined

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from iptrec.kernel.asker import Asker
    from iptrec.kernel.batches import Batch
    from iptrec.kernel.questions import Question

    Find = Callable[[Batch], Iterator[Question]]

_SHARE: Final = 0.02  # of the time that recording takes
_ALWAYS: Final = 0.0005  # of a processor's time, however little it takes
_MOST_NS: Final = 10_000_000  # that are saved up for when much comes at once
# Events are looked at together, which costs a fifth of looking at each batch, unless there is time to spare.
_TOGETHER, _WAIT_NS, _MOST_HELD = 4096, 100_000_000, 16_384
_GLANCE: Final = 16  # questions between two looks at the clock
_REMEMBERED: Final = 10_000
_MOST_ASKED: Final = 50_000  # in a file
_TELL_NS: Final = 1_000_000_000


class Asking:
    """Looks at events that were just written; ``again_s``: when to ask again (--ring lets go of answers)."""

    def __init__(self, asker: Asker, again_s: float | None) -> None:
        self.asker = asker
        self._again_ns = None if again_s is None else int(again_s * 1e9)
        self._held: dict[Find, list[Batch]] = {}
        self._waiting = self._since_ns = 0  # events that are held
        self._known: OrderedDict[Question, int] = OrderedDict()  # when it was asked, monotonic
        self._asked = 0
        self._unasked = self._unseen = 0
        self._told_ns = self._looked_ns = time.monotonic_ns()
        self._used_ns = time.thread_time_ns()
        self._left_ns = float(_MOST_NS)
        self._changes = 0

    def begin(self) -> tuple[bytes, ...]:
        """Begin a file: nothing is known in it."""
        self._known.clear()
        self._asked = 0
        self.asker.begin_anew()
        return ()

    def take(self, find: Find, batch: Batch) -> None:
        """Hold events until there is time to look at them; ``find``: questions in them."""
        if self._waiting + len(batch.lengths) > _MOST_HELD:
            self._unseen += len(batch.lengths)
            return
        if not self._held:
            self._since_ns = time.monotonic_ns()
        self._held.setdefault(find, []).append(batch)
        self._waiting += len(batch.lengths)

    def work(self, *, last: bool = False) -> None:
        """Look at what is held, as far as the time allows; ``last``: however little that is."""
        now = time.monotonic_ns()
        if self._held and (last or self._is_due(now)):
            self._earn(now)
            held, self._held, self._waiting = self._held, {}, 0
            for find, batches in held.items():
                self._look(find, joined(batches), now)
            self._spend()
        if (self._unasked or self._unseen) and time.monotonic_ns() > self._told_ns + _TELL_NS:
            self._tell()

    def finish(self) -> None:
        """Ask what is left to ask, and tell what was not asked."""
        self.work(last=True)
        self.asker.stop()
        self._tell()

    def _look(self, find: Find, batch: Batch, now: int) -> None:
        if self._changes != self.asker.changes:
            self._changes = self.asker.changes
            self._known.clear()
        if self._left_ns <= 0:
            self._unseen += len(batch.lengths)
            return
        for number, question in enumerate(find(batch), 1):
            self._consider(question, now)
            if number % _GLANCE == 0:
                self._spend()
                if self._left_ns <= 0:  # senders are many: nobody knows how many events are left
                    self._unseen += len(batch.lengths)
                    return
        self._spend()

    def _is_due(self, now: int) -> bool:
        spare = self._left_ns > 0.9 * _MOST_NS
        return spare or self._waiting >= _TOGETHER or now >= self._since_ns + _WAIT_NS

    def _consider(self, question: Question, now: int) -> None:
        key = question if self.asker.by_ports else question.without_ports
        asked = self._known.get(key)
        if asked is not None and (self._again_ns is None or now <= asked + self._again_ns):
            return
        self._known[key] = now
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        if self._asked < _MOST_ASKED and self.asker.ask(question):
            self._asked += 1
        else:
            self._unasked += 1

    def _earn(self, now: int) -> None:
        """What may be used: more where the recorder has much to do."""
        used = time.thread_time_ns()
        earned = _SHARE * (used - self._used_ns) + _ALWAYS * (now - self._looked_ns)
        self._left_ns = min(self._left_ns + earned, _MOST_NS)
        self._used_ns, self._looked_ns = used, now

    def _spend(self) -> None:
        used = time.thread_time_ns()
        self._left_ns -= used - self._used_ns
        self._used_ns = used

    def _tell(self) -> None:
        if self._unasked or self._unseen:
            self.asker.tell_unasked(self._unasked, self._unseen)
        self._unasked = self._unseen = 0
        self._told_ns = time.monotonic_ns()
