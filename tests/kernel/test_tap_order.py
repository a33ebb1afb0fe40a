"""The order of what a tap's ring has and what went beside it, however quick the kernel is."""

from __future__ import annotations

import numpy as np
import pytest

from iptrec.kernel import netlink
from iptrec.kernel.batches import Batch, Overrun
from iptrec.kernel.bpf import noted
from iptrec.kernel.bpf import tap as tap_module
from iptrec.kernel.bpf.ring import Ring
from iptrec.kernel.bpf.tap import Tap

HEAD, MESSAGE, ROOM = 24, 8, 6
EPOCH = 10**18
STRIDE = 8 + HEAD + MESSAGE
SIZE = STRIDE * ROOM + 16  # a record lies across its end


class Sent:
    """A tap without a kernel: messages that say how many were sent before them.

    ``meanwhile``: what happens when the socket is asked. ``numbered``: whether the kernel numbers messages.
    """

    def __init__(self, monkeypatch, *, numbered):
        self.meanwhile, self.queued, self.drops, self.count = [], [], 0, 0
        self.ends, self.times = [], []
        self.bytes, self.written = (
            np.zeros(SIZE + STRIDE, np.uint8),
            memoryview(bytearray(8)).cast("Q"),
        )
        ring = Ring.__new__(Ring)
        ring._size, ring.stride, ring.bytes = SIZE, STRIDE, self.bytes
        ring._read_to, ring._written_to = memoryview(bytearray(8)).cast("Q"), self.written
        self.tap = Tap.__new__(Tap)
        for field, value in {
            "_ring": ring, "_next": 0, "_dropped": 0, "_dropped_before": 0,
            "_dropped_at_first": 0, "_received": 0, "_left": None, "_noted_by": -1,
            "_counted": self, "_caught_up": False, "_overrun": None, "_later": None,
            "_sequence": (lambda message: int.from_bytes(message[:4], "little")) if numbered else None,
            "_socket": self, "_slots": self, "_gathering": tap_module.Gathering(self.bytes),
        }.items():  # fmt: skip
            setattr(self.tap, field, value)
        monkeypatch.setattr(netlink, "drops", lambda _: self.drops)
        monkeypatch.setattr(
            noted, "times", lambda _, first, count: np.arange(first, first + count) + 1
        )
        monkeypatch.setattr(tap_module, "since_the_epoch", lambda: EPOCH)

    def end_of_queue(self):
        """All that was queued when some were dropped was received."""
        self.ends.append(self.count)

    def tell(self):
        """It was told."""

    def __getitem__(self, _):
        """How many there were, as the program counts them."""
        return self.count

    def fileno(self):
        return -1

    def receive(self, _, most):
        """The socket's."""
        if self.meanwhile:
            self.meanwhile.pop(0)()
        some, self.queued = self.queued[:most], self.queued[most:]
        lengths = np.full(len(some), MESSAGE, np.uint32)
        return Batch(2 * EPOCH, lengths, b"".join(some), 0, 0) if some else None

    def message(self):
        self.count += 1
        return (self.count - 1).to_bytes(MESSAGE, "little")

    def to_ring(self, *, number=None):
        head = np.zeros(1, tap_module._HEAD)
        head["length"], head["number"] = MESSAGE, self.count if number is None else number
        record = STRIDE.to_bytes(8, "little") + head.tobytes() + self.message()
        at = (self.written[0] + np.arange(STRIDE)) % SIZE
        self.bytes[at] = np.frombuffer(record, np.uint8)
        self.bytes[SIZE:] = self.bytes[:STRIDE]
        self.written[0] += STRIDE

    def to_socket(self):
        self.queued.append(self.message())

    def lost(self):
        self.message()
        self.drops += 1

    def received(self):
        """All, as long as there is something."""
        found = []
        while (batch := self.tap.receive()) is not None:
            numbers = np.frombuffer(batch.data, "<u8")
            assert len(numbers) == len(batch.lengths) == len(batch.notes)
            found += numbers.tolist()
            self.times += batch.notes["time"].tolist()
        return found


@pytest.fixture(params=[True, False], ids=["numbered", "not-numbered"])
def sent(monkeypatch, request):
    return Sent(monkeypatch, numbered=request.param)


def test_round_and_round(sent):
    """Records up to the end of the ring are not all that is there."""
    seen = 0
    for _ in range(3 * ROOM):
        for _ in range(ROOM - 1):
            sent.to_ring()
        seen += len(sent.tap.receive().lengths)
        assert seen == sent.count


def test_what_came_into_the_ring_while_the_socket_was_asked(sent):
    """It was sent before what is found in the socket then."""
    sent.meanwhile = [lambda: (sent.to_ring(), sent.to_ring(), sent.to_socket(), sent.to_ring())]
    assert sent.received() == [0, 1, 2, 3]


