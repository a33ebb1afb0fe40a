"""The public Python API: what docs/api.md promises to who imports iptrec."""

from __future__ import annotations

import contextlib
import gc
import gzip
import io
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from handmade import HandMade, datagram, udp

import iptrec
from iptrec.cli import app
from iptrec.recording.reader import Reader
from iptrec.recording.rows import Loss
from iptrec.recording.writer import Writer
from iptrec.views import packet_json

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "samples"
DOCKER, LOOPBACK, BOTH = (
    SAMPLES / f"{name}.db" for name in ("docker_hairpin", "loopback", "nftables")
)
DOCS = (ROOT / "docs" / "api.md").read_text()
RECORD = DOCS.partition("\n## Record")[2].partition("\n## ")[0]


def examples(text):
    """The programs in a text: what is indented."""
    found = re.findall(r"(?:^    .*\n(?:\n(?=    ))?)+", text, re.MULTILINE)
    return [textwrap.dedent(one) for one in found]


def example():
    """The one that docs/api.md begins with."""
    return examples(DOCS)[0]


def documented():
    """Those of docs/api.md, one after the other, but for `iptrec.record`: tests/live/test_api_record.py."""
    before, _, after = DOCS.partition("\n## Record")
    return [*examples(before), *examples(after.partition("\n## ")[2])]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory with trace.db in it, to be in."""
    shutil.copy(DOCKER, tmp_path / "trace.db")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("place")
def test_the_first_example(capsys):
    """It runs, and says what the sample is known for."""
    exec(compile(example(), "docs/api.md", "exec"), {})  # noqa: S102
    said = capsys.readouterr().out
    assert "1 172.22.0.2 dropped by filter/DOCKER-ISOLATION-STAGE-2 rule 1" in said
    assert "[(1, '-i hairpin-8-1 (it is hairpin-8-2)')]" in said
    assert "('172.22.0.2', 1)" in said


@pytest.mark.usefixtures("place")
def test_the_examples_of_the_documentation(capsys):
    """They run, one after the other, and say what is in the sample."""
    pytest.importorskip("pyarrow")
    names = {}
    programs = documented()
    assert len(programs) > 5
    for program in programs:
        exec(compile(program, "docs/api.md", "exec"), names)  # noqa: S102
    said = capsys.readouterr().out
    assert "<iptrec.Recording 'trace.db'>" in said
    assert "1 DROP 1\n('src', 'packets') [('172.22.0.2', 1)]" in said
    assert "1 172.22.0.2 DROP RulePlace(" in said
    assert "verdict='DROPPED': must be one of ACCEPT, DROP, " in said
    names["recording"].close()


@pytest.mark.parametrize("programs", ["the first", "all"])
def test_the_examples_are_typed(place, programs):
    """A strict mypy has no word to say of them."""
    text = example() if programs == "the first" else "".join([*documented(), *examples(RECORD)])
    (place / "example.py").write_text(text)
    told = [
        f"--config-file={ROOT}/pyproject.toml",
        f"--cache-dir={ROOT}/.mypy_cache",
    ]  # of make lint
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *told, "example.py"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


def test_importing_costs_nothing():
    """`import iptrec` loads itself alone; the public names are there all the same."""
    code = (
        "import sys\nbefore = set(sys.modules)\nimport iptrec\n"
        "print(*sorted(set(sys.modules) - before))\nprint(set(iptrec.__all__) <= set(dir(iptrec)))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    loaded, listed = done.stdout.splitlines()
    assert loaded == "iptrec"
    assert listed == "True"


@pytest.mark.parametrize("name", iptrec.__all__)
def test_public_names(name):
    """Each is there, says what it is, and is documented, with its public methods."""
    found = getattr(iptrec, name)
    assert found.__doc__
    assert re.search(rf"`(?:iptrec\.)?{name}\b", DOCS)
    for method in (
        vars(found) if isinstance(found, type) and found.__module__ == "iptrec.api" else ()
    ):
        if not method.startswith("_") and method not in ("columns", "ticks", "require_open"):
            assert re.search(rf"`(?:\w+\.)?{method}\b", DOCS), method


def test_no_other_names():
    """A name that is not there is an AttributeError, as everywhere."""
    with pytest.raises(AttributeError, match="'iptrec' has no attribute 'opne'"):
        iptrec.opne  # noqa: B018


@pytest.fixture
def docker():
    with iptrec.open(DOCKER) as recording:
        yield recording


@pytest.fixture
def loopback():
    with iptrec.open(LOOPBACK) as recording:
        yield recording


def numbers(recording, *words, **conditions):
    return [one.number for one in recording.packets(*words, **conditions)]


def printed(*arguments):
    """What the command line prints, in this process."""
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()),
    ):
        app([*map(str, arguments)], standalone_mode=False)
    return out.getvalue()


def shown(path, *options):
    """The numbers of the packets that `iptrec show` has."""
    lines = printed("show", path, *options)
    return [int(one) for one in re.findall(r"^#([0-9]+)", lines, re.MULTILINE)]


START = datetime(2026, 11, 23, tzinfo=UTC)
CONDITIONS = {
    "verdict": ({"verdict": "drop"}, ["--verdict", "DROP"]),
    "verdicts": ({"verdict": {"DROP", "accept"}}, ["--verdict", "DROP,ACCEPT"]),
    "chain": ({"chain": ("filter", "FORWARD")}, ["--chain", "filter/FORWARD"]),
    "chains": (
        {"chain": [("filter", "OUTPUT"), ("nat", "OUTPUT")]},
        ["--chain", "filter/OUTPUT,nat/OUTPUT"],
    ),
    "rule": ({"rule": ("nat", "DOCKER", 1)}, ["--rule", "nat/DOCKER/1"]),
    "rules": ({"rule": (("nat", "DOCKER", 1), ("a", "b", 2))}, ["--rule", "nat/DOCKER/1,a/b/2"]),
    "iface": ({"iface": "lo"}, ["--iface", "lo"]),
    "mark": ({"mark": 0}, ["--mark", "0"]),
    "masked mark": ({"mark": (1, 1)}, ["--mark", "1/1"]),
    "complete": ({"complete": True}, ["--complete"]),
    "incomplete": ({"complete": False}, ["--incomplete"]),
    "since": ({"since": START}, ["--since", "2026-11-23"]),
    "until": ({"until": int(START.timestamp()) * 10**9}, ["--until", "2026-11-23"]),
    "netns": ({"netns": ["web"]}, ["--netns", "web"]),
    "packet": ({"packet": 1}, ["--packet", "1"]),
    "path": ({"path": 2}, ["--path", "2"]),
}


@pytest.mark.parametrize("path", [DOCKER, LOOPBACK], ids=["docker", "loopback"])
@pytest.mark.parametrize("name", CONDITIONS)
def test_conditions_are_the_options(path, name):
    """Each condition selects what the option of the same name does."""
    conditions, options = CONDITIONS[name]
    with iptrec.open(path) as recording:
        assert numbers(recording, **conditions) == shown(path, *options)


def test_a_filter_is_the_filter(loopback):
    """In tcpdump's language, beside conditions."""
    assert numbers(loopback, "icmp", verdict="ACCEPT") == shown(
        LOOPBACK, "--verdict", "ACCEPT", "icmp"
    )
    assert numbers(loopback, filter="") == numbers(loopback) != []


