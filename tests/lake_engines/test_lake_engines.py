"""The questions, asked of Apache Spark and of ClickHouse, have the answers that DuckDB gives (make lake)."""

from __future__ import annotations

import importlib.util

import pytest
from engines import ENGINES, literal
from lakes import SAMPLES, another, put, sample

from iptrec.lake import duck
from iptrec.lake.question import questions
from iptrec.recording.reader import Reader

PACKAGES = {"spark": "pyspark", "clickhouse": "chdb"}
MOMENT = 1795500000 * 10**9  # between the samples' days


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """The samples, and two more hosts: one with a flow that ends otherwise there."""
    folder = tmp_path_factory.mktemp("engines")
    put(
        folder / "lake",
        *SAMPLES,
        another(sample("kubernetes"), folder / "a.db", host="node-1"),
        another(sample("both"), folder / "b.db", host="node-2", later_ns=7),
    )
    return folder / "lake"


@pytest.fixture(scope="module", params=ENGINES)
def asked(request, lake):
    """A function that asks one of the engines."""
    if importlib.util.find_spec(PACKAGES[request.param]) is None:
        pytest.skip(f"{PACKAGES[request.param]}: not installed; pip install 'iptrec[engines]'")
    with ENGINES[request.param](lake) as ask:
        yield ask


def values(question):
    """Values for the parameters that have none."""
    with Reader(sample("both")) as reader:
        recording = f"{reader.facts.uuid}-{reader.facts.started_ns}"
    known = {"time": MOMENT, "recording": recording, "packet": 3}
    return {one.name: known[one.name] for one in question.parameters if one.name in known}


@pytest.mark.parametrize("name", questions())
def test_equal_answers(name, asked, lake):
    """Row by row, in the same order."""
    question = questions()[name]
    given = values(question) | {
        one.name: 100_000 for one in question.parameters if one.name == "limit"
    }
    with duck.asked(lake, question.sql(given, duck.literal)) as answer:
        expected = [*answer.rows()]
    assert expected
    assert asked(question.sql(given, literal)) == expected
