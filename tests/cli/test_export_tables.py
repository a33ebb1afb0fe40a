"""`iptrec export sqlite`, `export parquet`, `query`: read back by programs that know nothing of iptrec."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import sys
from pathlib import Path

import duckdb
import pytest
import sqlite_utils
import warm
from command import iptrec

from iptrec.views.tables import TABLES, described

ROOT = Path(__file__).parents[2]
SAMPLES = sorted((ROOT / "samples").glob("*.db"))
LOOPBACK = ROOT / "samples" / "loopback.db"
HAIRPIN = ROOT / "samples" / "docker_hairpin.db"


def shown(sample):
    return [json.loads(line) for line in iptrec("show", "--json", sample).stdout.splitlines()]


def as_rows(packets):
    """What the tables must have of `show --json`."""
    return (
        [
            (
                one["packet"], one["time_ns"], one["time"], one["family"], one["in"], one["out"],
                one["header"]["src"], one["header"]["dst"], one["header"]["proto"],
                one["header"].get("sport"), one["header"]["length"], one["verdict"],
                *(one["decided_by"] or {"table": None, "chain": None, "rule": None}).values(),
                int(one["complete"]), one["reason"],
            )
            for one in packets
        ],
        [
            (
                one["packet"], number, step["time_ns"], step["table"], step["chain"], step["type"],
                step["rule"], step["spec"], step["target"], step["mark"], step["in"],
                json.dumps(step["changed"]) if step["changed"] else None,
            )
            for one in packets
            for number, step in enumerate(one["steps"], 1)
        ],
    )  # fmt: skip


PACKETS = (
    "SELECT packet, time_ns, time, family, in_interface, out_interface, src, dst, proto, sport, length,"
    " verdict, decided_table, decided_chain, decided_rule, complete, reason FROM {} ORDER BY packet"
)
STEPS = (
    "SELECT packet, step, steps.time_ns, steps.table_name, steps.chain, steps.type, steps.rule, rules.spec,"
    " steps.target, mark, in_interface, changed FROM {} steps LEFT JOIN {} rules ON rules.id = rule_id"
    " ORDER BY packet, step"
)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_sqlite_has_what_show_has(sample, tmp_path):
    """Packets and steps with their rules' texts; sound to SQLite itself, and explained."""
    path = tmp_path / "t.db"
    done = iptrec("export", "sqlite", sample, "-o", path)
    assert (done.returncode, done.stderr) == (0, "")
    tables = sqlite_utils.Database(path)
    packets, steps = as_rows(shown(sample))
    assert list(tables.execute(PACKETS.format("packets"))) == packets
    assert list(tables.execute(STEPS.format("steps", "rules"))) == steps
    assert tables.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert tables.execute("PRAGMA foreign_key_check").fetchall() == []
    assert {one.name for one in tables.tables} == {table.name for table in TABLES}
    assert all(table.strict for table in tables.tables)
    assert "-- why it is incomplete" in tables["packets"].schema
    assert [one.other_table for one in tables["steps"].foreign_keys] == ["rules", "packets"]
    for view in tables.views:
        assert view.count >= 0
    total = tables.execute("SELECT sum(packets) FROM rule_hits").fetchone()[0]
    assert total == sum(one[6] is not None for one in steps)
    tables.close()


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_duckdb_reads_parquet(sample, tmp_path):
    """The same from the Parquet files, with host and date as partitions; every table is there."""
    out = tmp_path / "out"
    done = iptrec("export", "parquet", sample, "-o", out)
    assert (done.returncode, done.stderr) == (0, "")
    packets, steps = as_rows(shown(sample))
    with duckdb.connect() as duck:
        files = {table.name: f"'{out}/{table.name}/**/*.parquet'" for table in TABLES}
        assert duck.sql(PACKETS.format(files["packets"])).fetchall() == packets
        assert duck.sql(STEPS.format(files["steps"], files["rules"])).fetchall() == steps
        for table in TABLES:
            found = duck.sql(f"DESCRIBE SELECT * FROM {files[table.name]}").fetchall()
            assert [one[0] for one in found][: len(table.columns)] == [
                column.name for column in table.columns
            ]
        hosts = duck.sql(
            f"SELECT DISTINCT host, date::VARCHAR FROM read_parquet({files['packets']}, hive_partitioning=true)"
        ).fetchall()
    assert hosts == [(json.loads(iptrec("info", "--json", sample).stdout)["recording"]["host"],
                      packets[0][2][:10])]  # fmt: skip


def test_selection_and_exit_status(tmp_path):
    """A selection limits packets, not rules; nothing that fits is told."""
    path = tmp_path / "t.db"
    assert iptrec("export", "sqlite", LOOPBACK, "-o", path, "--verdict", "DROP").returncode == 0
    tables = sqlite_utils.Database(path)
    assert {one["verdict"] for one in tables["packets"].rows} == {"DROP"}
    assert tables["rules"].count > 3
    tables.close()
    done = iptrec("export", "parquet", LOOPBACK, "-o", tmp_path / "p", "--verdict", "STOLEN")
    assert (done.returncode, done.stderr) == (1, "iptrec export: no packet matches\n")