WRONG = {
    "unknown name": ({"verdcit": "DROP"}, "verdcit is not a condition; there are verdict, chain"),
    "unknown verdict": ({"verdict": "NO"}, "verdict='NO': must be one of ACCEPT, DROP"),
    "no verdict": ({"verdict": []}, "verdict=\\[\\]: expected a text"),
    "chain as text": ({"chain": "filter/FORWARD"}, 'expected \\("filter", "FORWARD"\\)'),
    "rule without number": (
        {"rule": ("filter", "FORWARD")},
        'expected \\("filter", "FORWARD", 2\\)',
    ),
    "rule by text": ({"rule": ("filter", "FORWARD", "2")}, "expected"),
    "interface as number": ({"iface": 1}, "iface=1: expected a text"),
    "mark too large": ({"mark": 2**32}, "expected 32 bits"),
    "mark as text": ({"mark": "1/1"}, "expected 32 bits"),
    "time as text": ({"since": "10s"}, "expected ns since 1970, or a datetime with a time zone"),
    "time without zone": ({"until": datetime(2026, 1, 1)}, "with a time zone"),  # noqa: DTZ001
    "complete as text": ({"complete": "yes"}, "must be True or False"),
    "packet as text": ({"packet": "1"}, "packet='1': expected a number"),
    "path as truth": ({"path": True}, "path=True: expected a number"),
    "filter as number": ({"filter": 5}, "filter=5: expected a text"),
    "bad filter": ({"filter": "tcp and ("}, "tcp and \\("),
}


