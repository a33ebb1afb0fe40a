"""`iptrec lake`: each answer is what `iptrec query` has of the same recordings, put together here."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

import pytest
from command import iptrec
from lakes import SAMPLES, another, put, query, sample

from iptrec.lake.question import questions
from iptrec.recording.reader import Reader
from iptrec.rulesets.table_names import plain

FIELDS = (
    "packet, time_ns, family, proto, src, dst, dport, length, verdict, ambiguous, complete, decided_table,"
    " decided_chain, decided_rule"
)
ENDED = ("DROP", "REJECT")


class Truth:
    """Some recordings as `iptrec query` has them. ``hosts``: the name of each one's host."""

    def __init__(self, paths):
        self.packets, self.rules, self.hit = [], [], set()
        for path in paths:
            with Reader(path) as reader:
                host = reader.facts.host
                name = f"{reader.facts.uuid}-{reader.facts.started_ns}"
            texts = dict(query(path, "SELECT packet, decided_spec FROM drops"))
            texts |= dict(
                query(
                    path,
                    "SELECT packet, spec FROM steps JOIN packets USING (packet)"
                    " JOIN rules ON rules.id = rule_id"
                    " WHERE steps.table_name = decided_table AND steps.chain = decided_chain"
                    " AND steps.rule = decided_rule ORDER BY packet, step",
                )
            )
            for row in query(path, f"SELECT {FIELDS} FROM packets"):
                one = dict(zip(FIELDS.split(", "), row, strict=True))
                policy = one["decided_chain"] and one["decided_rule"] is None
                place = one["decided_table"], one["decided_chain"]
                rule = "policy" if policy else texts.get(one["packet"])
                self.packets.append(
                    one | {"host": host, "recording": name, "place": (*place, rule)}
                )
            for row in query(
                path, "SELECT family, table_name, chain, spec, packets FROM rule_hits"
            ):
                table = plain(row[1])
                content = "inet" if table.startswith("inet ") else row[0], table, *row[2:-1]
                self.rules.append((content, host, name))
                if row[-1]:
                    self.hit.add(content)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A lake of the samples and of other hosts', one of which was told other things, and the truth of it."""
    folder = tmp_path_factory.mktemp("desk")
    paths = [
        *SAMPLES,
        another(sample("kubernetes"), folder / "a.db", host="node/1"),
        another(sample("docker_hairpin"), folder / "b.db", host="node 2", later_ns=5),
        another(sample("both"), folder / "c.db", host="node3", later_ns=7),
    ]
    put(folder / "lake", *paths)
    return folder / "lake", Truth(paths)


def lake(question, path, *words):
    """The rows of an answer, as dictionaries."""
    done = iptrec("lake", question, path, *words, "--json")
    assert (done.returncode, done.stderr) in ((0, ""), (1, "")), done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_drops(desk):
    """By host and rule, with bytes and times."""
    path, truth = desk
    expected = {}
    for one in truth.packets:
        if one["verdict"] in ENDED:
            key = one["host"], one["verdict"], one["family"], *one["place"]
            expected.setdefault(key, []).append(one)
    found = lake("drops", path, "limit=1000")
    names = ("host", "verdict", "family", "table_name", "chain", "rule")
    assert {tuple(one[name] for name in names): one["packets"] for one in found} == {
        key: len(some) for key, some in expected.items()
    }
    assert sum(one["bytes"] for one in found) == sum(
        one["length"] for some in expected.values() for one in some
    )
    for one in found:
        some = [other["time_ns"] for other in expected[tuple(one[name] for name in names)]]
        assert (one["first_ns"], one["last_ns"]) == (min(some), max(some))
    assert len(lake("drops", path, "limit=3")) == 3
    assert {one["host"] for one in found} == {"vm", "node 2", "node3"}


def test_unhit(desk):
    """Of all hosts: one that hit a rule is enough."""
    path, truth = desk
    expected = {}
    for content, host, recording in truth.rules:
        if content not in truth.hit:
            expected.setdefault(content, set()).add((host, recording))
    found = lake("unhit", path, "limit=100000")
    assert {
        (one["family"], one["table_name"], one["chain"], one["rule"]): (
            one["hosts"],
            one["recordings"],
        )
        for one in found
    } == {
        content: (len({host for host, _ in some}), len(some)) for content, some in expected.items()
    }
    assert all(one["unsure"] <= one["recordings"] for one in found)
    assert len(found) > 20


def test_a_rule_of_both_families_is_one(tmp_path):
    """Of an inet table: hit by IPv4 alone it is hit; by neither, it is there once."""
    path = tmp_path / "lake"
    put(path, sample("nftables"))
    inet = [one for one in lake("unhit", path) if one["table_name"] == "inet fw"]
    specs = Counter((one["chain"], one["rule"]) for one in inet)
    assert set(specs.values()) == {1}
    assert {one["family"] for one in inet} == {"inet"}
    hit = query(
        sample("nftables"),
        "SELECT steps.chain, spec, sum(packets.family = 'ipv6') FROM steps JOIN rules ON rules.id = rule_id"
        " JOIN packets USING (packet) WHERE rules.table_name = 'inet fw' GROUP BY 1, 2",
    )
    assert [one for one in hit if one[2] == 0]
    assert [one for one in hit if one[:2] in specs] == []


