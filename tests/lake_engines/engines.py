"""A lake asked by other engines: the same questions, as a user of theirs would set them up."""

from __future__ import annotations

import contextlib
import json
import os
from decimal import Decimal
from unittest import mock

import pyarrow as pa

from iptrec.lake.tables import NAMED, PARTITIONS, schema

# Which directories are columns; rules have none.
_PARTED = [name for name in NAMED if name != "rules"]


def literal(value):
    """As engines write it in which a backslash means something."""
    if isinstance(value, int):
        return str(value)
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _plain(value):
    return int(value) if isinstance(value, Decimal) else value


@contextlib.contextmanager
def spark(lake):
    """A function that asks Apache Spark; rows as tuples."""
    from pyspark.sql import SparkSession
    from pyspark.sql.pandas.types import from_arrow_schema

    session = (
        SparkSession.builder.master("local[1]")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.shuffle.partitions", "2")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        # Times are read as they are, and days and hosts stay texts.
        .config("spark.sql.legacy.parquet.nanosAsLong", "true")
        .config("spark.sql.sources.partitionColumnTypeInference.enabled", "false")
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("ERROR")
    try:
        for name, table in NAMED.items():
            if (lake / name).exists():
                frame = session.read.parquet(str(lake / name))
            else:
                kept = [one for one in schema(table) if not pa.types.is_timestamp(one.type)]
                kept += [pa.field(one, pa.string()) for one in PARTITIONS]
                frame = session.createDataFrame([], from_arrow_schema(pa.schema(kept)))
            frame.createOrReplaceTempView(name)
        yield lambda sql: [tuple(map(_plain, row)) for row in session.sql(sql).collect()]
    finally:
        session.stop()


@contextlib.contextmanager
def clickhouse(lake):
    """The same of ClickHouse, in this process (chdb)."""
    with mock.patch.dict(os.environ, TZ="UTC"):  # it knows zones by their names alone
        from chdb.session import Session

        session = Session()
    with session:
        session.query("CREATE DATABASE lake")
        session.query("USE lake")
        for setting in (
            "use_hive_partitioning = 1", "join_use_nulls = 1", "prefer_column_name_to_alias = 1",
            "output_format_json_quote_64bit_integers = 0", "schema_inference_make_columns_nullable = 1",
        ):  # fmt: skip
            session.query(f"SET {setting}")
        for name, table in NAMED.items():
            if (lake / name).exists():
                below = "dt=*/host=*/*.parquet" if name in _PARTED else "*.parquet"
                source = f"SELECT * FROM file('{lake}/{name}/{below}', 'Parquet')"
            else:
                kinds = {"TEXT": "Nullable(String)", "INTEGER": "Nullable(Int64)"}
                columns = [(one.name, kinds[one.type]) for one in table.columns]
                columns += [(one, "Nullable(String)") for one in PARTITIONS]
                listed = ", ".join(f"CAST(NULL AS {kind}) AS {one}" for one, kind in columns)
                source = f"SELECT {listed} WHERE 0"
            session.query(f"CREATE VIEW {name} AS {source}")

        def ask(sql):
            found = str(session.query(sql, "JSONCompactEachRow"))
            return [tuple(json.loads(line)) for line in found.splitlines()]

        yield ask


ENGINES = {"spark": spark, "clickhouse": clickhouse}