@pytest.mark.parametrize("method", ["packets", "follow", "paths", "rules", "explain"])
@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_meant(docker, method, case):
    """One line, at the call, not when the first packet is asked for."""
    conditions, error = WRONG[case]
    with pytest.raises(iptrec.UsageError, match=error) as raised:
        getattr(docker, method)(**conditions)
    assert "\n" not in str(raised.value)


def test_one_packet(docker):
    """By its number; none is a LookupError, what is no number an error of use."""
    assert docker.packet(1).number == 1
    for number in (0, -1, 9999):
        with pytest.raises(LookupError, match=f"has no packet {number}$"):
            docker.packet(number)
    for number in ("x", 1.0, None, True):
        with pytest.raises(iptrec.UsageError, match="expected a number"):
            docker.packet(number)


def test_packets_are_those_of_the_command_line(loopback):
    """The same as `show --json`, and of the public types."""
    found = list(loopback.packets())
    assert [packet_json.line(one) for one in found] == printed(
        "show", LOOPBACK, "--json"
    ).splitlines()
    assert {type(one) for one in found} == {iptrec.Packet}
    assert {type(step) for one in found for step in one.steps} == {iptrec.Step}
    assert repr(found[0]).startswith("Packet(number=1, ")


def test_why_is_of_this_recording(docker, loopback):
    """By number or packet; a packet of another recording is not explained with this one's rules."""
    packet = docker.packet(1)
    explanation = docker.why(packet)
    assert explanation == docker.why(1)
    assert explanation.packet == packet
    assert [one.step for one in explanation.steps] == list(packet.steps)
    with pytest.raises(
        LookupError, match=r"this packet 1 is not in .*loopback\.db: it is of another"
    ):
        loopback.why(packet)
    with pytest.raises(LookupError, match=r"this packet 16 is not in .*docker_hairpin\.db: it is"):
        docker.why(loopback.packet(16))
    with pytest.raises(LookupError, match=r"docker_hairpin.db has no packet 9999$"):
        docker.why(9999)


def test_paths_rules_rulesets(docker):
    """The other answers, as objects."""
    (path,) = docker.paths(verdict="DROP")
    assert (path.number, path.path.verdict, path.count.packets) == (1, "DROP", 1)
    hit = [
        (table.table, chain, one.number)
        for table in docker.rules()
        for chain, (_, rules) in table.chains.items()
        for one in rules
        if one.count.packets
    ]
    assert ("filter", "DOCKER-ISOLATION-STAGE-2", 1) in hit
    assert "DOCKER" in docker.rulesets()["ipv4"].tables["nat"]
    assert docker.rulesets(docker.facts.started_ns).keys() == {"ipv4", "ipv6"}
    assert docker.rulesets(0) == docker.rulesets(docker.facts.started_ns)  # as they were found


@pytest.mark.parametrize("sample", sorted(SAMPLES.glob("*.db")), ids=lambda path: path.stem)
def test_size_and_number_of_rules(sample, tmp_path):
    """The bytes of the file, also of one that is compressed; the rules as they last were, each once."""
    packed = tmp_path / "packed.db.gz"
    packed.write_bytes(gzip.compress(sample.read_bytes()))
    for path in (sample, packed):
        with iptrec.open(path) as recording:
            assert recording.size == sample.stat().st_size
            rules = [
                one
                for table in recording.rules()
                for _, rules in table.chains.values()
                for one in rules
                if one.number is not None
            ]
            assert recording.summary().rules == len(rules)


def test_a_query_outlives_the_recording(docker):
    """Its columns have names; its rows can be read later; nothing but reading is allowed."""
    rows = docker.query("SELECT packet, verdict FROM packets")
    docker.close()
    assert rows.columns == ("packet", "verdict")
    assert list(rows) == [(1, "DROP")]
    with iptrec.open(DOCKER) as recording, pytest.raises(iptrec.UsageError, match="DELETE"):
        recording.query("DELETE FROM packets")


