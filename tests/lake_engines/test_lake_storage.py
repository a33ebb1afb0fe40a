"""The lines of docs/lake.md for object storage, with a server of it on this machine (moto)."""

from __future__ import annotations

import http.client
import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.parse

import documents
import pytest
from lakes import SAMPLES, put
from test_lake_engines import need

from iptrec.lake import clickhouse
from iptrec.lake.engines import engine
from iptrec.lake.question import questions

ASKED = ("drops", "talkers", "changed")  # of packets and rules alone
BLOCKS = [
    text.replace("\n  ", " ") for where, text in documents.of_kind("sql") if "docs/lake.md" in where
]


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    path = tmp_path_factory.mktemp("storage") / "lake"
    put(path, *SAMPLES)
    return path


@pytest.fixture(scope="module")
def server(lake, tmp_path_factory):
    """Where it listens; the lake is in its bucket."""
    if importlib.util.find_spec("moto") is None:
        pytest.skip("moto: not installed; make lake installs it")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    port = address.rpartition(":")[2]
    own = {"MOTO_EC2_LOAD_DEFAULT_AMIS": "false", "AWS_EC2_METADATA_DISABLED": "true"}
    with (tmp_path_factory.mktemp("log") / "log").open("wb") as log, subprocess.Popen(
        [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", port],
        env={**os.environ, **own}, stdout=log, stderr=log,
    ) as child:  # fmt: skip
        try:
            deadline = time.monotonic() + 90
            while not _put(address, "", b""):
                assert child.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.2)
            for one in lake.rglob("*.parquet"):
                below = urllib.parse.quote(str(one.relative_to(lake)))
                assert _put(address, f"/{below}", one.read_bytes())
            yield address
        finally:
            child.terminate()


def _put(address, path, data):
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        connection.request("PUT", f"/lake{path}", data)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def statements(word, server):
    """Those of the block that has a word, with this server in the place of somebody's MinIO."""
    (block,) = [text for text in BLOCKS if word in text]
    return [one for one in block.replace("10.0.0.9:9000", server).split(";\n") if one.strip()]


def expected(lake, name):
    asking = engine("duckdb")
    with asking.opened(lake) as ask:
        return [*ask(sql(name, asking.literal)).rows]


def sql(name, literal):
    return questions()[name].sql({"limit": 1000, "time": 1795500000 * 10**9}, literal)


@pytest.mark.parametrize("name", ASKED)
def test_clickhouse(name, server, lake):
    """Has the answer that DuckDB gives of the directory."""
    need("clickhouse")
    import json

    wanted = expected(lake, name)
    asking = engine("clickhouse")
    with clickhouse._utc():
        from chdb.session import Session
    with Session() as session:
        session.query("CREATE DATABASE stored")
        session.query("USE stored")
        for one in statements("SET use_hive", server):
            session.query(one)
        session.query("SET output_format_json_quote_64bit_integers = 0")
        found = str(session.query(sql(name, asking.literal), "JSONCompactEachRow"))
    assert wanted
    assert [tuple(json.loads(line)) for line in found.splitlines()] == wanted


@pytest.mark.parametrize("name", ASKED)
def test_duckdb(name, server, lake):
    """The same, where its extension can be had."""
    import duckdb

    wanted = expected(lake, name)
    asking = engine("duckdb")
    with duckdb.connect() as connection:
        try:
            connection.execute("LOAD httpfs")
        except duckdb.Error:
            pytest.skip("httpfs: not installed")
        for one in statements("INSTALL httpfs", server)[2:]:
            connection.execute(one)
        assert connection.execute(sql(name, asking.literal)).fetchall() == wanted
