"""Several recordings at once: what is told of each is what is told of it alone, and whose it is."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import duckdb
import pytest
from command import iptrec
from validation import validator

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "samples"
LOOPBACK, BOTH, NFT = (SAMPLES / f"{name}.db" for name in ("loopback", "both", "nftables"))
# In the order of their packets: by the name of the host, then by when they began.
TWO = {
    "legacy and both": (LOOPBACK, BOTH),
    "nf_tables and legacy": (NFT, SAMPLES / "docker_hairpin.db"),
    "kubernetes and IPv6": (SAMPLES / "kubernetes.db", SAMPLES / "ipv6.db"),
}


def told(command, *words):
    return [json.loads(line) for line in iptrec(command, "--json", *words).stdout.splitlines()]


def numbered(value, more):
    """Values of JSON with their packets' numbers, and those of related ones, so much higher."""
    related = [{**one, "packet": one["packet"] + more} for one in value["related"]]
    value = json.loads(same_numbers(json.dumps(value), more))
    return {**value, "packet": value["packet"] + more, "related": related}


def same_numbers(text, more):
    """The texts that name packets by their numbers, in JSON."""
    return re.sub(r"\(#(\d+)\)", lambda found: f"(#{int(found[1]) + more})", text)


def in_order(*recordings):
    """They, in the order of their packets, by what `info` tells of them together."""
    found = json.loads(iptrec("info", "--json", *recordings).stdout)["hosts"]
    by_name = {one.name: one for one in recordings}
    return [by_name[one["file"]] for one in found]


def without_host(value):
    return {name: one for name, one in value.items() if name != "host"}


@pytest.mark.parametrize("case", TWO)
def test_show_has_what_it_has_of_each(case):
    """The same verdicts, steps, and all else; the numbers go on; the order of the files does not matter."""
    together = told("show", *TWO[case])
    assert iptrec("show", *TWO[case]).stdout == iptrec("show", *reversed(TWO[case])).stdout
    wanted, hosts = [], []
    for one in in_order(*TWO[case]):
        alone = told("show", one)
        wanted += [numbered(each, len(wanted)) for each in alone]
        hosts.append(len(alone))
    assert [without_host(one) for one in together] == wanted
    names = [one["host"] for one in together]
    assert len(set(names[: hosts[0]])) == len(set(names[hosts[0] :])) == 1
    schema = validator("show")
    for one in together:
        schema.validate(one)


@pytest.mark.parametrize("case", TWO)
def test_why_has_what_it_has_of_each(case):
    wanted = []
    for one in in_order(*TWO[case]):
        alone = told("why", one)
        more = len(wanted)
        for each in alone:
            packet = numbered(each["packet"], more)
            decision = each["decision"].replace(
                f"Packet #{each['packet']['packet']} ", f"Packet #{packet['packet']} "
            )
            wanted.append({**each, "decision": decision, "packet": packet})
    found = told("why", *TWO[case])
    assert [{**one, "packet": without_host(one["packet"])} for one in found] == wanted
    validator("why").validate(found[0])


@pytest.mark.parametrize("case", TWO)
def test_rules_have_what_they_have_of_each(case):
    wanted, more = [], 0
    for recording in in_order(*TWO[case]):
        for one in told("rules", recording):
            for each in (one["end"], one["unsure"], *one["rules"]):
                each["example"] = each["example"] and each["example"] + more
            wanted.append(one)
        more += len(told("show", recording))
    found = told("rules", *TWO[case])
    assert [without_host(one) for one in found] == wanted
    for one in found:
        validator("rules").validate(one)


def test_equal_rules_of_two_hosts_are_counted_apart(tmp_path):
    """The same file under another name: each host's packets hit its own rules."""
    copy = tmp_path / "copy.db"
    shutil.copy(LOOPBACK, copy)
    change(copy, "UPDATE recording SET host = 'zoo'")
    alone = [[rule["packets"] for rule in one["rules"]] for one in told("rules", LOOPBACK)]
    found = told("rules", LOOPBACK, copy)
    assert [[rule["packets"] for rule in one["rules"]] for one in found] == alone * 2
    assert [one["host"] for one in found] == ["vm"] * len(alone) + ["zoo"] * len(alone)
    paths = told("paths", LOOPBACK, copy)
    assert len(paths) == 2 * len(told("paths", LOOPBACK))


EVENTS = "SELECT 1, id, 5, 6, 7, 'sequence' FROM stream WHERE kind = 'nflog'"


def change(path, *statements):
    with sqlite3.connect(path) as raw:
        for one in statements:
            raw.execute(one)
    raw.close()