UNLIMITED = """\
import sqlite3, sys, iptrec
with iptrec.open(sys.argv[1]) as recording:
    list(recording.query("SELECT count(*) FROM steps"))
print(sqlite3.connect(":memory:").execute("PRAGMA hard_heap_limit").fetchone())
"""


def test_a_query_does_not_limit_the_process():
    """SQLite's heap limit is the whole process's, and can never be raised again."""
    done = subprocess.run(
        [sys.executable, "-c", UNLIMITED, str(DOCKER)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "(0,)\n"


def test_a_query_can_be_given_up(docker):
    """After a time."""
    endless = (
        "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    )
    with pytest.raises(iptrec.UsageError, match=r"took longer than 0\.1 s"):
        docker.query(endless, timeout_s=0.1)


USES = {
    "facts": lambda one: one.facts,
    "losses": lambda one: one.losses,
    "namespaces": lambda one: one.namespaces,
    "end_ns": lambda one: one.end_ns,
    "summary": lambda one: one.summary(),
    "packets": lambda one: one.packets(),
    "packet": lambda one: one.packet(1),
    "follow": lambda one: next(one.follow()),
    "explain": lambda one: next(one.explain()),
    "paths": lambda one: one.paths(),
    "rules": lambda one: one.rules(),
    "why": lambda one: one.why(1),
    "rulesets": lambda one: one.rulesets(),
    "query": lambda one: one.query("SELECT * FROM packets"),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "compressed"])
def test_use_after_close(tmp_path, use, packed):
    """Whatever is asked for: a line that says so, never what the file is by then."""
    path = compressed(tmp_path) if packed else DOCKER
    with iptrec.open(path) as recording:
        USES[use](recording)
    with pytest.raises(iptrec.RecordingError, match="was closed; open it again"):
        USES[use](recording)


@pytest.mark.parametrize("method", ["packets", "follow", "explain"])
@pytest.mark.parametrize("taken", [0, 1])
def test_half_way_through_and_closed(loopback, method, taken):
    """An iterator that is half way through, or not begun, ends so as well, however often it is asked."""
    found = getattr(loopback, method)()
    for _ in range(taken):
        next(found)
    loopback.close()
    loopback.close()  # again: nothing
    for _ in range(2):
        with pytest.raises(iptrec.RecordingError, match="was closed"):
            next(found)


def test_what_a_prompt_shows(loopback):
    """Which file, and whether it is open; a packet and a step with all that they hold."""
    assert repr(loopback) == f"<iptrec.Recording {str(LOOPBACK)!r}>"
    packet = loopback.packet(1)
    assert repr(packet).startswith("Packet(number=1, time_ns=")
    assert repr(packet.steps[0]).startswith("Step(time_ns=")
    assert repr(packet).isprintable()
    loopback.close()
    assert repr(loopback) == f"<iptrec.Recording {str(LOOPBACK)!r}, closed>"


def compressed(directory):
    import zstandard

    path = directory / "trace.db.zst"
    path.write_bytes(zstandard.ZstdCompressor().compress(DOCKER.read_bytes()))
    return path


def descriptors():
    gc.collect()
    return sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "compressed"])
def test_nothing_stays_open(tmp_path, packed):
    """What was begun and let go of holds no file, and leaves none, once the recording is closed."""
    path = compressed(tmp_path) if packed else LOOPBACK
    with iptrec.open(path) as recording:  # loads what is loaded once
        next(recording.packets("udp or tcp"))
        next(recording.query("SELECT * FROM packets"))
    before = descriptors()
    kept = []
    with iptrec.open(path) as recording:
        kept += [recording.packets(), recording.follow(), recording.explain()]
        for one in kept:
            next(one)
        next(recording.query("SELECT * FROM steps"))
    assert descriptors() == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["trace.db.zst"] * packed


def test_two_recordings_at_once(docker, loopback):
    """They know nothing of each other, whichever is read first."""
    alone = [*map(repr, loopback.packets())], [*map(repr, docker.packets())]
    mixed = [[], []]
    sources = [loopback.packets(), docker.packets()]
    while sources[0] or sources[1]:
        for number, source in enumerate(sources):
            if source and (packet := next(source, None)):
                mixed[number].append(repr(packet))
            else:
                sources[number] = None
    assert tuple(mixed) == alone


