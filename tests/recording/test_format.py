"""The format: its frozen text, its packing, its way to the next version."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iptrec.recording.packing import Notes, pack, unpack
from iptrec.recording.reader import Reader
from iptrec.recording.rows import Chunk
from iptrec.recording.schema import FORMAT, NEWEST, SCHEMA, SCHEMAS
from iptrec.recording.upgrade import STEPS, upgraded

FROZEN = Path(__file__).parents[2] / "schemas"


@pytest.mark.parametrize("version", SCHEMAS)
def test_frozen_schema_is_the_one_in_use(version):
    """schemas/recording-vN.sql is the text of format N for ever."""
    assert (FROZEN / f"recording-v{version}.sql").read_text() == SCHEMAS[version]


def test_every_old_format_has_its_way_to_the_newest():
    """A schema for each format, a step from each but the newest."""
    assert SCHEMAS[FORMAT] is SCHEMA
    assert set(SCHEMAS) == set(range(1, NEWEST + 1))
    assert set(STEPS) == set(range(1, NEWEST))


def test_rows_go_up_step_by_step():
    """Each step sees the row that the one before it made; a newest row stays as it is."""
    steps = {
        1: lambda table, row: row | {"seen": [table, 1]},
        2: lambda _, row: row | {"seen": [*row["seen"], 2]},
    }
    assert upgraded(1, "loss", {"id": 7}, steps) == {"id": 7, "seen": ["loss", 1, 2]}
    assert upgraded(3, "loss", {"id": 7}, steps) == {"id": 7}


SAMPLES = {
    path: int.from_bytes(path.read_bytes()[60:64], "big")  # PRAGMA user_version
    for path in (
        *sorted((Path(__file__).parents[2] / "samples").glob("*.db")),
        Path(__file__).parents[1] / "data" / "merged.db",
    )
}


def test_each_format_has_a_sample():
    assert set(SAMPLES.values()) == set(SCHEMAS)


@pytest.mark.parametrize(
    "sample",
    [path for path, version in SAMPLES.items() if version == 1],
    ids=lambda path: path.stem,
)
def test_snapshots_of_format_1_say_what_they_are_written_in(sample):
    """By their kinds: JSON in the lists of that time, text in all others."""
    with Reader(sample) as reader:
        media = {one.kind: one.media for one in reader.snapshots()}
    lists = {"links", "addresses", "routes", "ip-rules", "sysctls"}
    assert {kind for kind, one in media.items() if one == "json"} - {"ipsets", "nft"} == lists
    assert set(media.values()) == {"json", "text"}


def test_other_rows_of_format_1_stay_as_they_are():
    assert upgraded(1, "loss", {"id": 7}) == {"id": 7}
    assert upgraded(1, "snapshot", {"kind": "of a later time"})["media"] == "text"


def test_packed_layout():
    """Lengths u32, steps i64, datagrams; little endian on every machine."""
    raw = pack(np.array([1000, 1258]), np.array([1, 2], np.uint32), [b"a", b"bc"])
    assert raw == bytes.fromhex("01000000 02000000 0000000000000000 0201000000000000 616263")


@given(
    st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.binary(max_size=20)), min_size=1),
)
def test_unpack_undoes_pack(datagrams):
    """Any times (a clock may step back) and any datagrams are restored exactly."""
    received = np.array([time for time, _ in datagrams], np.int64)
    lengths = np.array([len(data) for _, data in datagrams], np.uint32)
    raw = pack(received, lengths, [data for _, data in datagrams])
    found = unpack(raw, len(datagrams), int(received[0]))
    assert found[0].tolist() == received.tolist()
    assert found[1].tolist() == lengths.tolist()
    assert found[2] == b"".join(data for _, data in datagrams)


def test_packed_notes():
    """Behind them i64 steps of the times when the kernel sent them, from the first receipt; u16 processors."""
    notes = Notes(np.array([990, 0]), np.array([1, 65535], np.uint16))
    raw = pack(np.array([1000, 1258]), np.array([1, 2], np.uint32), [b"a", b"bc"], notes)
    steps = "f6ffffffffffffff 22fcffffffffffff 0100 ffff"
    packed = "01000000 02000000 0000000000000000 0201000000000000" + steps + "616263"
    assert raw == bytes.fromhex(packed)


@given(
    st.lists(
        st.tuples(st.integers(0, 2**62), st.integers(0, 2**62), st.integers(0, 65535)), min_size=1
    )
)
def test_unpack_undoes_pack_with_notes(datagrams):
    received, sent, cpu = (np.array(one) for one in zip(*datagrams, strict=True))
    lengths = np.ones(len(received), np.uint32)
    notes = Notes(sent.astype(np.int64), cpu.astype(np.uint16))
    raw = pack(received.astype(np.int64), lengths, [b"x" * len(received)], notes)
    found = unpack(raw, len(received), int(received[0]), noted=True)
    assert found[0].tolist() == received.tolist()
    assert found[2] == b"x" * len(received)
    assert [one.tolist() for one in found[3]] == [sent.tolist(), cpu.tolist()]


def test_rows_of_format_2_have_no_notes():
    assert upgraded(2, "chunk", {"id": 7}) == {"id": 7, "noted": 0}
    assert upgraded(2, "loss", {"id": 7}) == {"id": 7}


@pytest.mark.parametrize("count", [-1, 0, 1, 3, 2**62])
def test_wrong_count_is_refused(count):
    """A number of datagrams that the bytes cannot be."""
    raw = pack(np.array([5, 6]), np.array([1, 2], np.uint32), [b"abc"])
    with pytest.raises(ValueError, match=r"cannot hold|do not add up"):
        unpack(raw, count, 5)


@pytest.mark.parametrize(
    ("sent", "times"),
    [
        ([150, 250, 350], [150, 250, 350]),
        ([150, 0, 350], [150, 300, 350]),  # received
        ([150, 0, 290], [150, 290, 290]),  # not after the one behind it was sent
        ([150, 999, 350], [150, 300, 350]),  # nothing is received before it is sent
        ([-5, 0, 0], [200, 300, 400]),
    ],
)
def test_times_of_datagrams(sent, times):
    """When each was sent, as far as that was noted."""
    received = np.array([200, 300, 400])
    notes = Notes(np.array(sent, np.int64), np.full(3, 0, np.uint16))
    chunk = Chunk(1, 1, received, np.array([1, 1, 1], np.uint32), b"abc", notes)
    assert list(chunk.datagrams()) == list(zip(times, (b"a", b"b", b"c"), strict=True))
    assert [time for time, _ in replace(chunk, notes=None).datagrams()] == [200, 300, 400]
