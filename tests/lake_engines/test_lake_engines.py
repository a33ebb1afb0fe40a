"""The questions, asked of Apache Spark and of ClickHouse, have the answers that DuckDB gives (make lake)."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
from command import iptrec, program
from lakes import SAMPLES, another, put, sample
from slow import interrupted

from iptrec.lake.engines import engine
from iptrec.lake.question import questions
from iptrec.recording.reader import Reader

PACKAGES = {"spark": "pyspark", "clickhouse": "chdb"}
MASTER = os.environ.get("MASTER", "")  # of tools/spark-cluster
ENGINES = {"clickhouse": ("clickhouse",), "spark": ("spark",), "cluster": ("spark", MASTER)}
STRANGE = ("été", "節点", "__HIVE_DEFAULT_PARTITION__", "NULL", "aa" + "ü" * 200)
MOMENT = 1795500000 * 10**9  # between the samples' days


def need(name):
    package = PACKAGES[ENGINES[name][0]]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package}: not installed; make lake installs it")
    if not all(ENGINES[name]):
        pytest.skip("no cluster in $MASTER; make lake starts one")


def words(name):
    """The options of iptrec lake."""
    kind, *master = ENGINES[name]
    return ["--engine", kind, *(word for one in master for word in ("--master", one))]


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """The samples, and more hosts, at a place and with names that mean something to engines."""
    folder = tmp_path_factory.mktemp("engines") / "host=x" / "{a,b} [c]*%20"
    folder.mkdir(parents=True)
    put(
        folder / "lake",
        *SAMPLES,
        another(sample("kubernetes"), folder / "a.db", host="node 1/%"),
        another(sample("both"), folder / "b.db", host="node+2", later_ns=7),
        another(sample("ipv6"), folder / "c.db", host="not/there", later_ns=7),
        *(
            another(sample("docker_hairpin"), folder / f"{number}.db", host=host, later_ns=number)
            for number, host in enumerate(STRANGE, 10)
        ),
    )
    # An export that was interrupted left the rest of this one.
    for row in (folder / "lake" / "recordings").rglob("*/host=not%2Fthere/*"):
        row.unlink()
    return folder / "lake"


@pytest.fixture(scope="module", params=ENGINES)
def asked(request, lake):
    """A function that asks one of the engines, and how it writes values."""
    need(request.param)
    asking = engine(*ENGINES[request.param])
    with asking.opened(lake) as ask:
        yield lambda question, given: ask(question.sql(given, asking.literal))


@pytest.fixture(scope="module")
def expected(lake):
    asking = engine("duckdb")
    with asking.opened(lake) as ask:
        yield lambda question, given: ask(question.sql(given, asking.literal))


def values(question):
    """Values for the parameters that have none, and as many rows as there are."""
    with Reader(sample("both")) as reader:
        recording = f"{reader.facts.uuid}-{reader.facts.started_ns}"
    known = {"time": MOMENT, "recording": recording, "packet": 3, "limit": 100_000}
    return {one.name: known[one.name] for one in question.parameters if one.name in known}


@pytest.mark.parametrize("name", questions())
def test_equal_answers(name, asked, expected):
    """Row by row, in the same order, with the same names of columns and kinds of values."""
    question = questions()[name]
    wanted, found = expected(question, values(question)), asked(question, values(question))
    assert found.columns == wanted.columns
    rows, same = [*wanted.rows], [*found.rows]
    assert rows
    assert same == rows
    assert [[*map(type, row)] for row in same] == [[*map(type, row)] for row in rows]


def test_hosts_have_their_names(asked):
    """Whatever is in them."""
    found = asked(questions()["drops"], {"limit": 1000})
    hosts = {row[found.columns.index("host")] for row in found.rows}
    assert {"node+2", *STRANGE[:-1]} <= hosts
    assert [one for one in hosts if one.startswith("aaü") and STRANGE[-1].startswith(one)]


@pytest.mark.parametrize("text", ["it's", 'a "b" \\', "\\'; --"])
def test_texts(text, asked):
    """Of a user's are values, whatever is in them."""
    assert [*asked(questions()["packet"], {"recording": text, "packet": 1}).rows] == []


@pytest.mark.parametrize("name", ["clickhouse", "cluster"])  # Spark takes its time to start
def test_by_the_command_line(name, lake, tmp_path):
    """The same table, without a word, and nothing is left here or in $TMPDIR."""
    need(name)
    before = sorted(Path.cwd().iterdir())
    own = {**os.environ, "TMPDIR": str(tmp_path)}
    done = program("lake", "talkers", lake, "limit=3", *words(name), env=own)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == iptrec("lake", "talkers", lake, "limit=3").stdout
    assert ([*tmp_path.iterdir()], sorted(Path.cwd().iterdir())) == ([], before)


@pytest.mark.parametrize("name", ["clickhouse", "spark"])
def test_broken_files(name, tmp_path):
    """One line, status 2."""
    need(name)
    put(tmp_path / "lake", sample("ipv6"))
    next((tmp_path / "lake" / "packets").rglob("*.parquet")).write_bytes(b"no parquet at all")
    done = program("lake", "talkers", tmp_path / "lake", *words(name))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith(f"iptrec: {tmp_path}/lake: ")


def test_spark_without_java(lake, monkeypatch, tmp_path):
    """One line that says so."""
    need("spark")
    for name in ("bash", "dirname", "readlink", "env", "basename"):
        (tmp_path / name).symlink_to(next(Path(at, name) for at in ("/usr/bin", "/bin")))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    done = program("lake", "talkers", lake, "--engine", "spark")
    assert (done.returncode, done.stderr) == (
        2, "iptrec: cannot start Apache Spark, which needs Java: JAVA_HOME is not set\n",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["clickhouse", "cluster"])
def test_interrupted_at_a_terminal(name, lake, tmp_path):
    """A bar, and after Ctrl-C no word, status 130, nothing in $TMPDIR and no process."""
    need(name)
    word = "talkers" if name == "clickhouse" else "at work"
    status, said, left = interrupted(lake, tmp_path, *words(name), at=lambda said, _: word in said)
    assert (status, left) == (130, [])
    assert "talkers" in said
    assert "Traceback" not in said
    assert "iptrec:" not in said
    assert not [one for one in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path) in _read(one)]


def test_interrupted_as_spark_starts(lake, tmp_path):
    """The same."""
    need("spark")
    at = lambda _, folder: any(folder.glob("iptrec-*/log"))  # noqa: E731
    status, said, left = interrupted(lake, tmp_path, *words("spark"), at=at)
    assert (status, left) == (130, [])
    assert "Traceback" not in said


def _read(path):
    try:
        return path.read_text(errors="replace")
    except OSError:  # it has ended meanwhile
        return ""
