"""A ring: the oldest goes, at a cost that does not grow with what stays, and the file does not grow either."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing

import numpy as np
import pytest

from iptrec.recording.reader import Reader
from iptrec.recording.rows import Loss
from iptrec.recording.writer import Writer

SECOND = 10**9
HOUR = 3600 * SECOND


@pytest.fixture
def writer(tmp_path, facts):
    with Writer.create(tmp_path / "t.db", facts) as made:
        made._connection.execute("PRAGMA synchronous = OFF")  # of the disk nothing is measured here
        yield made


@pytest.fixture
def events(writer):
    """A stream of events."""
    return stream(writer)


def stream(writer, kind="nflog"):
    return writer.add_stream(writer.add_namespace(None, 1), kind, {})


def chunk(writer, stream, received_ns, size=1000):
    """Add a chunk that does not compress."""
    writer.append(stream, received_ns, np.array([size], np.uint32), os.urandom(size))
    writer.commit()


def state(writer, number, *, after_ns=0, time_ns=0, size=1000):
    """Add a state of a table; each number is a content."""
    content = np.random.default_rng(number).bytes(size)
    writer.add_snapshot(1, "iptables-save", time_ns, "iptables-save -t raw", content, after_ns)


def rows(writer, table):
    return writer._connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def times(writer, table="chunk", column="last_ns"):
    return [one for (one,) in writer._connection.execute(f"SELECT {column} FROM {table}")]


def pages(writer):
    """Bytes of the file that are in use."""
    execute = writer._connection.execute
    used = (
        execute("PRAGMA page_count").fetchone()[0] - execute("PRAGMA freelist_count").fetchone()[0]
    )
    return used * execute("PRAGMA page_size").fetchone()[0]


def steps(writer, call):
    """How many hundreds of instructions SQLite's machine takes."""
    counted = []
    writer._connection.set_progress_handler(lambda: counted.append(1), 100)
    call()
    writer._connection.set_progress_handler(None, 0)
    return len(counted)


@pytest.mark.parametrize("kind", ["nflog", "nftrace", "nftables", "drops", "conntrack"])
def test_the_oldest_goes(writer, kind):
    """Of each stream but that of the interfaces, which names what comes later."""
    streams = stream(writer, "rtnetlink"), stream(writer, kind)
    for number in range(20):
        chunk(writer, streams[number > 0], number)
    writer.trim(most_bytes=5500)
    assert times(writer) == [0, 15, 16, 17, 18, 19]


def test_the_newest_stays_in_a_small_ring(writer, events):
    for number in range(3):
        chunk(writer, events, number)
    writer.trim(most_bytes=10)
    assert times(writer) == [2]