def test_another_thread_may_read(loopback):
    """One after the other: what one thread opened another reads."""
    found = []
    reader = threading.Thread(target=lambda: found.extend(numbers(loopback)))
    reader.start()
    reader.join()
    assert found == numbers(loopback) != []


def test_another_thread_may_read_a_query(loopback):
    """Rows as well, whoever asked and whoever took the first; the last one lets go of them."""
    sql = "SELECT packet, step FROM steps"
    expected = list(loopback.query(sql))
    rows = loopback.query(sql)
    found = [next(rows)]
    reader = threading.Thread(target=lambda: found.extend(rows))
    reader.start()
    reader.join()
    assert found == expected
    dropped = [loopback.query(sql)]
    next(dropped[0])
    reader = threading.Thread(target=dropped.clear)
    reader.start()
    reader.join()


def test_threads_with_recordings_of_their_own():
    """At the same time."""
    found = {}

    def read(path, turn):
        with iptrec.open(path) as recording:
            found[turn] = [packet_json.line(one) for one in recording.packets("ip or ip6")]

    readers = [
        threading.Thread(target=read, args=(path, turn))
        for turn, path in enumerate([LOOPBACK, BOTH] * 2)
    ]
    for one in readers:
        one.start()
    for one in readers:
        one.join()
    assert found[0] == found[2] != found[1] == found[3]


def test_following_a_recording_that_grows(tmp_path):
    """Packets come as they are decided; the end of the recording ends it."""
    path = tmp_path / "trace.db"
    ready, go_on = threading.Event(), threading.Event()

    def record():
        facts = replace(HandMade().facts, closed=False, stopped_ns=None, stop_reason=None)
        with Writer.create(path, facts) as writer:
            stream = writer.add_stream(writer.add_namespace(None, 1), "nflog", {})
            for number in range(3):
                data = datagram("raw:OUTPUT:policy:1", udp(ident=number), hook=3)
                writer.append(stream, 1000 + number, [len(data)], data)
                writer.commit()
                ready.set()
                assert go_on.wait(60)
                go_on.clear()
            writer.close(2000, "test")

    recorder = threading.Thread(target=record)
    recorder.start()
    assert ready.wait(60)
    with iptrec.open(path) as recording:
        assert not recording.facts.closed
        assert not recording.summary().complete
        assert recording.end_ns == 1000
        found = []
        for packet in recording.follow():
            found.append((packet.number, packet.header["id"]))
            go_on.set()
        assert recording.facts.closed
    recorder.join()
    assert found == [(1, 0), (2, 1), (3, 2)]


SCRIPT = "<script>alert(1)</script>"


def hostile(path):
    """A recording whose texts a notebook or a terminal would obey."""
    made = HandMade()
    with Writer.create(path, made.facts) as writer:
        namespace = writer.add_namespace(f"{SCRIPT}\x1b[31m", 1)
        stream = writer.add_stream(namespace, "nflog", {})
        rules = (
            f'*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -m comment --comment "{SCRIPT}\x1b[31mred\x1b[0m"'
            " -j DROP\nCOMMIT\n"
        )
        writer.add_snapshot(namespace, "iptables-save", 1, "x", rules.encode())
        data = datagram("filter:INPUT:rule:1", udp(), hook=1, indev=1)
        writer.append(stream, 1000, [len(data)], data)
        writer.close(2000, "test")


def test_a_notebook_shows_text(tmp_path):
    """The layout of `show`, coloured; nothing of a stranger's is markup or a colour of its own."""
    hostile(tmp_path / "trace.db")
    with iptrec.open(tmp_path / "trace.db") as recording:
        shown = recording.packet(1)._repr_html_()
    assert "&lt;script&gt;" in shown
    assert "\\x1b[31mred" in shown
    assert "\x1b" not in shown
    assert set(re.findall(r"</?[a-z]+", shown)) == {"<pre", "<span", "</span", "</pre"}
    assert shown.count("<span") == shown.count("</span") > 0
    assert ">DROP</span>" in shown