@pytest.mark.parametrize("case", TWO)
def test_paths_are_those_of_each(case):
    def what(one, more=0):
        left = {"path", "host", "example"}
        one = json.loads(same_numbers(json.dumps(one), more))
        told = {name: value for name, value in one.items() if name not in left}
        return told, one["example"] + more

    wanted, more = [], 0
    for recording in in_order(*TWO[case]):
        wanted += [what(one, more) for one in told("paths", "--sort", "first", recording)]
        more += len(told("show", recording))
    found = told("paths", "--sort", "first", *TWO[case])
    assert [what(one) for one in found] == wanted
    assert [one["path"] for one in found] == list(range(1, len(found) + 1))
    validator("paths").validate(found[0])


def test_text_names_the_host():
    shown = iptrec("show", LOOPBACK, BOTH, "--brief").stdout
    lines = [one for one in shown.splitlines() if "#" in one]
    assert all(re.search(r" host=vm\((loopback|both)\.db\) ", one) for one in lines)
    assert ": ipv4 host=vm(both.db) ACCEPT" in iptrec("paths", LOOPBACK, BOTH).stdout
    assert "*filter (ipv4) host=vm(loopback.db)\n" in iptrec("rules", LOOPBACK, BOTH).stdout
    assert " host=vm(loopback.db) " in iptrec("why", LOOPBACK, BOTH, "--packet", "1").stdout
    assert "host=" not in iptrec("show", LOOPBACK, "--brief").stdout


def test_info_tells_of_each():
    found = json.loads(iptrec("info", "--json", LOOPBACK, BOTH).stdout)
    validator("info-hosts").validate(found)
    for one, path in zip(found["hosts"], in_order(LOOPBACK, BOTH), strict=True):
        alone = json.loads(iptrec("info", "--json", path).stdout)
        same = (
            "recording",
            "events",
            "packets",
            "complete",
            "verdicts",
            "talkers",
            "rules",
            "lost",
        )
        assert [one[name] for name in same] == [alone[name] for name in same]
    text = iptrec("info", LOOPBACK, BOTH).stdout
    assert re.findall("^## .*", text, re.MULTILINE) == [
        "## vm(loopback.db): loopback.db",
        "## vm(both.db): both.db",
        "## clocks",
    ]
    assert text.splitlines()[-1] == "not compared: they were not recorded at the same time"


def test_a_selection_of_all():
    done = iptrec("info", LOOPBACK, BOTH, "--verdict", "REJECT")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.findall(r"selected: +(\d+)", done.stdout) == ["0", "1"]
    assert iptrec("info", LOOPBACK, BOTH, "port 4242").returncode == 1


def test_netns_is_a_host():
    found = told("show", LOOPBACK, BOTH, "--netns", "vm(both.db)")
    assert {one["host"] for one in found} == {"vm(both.db)"}
    assert len(found) == len(told("show", BOTH))
    done = iptrec("show", LOOPBACK, BOTH, "--netns", "nowhere")
    assert (done.returncode, done.stdout) == (1, "")
    assert "nowhere was not recorded, but vm(both.db), vm(loopback.db)" in done.stderr


def test_a_packet_by_its_number():
    (found,) = told("show", LOOPBACK, BOTH, "--packet", "20")
    assert found == told("show", LOOPBACK, BOTH)[19]


def test_sql_has_the_host():
    ask = "SELECT host, file, count(*) FROM packets JOIN hosts USING (namespace) GROUP BY 1, 2 ORDER BY 2"
    rows = list(csv.reader(io.StringIO(iptrec("query", LOOPBACK, BOTH, ask, "--csv").stdout)))
    assert rows[1:] == [
        ["vm(both.db)", "both.db", str(len(told("show", BOTH)))],
        ["vm(loopback.db)", "loopback.db", str(len(told("show", LOOPBACK)))],
    ]
    assert iptrec("query", LOOPBACK, "SELECT * FROM hosts").returncode == 1


def test_every_rule_of_sql_is_of_its_host():
    """Rules that were hit are those of `rules`, whatever another host has."""
    ask = "SELECT count(*) FROM steps WHERE rule_id IS NOT NULL"
    counts = [int(iptrec("query", *some, ask, "--csv").stdout.split()[1]) for some in
              ([LOOPBACK], [BOTH], [LOOPBACK, BOTH])]  # fmt: skip
    assert counts[0] + counts[1] == counts[2]


