"""Several recordings read as one: their rows, whose they are, in an order of their own."""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iptrec.errors import RecordingError
from iptrec.files import Draft
from iptrec.recording.hosts import host_of, of_namespace
from iptrec.recording.reader import Reader
from iptrec.recording.rewrite import Rewrite
from iptrec.recording.rows import Facts, Loss
from iptrec.recording.several import Several, together
from iptrec.recording.writer import Writer

FACTS = Facts(
    "u", "0.1", "Linux", "h", ("iptrec", "record"), "tcp", ("ipv4",), ("lo",), 256,
    5_000_000_000, 6,
)  # fmt: skip


def made(path, host, at_ns=5_000_000_000, *, uuid=None, close=True, words=(b"abc",), **changes):
    """A small recording of a host, with a row of every kind."""
    facts = replace(FACTS, host=host, uuid=uuid or path.name, started_ns=at_ns, **changes)
    with Writer.create(path, facts) as writer:
        namespace = writer.add_namespace("blue", 42)
        stream = writer.add_stream(namespace, "nflog", {"group": 0})
        lengths = np.array([len(one) for one in words], np.uint32)
        writer.append(stream, at_ns + 10, lengths, b"".join(words))
        writer.add_snapshot(namespace, "links", at_ns, "links", path.name.encode())
        writer.add_loss(Loss(stream, at_ns + 1, at_ns + 2, 3, "sequence"))
        if close:
            writer.close(at_ns + 99, "SIGINT")
    return path


@pytest.fixture
def several():
    """A function that opens files as one."""
    with ExitStack() as stack:
        yield lambda *paths: Several([stack.enter_context(Reader(one)) for one in paths])


def test_numbers_of_rows_are_no_two_files(tmp_path, several):
    found = several(made(tmp_path / "a.db", "a"), made(tmp_path / "b.db", "b", 7_000_000_000))
    assert [one.id for one in found.namespaces] == [1, 2]
    assert [(one.id, one.namespace) for one in found.streams] == [(1, 1), (2, 2)]
    assert [(one.id, one.namespace, one.content) for one in found.snapshots()] == [
        (1, 1, b"a.db"),
        (2, 2, b"b.db"),
    ]
    assert [(one.id, one.stream) for one in found.chunks()] == [(1, 1), (2, 2)]
    assert [one.stream for one in found.losses] == [1, 2]
    assert [one.id for one in found.chunks(2)] == [2]
    assert list(found.chunks(2, after=2)) == []
    assert list(found.chunks(3)) == []


def test_each_knows_of_itself_alone(tmp_path, several):
    found = several(made(tmp_path / "a.db", "a"), made(tmp_path / "b.db", "b"))
    alone = of_namespace(found, 2)
    assert alone.facts.host == "b"
    assert [one.id for one in alone.namespaces] == [2]
    assert [one.id for one in alone.streams] == [2]
    assert [one.content for one in alone.snapshots("links")] == [b"b.db"]
    assert [one.stream for one in alone.chunks()] == [2]
    assert [one.stream for one in alone.losses] == [2]
    assert host_of(found, 3) is None


def rows(found):
    """All that is in recordings read as one."""
    return (
        [(one.name, one.file, one.recording.facts) for one in found.hosts],
        found.namespaces, found.streams, found.losses, list(found.snapshots()),
        [(one.id, one.stream, one.data) for one in found.chunks()], found.facts,
    )  # fmt: skip


def test_the_order_of_the_files_does_not_matter(tmp_path, several):
    paths = [
        made(tmp_path / "1.db", "b", 9_000_000_000),
        made(tmp_path / "2.db", "a", 8_000_000_000),
        made(tmp_path / "3.db", "b", 7_000_000_000, started_monotonic_ns=1),
    ]
    assert rows(several(*paths)) == rows(several(*reversed(paths)))
    assert [one.file for one in several(*paths).hosts] == ["2.db", "3.db", "1.db"]