def test_some_before_and_some_after(sent):
    """What the socket has is told apart by what the ring has."""
    sent.meanwhile = [
        lambda: (
            sent.to_socket(),
            sent.to_socket(),
            sent.to_ring(),
            sent.to_socket(),
            sent.to_ring(),
        )
    ]
    assert sent.received() == [0, 1, 2, 3, 4]


def test_ring_and_socket_in_turn(sent):
    for number in range(4):
        (sent.to_socket if number % 2 else sent.to_ring)()
    assert sent.received() == [0, 1, 2, 3]


def test_what_neither_has_room_for(monkeypatch):
    """What follows is in order, where the kernel numbers it."""
    sent = Sent(monkeypatch, numbered=True)
    sent.to_ring()
    sent.to_socket()
    sent.lost()
    sent.lost()
    sent.to_ring()
    sent.to_socket()
    assert sent.received() == [0, 1, 4, 5]


def test_what_neither_has_room_for_is_before_what_is_queued_later(sent):
    """Nothing is queued until the socket was emptied: what the ring has then was sent before."""
    sent.to_ring()
    sent.to_socket()
    sent.to_socket()
    sent.lost()
    sent.lost()
    sent.to_ring()
    sent.to_ring()
    emptied = sent.end_of_queue

    def goes_on():
        emptied()
        sent.end_of_queue = emptied
        sent.to_socket()
        sent.to_socket()
        sent.to_ring()

    sent.end_of_queue = goes_on
    assert sent.received() == [0, 1, 2, 5, 6, 7, 8, 9]
    assert len(sent.ends) == 1


def test_a_socket_that_is_filled_again_as_soon_as_it_is_empty(sent, monkeypatch):
    """How many were queued before some were dropped is counted: nobody sees it empty."""
    receive = sent.receive

    def at_once(*words):
        found = receive(*words)
        if sent.count == 6 and not sent.queued:
            sent.to_socket()
            sent.to_socket()
        return found

    monkeypatch.setattr(sent, "receive", at_once)
    sent.to_ring()
    sent.to_socket()
    sent.to_socket()
    sent.lost()
    sent.lost()
    sent.to_ring()
    assert sent.received() == [0, 1, 2, 5, 6, 7]
    assert sent.times[1:3] == [EPOCH + 2, EPOCH + 3]
    assert sent.times[-2:] == [EPOCH + 7, EPOCH + 8]


def test_one_loss_after_the_other(sent):
    """Also where more are dropped before anybody looks at the socket again."""
    more = [lambda: (sent.lost(), sent.to_ring(), sent.to_socket())] * 3
    sent.end_of_queue = lambda: more.pop()() if more else None
    sent.to_ring()
    sent.to_socket()
    sent.lost()
    found = sent.received()
    assert not sent.queued
    assert len(found) + sent.drops == sent.count
    assert sorted(found) == found or sent.tap._sequence is None  # then nobody knows


def test_what_comes_beside_the_ring_has_its_own_time(sent):
    """By its number; those that were dropped have one, too."""
    sent.to_ring()
    for _ in range(4):
        sent.to_socket()
    sent.lost()
    sent.to_ring()
    assert sent.received() == [0, 1, 2, 3, 4, 6]
    assert sent.times[1:5] == [EPOCH + 1 + number for number in (1, 2, 3, 4)]


def test_where_it_is_not_sure_which_were_dropped_no_time_is_told(sent):
    """Behind the end of the queue, as long as nothing in the ring tells what was before it."""
    sent.to_socket()
    sent.lost()
    assert sent.received() == [0]
    sent.to_socket()
    assert sent.received() == [2]
    assert sent.times == [EPOCH + 1, 0]
    sent.to_ring()
    sent.to_socket()
    assert sent.received() == [3, 4]
    assert sent.times[-1] == EPOCH + 5


def test_an_overrun_is_told_before_what_the_ring_has_from_behind_it(sent, monkeypatch):
    """When all that was queued was received: the ring goes on later, as its numbers say."""
    sent.to_socket()
    sent.lost()
    sent.to_ring()

    def tell():
        if sent.ends:
            sent.ends.clear()
            raise Overrun

    monkeypatch.setattr(sent, "tell", tell, raising=False)
    assert sent.tap.receive().data == (0).to_bytes(MESSAGE, "little")
    with pytest.raises(Overrun):
        sent.tap.receive()
    assert sent.tap.receive().data == (2).to_bytes(MESSAGE, "little")


def test_an_overrun_is_told_after_what_came_before_it(sent, monkeypatch):
    def overrun(*_):
        raise Overrun

    sent.to_ring()
    sent.lost()
    sent.to_ring()
    monkeypatch.setattr(sent, "receive", overrun)
    assert sent.tap.receive().data == bytes(MESSAGE)
    with pytest.raises(Overrun):
        sent.tap.receive()
