"""Rows that are made of columns are those that each packet alone would have."""

from __future__ import annotations

import itertools
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import sqlite_utils
from handmade import HandMade, udp
from hypothesis import given, settings
from hypothesis import strategies as st
from test_json_lines import RAW, recording

from iptrec.answers import lookalikes
from iptrec.answers.packets import Packets
from iptrec.files import DraftDirectory
from iptrec.recording.reader import Reader
from iptrec.views.filed import Alike, Filed
from iptrec.views.parquet import Files
from iptrec.views.sqlite import definition, fill
from iptrec.views.table_rows import rows
from iptrec.views.tables import TABLES, Column, Table

SAMPLES = sorted((Path(__file__).parents[2] / "samples").glob("*.db"))
ALL = {table.name for table in TABLES}


def made(source, fewest, monkeypatch, wanted=ALL):
    """The rows of each table, if so many packets make a shape."""
    monkeypatch.setattr(lookalikes, "_FEWEST", fewest)
    found = {}
    for name, some in rows(source, Packets(source), wanted):
        found.setdefault(name, []).extend(some.rows())
    return found


@pytest.mark.parametrize("fewest", [1, 4])
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_samples(sample, fewest, monkeypatch):
    """Real recordings."""
    with Reader(sample) as reader:
        assert made(reader, fewest, monkeypatch) == made(reader, 10**9, monkeypatch)


@pytest.mark.parametrize("seed", range(20))
def test_generated(seed, monkeypatch):
    """NAT, marks, bridges, IPv6, cut off packets, relations, hostile names."""
    source = recording(seed)
    assert made(source, 1, monkeypatch) == made(source, 10**9, monkeypatch)


def test_only_what_is_wanted(monkeypatch):
    """Packets without their steps, steps without their packets."""
    source = recording(3)
    every = made(source, 1, monkeypatch)
    for name in ("packets", "steps", "related"):
        assert made(source, 1, monkeypatch, {name}) == {name: every[name]} or not every.get(name)


@pytest.mark.parametrize("seed", range(10))
def test_written_as_they_are(seed, monkeypatch):
    """What SQLite and Arrow are given of packets that read alike is the rows that each would have."""
    source = recording(seed)
    plain = made(source, 10**9, monkeypatch)
    monkeypatch.setattr(lookalikes, "_FEWEST", 1)
    filed = list(rows(source, Packets(source), ALL))
    assert in_sqlite(filed) == {name: sorted(some) for name, some in plain.items() if some}
    found = {}
    for name, some in filed:
        found.setdefault(name, []).extend(in_arrow(some))
    assert found == plain


def in_sqlite(filed):
    """Rows by table, in the order of their keys, as SQLite has them."""
    tables = sqlite_utils.Database(memory=True)
    for table in TABLES:
        tables.execute(definition(table))
    fill(tables, filed)
    every = {table.name: sorted(tables.execute(f"SELECT * FROM {table.name}")) for table in TABLES}
    return {name: some for name, some in every.items() if some}


def in_arrow(filed):
    """Rows as pyarrow has them, whether with dictionaries or without."""
    arrow = pytest.importorskip("iptrec.views.arrow")
    plain, coded = (
        arrow.batch(arrow.schema(filed.table, coded=coded), filed).to_pylist()
        for coded in (False, True)
    )
    assert plain == coded
    return [tuple(row.values()) for row in plain]


TOY = Table(
    "toy",
    "Anything.",
    (
        Column("id", "INTEGER", "number"),
        Column("number", "INTEGER", "any", required=False),
        Column("header", "TEXT", "each packet's own", required=False),
        Column("chain", "TEXT", "of many", required=False),
    ),
    ("id",),
)
NUMBERS = st.none() | st.integers(-(2**63), 2**63 - 1)
TEXTS = (
    st.none()
    | st.sampled_from(["", "it's", "\0", "a\0b", "?1", "--", "%s", "x" * 1001, "\u2028", "\x1b"])
    | st.text(st.characters(exclude_categories=["Cs"]))
)


@st.composite
def some_filed(draw):
    """Packets of a batch: kinds that are alike, each with some rows, and odd ones among them."""
    kinds = draw(
        st.lists(st.integers(-2, 2), max_size=12)
    )  # of each packet: -2 has none, -1 is odd
    ids = itertools.count(1)
    filed = Filed(TOY)
    values = {
        "number": NUMBERS.filter(lambda one: one is not None),
        "header": TEXTS,
        "chain": TEXTS,
    }
    for kind in set(kinds):
        at = np.flatnonzero(np.array(kinds) == kind)
        row = st.tuples(NUMBERS, TEXTS, TEXTS)
        if kind == -1:
            for one in at.tolist():
                filed.odd[one] = [(next(ids), *draw(row)) for _ in range(draw(st.integers(1, 3)))]
        elif kind >= 0:
            alike = Alike(at, [], [])
            for _ in range(draw(st.integers(1, 3))):
                varying = {"id": np.array([next(ids) for _ in at], np.int64)}
                for name in draw(st.sets(st.sampled_from(sorted(values)))):
                    varying[name] = [
                        draw(values[name].filter(lambda one: one is not None)) for _ in at
                    ]
                alike.rows.append((0, *draw(row)))
                alike.varying.append(varying)
            filed.alike.append(alike)
    return filed


@given(some_filed())
@settings(max_examples=150)
def test_anything_is_written_as_it_is(filed):
    """Quotes, NUL, what looks like SQL, the longest numbers: a row is the same wherever it is written."""
    expected = list(filed.rows())
    assert in_arrow(filed) == expected
    assert in_toy(filed) == sorted(expected)


def in_toy(filed):
    """Rows as SQLite has them."""
    tables = sqlite_utils.Database(memory=True)
    tables.execute(definition(TOY))
    for limit, most in LIMITS.items():
        tables.conn.setlimit(limit, most)
    fill(tables, [("toy", filed)])
    return list(tables.execute("SELECT * FROM toy ORDER BY rowid"))


LIMITS = {  # https://sqlite.org/limits.html, of any version
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 1_000_000,
    sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER: 32_766,
}


@pytest.mark.parametrize(("count", "header"), [(1200, "x" * 900), (33_000, "x")])
def test_packets_with_many_rows(count, header):
    """A statement with all rows of one packet would be too long for SQLite, or have too many parameters."""
    rows = [(number, 5, header, None) for number in range(count)]
    columns = [{"id": np.array([number, count + number])} for number in range(count)]
    filed = Filed(TOY, [Alike(np.arange(2), rows, columns)])
    assert in_toy(filed) == list(filed.rows())


def test_days(tmp_path):
    """Packets of two days are filed under both, and their steps with them."""
    parquet = pytest.importorskip("pyarrow.parquet")
    day = 24 * 3600 * 10**9
    events = [("raw:PREROUTING:policy:2", udp(ident=number), {"indev": 1}) for number in range(20)]
    source = HandMade().ruleset(RAW).events(events, start_ns=day // 20, step_ns=day // 10)
    with DraftDirectory(tmp_path / "out") as made:
        with Files(made, source.facts) as files:
            files.fill(rows(source, Packets(source), ALL))
        made.publish(replace=False)
    for name in ("packets", "steps"):
        found = {path.parent.name: path for path in (tmp_path / "out" / name).rglob("*.parquet")}
        assert sorted(found) == ["date=1970-01-01", "date=1970-01-02"]
        for number, path in enumerate(found[one] for one in sorted(found)):
            times = parquet.ParquetFile(path).read().column("time_ns").to_pylist()
            assert [one // day for one in times] == [number] * 10