def test_stdout_and_refusals(tmp_path):
    """SQLite into a pipe; Parquet needs a directory; what is there stays, but for exports with --force."""
    for output in ("/dev/stdout", "-"):
        data = warm.run(
            [sys.executable, "-m", "iptrec", "export", "sqlite", str(LOOPBACK), "-o", output],
            capture_output=True, check=True,
        ).stdout  # fmt: skip
        (tmp_path / "t.db").write_bytes(data)
    connection = sqlite3.connect(tmp_path / "t.db")
    assert connection.execute("SELECT count(*) FROM packets").fetchone() == (16,)
    connection.close()
    done = iptrec("export", "parquet", LOOPBACK, "-o", "-")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    home = tmp_path / "home"
    home.mkdir()
    (home / "letter.txt").write_text("mine")
    for force in ([], ["--force"]):
        done = iptrec("export", "parquet", LOOPBACK, "-o", home, *force)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert (home / "letter.txt").read_text() == "mine"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["home", "t.db"]
    out = tmp_path / "out"
    for force, status in (([], 0), ([], 2), (["--force"], 0)):
        assert iptrec("export", "parquet", LOOPBACK, "-o", out, *force).returncode == status
    assert len(list((out / "packets").rglob("*.parquet"))) == 1
    done = iptrec("export", "sqlite", LOOPBACK, "-o", out, "--force")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert out.is_dir()


def test_query_as_table_csv_and_json():
    """One query, three outputs, the same values."""
    sql = "SELECT verdict, count(*) AS n, max(reason) AS reason FROM packets GROUP BY verdict ORDER BY verdict"
    expected = {}
    for one in shown(LOOPBACK):
        expected[one["verdict"]] = expected.get(one["verdict"], 0) + 1
    rows = [
        json.loads(line) for line in iptrec("query", LOOPBACK, sql, "--json").stdout.splitlines()
    ]
    assert {row["verdict"]: row["n"] for row in rows} == expected
    found = list(csv.DictReader(io.StringIO(iptrec("query", LOOPBACK, sql, "--csv").stdout)))
    assert {row["verdict"]: int(row["n"]) for row in found} == expected
    head, rule, *lines = iptrec("query", LOOPBACK, sql).stdout.splitlines()
    assert head.split() == ["verdict", "n", "reason"]
    assert set(rule) == {"-", " "}
    assert {line.split()[0]: int(line.split()[1]) for line in lines} == expected


def test_query_of_views_and_of_nothing():
    """Views read the tables below them; no row is exit status 1."""
    done = iptrec("query", HAIRPIN, "SELECT decided_spec FROM drops", "--json")
    assert json.loads(done.stdout) == {"decided_spec": "-o hairpin-8-1 -j DROP"}
    done = iptrec("query", HAIRPIN, "SELECT * FROM losses", "--json")
    assert (done.returncode, done.stdout) == (1, "")


def test_query_builds_what_it_reads():
    """Snapshots alone need no packet to be put together."""
    from iptrec.views.sqlite import tables_of

    assert tables_of("SELECT kind FROM snapshots") == {"snapshots"}
    assert tables_of("SELECT * FROM paths") == {"packets"}
    assert tables_of("SELECT * FROM rule_hits") == {"rules", "steps"}
    joined = "SELECT host, count(*) FROM packets JOIN hosts USING (namespace) GROUP BY 1"
    assert tables_of(joined) == {"packets", "hosts"}
    assert tables_of("SELECT count(*) FROM related NATURAL JOIN packets") == {"related", "packets"}
    assert tables_of("WITH a AS (SELECT 1) SELECT * FROM a") == set()


REFUSED = (
    "DROP TABLE packets", "ATTACH '/tmp/x' AS x", "PRAGMA query_only = 0", "SELECT 1; SELECT 2", "selec",
    "SELECT load_extension('x')", "SELECT * FROM nothing", "INSERT INTO packets SELECT * FROM packets",
    "CREATE TABLE x (y)", "VACUUM INTO '/tmp/x'", "BEGIN",
)  # fmt: skip


@pytest.mark.parametrize("sql", REFUSED)
def test_query_only_reads(sql):
    """One line, exit status 2."""
    done = iptrec("query", LOOPBACK, sql)
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (2, 1, ""), done


def test_query_prints_nothing_that_a_terminal_obeys():
    """Escapes in values, and in the names of columns, are made visible; bytes are hexadecimal."""
    done = iptrec("query", LOOPBACK, "SELECT char(27, 10) || 'x' AS \"a\x1bb\", x'00ff' AS y")
    assert "\x1b" not in done.stdout
    assert done.stdout.splitlines()[2].split() == ["\\x1b\\x0ax", "00ff"]


def test_tables_are_described(request):
    """--tables tells every column; schemas/tables-v1.md is the same text."""
    told = iptrec("query", "--tables").stdout
    assert told.startswith(described())
    page = ROOT / "schemas" / "tables-v1.md"
    if request.config.getoption("--update-golden"):
        page.write_text(described())
    assert page.read_text() == described()