@pytest.mark.parametrize(
    "content", [b"", b"SQLite format 3\0", b"x" * 5000], ids=["empty", "cut", "other"]
)
def test_what_is_no_recording(tmp_path, content):
    """A line, as on the command line."""
    path = tmp_path / "trace.db"
    path.write_bytes(content)
    with pytest.raises(iptrec.RecordingError, match=re.escape(str(path))):
        iptrec.open(path)
    with pytest.raises(iptrec.RecordingError, match="No such file"):
        iptrec.open(tmp_path / "nothing.db")
    with pytest.raises(iptrec.RecordingError, match="directory"):
        iptrec.open(str(tmp_path))


def test_damage_is_a_recording_error(tmp_path):
    """Whatever is asked of a file whose chunks are not what they say."""
    path = tmp_path / "trace.db"
    shutil.copy(LOOPBACK, path)
    with contextlib.closing(sqlite3.connect(path)) as damaged:
        damaged.execute("UPDATE chunk SET size = size + 1")
        damaged.commit()
    with iptrec.open(path) as recording:
        for ask in (
            recording.summary,
            recording.paths,
            recording.rules,
            lambda: recording.packet(1),
        ):
            with pytest.raises(iptrec.RecordingError, match="is damaged"):
                ask()


INCOMPLETE = {
    "lost": ({}, Loss(1, 1, 2, 3, "sequence")),
    "lost, not known how many": ({}, Loss(1, 1, 2, None, "rules-gone")),
    "cut off": ({"closed": False}, None),
}


@pytest.mark.parametrize("case", INCOMPLETE)
def test_nothing_is_claimed_that_was_not_seen(case):
    """A summary is complete where all is known to be there."""
    from iptrec.answers.summary import summarize

    facts, loss = INCOMPLETE[case]
    made = HandMade().events([("raw:OUTPUT:policy:1", udp(), {})])
    made.ruleset("*raw\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n")
    whole = summarize(made)
    made.facts = replace(made.facts, **facts)
    made.losses += [loss] if loss else []
    assert (whole.incomplete, summarize(made).complete) == (whole.incomplete, False)


def test_a_capture_without_sequence_numbers_is_never_complete():
    """Whether events are missing nobody knows."""
    from iptrec.answers.summary import Summary

    assert Summary().complete
    assert not Summary(countable=False).complete


def test_arrow_tables(loopback):
    """Packets and steps with the columns of the SQL tables, selected as packets are."""
    pyarrow = pytest.importorskip("pyarrow")
    for table in ("packets", "steps"):
        found = loopback.packets(verdict="ACCEPT").to_arrow(table)
        rows = loopback.query(
            f"SELECT * FROM {table} WHERE packet IN (SELECT packet FROM packets WHERE verdict='ACCEPT')"
        )
        assert isinstance(found, pyarrow.Table)
        assert tuple(found.column_names) == rows.columns
        assert [tuple(row.values()) for row in found.to_pylist()] == list(rows)
        assert found.schema.field("packet").metadata[b"description"]
    with pytest.raises(iptrec.UsageError, match="table='rules': must be one of packets, steps"):
        loopback.packets().to_arrow("rules")
    assert loopback.packets(packet=0).to_arrow().num_rows == 0


def test_duckdb_reads_arrow_in_place(loopback):
    """As other programs do."""
    duckdb = pytest.importorskip("duckdb")
    found = loopback.packets().to_arrow()
    with contextlib.closing(duckdb.connect()) as database:
        database.register("found", found)
        counted = database.execute("SELECT count(*), min(packet) FROM found").fetchone()
    assert counted == (found.num_rows, 1)


def test_without_pyarrow(docker, monkeypatch):
    """One line that says what to install."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(iptrec.UsageError) as raised:
        docker.packets().to_arrow()
    assert str(raised.value) == "to_arrow needs pyarrow: pip install 'iptrec[parquet]'"


def test_where_the_end_is(docker):
    """Times are taken from there, as `--since -5s` does."""
    assert docker.end_ns == docker.facts.stopped_ns
    assert numbers(docker, since=docker.end_ns) == []
    long_ago = datetime(1969, 12, 31, 23, 59, 59, 500_000, tzinfo=UTC)
    assert numbers(docker, since=long_ago, until=long_ago + timedelta(days=99_999)) == [1]


def test_the_path_is_any_path():
    """Text, or os.PathLike."""
    with iptrec.open(str(DOCKER)) as one, iptrec.open(DOCKER) as other, Reader(DOCKER) as reader:
        assert one.path == other.path == DOCKER
        assert one.facts == reader.facts
