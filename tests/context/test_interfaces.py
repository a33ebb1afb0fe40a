"""Names of interfaces over time."""

from __future__ import annotations

import json

import numpy as np
import pytest
from handmade import HandMade
from handmade import link_message as message
from hypothesis import given
from hypothesis import strategies as st

from iptrec.context.interfaces import Interfaces
from iptrec.errors import RecordingError
from iptrec.recording.rows import Chunk, Snapshot, Stream


def recorded(changes, first=()):
    """A recording of link messages (time, index, name or None for gone); ``first``: at the start."""
    recording = HandMade()
    links = json.dumps([{"index": index, "name": name} for index, name in first])
    recording.snapshots_.append(Snapshot(1, 1, "links", 50, "links", links.encode()))
    recording.streams.append(Stream(2, 1, "rtnetlink", {}))
    data = [
        message(17 if name is None else 16, index, (3, (name or "gone").encode() + b"\0"))
        for _, index, name in changes
    ]
    times = np.array([time for time, _, _ in changes], np.int64)
    lengths = np.array([len(one) for one in data], np.uint32)
    chunks = [Chunk(1, 2, times, lengths, b"".join(data))] if changes else []
    recording.chunks = lambda stream, after=0: [
        one for one in chunks if stream == 2 and one.id > after
    ]
    return recording


def test_index_that_is_given_again_has_the_right_name_at_each_time():
    """Gone keeps the name; the next owner has his from then on; a rename takes effect."""
    interfaces = Interfaces(
        recorded([(100, 7, None), (200, 7, "b"), (300, 7, "c"), (400, 8, "d")], first=[(7, "a")]), 1
    )
    times = (1, 99, 150, 199, 200, 299, 300, 9999)
    assert [interfaces.name(7, time) for time in times] == list("aaaabbcc")
    assert (
        interfaces.name(8, 1) == "d"
    )  # it came while we recorded: nothing can have come in before
    assert interfaces.name(9, 1) == "if9"


def test_a_later_list_of_interfaces_does_not_stand_before_what_came_between():
    """Interfaces are listed at the start and at the end; the changes in between are in a stream."""
    recording = recorded([(100, 7, "b"), (200, 7, "c")], first=[(7, "a")])
    last = b'[{"index": 7, "name": "c"}, {"index": 9, "name": "missed"}]'
    recording.snapshots_.append(Snapshot(2, 1, "links", 300, "links", last, media="json"))
    interfaces = Interfaces(recording, 1)
    assert [interfaces.name(7, time) for time in (60, 150, 250, 350)] == list("abcc")
    assert interfaces.name(9, 400) == "missed"


@given(
    changes=st.lists(st.tuples(st.integers(1, 3), st.sampled_from(["a", "b", None])), max_size=20),
    size=st.integers(1, 30),
)
def test_selection_by_name_agrees_with_the_names(changes, size):
    """`named` is `name`, for many at once."""
    timed = [(100 + 10 * i, index, name) for i, (index, name) in enumerate(changes)]
    interfaces = Interfaces(recorded(timed, first=[(1, "a"), (2, "b")]), 1)
    rng = np.random.default_rng(size)
    index = rng.integers(0, 5, size).astype(np.uint32)
    time_ns = rng.integers(0, 400, size)
    for wanted in ("a", "b", "if4"):
        expected = [
            number > 0 and interfaces.name(int(number), int(time)) == wanted
            for number, time in zip(index, time_ns, strict=True)
        ]
        assert interfaces.named(frozenset({wanted}), index, time_ns).tolist() == expected


@pytest.mark.parametrize(
    "content", [b"", b"[", b"{}x", b"[1]", b'[{"index":1}]', b'[{"index":1e999,"name":""}]']
)
def test_damaged_list_is_one_line(content):
    """No traceback for a snapshot that is none."""
    recording = HandMade()
    recording.snapshots_.append(Snapshot(1, 1, "links", 0, "links", content))
    with pytest.raises(RecordingError, match="list of interfaces is damaged"):
        Interfaces(recording, 1)


def test_half_a_character_is_made_whole():
    """JSON has lone surrogates; no view could write them."""
    interfaces = Interfaces(recorded([], first=[(7, "a\ud800")]), 1)
    assert interfaces.name(7, 0) == "a\\ud800"