def test_exports(tmp_path):
    names = [tmp_path / name for name in ("x.ndjson", "x.pcapng", "x.sqlite", "x.parquet")]
    for kind, path in zip(("ndjson", "pcapng", "sqlite", "parquet"), names, strict=True):
        done = iptrec("export", kind, LOOPBACK, BOTH, "-o", path)
        assert (done.returncode, done.stderr) == (0, "")
    assert names[0].read_text() == iptrec("show", "--json", LOOPBACK, BOTH).stdout
    assert b"vm(both.db):" in names[1].read_bytes()
    assert b"host vm(loopback.db)" in names[1].read_bytes()
    with sqlite3.connect(names[2]) as made:
        assert made.execute("PRAGMA foreign_key_check").fetchall() == []
        assert made.execute("SELECT count(*) FROM recording").fetchone() == (2,)
    made.close()
    asked = f"SELECT host, count(*) FROM '{names[3]}/packets/**/*.parquet' GROUP BY 1 ORDER BY 1"
    sizes = [len(told("show", one)) for one in (BOTH, LOOPBACK)]
    assert duckdb.sql(asked).fetchall() == [
        ("vm(both.db)", sizes[0]),
        ("vm(loopback.db)", sizes[1]),
    ]


def test_check_and_report(tmp_path):
    asked = tmp_path / "asked.toml"
    asked.write_text('[[expect]]\nfilter = "udp"\nmin = 1\n')
    assert "udp" in iptrec("show", LOOPBACK, BOTH, "udp").stdout
    found = told("check", LOOPBACK, BOTH, asked)
    each = [told("check", one, asked)[0]["packets"] for one in (LOOPBACK, BOTH)]
    assert found[0]["packets"] == sum(each)
    page = tmp_path / "page.html"
    done = iptrec("report", LOOPBACK, BOTH, "-o", page)
    assert (done.returncode, done.stderr) == (0, "")
    assert "vm(loopback.db): filter" in page.read_text()