def test_what_is_too_old_goes(writer, events):
    """The last chunk as well, when its time is over."""
    now = time.time_ns()
    for age in (3, 2, 1):
        chunk(writer, events, now - age * HOUR)
    writer.trim(lasts_ns=int(2.5 * HOUR))
    assert times(writer) == [now - 2 * HOUR, now - HOUR]
    writer.trim(lasts_ns=HOUR // 2)
    assert times(writer) == []


def test_a_clock_that_was_set_back_does_not_stop_it(writer, events):
    """What seems to come from the future goes when it is the oldest."""
    now = time.time_ns()
    for moment in (now + HOUR, now - 1, now):
        chunk(writer, events, moment)
    writer.trim(lasts_ns=HOUR)
    assert times(writer) == [now - 1, now]


def test_with_the_events_go_losses_and_states(writer, events):
    """All that is older than the oldest chunk, but the state that was in force then."""
    writer.add_snapshot(1, "iptables-save", 0, "iptables-save -c", b"first")
    for number in range(10):
        state(writer, number, after_ns=number * 10, time_ns=number * 10 + 1)
        writer.add_loss(Loss(events, number * 10, number * 10 + 1, 1, "sequence"))
        chunk(writer, events, number * 10 + 5)
    writer.trim(most_bytes=3500)
    assert times(writer) == [75, 85, 95]
    assert times(writer, "loss") == [81, 91]
    assert times(writer, "snapshot", "time_ns") == [0, 71, 81, 91]
    assert rows(writer, "blob") == 4


@pytest.mark.parametrize("different", [1, 2, 10**6])
def test_states_without_events_do_not_fill_the_disk(writer, events, different):
    """Rules that change for days while no packet matches the filter: new ones, and the same ones again."""
    chunk(writer, events, 1)
    sizes = []
    for number in range(3000):
        state(writer, number % different, after_ns=number, time_ns=number + 1)
        writer.trim(most_bytes=50_000)
        sizes.append(pages(writer))
    assert max(sizes[1500:]) <= max(sizes[:1500]) + 8192
    assert max(sizes) < 400_000


def test_states_go_with_time(writer):
    """The same in a ring of time: the one in force at its beginning stays."""
    now = time.time_ns()
    for age in range(100, 0, -1):
        state(writer, age, after_ns=now - age * SECOND - 1, time_ns=now - age * SECOND)
    writer.trim(lasts_ns=5 * SECOND + SECOND // 2)
    ages = [(now - one) // SECOND for one in times(writer, "snapshot", "time_ns")]
    assert ages == [6, 5, 4, 3, 2, 1]


def test_events_go_before_their_rules_do(writer, events):
    """Where states are too many, none of the events that are left met a state that is gone."""
    for number in range(100):
        state(writer, number, after_ns=number * 10, time_ns=number * 10 + 1)
        chunk(writer, events, number * 10 + 5, size=10)
    writer.trim(most_bytes=20_000)
    oldest = min(times(writer))
    assert 100 < len(times(writer, "snapshot", "id")) * 10 + 20 < 300
    assert min(times(writer, "snapshot", "time_ns")) < oldest


def test_events_go_before_what_is_beside_them(writer, events):
    """Whichever came first: an event whose drop is gone would be of a packet that went on."""
    drops = writer.add_stream(1, "drops", {})
    for stream in (drops, events):
        writer.append(stream, SECOND, np.array([1000], np.uint32), os.urandom(1000))
    writer.commit()
    assert times(writer, column="stream") == [events, drops]


@pytest.mark.parametrize("ring", [{"most_bytes": 10**9}, {"lasts_ns": HOUR}], ids=["size", "time"])
def test_a_full_ring_costs_no_more(writer, events, ring):
    """A day of few packets is a hundred thousand small chunks: they are not looked at each second."""
    now = time.time_ns()
    found = []
    for _ in range(2):
        for _ in range(1000):
            chunk(writer, events, now, size=10)
        found.append(steps(writer, lambda: writer.trim(**ring)))
    assert found[1] <= found[0] + 1


def test_letting_go_costs_what_goes(writer, events):
    """As long as the ring is full it happens all the time."""
    found = []
    for number in (2000, 4000, 8000):
        while rows(writer, "chunk") < number:
            chunk(writer, events, 1, size=10)
        most = writer.event_bytes * 9 // 10
        taken = steps(writer, lambda most=most: writer.trim(most_bytes=most))
        found.append(taken / (number - rows(writer, "chunk")))
    assert max(found) <= 1.2 * min(found)


def test_equal_contents_count_once(writer, events):
    """What the file is said to hold is what it holds: --max-size goes by that."""
    for number in range(100):
        state(writer, 1, after_ns=number, time_ns=number + 1, size=10_000)
    assert writer.file_bytes < 20_000
    chunk(writer, events, 200, size=10)
    for number in range(2, 10):
        state(writer, number, after_ns=number, time_ns=1000 * number, size=10_000)
    chunk(writer, events, 10_000, size=10)
    writer.trim(most_bytes=40)
    assert writer.file_bytes < 30_000


def test_wal_is_short_again_after_a_slow_reader(tmp_path, writer, events):
    """While somebody reads it has to grow; it need not stay so."""
    wal = tmp_path / "t.db-wal"
    with closing(sqlite3.connect(tmp_path / "t.db", isolation_level=None)) as slow:
        slow.execute("BEGIN")
        slow.execute("SELECT count(*) FROM chunk").fetchone()
        for number in range(20):
            chunk(writer, events, number, size=10**6)
        assert wal.stat().st_size > 16 << 20
        slow.execute("COMMIT")
    for number in range(20):
        chunk(writer, events, number, size=10**6)
    assert wal.stat().st_size < 12 << 20


def test_trimmed_recording_reads_back(tmp_path, writer, events):
    for number in range(20):
        chunk(writer, events, number)
    writer.trim(most_bytes=5500)
    writer.close(99, "SIGINT")
    with Reader(tmp_path / "t.db") as reader:
        assert reader.datagrams == 5