def test_differing(desk):
    """A flow that one host lets pass and another one drops, with the fates on both."""
    path, truth = desk
    expected = {}
    flow = ("family", "proto", "src", "dst", "dport")
    for one in truth.packets:
        if one["verdict"] != "UNKNOWN" and not one["ambiguous"] and one["src"]:
            expected.setdefault(tuple(one[name] for name in flow), []).append(
                (one["host"], one["verdict"])
            )
    differ = {}
    for key, fates in expected.items():
        sets = {host: {verdict for other, verdict in fates if other == host} for host, _ in fates}
        if len({frozenset(one) for one in sets.values()}) > 1:
            differ[key] = Counter(fates)
    found = {}
    for one in lake("differing", path):
        key = tuple(one[name] for name in flow)
        found.setdefault(key, Counter())[one["host"], one["verdict"]] = one["packets"]
    assert found == differ


def test_differing_by_hand(tmp_path):
    """The same traffic, with a rule on one of two hosts that drops it."""
    # The demo drops on one host what the sample of nf_tables on the other drops as well: no difference.
    path = tmp_path / "lake"
    put(
        path,
        sample("docker_hairpin"),
        another(sample("docker_hairpin_nft"), tmp_path / "x.db", host="y"),
    )
    assert lake("differing", path) == []
    put(path, another(sample("ipv6"), tmp_path / "z.db", host="z"), sample("ipv6"))
    assert lake("differing", path) == []


@pytest.mark.parametrize("times", [1, 2, 1000])
def test_changed(desk, times):
    """Counts before and after, of what is at least so many times as often or as rare."""
    path, truth = desk
    moment = int(datetime(2026, 11, 24, tzinfo=UTC).timestamp()) * 10**9
    before, after = Counter(), Counter()
    for one in truth.packets:
        key = one["verdict"], one["family"], *one["place"]
        (before if one["time_ns"] < moment else after)[key] += 1
    expected = {
        key: (before[key], after[key])
        for key in before | after
        if before[key] * after.total() > times * after[key] * before.total()
        or after[key] * before.total() > times * before[key] * after.total()
    }
    names = ("verdict", "family", "table_name", "chain", "rule")
    for typed in ("2026-11-24T00:00:00Z", str(moment), "2026-11-24T01:00:00+01:00"):
        found = lake("changed", path, f"time={typed}", f"times={times}")
        assert {
            tuple(one[name] for name in names): (one["packets_before"], one["packets_after"])
            for one in found
        } == expected
    assert expected


def test_talkers(desk):
    """By source, over all hosts."""
    path, truth = desk
    sources = {}
    for one in truth.packets:
        if one["verdict"] in ENDED:
            sources.setdefault((one["family"], one["src"]), []).append(one)
    found = lake("talkers", path, "limit=1000")
    assert {
        (one["family"], one["src"]): (one["packets"], one["hosts"], one["destinations"], one["bytes"])
        for one in found
    } == {
        key: (
            len(some), len({one["host"] for one in some}), len({one["dst"] for one in some}),
            sum(one["length"] for one in some),
        )
        for key, some in sources.items()
    }  # fmt: skip
    counts = [one["packets"] for one in found]
    assert counts == sorted(counts, reverse=True)


def test_incomplete(desk):
    """Recordings with packets that are not whole; and a copy that is cut off, with losses."""
    path, truth = desk
    expected = {}
    for name, some in groupby(truth.packets, lambda one: one["recording"]):
        packets = list(some)
        counts = (
            sum(not one["complete"] for one in packets),
            sum(one["ambiguous"] for one in packets),
            sum(one["verdict"] == "UNKNOWN" for one in packets),
        )
        if any(counts):
            expected[name] = counts
    found = lake("incomplete", path)
    assert {
        one["recording"]: (one["incomplete"], one["ambiguous"], one["unknown"]) for one in found
    } == expected
    assert expected


def test_losses_and_copies_of_a_ring(tmp_path):
    """What the kernel lost, and what may be there twice."""
    import shutil
    import sqlite3

    paths = []
    for number in (1, 2):
        paths.append(tmp_path / f"{number}.db")
        shutil.copy(sample("ipsets"), paths[-1])
        with sqlite3.connect(paths[-1]) as connection:
            connection.execute(
                "UPDATE recording SET stop_reason = 'SIGUSR1', stopped_ns = stopped_ns + ?",
                (number,),
            )
            connection.execute(
                "INSERT INTO loss (stream, first_ns, last_ns, events, how)"
                " SELECT min(id), 1, 2, ?, 'sequence' FROM stream WHERE kind = 'nflog'",
                (3 if number == 1 else None,),
            )
        connection.close()
    path = tmp_path / "lake"
    assert iptrec("export", "parquet", f"{path}/", *paths).returncode == 0
    found = lake("incomplete", path)
    assert [(one["lost"], one["uncounted"], one["losses"], one["overlapping"]) for one in found] == [
        (3, 0, 1, 1), (0, 1, 1, 1),
    ]  # fmt: skip


