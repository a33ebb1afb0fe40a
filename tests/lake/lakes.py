"""Lakes for tests: of samples, as other hosts would have recorded them."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import duckdb
from command import iptrec

from iptrec.lake.tables import TABLES

SAMPLES = sorted((Path(__file__).parents[2] / "samples").glob("*.db"))


def sample(name):
    return next(one for one in SAMPLES if one.stem == name)


def another(path, output, *, host, later_ns=1):
    """The same recording by another host, begun a little later; its rows are else the same."""
    shutil.copy(path, output)
    with sqlite3.connect(output) as connection:
        connection.execute(
            "UPDATE recording SET host = ?, started_ns = started_ns + ?", (host, later_ns)
        )
    connection.close()
    return output


def put(lake, *paths, **options):
    done = iptrec("export", "parquet", f"{lake}/", *paths, **options)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def files(lake):
    return {
        str(one.relative_to(lake)): one.read_bytes() for one in lake.rglob("*") if one.is_file()
    }


def ask(lake, sql):
    """Rows of a query of DuckDB over the tables, by nothing of iptrec's."""
    with duckdb.connect() as duck:
        duck.execute("SET TimeZone = 'UTC'")
        for table in TABLES:
            if any((lake / table.name).rglob("*.parquet")):
                parted = "false" if table.name == "rules" else "true"
                duck.execute(
                    f"CREATE VIEW {table.name} AS SELECT * FROM read_parquet("
                    f"'{lake}/{table.name}/**/*.parquet',"
                    f" hive_partitioning = {parted}, hive_types_autocast = false)"
                )
        return duck.execute(sql).fetchall()


def query(path, sql):
    """The same of one recording by `iptrec query`, as rows of values."""
    import json

    lines = iptrec("query", path, sql, "--json").stdout.splitlines()
    return [tuple(json.loads(line).values()) for line in lines]
