"""Rows that are made of columns are those that each packet alone would have."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_json_lines import recording

from iptrec.answers import lookalikes
from iptrec.answers.packets import Replay
from iptrec.files import DraftDirectory
from iptrec.recording.reader import Reader
from iptrec.views.parquet import Files
from iptrec.views.table_rows import rows
from iptrec.views.tables import TABLES

SAMPLES = sorted((Path(__file__).parents[2] / "samples").glob("*.db"))
ALL = {table.name for table in TABLES}


def made(source, fewest, monkeypatch, wanted=ALL):
    """The rows of each table, if so many packets make a shape."""
    monkeypatch.setattr(lookalikes, "_FEWEST", fewest)
    found = {}
    for name, some in rows(source, Replay(source), wanted):
        found.setdefault(name, []).extend(some)
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


def test_days(tmp_path):
    """Packets of two days are filed under both, and their steps with them."""
    pytest.importorskip("pyarrow")
    source = recording(1)
    day = 24 * 3600 * 10**9
    every = list(rows(source, Replay(source), ALL))
    later = [
        (name, [(*row[:1], row[1] + day * (row[0] % 2), *row[2:]) for row in some])
        if name == "packets"
        else (name, some)
        for name, some in every
    ]
    with DraftDirectory(tmp_path / "out") as made:
        with Files(made, source.facts) as files:
            files.fill(later)
        made.publish(replace=False)
    for name in ("packets", "steps"):
        found = {path.parent.name for path in (tmp_path / "out" / name).rglob("*.parquet")}
        assert found == {"date=1970-01-01", "date=1970-01-02"}
