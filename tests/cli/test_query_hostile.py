"""`iptrec query` and what it costs, and the texts of a stranger in its outputs."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet
import pytest
import warm
from command import iptrec
from handmade import HandMade

from iptrec.recording.writer import Writer

LOOPBACK = str(Path(__file__).parents[2] / "samples" / "loopback.db")
EVIL = "=HYPERLINK(1)\x1b]0;PWN\x07\x1b[31m\u202e\x9b,;"
RULES = f"""*filter
:INPUT ACCEPT [0:0]
-A INPUT -m comment --comment "{EVIL}" -j DROP
COMMIT
"""
COMMENTS = "SELECT comment FROM rules WHERE comment IS NOT NULL"
ENDLESS = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n)"


@pytest.fixture(scope="module")
def evil(tmp_path_factory):
    """A recording with a rule whose comment a terminal and a spreadsheet obey."""
    path = tmp_path_factory.mktemp("evil") / "evil.db"
    with Writer.create(path, HandMade().facts) as writer:
        namespace = writer.add_namespace(None, 1)
        writer.add_stream(namespace, "nflog", {})
        writer.add_snapshot(namespace, "iptables-save", 1, "iptables-save", RULES.encode())
        writer.close(2, "test")
    return path


@pytest.mark.parametrize("how", ["--csv", "--json", None])
@pytest.mark.parametrize("name", ["comment", f'comment AS "{EVIL}"'])
def test_texts_of_a_stranger(evil, how, name):
    """No output of a query has anything that a terminal obeys, in a pipe as on a terminal."""
    sql = COMMENTS.replace("comment", name, 1)
    done = iptrec("query", evil, sql, *filter(None, [how]))
    assert done.returncode == 0, done
    assert "HYPERLINK" in done.stdout
    assert all(line.isprintable() for line in done.stdout.splitlines())


def test_csv_is_visible_and_json_exact(evil):
    """The first character of a text stays what it is: most rules begin with a minus."""
    found = list(csv.reader(io.StringIO(iptrec("query", evil, COMMENTS, "--csv").stdout)))
    assert found == [["comment"], [r"=HYPERLINK(1)\x1b]0;PWN\x07\x1b[31m\u202e\x9b,;"]]
    (line,) = iptrec("query", evil, COMMENTS, "--json").stdout.splitlines()
    assert json.loads(line) == {"comment": EVIL}
    assert line.isascii()


def test_exports_keep_the_data(evil, tmp_path):
    """SQLite and Parquet hold the very text."""
    assert iptrec("export", "sqlite", evil, "-o", tmp_path / "t.db").returncode == 0
    assert sqlite3.connect(tmp_path / "t.db").execute(COMMENTS).fetchall() == [(EVIL,)]
    assert iptrec("export", "parquet", evil, "-o", tmp_path / "t").returncode == 0
    table = pyarrow.parquet.read_table(tmp_path / "t" / "rules")
    assert table.column("comment").to_pylist() == [EVIL]


def test_json_has_no_infinity(evil):
    """An infinite number is null: `Infinity` is not JSON."""
    done = iptrec("query", evil, "SELECT 9e999 AS a, -9e999 AS b, 1.5 AS c", "--json")
    assert done.stdout == '{"a": null, "b": null, "c": 1.5}\n'


MEASURED = """
import re, sys
from pathlib import Path
from iptrec.cli import main
try:
    main()
finally:
    print(re.search(r"VmHWM.*", Path("/proc/self/status").read_text())[0], file=sys.stderr)
"""
BOMBS = {
    "one value": "SELECT zeroblob(1000000000)",
    "a long text": "SELECT hex(zeroblob(60000000))",
    "joined": "SELECT group_concat(hex(randomblob(100000))) FROM steps a, steps b",
    "many columns": f"SELECT {', '.join(['hex(zeroblob(20000000))'] * 50)}",
    "many rows": f"{ENDLESS} SELECT i, hex(zeroblob(1000000)) FROM n LIMIT 300",
}


@pytest.mark.parametrize("how", ["--csv", "--json", None])
@pytest.mark.parametrize("case", BOMBS)
def test_memory_is_bounded(case, how):
    """A query that wants too much is refused in one line, or answered row by row."""
    words = ["query", LOOPBACK, BOMBS[case], *filter(None, [how])]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    *errors, peak = done.stderr.splitlines()
    assert int(re.search(r"([0-9]+) kB", peak)[1]) >> 10 < 600
    assert (done.returncode, len(errors)) in ((0, 0), (2, 1)), done.stderr


@pytest.mark.parametrize("what", ["count(*)", "i"])
def test_timeout(what):
    """A query without end is given up, before its first row or after."""
    done = warm.run(
        [sys.executable, "-m", "iptrec", "query", LOOPBACK, f"{ENDLESS} SELECT {what} FROM n",
         "--timeout", "500ms"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "iptrec: the query took longer than 0.5 s; see --timeout\n"


def test_timeout_that_is_not_reached():
    """Changes nothing; what is no time is refused."""
    assert iptrec("query", LOOPBACK, "SELECT 1", "--timeout", "1m").returncode == 0
    done = iptrec("query", LOOPBACK, "SELECT 1", "--timeout", "soon")
    assert (done.returncode, "--timeout 'soon'" in done.stderr) == (2, True)


def cpu_ticks(pid):
    """How long a process has computed, in hundredths of a second."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])


def test_ctrl_c():
    """Ends a query that finds no more rows and does not come to its end, as it ends every command."""
    sql = f"{ENDLESS} SELECT i FROM n WHERE i < 3000"
    with warm.popen(
        [sys.executable, "-m", "iptrec", "query", LOOPBACK, sql, "--csv"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as asked:  # fmt: skip
        assert len(asked.stdout.read(4096)) == 4096  # Python may hold back twice as much
        begun = cpu_ticks(asked.pid)
        while cpu_ticks(asked.pid) < begun + 20:  # the rows behind that take a tick
            assert asked.poll() is None
        asked.send_signal(signal.SIGINT)
        _, said = asked.communicate(timeout=60)
    assert (asked.returncode, said) == (130, b"")


@pytest.mark.parametrize("form", [(), ("--csv",), ("--json",)])
def test_a_text_that_is_no_text(form):
    """Bytes that are not UTF-8 are made visible."""
    done = iptrec("query", LOOPBACK, "SELECT CAST(x'ff41' AS TEXT)", *form)
    assert done.returncode == 0, done.stderr
    assert "xffA" in done.stdout
