"""`export parquet LAKE/ --schema`: a lake of events of OCSF or ECS."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from command import iptrec
from handmade import RAW, HandMade, udp, written
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lakes import SAMPLES, another, files, put, query, sample

from iptrec.lake import files as lake_files
from iptrec.views.published import PUBLISHED

ROOT = Path(__file__).parents[2]
COUNTS = "verdict, decided_table, decided_chain, decided_rule, count(*) FROM packets GROUP BY ALL"
OWN = {
    "ocsf": "unmapped.verdict, unmapped.table, unmapped.chain, unmapped.rule, count(*) FROM events"
    " GROUP BY ALL",
    "ecs": '"iptrec.verdict", "iptrec.decided.table", "iptrec.decided.chain", "iptrec.decided.rule", count(*)'
    " FROM events GROUP BY ALL",
}  # fmt: skip
TIME = {"ocsf": "unmapped.time_ns", "ecs": '"iptrec.time_ns"'}
ID = {"ocsf": "metadata.uid", "ecs": '"event.id"'}


@pytest.fixture(scope="module", params=PUBLISHED)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def lake(tmp_path_factory, name):
    path = tmp_path_factory.mktemp("lake") / name
    put(path, *SAMPLES, "--schema", name)
    return path


def ask(lake, name, sql):
    """Rows of a query of DuckDB over the events, by nothing of iptrec's."""
    table = PUBLISHED[name].table
    with duckdb.connect() as duck:
        duck.execute("SET TimeZone = 'UTC'")
        for view, of in (("events", table), ("recordings", "recordings")):
            if any((lake / of).rglob("*.parquet")):
                duck.execute(
                    f"CREATE VIEW {view} AS SELECT * FROM read_parquet('{lake}/{of}/**/*.parquet',"
                    " hive_partitioning = true, hive_types_autocast = false)"
                )
        return duck.execute(sql).fetchall()


def cleaned(value):
    """Without what is NULL."""
    if isinstance(value, dict):
        found = {key: cleaned(inner) for key, inner in value.items()}
        return {key: inner for key, inner in found.items() if inner is not None} or None
    return value


def test_counts_are_those_of_the_recordings(lake, name):
    """By verdict and by what decided, all samples together."""
    wanted = {}
    for path in SAMPLES:
        for *key, count in query(path, f"SELECT {COUNTS.replace('ALL', '1, 2, 3, 4')}"):
            wanted[tuple(key)] = wanted.get(tuple(key), 0) + count
    assert {tuple(key): count for *key, count in ask(lake, name, f"SELECT {OWN[name]}")} == wanted


def test_rules_are_those_of_a_lake_of_our_own(lake, name, tmp_path):
    """By the same digests, so that both can be joined."""
    put(tmp_path / "own", *SAMPLES)
    with duckdb.connect() as duck:
        own = duck.execute(
            f"SELECT recording || ':' || packet, decided_rule_id FROM '{tmp_path}/own/packets/**/*.parquet'"
        ).fetchall()
    digest = {"ocsf": "firewall_rule.uid", "ecs": '"rule.uuid"'}[name]
    assert sorted(ask(lake, name, f"SELECT {ID[name]}, {digest} FROM events")) == sorted(own)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_rows_are_the_lines_of_ndjson(path, name, tmp_path):
    """Objects are structs, or dotted names; the same values."""
    put(tmp_path / "lake", path, "--schema", name)
    lines = iptrec("export", "ndjson", path, "-o", "-", "--schema", name, "-q").stdout.splitlines()
    wanted = [json.loads(line) for line in lines]
    found = []
    for one in sorted((tmp_path / "lake" / PUBLISHED[name].table).rglob("*.parquet")):
        table = pq.ParquetFile(one).read()
        times = [field.name for field in table.schema if str(field.type).startswith("timestamp")]
        for time in times:
            place = table.schema.get_field_index(time)
            table = table.set_column(place, time, table.column(time).cast("int64"))
        found += [cleaned(row) for row in table.to_pylist()]
    order = {
        "ocsf": lambda one: one["metadata"]["sequence"],
        "ecs": lambda one: one["event.sequence"],
    }
    found.sort(key=order[name])
    assert len(found) == len(wanted)
    for row, event in zip(found, wanted, strict=True):
        if name == "ocsf":
            assert row.pop("time_dt") == row["unmapped"]["time_ns"]
            event.pop("time_dt")
            assert row == event
        else:
            assert row.pop("@timestamp") == row["iptrec.time_ns"]
            row.pop("iptrec.end.time", None)
            flat = {
                key: value
                for key, value in dotted(event)
                if key not in ("@timestamp", "iptrec.end.time")
            }
            assert row == flat


