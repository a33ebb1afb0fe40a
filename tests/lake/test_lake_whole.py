"""Files of a lake that are gone or broken: the next export writes them again, and no answer hides it."""

from __future__ import annotations

import json
import shutil

import pyarrow.parquet as pq
import pytest
from command import iptrec
from lakes import another, files, put, sample


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A lake of two hosts, and the recordings."""
    folder = tmp_path_factory.mktemp("whole")
    paths = [sample("both"), another(sample("docker_hairpin"), folder / "x.db", host="alpha")]
    put(folder / "lake", *paths)
    return folder / "lake", paths


@pytest.fixture
def copy(whole, tmp_path):
    path, _ = whole
    shutil.copytree(path, tmp_path / "lake")
    return tmp_path / "lake"


def incomplete(lake):
    done = iptrec("lake", "incomplete", lake, "--json")
    return [json.loads(line) for line in done.stdout.splitlines()]


TABLES = ("packets", "steps", "places", "namespaces", "recordings")
DAMAGE = {
    "gone": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "no footer": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "a broken footer": lambda path: path.write_bytes(
        path.read_bytes()[:-40] + b"\xff" * 32 + path.read_bytes()[-8:]
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("table", TABLES)
def test_the_next_export_writes_it_again(table, damage, copy, whole):
    """Of all that is there, byte by byte; the other host's files stay as they are."""
    path, recordings = whole
    hurt = sorted(copy.glob(f"{table}/*/host=alpha/*.parquet"))
    assert hurt
    for one in hurt:
        DAMAGE[damage](one)
    kept = {one: one.stat().st_ino for one in copy.glob("*/*/host=vm/*")}
    put(copy, *recordings)
    assert files(copy) == files(path)
    assert {one: one.stat().st_ino for one in copy.glob("*/*/host=vm/*")} == kept


def test_fewer_rows_than_there_were(copy, whole):
    """A file that is whole in itself."""
    path, recordings = whole
    one = next(copy.glob("steps/*/host=alpha/*.parquet"))
    pq.write_table(pq.read_table(one, partitioning=None).slice(1), one)
    found = incomplete(copy)
    assert [(row["host"], row["missing"]) for row in found if row["missing"]] == [("alpha", 1)]
    put(copy, *recordings)
    assert files(copy) == files(path)


@pytest.mark.parametrize("damage", DAMAGE)
def test_rules(damage, copy, whole):
    """They belong to all that refer to them."""
    path, recordings = whole
    for one in copy.glob("rules/*.parquet"):
        DAMAGE[damage](one)
    put(copy, *recordings)
    assert files(copy) == files(path)


def test_others_stay_where_a_row_is_broken(copy):
    """Of a recording that this export is not about; who asks is told of the file."""
    row = next(copy.glob("recordings/*/host=alpha/*.parquet"))
    row.write_bytes(b"broken")
    before = files(copy)
    put(copy, sample("both"))
    assert files(copy) == before
    assert iptrec("lake", "drops", copy).returncode == 2


@pytest.mark.parametrize("question", ["drops", "unhit", "incomplete"])
@pytest.mark.parametrize("table", ["packets", "namespaces"])
def test_an_answer_tells_that_files_are_missing(table, question, copy):
    """One line on stderr, which names the recording."""
    for one in copy.glob(f"{table}/*/host=alpha"):
        name = next(one.iterdir()).name.rpartition("-")[0]
        shutil.rmtree(one)
    done = iptrec("lake", question, copy, "--json")
    assert done.stderr == (
        f"iptrec lake: {copy} lacks files of 1 recording ({name}); this answer may be wrong;"
        " export the recordings into it again\n"
    )
    if question == "incomplete" and table == "packets":
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        assert (rows[0]["recording"], rows[0]["missing"]) == (name, rows[0]["packets"])


def test_an_answer_tells_that_rules_are_missing(copy):
    """Not that none was unhit."""
    shutil.rmtree(copy / "rules")
    done = iptrec("lake", "unhit", copy)
    assert done.returncode == 1
    assert " rules that recordings refer to; this answer may be wrong" in done.stderr
    rows = incomplete(copy)
    assert {row["host"] for row in rows if row["missing"]} == {"vm", "alpha"}