S = 1_000_000_000
NAMES = {
    "two hosts": ([("a", 5 * S, {}), ("b", 5 * S, {})], ["a", "b"]),
    "one host at two times": (
        [("a", 50 * S, {"started_monotonic_ns": 10 * S}), ("a", 70 * S, {"started_monotonic_ns": 30 * S})],
        ["a", "a"],
    ),
    "a clock that was set a little": (
        [("a", 50 * S, {"started_monotonic_ns": S}), ("a", 70 * S, {"started_monotonic_ns": 21 * S + S // 5})],
        ["a", "a"],
    ),
    "two of one name": (
        [("a", 50 * S, {"started_monotonic_ns": 10 * S}), ("a", 70 * S, {"started_monotonic_ns": 10 * S})],
        ["a(0.db)", "a(1.db)"],
    ),
    "two kernels": (
        [("a", 5 * S, {"kernel": "Linux 5"}), ("a", 5 * S, {"kernel": "Linux 6"})],
        ["a(0.db)", "a(1.db)"],
    ),
    "a name that is taken": (
        [("a", 50 * S, {}), ("a", 70 * S, {}), ("a(0.db)", 5 * S, {})],
        ["a(0.db)#2", "a(1.db)", "a(0.db)"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NAMES)
def test_names_of_hosts(case, tmp_path, several):
    """One host is one by its name, its kernel, and when it was started."""
    hosts, names = NAMES[case]
    paths = [
        made(tmp_path / f"{number}.db", host, at_ns, uuid=str(number), **changes)
        for number, (host, at_ns, changes) in enumerate(hosts)
    ]
    assert [one.name for one in several(*paths).hosts] == names


def test_what_is_told_of_all(tmp_path, several):
    """From the first start to the last stop; one that is not closed leaves it open."""
    first = made(tmp_path / "a.db", "a", 5 * S)
    second = made(tmp_path / "b.db", "b", 7 * S, interfaces=())
    found = several(first, second)
    assert (found.facts.started_ns, found.facts.stopped_ns) == (5 * S, 7 * S + 99)
    assert (found.facts.host, found.facts.closed, found.running) == ("a, b", True, False)
    assert found.facts.interfaces == ()  # the other one has all
    assert found.facts.filter == "tcp"
    other = several(first, made(tmp_path / "d.db", "d", filter="udp", kernel="Linux 7"))
    assert (other.facts.filter, other.facts.kernel) == (None, "Linux, Linux 7")
    cut = several(first, made(tmp_path / "c.db", "c", close=False))
    assert (cut.facts.closed, cut.facts.stopped_ns) == (False, None)
    assert cut.facts.interfaces == ("lo",)


def test_copies_are_told(tmp_path, several):
    found = several(made(tmp_path / "a.db", "a"), made(tmp_path / "b.db", "a", uuid="a.db"))
    assert found.copies == [("a.db", "b.db")]
    assert several(tmp_path / "a.db", made(tmp_path / "c.db", "a")).copies == []


def test_a_recording_that_grows_is_as_it_was_opened(tmp_path, several):
    """Rows that come later have no number that another file has."""
    path = tmp_path / "a.db"
    with Writer.create(path, replace(FACTS, host="a")) as writer:
        namespace = writer.add_namespace(None, 1)
        stream = writer.add_stream(namespace, "nflog", {})
        writer.add_snapshot(namespace, "links", 1, "links", b"1")
        writer.append(stream, 7, np.array([1], np.uint32), b"x")
        writer.commit()
        found = several(path, made(tmp_path / "b.db", "b"))
        writer.add_snapshot(namespace, "links", 2, "links", b"2")
        writer.append(stream, 8, np.array([1], np.uint32), b"y")
        writer.commit()
        assert [one.content for one in found.snapshots()] == [b"1", b"b.db"]
        assert [one.data for one in found.chunks()] == [b"x", b"abc"]
        assert found.running is True
        assert [one.running for one in found.hosts] == [True, False]


def merged_of(path, found):
    with Draft(path, named=True) as draft:
        with Rewrite(draft, merged=True) as rewrite:
            rewrite.merge(found)
        draft.publish(replace=False)
    return path


def test_one_that_grows_is_merged_as_taken_while_recording(tmp_path, several, monkeypatch):
    """No word of a recorder that was cut off; what was cut off, or may have been, stays that."""
    cut = made(tmp_path / "c.db", "c", close=False)
    whole = made(tmp_path / "b.db", "b")
    path = tmp_path / "a.db"
    with Writer.create(path, replace(FACTS, host="a")) as writer:
        stream = writer.add_stream(writer.add_namespace(None, 1), "nflog", {})
        writer.append(stream, 7, np.array([1], np.uint32), b"x")
        writer.commit()
        found = several(path, whole, cut)
        merged = several(merged_of(tmp_path / "all.db", found))
    own = [part.facts for part in merged.parts]
    assert [(one.closed, one.stop_reason) for one in own] == [
        (True, "still-recording"), (True, "SIGINT"), (False, None),
    ]  # fmt: skip
    assert own[0].stopped_ns > 10**18
    assert [one.running for one in merged.hosts] == [False, False, False]
    again = several(merged_of(tmp_path / "again.db", merged))
    assert [part.facts for part in again.parts] == own
    monkeypatch.setattr(Reader, "running", None)
    unsure = several(merged_of(tmp_path / "unsure.db", several(cut, whole)))
    assert [one.running for one in unsure.hosts] == [False, None]
    assert not unsure.parts[1].facts.closed


@pytest.mark.parametrize("number", [2**61, -5])
def test_numbers_that_no_recorder_gives(number, tmp_path, several):
    path = made(tmp_path / "a.db", "a")
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE snapshot SET id = ?", [number])
    raw.close()
    with pytest.raises(RecordingError, match=r"a\.db numbers its rows as no recorder does"):
        several(path, made(tmp_path / "b.db", "b"))


def test_one_alone_is_itself(tmp_path):
    with Reader(made(tmp_path / "a.db", "a")) as reader:
        assert together([reader]) is reader


def test_all_are_closed(tmp_path, several):
    found = several(made(tmp_path / "a.db", "a"), made(tmp_path / "b.db", "b"))
    found.close()
    assert found.closed
    with pytest.raises(RecordingError, match="was closed"):
        found.require_open()


def of_namespaces(path, host, namespaces):
    """A recording of some namespaces, each of which has its own words."""
    with Writer.create(path, replace(FACTS, host=host, uuid=host)) as writer:
        for name in namespaces:
            namespace = writer.add_namespace(name, ord(name))
            stream = writer.add_stream(namespace, "nflog", {})
            writer.add_snapshot(namespace, "links", 5, "links", name.encode())
            writer.append(stream, 10, np.array([1, 1], np.uint32), name.encode() * 2)
        writer.close(99, "SIGINT")
    return path


def test_namespaces_of_two_files_are_those_of_one(tmp_path, several):
    """What is split by namespace and read as one is the whole, under the same numbers."""
    whole = of_namespaces(tmp_path / "whole.db", "h", "abc")
    found = several(
        of_namespaces(tmp_path / "1.db", "h", "a"), of_namespaces(tmp_path / "2.db", "i", "bc")
    )
    with Reader(whole) as reader:
        assert found.namespaces == reader.namespaces
        assert found.streams == reader.streams
        assert list(found.snapshots()) == list(reader.snapshots())
        told = [
            [(one.id, one.stream, one.data) for one in some.chunks()] for some in (found, reader)
        ]
        assert told[0] == told[1]


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    """A file of two recordings that stays as it is."""
    place = tmp_path_factory.mktemp("merged")
    readers = [Reader(made(place / f"{name}.db", name)) for name in "ab"]
    with Several(readers) as found, Draft(place / "all.db", named=True) as draft:
        with Rewrite(draft, merged=True) as rewrite:
            rewrite.merge(found)
        draft.publish(replace=False)
    return place / "all.db"


def test_a_merged_file_has_the_rows(merged, several):
    found = several(merged)
    alone = several(merged.with_name("a.db"), merged.with_name("b.db"))
    assert rows(found) == rows(alone)
    with pytest.raises(RecordingError, match="holds several recordings"):
        _ = Reader(merged).facts


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1))
def test_damaged_bytes_of_a_merged_file(merged, changes):
    """Any bytes changed anywhere: rows or a RecordingError of one line."""
    damaged = bytearray(merged.read_bytes())
    path = merged.with_name("t.db")
    for place, value in changes:
        damaged[place % len(damaged)] = value
    path.write_bytes(damaged)
    try:
        with Reader(path) as reader:
            found = together([reader])
            rows(found) if isinstance(found, Several) else list(found.chunks())
    except RecordingError as error:
        assert str(error).isprintable()  # noqa: PT017 - either outcome is right