def dotted(value, before=""):
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield from dotted(inner, f"{before}{key}.")
        else:
            yield before + key, inner


def test_the_recordings_own_rows(lake, name, tmp_path):
    """What a lake of our own says of each recording: how many, how complete, what is lost."""
    put(tmp_path / "own", *SAMPLES)
    columns = [one for one in tables_columns() if one != "fingerprint"]
    with duckdb.connect() as duck:
        own = duck.execute(
            f"SELECT {', '.join(columns)} FROM '{tmp_path}/own/recordings/**/*.parquet' ORDER BY 1"
        ).fetchall()
    assert ask(lake, name, f"SELECT {', '.join(columns)} FROM recordings ORDER BY 1") == own


def tables_columns():
    from iptrec.lake.tables import NAMED

    return [one.name for one in NAMED["recordings"].columns]


def test_the_same_again_changes_nothing(lake, name):
    """Not a byte; --force writes the same bytes."""
    before = files(lake)
    put(lake, *SAMPLES, "--schema", name)
    assert files(lake) == before
    put(lake, "--force", *SAMPLES, "--schema", name)
    assert files(lake) == before


def test_a_recording_that_grew_replaces_its_own(name, tmp_path):
    """And nothing of others goes."""
    early = tmp_path / "early.db"
    shutil.copy(sample("loopback"), early)
    with sqlite3.connect(early) as connection:
        connection.execute("DELETE FROM chunk WHERE id = (SELECT max(id) FROM chunk)")
        connection.execute("UPDATE recording SET stopped_ns = NULL, stop_reason = NULL, closed = 0")
    connection.close()
    grown, fresh = tmp_path / "grown", tmp_path / "fresh"
    done = iptrec("export", "parquet", f"{grown}/", early, sample("ipv6"), "-q", "--schema", name)
    assert done.returncode == 0
    put(grown, sample("loopback"), sample("ipv6"), "--schema", name)
    put(fresh, sample("ipv6"), sample("loopback"), "--schema", name)
    assert files(grown) == files(fresh)


def test_a_lake_is_of_one_schema(lake, name, tmp_path):
    """Another one is refused in a line, whichever came first, and changes nothing."""
    before = files(lake)
    for other in {"iptrec", *PUBLISHED} - {name}:
        done = iptrec("export", "parquet", f"{lake}/", SAMPLES[0], "--schema", other)
        assert (done.returncode, done.stderr) == (
            2,
            f"iptrec: {lake} is a lake of schema {name}; --schema {other} takes a directory of its own\n",
        )
    assert files(lake) == before
    put(tmp_path / "own", sample("ipv6"))
    done = iptrec("export", "parquet", f"{tmp_path}/own/", SAMPLES[0], "--schema", name)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "is a lake of schema iptrec" in done.stderr


def test_questions_are_about_our_own_schema(lake, name):
    """One line for others."""
    done = iptrec("lake", "drops", f"{lake}/")
    said = f"{lake} is a lake of schema {name}; iptrec lake asks those of schema iptrec"
    assert (done.returncode, done.stderr) == (2, f"iptrec: {said}: see docs/lake.md\n")


def test_one_recording_takes_no_schema(name, tmp_path):
    """With -o there are the tables; the line says what makes a lake."""
    done = iptrec("export", "parquet", SAMPLES[0], "-o", tmp_path / "out", "--schema", name)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"export parquet LAKE/ {SAMPLES[0]} --schema {name}" in done.stderr
    assert not (tmp_path / "out").exists()


def test_no_packet_at_all(name, tmp_path):
    """The recording has come in, and the lake has its schema."""
    path = written(tmp_path / "empty.db", HandMade().ruleset(RAW))
    put(tmp_path / "lake", path, "-q", "--schema", name)
    assert ask(tmp_path / "lake", name, "SELECT packets, steps FROM recordings") == [(0, 0)]
    assert iptrec("export", "parquet", f"{tmp_path}/lake/", path).returncode == 2
    put(tmp_path / "lake", sample("ipv6"), "--schema", name)