REFUSED = {
    "a file that is not there": (["show", LOOPBACK, "nope.db", "tcp"], "cannot open nope.db: there is"),
    "compressed": (["show", LOOPBACK, "nope.db.gz"], "cannot open nope.db.gz: there is no such file"),
    "a missing gz": (["show", LOOPBACK, "missing.gz"], "cannot open missing.gz: there is no such file"),
    "a missing zst": (["show", LOOPBACK, "missing.zst"], "cannot open missing.zst: there is no such file"),
    "a missing zip": (["show", LOOPBACK, "missing.zip", "udp"], "cannot open missing.zip: there is no such"),
    "no match first": (["show", "nothing*.db"], "no file matches 'nothing*.db'"),
    "no match first, query": (["query", "nothing*.db", "SELECT 1"], "no file matches 'nothing*.db'"),
    "no recording matches": (["show", LOOPBACK, "othe*.db"], "no recording matches 'othe*.db'"),
    "no match": (["paths", LOOPBACK, "nope*.db"], "no file matches 'nope*.db'"),
    "something else": (["info", LOOPBACK, "other.db"], "other.db is not an iptrec recording"),
    "after the filter": (["rules", LOOPBACK, "tcp", str(BOTH)], f"{BOTH} is a recording: recordings"),
    "twice": (["show", LOOPBACK, LOOPBACK], f"{LOOPBACK} is given twice; give each recording once"),
    "a link to it": (["show", LOOPBACK, "link.db"], f"link.db is given as {LOOPBACK}"),
    "query": (["query", LOOPBACK, "nope.db", "SELECT 1"], "cannot open nope.db: there is no such file"),
    "query in words": (["query", LOOPBACK, "SELECT", "1"], "SELECT is not an iptrec recording; put"),
    "check": (["check", LOOPBACK, "nope", "x.toml"], "nope is not an iptrec recording; one file of"),
    "follow": (["show", "--follow", LOOPBACK, BOTH], "--follow waits for more of one recording; give one"),
    "the output": (["show", LOOPBACK, "mine.db", "-o", "mine.db"], "--output mine.db is the recording itself"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("other.db").write_text("no recording")
    Path("link.db").symlink_to(LOOPBACK)
    shutil.copy(BOTH, "mine.db")
    words, message = REFUSED[case]
    done = iptrec(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"iptrec: {message}")
    assert done.stderr.count("\n") == 1


def test_patterns_and_compressed_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.db.gz").write_bytes(gzip.compress(LOOPBACK.read_bytes()))
    shutil.copy(BOTH, "b.db")
    Path("b.txt").write_text("no recording")
    count = len(told("show", LOOPBACK)) + len(told("show", BOTH))
    assert len(told("show", "a.db.gz", "b.db")) == count
    assert len(told("show", "*.db*")) == count
    assert len(told("show", "b.db", "*.gz", "udp or icmp")) == len(
        told("show", "a.db.gz", "b.db", "udp", "or", "icmp")
    )
    Path("a.db.gz").unlink()
    assert "host" not in told("show", "*.db")[0]  # one is read as one


def test_files_and_words_of_a_filter(tmp_path, monkeypatch):
    """A word is a recording only if such a file is there; else it is of the filter, as ever."""
    monkeypatch.chdir(tmp_path)
    for words in ("udp", "ip[0] & 15 != 5 or udp", "net 127.0.0.0/8"):
        assert told("show", LOOPBACK, words) == told("show", LOOPBACK, *words.split())


def test_copies_are_told(tmp_path):
    shutil.copy(LOOPBACK, tmp_path / "copy.db")
    done = iptrec("show", LOOPBACK, tmp_path / "copy.db")
    assert done.returncode == 0
    assert done.stderr == (
        "iptrec: copy.db and loopback.db are copies of one recording: packets that both have are there twice\n"
    )
    assert (
        iptrec("export", "parquet", LOOPBACK, tmp_path / "copy.db", "-o", tmp_path / "x").returncode
        == 2
    )


def test_files_of_rotation_are_no_copies(tmp_path):
    """They are of one recorder, but begin one after the other, and no packet is in two of them."""
    shutil.copy(LOOPBACK, tmp_path / "next.db")
    with closing(sqlite3.connect(tmp_path / "next.db")) as recording, recording:
        recording.execute("UPDATE recording SET started_ns = started_ns + 1")
    done = iptrec("show", LOOPBACK, tmp_path / "next.db")
    assert (done.returncode, done.stderr) == (0, "")
    out = "-o", tmp_path / "out"
    done = iptrec("export", "parquet", LOOPBACK, tmp_path / "next.db", *out)
    assert done.returncode == 0, done.stderr


def test_flaws_are_told_by_file(tmp_path):
    cut = tmp_path / "cut.db"
    shutil.copy(BOTH, cut)
    change(cut, "UPDATE recording SET closed = 0, stopped_ns = NULL, stop_reason = NULL")
    change(cut, "DELETE FROM loss", f"INSERT INTO loss {EVENTS}")
    done = iptrec("show", LOOPBACK, cut)
    assert "cut.db: 7 events lost; see iptrec info; cut.db: cut off" in done.stderr
    assert "loopback.db:" not in done.stderr
    (line,) = [one for one in done.stdout.splitlines() if "7 events lost" in one]
    assert line.endswith(", host=vm(cut.db) --")
    lines = done.stdout.splitlines()
    of = [re.search(r"host=(\S+?)[ ,]", one)[1] for one in lines if " host=" in one]
    assert of == sorted(of, key=of.index)  # among the packets of its host, not of another one's
    page = tmp_path / "page.html"
    iptrec("report", LOOPBACK, cut, "-o", page)
    assert "vm(cut.db): 7 between" in page.read_text()


def test_each_is_recorded_by_its_own_interfaces(tmp_path):
    """What a host's --iface leaves out is left out of its packets alone."""
    only = tmp_path / "only.db"
    shutil.copy(NFT, only)
    change(
        only,
        "UPDATE recording SET interfaces = '[\"to-b\"]'",
        "UPDATE stream SET detail = json_set(detail, '$.all_incoming', json('true'))",
    )
    alone = len(told("show", only))
    assert 0 < alone < len(told("show", NFT))
    assert len(told("show", LOOPBACK, only)) == len(told("show", LOOPBACK)) + alone
    assert len(told("show", LOOPBACK, only, "--iface", "any")) == len(told("show", LOOPBACK)) + len(
        told("show", NFT)
    )


def test_an_issue_names_each():
    shown = iptrec("why", LOOPBACK, BOTH, "--verdict", "DROP", "--markdown").stdout
    assert re.findall("^#### .*", shown, re.MULTILINE) == [
        "#### `vm(loopback.db)`",
        "#### `vm(both.db)`",
    ]
    assert shown.count("- iptrec: ") == 2


def test_orphans_name_the_host():
    done = iptrec("show", "--orphans", LOOPBACK, BOTH)
    each = [iptrec("show", "--orphans", one).stdout.splitlines() for one in (LOOPBACK, BOTH)]
    assert len(done.stdout.splitlines()) == sum(map(len, each))


@pytest.mark.parametrize("words", [["show"], ["info"], ["paths"], ["rules"], ["show", "udp"]])
def test_chunks_of_no_stream_are_damage(words, tmp_path):
    """Whoever reads stream by stream would not come across them; alone, and beside others."""
    path = tmp_path / "damaged.db"
    shutil.copy(LOOPBACK, path)
    change(path, "UPDATE chunk SET stream = 12345 WHERE id = (SELECT max(id) FROM chunk)")
    for files in ([path], [path, BOTH]):
        done = iptrec(words[0], *files, *words[1:])
        assert (done.returncode, done.stdout) == (2, "")
        assert "belongs to a stream 12345 that is not there" in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_host_may_be_called_as_a_file():
    """A word of a filter that names a host is no recording."""
    done = iptrec("show", LOOPBACK, "host", "missing.zip")
    assert "there is no such file" not in done.stderr