def test_lists_and_texts():
    """Without a question all of them, without a lake the SQL of one."""
    done = iptrec("lake")
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(questions())
    for name, one in questions().items():
        assert iptrec("lake", name).stdout == one.text
        assert one.text.startswith(f"-- {one.about}\n")
        assert {found[1] for found in re.finditer(r"^-- :(\w+) ", one.text, re.MULTILINE)} == {
            found[1] for found in re.finditer(r"(?<!-- ):(\w+)", one.text)
        }


def test_forms(desk, tmp_path):
    """A table with times, comma separated values and JSON with nanoseconds; to a file, which is private."""
    path, _ = desk
    rows = lake("talkers", path)
    table = iptrec("lake", "talkers", path).stdout.splitlines()
    assert table[0].split() == [name.removesuffix("_ns") for name in rows[0]]
    assert re.search(r"2026-11-\d\dT[\d:]{8}\.\d{9}Z$", table[2])
    read = list(csv.DictReader(iptrec("lake", "talkers", path, "--csv").stdout.splitlines()))
    assert [int(one["first_ns"]) for one in read] == [one["first_ns"] for one in rows]
    out = tmp_path / "x.json"
    assert iptrec("lake", "talkers", path, "--json", "-o", out).returncode == 0
    assert [json.loads(line) for line in out.read_text().splitlines()] == rows
    assert out.stat().st_mode & 0o777 == 0o600


def test_no_row_is_status_1(tmp_path):
    """As `iptrec query` has it, also where a table has no file at all."""
    put(tmp_path / "lake", sample("docker_hairpin"))
    assert not (tmp_path / "lake" / "losses").exists()
    done = iptrec("lake", "incomplete", tmp_path / "lake")
    assert (done.returncode, done.stderr) == (1, "")
    done = iptrec("lake", "packet", tmp_path / "lake", "recording=it's", "packet=1")
    assert (done.returncode, done.stderr) == (1, "")


def test_only_what_has_come_in_is_asked(tmp_path):
    """What an interrupted export left has no row in recordings, and is in no answer."""
    path = tmp_path / "lake"
    put(path, sample("docker_hairpin"), sample("loopback"))
    before = lake("drops", path)
    for row in (path / "recordings").rglob("*.parquet"):
        if row.name.startswith("91b8aac3"):
            row.unlink()
    after = lake("drops", path)
    assert len(after) < len(before)
    assert [one for one in after if one["chain"] == "BYE"] == []


ERRORS = {
    "nothing there": (["drops", "{}/nope"], "No such file or directory"),
    "no lake": (["drops", "{}"], "is not a lake"),
    "question": (["nope", "{}/lake"], "no question 'nope'; there are changed, "),
    "parameter": (["drops", "{}/lake", "x=1"], "no parameter 'x'; it has limit"),
    "number": (["drops", "{}/lake", "limit=-1"], "limit='-1': expected a number"),
    "too large": (["drops", "{}/lake", "limit=9223372036854775808"], "expected a number"),
    "time": (["changed", "{}/lake", "time=soon"], "expected a time"),
    "missing": (["changed", "{}/lake"], "needs time=VALUE"),
    "no equals": (["drops", "{}/lake", "limit"], "expected NAME=VALUE"),
    "twice": (["drops", "{}/lake", "limit=1", "limit=2"], "limit is given twice"),
    "engine": (["drops", "{}/lake", "--engine", "x"], "must be one of duckdb"),
    "two forms": (["drops", "{}/lake", "--csv", "--json"], "ask for one"),
    "no parquet": (["drops", "{}/broken"], "broken"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    put(folder / "lake", sample("ipv6"))
    put(folder / "broken", sample("ipv6"))
    next((folder / "broken" / "packets").rglob("*.parquet")).write_bytes(b"no parquet at all")
    return folder


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_one_line(case, place):
    """Status 2, and what is wrong."""
    words, message = ERRORS[case]
    done = iptrec("lake", *(one.replace("{}", str(place)) for one in words))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert message in done.stderr


def test_duckdb_is_optional(place, monkeypatch):
    """Who has it not is told what to install."""
    monkeypatch.setitem(__import__("sys").modules, "duckdb", None)
    done = iptrec("lake", "drops", place / "lake")
    assert (done.returncode, done.stderr) == (
        2, "iptrec: asking a lake needs duckdb: pip install 'iptrec[lake]'\n",
    )  # fmt: skip


def test_nothing_is_left_behind(place):
    """Neither files nor directories, here or in the lake."""
    before = sorted(place.rglob("*")), sorted(Path.cwd().iterdir())
    assert iptrec("lake", "drops", place / "lake").returncode == 0
    assert (sorted(place.rglob("*")), sorted(Path.cwd().iterdir())) == before


def test_directories_above_a_lake_are_no_columns(tmp_path):
    """Nor is their name a pattern."""
    path = tmp_path / "host=x" / "dt=2000-01-01" / "a[b]*{c,d}" / "lake"
    path.parent.mkdir(parents=True)
    put(path, sample("docker_hairpin"))
    assert {one["host"] for one in lake("drops", path)} == {"vm"}
