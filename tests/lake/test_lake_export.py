"""`iptrec export parquet LAKE/`: its rows are those of each recording, its files whole whatever happens."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command import iptrec
from lakes import SAMPLES, another, ask, files, put, query, sample

from iptrec.api import Recording
from iptrec.files import DraftDirectory
from iptrec.lake import directory, tables
from iptrec.lake import files as lake_files
from iptrec.lake.layouts import layouts
from iptrec.recording.reader import Reader
from iptrec.views import days

ROOT = Path(__file__).parents[2]
COLUMNS = {
    "packets": ("packet", "time_ns", "family", "path", "src", "dst", "proto", "sport", "dport", "verdict",
                "decided_table", "decided_chain", "decided_rule", "complete", "reason", "header", "end_ns"),
    "steps": ("packet", "step", "time_ns", "table_name", "chain", "type", "rule", "target", "mark", "changed"),
    "related": ("packet", "kind", "other"),
    "namespaces": ("id", "name", "inode"),
    "losses": ("id", "first_ns", "last_ns", "events", "how", "lost"),
}  # fmt: skip


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    path = tmp_path_factory.mktemp("lake") / "lake"
    put(path, *SAMPLES)
    return path


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_rows_are_those_of_each_recording(path, lake):
    """Every table has what `iptrec query` has of that recording; rules are found by their digests."""
    with Reader(path) as reader:
        name = f"{reader.facts.uuid}-{reader.facts.started_ns}"
    for table, columns in COLUMNS.items():
        if not (lake / table).exists():
            assert query(path, f"SELECT * FROM {table}") == []
            continue
        of = f"{', '.join(columns)} FROM {table}"
        order = "ORDER BY 1, 2, 3"
        assert ask(lake, f"SELECT {of} WHERE recording = '{name}' {order}") == query(
            path, f"SELECT {of} {order}"
        ), table
    rules = "rules.family, {0}.table_name, rules.chain, {0}.rule, spec, comment"
    assert ask(
        lake,
        f"SELECT {rules.format('places')}, untraced FROM places JOIN rules USING (rule_id)"
        f" WHERE recording = '{name}' ORDER BY id",
    ) == query(path, f"SELECT {rules.format('rules')}, untraced FROM rules ORDER BY id")
    assert ask(
        lake,
        "SELECT packet, step, spec FROM steps LEFT JOIN rules USING (rule_id)"
        f" WHERE recording = '{name}' ORDER BY 1, 2",
    ) == query(
        path,
        "SELECT packet, step, spec FROM steps LEFT JOIN rules ON rules.id = rule_id ORDER BY 1, 2",
    )
    assert ask(
        lake,
        "SELECT packet, spec FROM packets LEFT JOIN rules ON rule_id = decided_rule_id"
        f" WHERE verdict IN ('DROP', 'REJECT') AND recording = '{name}' ORDER BY 1",
    ) == query(path, "SELECT packet, decided_spec FROM drops ORDER BY 1")
    ((packets, steps),) = ask(
        lake, f"SELECT packets, steps FROM recordings WHERE recording = '{name}'"
    )
    assert (packets, steps) == (
        query(path, "SELECT count(*) FROM packets")[0][0],
        query(path, "SELECT count(*) FROM steps")[0][0],
    )


def test_flags_of_recordings(lake):
    """What is incomplete is counted as the packets have it."""
    counted = "sum(1 - complete), sum(ambiguous), count(*) FILTER (verdict = 'UNKNOWN')"
    assert ask(
        lake,
        "SELECT recording, incomplete, ambiguous, unknown, first_ns, last_ns FROM recordings ORDER BY 1",
    ) == ask(
        lake,
        f"SELECT recording, {counted}, min(time_ns), max(time_ns) FROM packets GROUP BY 1 ORDER BY 1",
    )


def test_the_same_again_changes_nothing(lake, tmp_path):
    """Not a byte, and no file is written again; --force writes all again, the same bytes."""
    before = files(lake)
    written = {one: (lake / one).stat().st_ino for one in before}
    put(lake, *SAMPLES)
    assert files(lake) == before
    assert {one: (lake / one).stat().st_ino for one in before} == written
    put(lake, "--force", *SAMPLES)
    assert files(lake) == before
    one_by_one = tmp_path / "lake"
    for path in SAMPLES:
        put(one_by_one, path)
    assert files(one_by_one) == before


def cut(path, output):
    """An earlier state of a recording: its last chunk has not come yet, and it is not closed."""
    shutil.copy(path, output)
    with sqlite3.connect(output) as connection:
        connection.execute("DELETE FROM chunk WHERE id = (SELECT max(id) FROM chunk)")
        connection.execute("UPDATE recording SET stopped_ns = NULL, stop_reason = NULL, closed = 0")
    connection.close()
    return output


def test_a_recording_that_grew_replaces_its_own(tmp_path):
    """Nothing of its earlier state stays, and nothing of others goes; the whole one is not replaced by that."""
    whole, other = sample("loopback"), sample("ipv6")
    early = cut(whole, tmp_path / "early.db")
    grown, fresh = tmp_path / "grown", tmp_path / "fresh"
    assert iptrec("export", "parquet", f"{grown}/", early, other, "-q").returncode == 0
    ((before,),) = ask(grown, "SELECT packets FROM recordings WHERE closed = 0")
    put(grown, whole, other)
    put(fresh, other, whole)
    assert before < ask(grown, "SELECT max(packets) FROM recordings")[0][0]
    assert files(grown).keys() - files(fresh).keys() <= {
        one for one in files(grown) if one.startswith("rules/")
    }
    tables_of = [
        {k: v for k, v in files(one).items() if not k.startswith("rules/")}
        for one in (grown, fresh)
    ]
    assert tables_of[0] == tables_of[1]
    done = iptrec("export", "parquet", f"{grown}/", early)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "has that recording with its end" in done.stderr
    assert [{k: v for k, v in files(grown).items() if not k.startswith("rules/")}] == tables_of[:1]


def test_one_that_cannot_be_read_keeps_no_other_out(tmp_path):
    """The others come in, and the exit status and a line each tell of those that did not."""
    half, other = tmp_path / "half.db", tmp_path / "other.db"
    half.write_bytes(sample("both").read_bytes()[:20_000])
    other.write_bytes(b"not a recording")
    done = iptrec(
        "export",
        "parquet",
        f"{tmp_path}/lake/",
        half,
        sample("ipv6"),
        other,
        sample("loopback"),
        "-q",
    )
    assert (done.returncode, done.stderr.splitlines()) == (
        2,
        [
            f"iptrec: recording {half} is damaged: database disk image is malformed",
            f"iptrec: {other} is not an iptrec recording",
        ],
    )
    put(tmp_path / "fresh", sample("ipv6"), sample("loopback"))
    rows = "SELECT recording, packets, steps FROM recordings ORDER BY 1"
    assert ask(tmp_path / "lake", rows) == ask(tmp_path / "fresh", rows)
    half.write_bytes(sample("both").read_bytes())
    put(tmp_path / "lake", half)


def test_two_states_at_once_are_refused(tmp_path):
    """Which of them is meant?"""
    early = cut(sample("loopback"), tmp_path / "early.db")
    done = iptrec("export", "parquet", f"{tmp_path}/lake/", early, sample("loopback"), "-q")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "states of one recording" in done.stderr


@pytest.mark.parametrize("after", range(8))
def test_interrupted_anywhere(after, tmp_path, monkeypatch):
    """However many files had their names: the recording is there whole or not at all; the next run ends it."""
    whole = sample("nftables")
    fresh = tmp_path / "fresh"
    put(fresh, whole)
    lake = tmp_path / "lake"
    early = cut(whole, tmp_path / "early.db")
    assert iptrec("export", "parquet", f"{lake}/", early, sample("ipv6"), "-q").returncode == 0
    moves = iter(range(100))

    def rename(self, target, real=Path.rename):
        if next(moves) == after:
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    # As a killed one leaves it: nothing is unwound.
    monkeypatch.setattr(DraftDirectory, "_remove_temporary", lambda _: None)
    interrupted = False
    with directory.Lake(lake) as into, Reader(whole) as reader:
        try:
            into.add(reader, Recording(reader).packets().columns(), "x")
        except KeyboardInterrupt:
            interrupted = True
    monkeypatch.undo()
    came = ask(lake, "SELECT closed FROM recordings WHERE packets = 9") == [(1,)]
    assert came == (not interrupted)
    put(lake, whole, sample("ipv6"))
    assert not list(lake.glob(".iptrec-*"))
    own = [one for one in files(fresh) if not one.startswith("rules/")]
    assert {one: files(lake)[one] for one in own} == {one: files(fresh)[one] for one in own}
    assert ask(lake, "SELECT count(*) FROM packets") == ask(
        lake, "SELECT sum(packets) FROM recordings"
    )


def test_what_nobody_vouches_for_goes(tmp_path):
    """Files of a recording whose row never came."""
    lake = tmp_path / "lake"
    put(lake, sample("ipv6"), sample("loopback"))
    row = next((lake / "recordings").rglob("*.parquet"))
    name = row.name.rpartition("-")[0]
    row.unlink()
    left = [one for one in files(lake) if name in one]
    put(
        lake,
        *[
            one
            for one in (sample("ipv6"), sample("loopback"))
            if Reader(one).facts.uuid not in name
        ],
    )
    assert left
    assert [one for one in files(lake) if name in one] == []


def test_rules_are_there_once(tmp_path):
    """Ten hosts with the same rules have each of them in one row; each has its own places."""
    source = sample("kubernetes")
    lake = tmp_path / "lake"
    hosts = [
        another(source, tmp_path / f"{n}.db", host=f"node{n}", later_ns=n) for n in range(1, 11)
    ]
    put(lake, source, *hosts)
    ((rows, distinct),) = ask(lake, "SELECT count(*), count(DISTINCT rule_id) FROM rules")
    assert rows == distinct > 10
    assert ask(lake, "SELECT DISTINCT count(*) FROM places GROUP BY host") == query(
        source, "SELECT count(*) FROM rules"
    )


def test_a_rule_is_the_same_whatever_was_recorded_beside_it(tmp_path):
    """Of both backends "legacy filter", of one alone "filter": one row, which has the plain name."""
    put(tmp_path / "lake", sample("both"))
    found = ask(tmp_path / "lake", "SELECT rule_id, family, table_name, chain, spec FROM rules")
    assert "filter" in {table for _, _, table, _, _ in found}
    for rule_id, *content in found:
        assert not content[1].startswith(("legacy ", "nft "))
        assert rule_id == hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
    names = ask(tmp_path / "lake", "SELECT DISTINCT table_name FROM places")
    assert ("legacy filter",) in names


HOSTS = [
    "",
    ".",
    "..",
    "a/b",
    "../../x",
    "a=b",
    "name with\nline",
    "ü" * 200,
    "%2F",
    "UPPER",
    "'; DROP",
    "été",
    "aa" + "ü" * 200,
    "__HIVE_DEFAULT_PARTITION__",
]


@pytest.mark.parametrize("host", HOSTS, ids=ascii)
def test_names_of_strangers(host, tmp_path):
    """A host may be called anything: it is one directory in the lake, and reads as it was."""
    recording = another(sample("loopback"), tmp_path / "x.db", host=host)
    lake = tmp_path / "in" / "lake"
    lake.parent.mkdir()
    put(lake, recording)
    assert [one.name for one in lake.parent.iterdir()] == ["lake"]
    assert {one.parts[:1] for one in map(Path, files(lake))} <= {(name,) for name in tables.NAMED}
    assert {len(Path(one).parts) for one in files(lake) if "host=" in one} == {4}
    ((found, hostname),) = ask(lake, "SELECT DISTINCT host, hostname FROM recordings")
    assert hostname == host
    assert found == (host or "unknown") or (len(host) > 100 and host.startswith(found))


def test_files_for_engines(lake):
    """zstd, statistics, sorted by time, each column described; times are UTC timestamps to the nanosecond."""
    for path in lake.rglob("*.parquet"):
        file = pq.ParquetFile(path)
        table = tables.NAMED[path.relative_to(lake).parts[0]]
        for field in file.schema_arrow:
            assert field.metadata[b"description"]
        assert not any(pa.types.is_dictionary(one.type) for one in file.schema_arrow)
        group = file.metadata.row_group(0)
        assert {group.column(one).compression for one in range(group.num_columns)} == {"ZSTD"}
        if "time_ns" not in table.places:
            continue
        assert file.schema_arrow.field("time").type == pa.timestamp("ns", "UTC")
        at = table.places["time_ns"]
        assert [one.column_index for one in group.sorting_columns] == [at]
        time_ns = file.read(["time_ns"]).column(0).to_numpy()
        assert (np.diff(time_ns) >= 0).all()
        statistics = group.column(at).statistics
        assert (statistics.min, statistics.max) == (time_ns.min(), time_ns.max())
        assert file.read(["time"]).column(0).cast(pa.int64()).to_pylist() == time_ns.tolist()


def nothing(kind, count):
    """A column of zeros, or of empty texts."""
    if pa.types.is_dictionary(kind):
        return pa.array([""] * count).dictionary_encode()
    return pa.array([""] * count) if pa.types.is_string(kind) else pa.array([0] * count, kind)


@pytest.mark.parametrize("order", ["forward", "back", "mixed", "days"])
def test_sorted_whatever_comes(order, tmp_path, monkeypatch):
    """Many small row groups: each file is sorted, no row is lost, and a day has its own files."""
    monkeypatch.setattr(lake_files, "_GROUP", 64)
    monkeypatch.setattr(lake_files, "_FILE", 256)
    monkeypatch.setattr(lake_files, "_MOST_WAITING", 3)
    number = np.arange(2000)
    time_ns = 10**18 + {
        "forward": number, "back": -number, "mixed": number * 7919 % 2000,
        "days": number * 7 % 40 * days.DAY_NS,
    }[order]  # fmt: skip
    schema = tables.schema(tables.NAMED["packets"], coded=True)
    with DraftDirectory(tmp_path / "out") as draft:
        with lake_files.Files(draft, "name", "host", "2026-01-01", layouts(None)) as made:
            for at in range(0, 2000, 50):
                known = {"packet": number[at : at + 50], "time_ns": time_ns[at : at + 50]}
                columns = [
                    pa.array(known[one.name]) if one.name in known else nothing(one.type, 50)
                    for one in schema
                ]
                made.fill([("packets", pa.RecordBatch.from_arrays(columns, schema=schema))])
        found = []
        for path in made.written:
            table = pq.ParquetFile(draft.path / path).read(["packet", "time_ns"])
            assert (np.diff(table.column("time_ns").to_numpy()) >= 0).all()
            assert {days.day(one) for one in table.column("time_ns").to_pylist()} == {
                re.search("dt=([^/]*)", path)[1]
            }
            found += table.column("packet").to_pylist()
    assert sorted(found) == number.tolist()
    assert len(made.written) == len(set(made.written))
    if order == "forward":
        assert len(made.written) < 10


def test_refusals(tmp_path):
    """One line, status 2, and nothing is made or changed."""
    lake = tmp_path / "lake"
    put(lake, sample("ipv6"))
    home = tmp_path / "home"
    home.mkdir()
    (home / "letter.txt").write_text("mine")
    single = tmp_path / "single"
    assert iptrec("export", "parquet", sample("ipv6"), "-o", single).returncode == 0
    bad = tmp_path / "bad.db"
    bad.write_text("x")
    before = files(tmp_path)
    for words, message in (
        ((f"{lake}/",), "no recording is named"),
        ((f"{lake}/", bad), "not an iptrec recording"),
        ((f"{lake}/", tmp_path / "nope.db"), "cannot open"),
        ((f"{lake}/", sample("ipv6"), "--verdict", "DROP"), "takes recordings whole"),
        ((home, sample("ipv6")), "holds letter.txt, which is not of a lake"),
        ((f"{single}/", sample("ipv6")), "made of one recording"),
        ((sample("ipv6"),), "takes -o DIR for one recording"),
        ((f"{tmp_path}/nope/lake/", sample("ipv6")), "No such file or directory"),
    ):
        done = iptrec("export", "parquet", *words)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), words
        assert message in done.stderr
        assert files(tmp_path) == before


def test_another_format_is_refused(tmp_path, monkeypatch):
    """Neither written into nor asked; what has no format at all, neither."""
    lake = tmp_path / "lake"
    with monkeypatch.context() as patch:
        patch.setattr(tables, "FORMAT", 2)
        put(lake, sample("ipv6"))
    row = next((lake / "recordings").rglob("*.parquet"))
    for found in (2, None):
        before = files(lake)
        for words in (
            ("export", "parquet", f"{lake}/", sample("loopback")),
            ("lake", "incomplete", lake),
        ):
            done = iptrec(*words)
            assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
            assert f"{lake} is a lake of format {found}" in done.stderr or found is None
        assert files(lake) == before
        pq.write_table(pa.table({"x": [1]}), row)


def test_one_at_a_time(tmp_path):
    """Two exports would not see each other's rules."""
    lake = tmp_path / "lake"
    put(lake, sample("ipv6"))
    with directory.alone(lake):
        done = iptrec("export", "parquet", f"{lake}/", sample("loopback"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "another iptrec export is at work there" in done.stderr
    put(lake, sample("loopback"))


def test_modes(tmp_path):
    """Private, or as --mode says."""
    for words, folder, file in (((), 0o700, 0o600), (("--mode", "640"), 0o750, 0o640)):
        lake = tmp_path / f"lake{file}"
        put(lake, *words, sample("ipv6"))
        for one in [lake, *lake.rglob("*")]:
            assert one.stat().st_mode & 0o777 == (folder if one.is_dir() else file), one


def test_tables_are_described(request):
    """schemas/lake-v1.md has them."""
    page = ROOT / "schemas" / "lake-v1.md"
    if request.config.getoption("--update-golden"):
        page.write_text(tables.described())
    assert page.read_text() == tables.described()


def test_copies_of_a_ring_are_recordings_of_their_own():
    """They have the recorder's uuid and begin, and other packets."""
    from dataclasses import replace

    from iptrec.lake.rows import name

    with Reader(sample("ipv6")) as reader:
        facts = reader.facts
    copies = [replace(facts, stop_reason="SIGUSR1", stopped_ns=one) for one in (1, 2)]
    assert len({name(one) for one in [facts, *copies]}) == 3