def test_rows_are_sorted(name, tmp_path, monkeypatch):
    """By time, over row groups and files of any size; days have their own directories."""
    monkeypatch.setattr(lake_files, "_GROUP", 3)
    monkeypatch.setattr(lake_files, "_FILE", 7)
    path = another(sample("loopback"), tmp_path / "t.db", host="web 1/2")
    put(tmp_path / "lake", path, "--schema", name)
    files_of = sorted(
        (tmp_path / "lake" / PUBLISHED[name].table).rglob("*.parquet"),
        key=lambda one: int(one.stem.rsplit("-", 1)[1]),
    )
    assert len(files_of) > 1
    assert {one.parent.name for one in files_of} == {"host=web%201%2F2"}
    packets = query(path, "SELECT time_ns FROM packets ORDER BY time_ns")
    found = [
        row
        for one in files_of
        for row in duckdb.sql(f"SELECT {TIME[name]} FROM '{one}'").fetchall()
    ]
    assert found == packets
    (by,) = {str(pq.ParquetFile(one).metadata.row_group(0).sorting_columns) for one in files_of}
    column = {"ocsf": 1, "ecs": 0}[name]
    assert f"column_index={column}," in by


def test_modes(name, tmp_path):
    """Private, or as --mode says."""
    for words, folder, file in (((), 0o700, 0o600), (("--mode", "640"), 0o750, 0o640)):
        lake = tmp_path / f"lake{file}"
        put(lake, *words, sample("ipv6"), "--schema", name)
        for one in [lake, *lake.rglob("*")]:
            assert one.stat().st_mode & 0o777 == (folder if one.is_dir() else file), one


def test_fields_say_what_they_are(lake, name):
    """In the files' own schema."""
    schema = PUBLISHED[name]
    path = next((lake / schema.table).rglob("*.parquet"))
    found = pq.ParquetFile(path).schema_arrow
    for one in schema.fields:
        parts = one.name.split(".") if schema.nested else [one.name]
        field = found.field(parts[0])
        for part in parts[1:]:
            field = field.type.field(part)
        assert field.metadata[b"description"].decode() == one.about
        assert not str(field.type).startswith("dictionary")


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(host=st.text(max_size=300), comment=st.binary(max_size=40))
def test_any_names(name, tmp_path_factory, host, comment):
    """Control characters, huge ones, bytes that are not UTF-8: files have them, and are in the lake."""
    folder = tmp_path_factory.mktemp("any")
    rule = (
        b'-A INPUT -p udp -m comment --comment "'
        + comment.translate(None, b'"\\\n\r\0')
        + b'" -j DROP\n'
    )
    made = HandMade()
    made.snapshot(
        "iptables-save", RAW.encode() + b"*filter\n:INPUT ACCEPT [0:0]\n" + rule + b"COMMIT\n"
    )
    made.events(
        [
            ("raw:PREROUTING:policy:2", udp(), {"indev": 1}),
            ("filter:INPUT:rule:1", udp(), {"indev": 1}),
        ]
    )
    made.facts = replace(made.facts, host=host.replace("\0", ""))
    put(folder / "lake", written(folder / "any.db", made), "--schema", name)
    ((verdict, *_, count),) = ask(folder / "lake", name, f"SELECT {OWN[name]}")
    assert (verdict, count) == ("DROP", 1)
    assert {one.name for one in folder.iterdir()} == {"any.db", "lake"}


def test_the_page_prints_the_answers(tmp_path):
    """docs/lake.md asks each schema's lake, and prints what DuckDB answers."""
    page = (ROOT / "docs" / "lake.md").read_text()
    kept = {"before.db": sample("docker_hairpin"), "after.db": sample("kubernetes")}
    for schema in PUBLISHED:
        (words,) = re.findall(rf"^    iptrec (export parquet {schema}/ .*)$", page, re.MULTILINE)
        paths = [kept.get(word) or ROOT / word for word in words.split() if word.endswith(".db")]
        put(tmp_path / schema, *paths, "--schema", schema)
    asked = re.findall(r'^    \$ duckdb -c "(.*)"\n((?:    .*\n)+)', page, re.MULTILINE)
    assert len(asked) == len(PUBLISHED)
    for sql, printed in asked:
        there = re.sub(r"FROM '", f"FROM '{tmp_path}/", sql.replace('\\"', '"'))
        assert str(duckdb.sql(there)).split() == printed.split()
