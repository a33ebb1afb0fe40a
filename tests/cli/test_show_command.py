"""`show`: which packets, in which layout, with which date; `trace` and a notebook print the same."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from answers.test_owners import told as told_owner
from command import iptrec
from handmade import HandMade, udp, written

from iptrec.answers.packets import Packets
from iptrec.api import Recording
from iptrec.cli.absent import nothing
from iptrec.cli.selection import Chosen
from iptrec.recording.reader import Reader
from iptrec.recording.rows import Loss

SAMPLES = Path(__file__).parents[2] / "samples"
HAIRPIN = str(SAMPLES / "docker_hairpin.db")
LOOPBACK = str(SAMPLES / "loopback.db")
NFTABLES = str(SAMPLES / "nftables.db")
RULES = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p udp -m udp --dport 54 -j DROP\nCOMMIT\n"
DAY = 86_400 * 10**9
MIDNIGHT = 1_795_474_800 * 10**9  # 2026-11-24 in the tests' zone, an hour before that of UTC


def events(count, start_ns=MIDNIGHT, step_ns=10**6):
    """Of packets of which one is dropped and the next accepted."""
    places = ("filter:INPUT:rule:1", "filter:INPUT:policy:2")
    return [
        (
            places[at % 2],
            udp(ident=at + 1, dport=54 - at % 2),
            {"stamp_ns": start_ns + at * step_ns},
        )
        for at in range(count)
    ]


def many(path, count, *, start_ns=MIDNIGHT, step_ns=10**6, losses=()):
    """A recording of them."""
    made = HandMade(losses=list(losses)).ruleset(RULES, time_ns=1)
    made.events(events(count, start_ns, step_ns), start_ns=start_ns, step_ns=step_ns)
    made.facts = replace(made.facts, started_ns=start_ns, stopped_ns=start_ns + count * step_ns)
    return str(written(path, made))


def numbers(done):
    """Of the packets that were printed."""
    return [json.loads(line)["packet"] for line in done.stdout.splitlines()]


PARTS = {
    "limit": (["--limit", "3"], [1, 2, 3]),
    "tail": (["--tail", "3"], [14, 15, 16]),
    "more than there are": (["--limit", "99"], [*range(1, 17)]),
    "a longer tail": (["--tail", "99"], [*range(1, 17)]),
    "limit of a selection": (["--limit", "1", "--verdict", "DROP"], [10]),
    "tail of a selection": (["--tail", "1", "--verdict", "DROP"], [16]),
    "tail of a path": (["--tail", "1", "--path", "1"], None),
}


@pytest.mark.parametrize("case", PARTS)
def test_first_and_last(case):
    """With their own numbers, as JSON and as text."""
    options, expected = PARTS[case]
    if expected is None:
        expected = numbers(iptrec("show", LOOPBACK, "--json", *options[2:]))[-1:]
    shown = iptrec("show", LOOPBACK, "--json", *options)
    assert (numbers(shown), shown.returncode) == (expected, 0)
    lines = iptrec("show", LOOPBACK, *options).stdout.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("#")] == [
        f"#{one}" for one in expected
    ]


@pytest.mark.parametrize("tail", [1, 50, 99, 100, 101])
def test_a_tail_over_many_windows(tail, monkeypatch):
    """The recording is read in parts, and in the middle of one begins what is printed."""
    monkeypatch.setattr("iptrec.packets.window.WINDOW_EVENTS", 7)
    made = HandMade().ruleset(RULES, time_ns=1).events(events(100), start_ns=MIDNIGHT, per_chunk=7)
    assert len(list(Packets(made).batches())) > 5
    assert [one.number for one in Packets(made).last(tail)] == [*range(1, 101)][-tail:]


REFUSED = {
    "two layouts": (["--brief", "--classic"], "--brief and --classic are two layouts; choose one"),
    "two ends": (
        ["--limit", "1", "--tail", "1"], "--limit has the first packets, --tail the last; choose one",
    ),
    "orphans": (
        ["--orphans", "--tail", "1"], "--orphans shows all events without a packet; leave the rest out",
    ),
    "no end": (
        ["--tail", "1", "--follow"], "--tail has the last packets, and --follow waits for more; choose one",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_meant(case):
    """One line."""
    options, message = REFUSED[case]
    done = iptrec("show", HAIRPIN, *options)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"iptrec: {message}\n")


@pytest.mark.parametrize("count", ["0", "-1", "many"])
@pytest.mark.parametrize("option", ["--limit", "--tail"])
def test_no_number(option, count):
    assert iptrec("show", HAIRPIN, option, count).returncode == 2


def test_a_pipe_gets_every_step(tmp_path):
    """However many packets there are."""
    path = many(tmp_path / "t.db", 100)
    done = iptrec("show", path)
    assert done.stdout.count("\n\n") == 99
    assert done.stderr == ""
    assert iptrec("show", path, "--brief").stdout.count("\n") == 101  # with the date


def test_the_date_stands_where_it_changes(tmp_path):
    """Once a day, in the zone of the times; --utc has other days."""
    path = many(tmp_path / "t.db", 5, start_ns=MIDNIGHT - 2 * 3600 * 10**9, step_ns=3600 * 10**9)
    told = re.findall(r"^-- .* --$|#.{14}", iptrec("show", path, "--brief").stdout, re.MULTILINE)
    assert told == [
        "-- 2026-11-23 UTC+01:00 --", "#1 22:00:00.000", "#2 23:00:00.000",
        "-- 2026-11-24 UTC+01:00 --", "#3 00:00:00.000", "#4 01:00:00.000", "#5 02:00:00.000",
    ]  # fmt: skip
    utc = iptrec("show", path, "--brief", "--utc").stdout
    assert utc.index("-- 2026-11-24 UTC --") > utc.index("#3 23:00:00.000")
    assert " 23:00:00.000000000 " in iptrec("show", path, "-v", "--utc").stdout
    steps = iptrec("show", path, "--packet", "3").stdout
    assert steps.startswith("-- 2026-11-24 UTC+01:00 --\n#3 00:00:00.000 ")
    assert not re.search("^-- ", iptrec("show", path, "--classic").stdout, re.MULTILINE)


def test_times_that_are_printed_can_be_typed(tmp_path):
    """From that packet on."""
    path = many(tmp_path / "t.db", 5, step_ns=3600 * 10**9)
    for options in ([], ["--utc"]):
        line = iptrec("show", path, "--brief", "--packet", "3", *options).stdout.splitlines()[-1]
        when = line.split("#3 ")[1].split()[0]
        assert numbers(iptrec("show", path, "--json", "--since", when, *options)) == [3, 4, 5]
        assert numbers(iptrec("show", path, "--json", "--until", when, *options)) == [1, 2]
    counted = iptrec("paths", path).stdout
    first = counted.split(", ")[2].split(" to ")[0]
    assert numbers(iptrec("show", path, "--json", "--since", first)) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("options", [[], ["--brief"], ["--classic"]])
def test_losses_stand_between_the_packets(tmp_path, options):
    """In every layout, in its own times."""
    hole = MIDNIGHT + 1_500_000
    path = many(tmp_path / "t.db", 3, losses=[Loss(1, hole, hole, 1, "sequence")])
    done = iptrec("show", path, *options)
    (line,) = [one for one in done.stdout.splitlines() if "lost" in one]
    when = (
        "2026-11-23T23:00:00.001500000Z"
        if options == ["--classic"]
        else "2026-11-24T00:00:00.001+01:00"
    )
    assert line == f"-- 1 event lost from {when} to {when} --"
    assert done.stdout.index("#2 ") < done.stdout.index("-- 1 event") < done.stdout.index("#3 ")
    assert "1 event lost" in done.stderr


def test_a_chain_of_any_table():
    """--chain FORWARD; the steps are limited as well."""
    shown = iptrec("show", LOOPBACK, "--json", "--chain", "OUTPUT").stdout.splitlines()
    steps = [step for line in shown for step in json.loads(line)["steps"]]
    assert {one["chain"] for one in steps} == {"OUTPUT"}
    assert len({one["table"] for one in steps}) > 1
    text = iptrec("show", HAIRPIN, "--chain", "FORWARD").stdout.splitlines()
    assert [line for line in text if line[0] == "\t" and line[1] != "\t"] == [
        "\tfilter FORWARD IN=hairpin-8-2 OUT=hairpin-8-1 DST=172.23.0.2 (was 172.17.0.3) TTL=63 (was 64)",
        "\tfilter FORWARD",
    ]
    for command in ("paths", "why"):
        assert iptrec(command, HAIRPIN, "--chain", "FORWARD").returncode == 0
    rules = iptrec("rules", LOOPBACK, "--chain", "OUTPUT").stdout
    assert rules.count(":OUTPUT ") > 1
    assert rules.count("\n:") == rules.count("\n:OUTPUT ")


ABSENT = {
    "chain": (["--chain", "filter/NOPE"], "none passes filter/NOPE, but filter/DOCKER-ISOLATION-STAGE-1, "),
    "any table": (["--chain", "NOPE"], "none passes NOPE, but filter/DOCKER-ISOLATION-STAGE-1, "),
    "rule": (["--rule", "nat/NOPE/1"], "none passes nat/NOPE, but filter/"),
    "iface": (["--iface", "eth99"], "none comes in or goes out by eth99, but hairpin-8-1, hairpin-8-2"),
    "netns": (["--netns", "web"], "web was not recorded"),
    "two": (
        ["--iface", "a", "--chain", "b"], "none passes b, but filter/DOCKER-ISOLATION-STAGE-1, ",
    ),
}  # fmt: skip


NO_OWNERS = "of none is it known whose it is: sockets and senders were not recorded"
NO_USERS = "of none is the user known: sockets and senders were not recorded"
NO_DROPS = "none ended by NO_SOCKET; what the kernel drops behind the rules was not recorded"
UNKNOWN = {
    "comm": (NFTABLES, ["--comm", "nginx"], NO_OWNERS),
    "container": (NFTABLES, ["--container", "4f1a"], NO_OWNERS),
    "both": (NFTABLES, ["--comm", "a", "--container", "b"], NO_OWNERS),
    "uid": (NFTABLES, ["--uid", "33"], NO_USERS),
    "reason": (NFTABLES, ["--reason", "NO_SOCKET"], NO_DROPS),
    "another uid": (LOOPBACK, ["--uid", "33,0,7"], ""),
    "uids": (LOOPBACK, ["--uid", "33,7"], "none is of user 33, but 0; none is of user 7, but 0"),
    "no user at all": (HAIRPIN, ["--uid", "7"], NO_USERS),
}  # fmt: skip


@pytest.mark.parametrize("command", ["show", "why", "paths", "export"])
@pytest.mark.parametrize("case", UNKNOWN)
def test_what_nothing_tells_is_said(command, case, tmp_path):
    """Where a recording has nothing that such packets are known by, that is why there are none."""
    recording, options, expected = UNKNOWN[case]
    words = ["export", "ndjson", "-o", tmp_path / "t.ndjson"] if command == "export" else [command]
    done = iptrec(*words, recording, *options)
    if not expected:
        assert (done.returncode, done.stderr) == (0, "")
        return
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"iptrec {command}: no packet matches; {expected}\n"


def test_no_container_is_known_of_any_packet():
    """The sockets of a host's services: they are in none, or nothing told of it."""
    why = "of no packet is it known that a container or pod has its socket"
    chosen = Chosen(container="4f1a,web")
    with Reader(Path(LOOPBACK)) as reader:  # what is open; the rows are made
        found = nothing(Recording(reader, told_owner()), chosen)
    assert found == f"no packet matches; {why}"


@pytest.mark.parametrize("command", ["show", "paths", "why"])
@pytest.mark.parametrize("case", ABSENT)
def test_what_is_not_there_lists_what_is(command, case):
    """Nothing fits, and that name alone is why."""
    options, expected = ABSENT[case]
    done = iptrec(command, HAIRPIN, *options)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"iptrec {command}: no packet matches; {expected}")
    assert done.stderr.count("\n") == 1


def test_what_is_there_is_not_called_absent():
    """Each condition fits some packet; together they fit none. An empty recording has no names to list."""
    done = iptrec(
        "show", HAIRPIN, "--chain", "FORWARD", "--iface", "hairpin-8-1", "--verdict", "ACCEPT"
    )
    assert done.stderr == "iptrec show: no packet matches\n"


def test_a_recording_without_packets(tmp_path):
    path = many(tmp_path / "t.db", 0)
    done = iptrec("show", path, "--chain", "FORWARD", "--iface", "eth0")
    told = "iptrec show: no packet matches; no packet was recorded; see iptrec info\n"
    assert (done.returncode, done.stderr) == (1, told)
    for command in ("show", "paths", "why"):
        done = iptrec(command, path)
        told = f"iptrec {command}: no packet was recorded; see iptrec info\n"
        assert (done.returncode, done.stdout, done.stderr) == (1, "", told)


def test_rules_of_a_chain_that_is_not_there():
    """The chains that are."""
    done = iptrec("rules", LOOPBACK, "--chain", "filter/NOPE")
    assert done.returncode == 1
    assert done.stderr.startswith(
        "iptrec rules: no rule fits; the chains of this recording are filter/"
    )
    assert iptrec("rules", HAIRPIN, "--chain", "DOCKER", "--table", "mangle").returncode == 2


LISTS = ("chain", "rule", "iface", "verdict", "reason", "netns", "uid", "comm", "container")


@pytest.mark.parametrize("option", [*LISTS, "mark", "since", "until"])
def test_nothing_is_not_all(option):
    """An empty value is that of a variable of the shell that is not set."""
    done = iptrec("show", LOOPBACK, f"--{option}", "")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"iptrec: --{option} '': it is empty\n"


@pytest.mark.parametrize("text", [",", "a,,b", "a,", ",a", " "])
def test_no_name_of_a_list_is_empty(text):
    done = iptrec("show", LOOPBACK, "--comm", text)
    what = "it" if text == " " else "a name in it"
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"iptrec: --comm {text!r}: {what} is empty\n"


@pytest.mark.parametrize(
    "words",
    [
        ["why", LOOPBACK, "--reason", ""],
        ["paths", LOOPBACK, "--uid", ","],
        ["rules", LOOPBACK, "--table", ""],
        ["rules", LOOPBACK, "--chain", ""],
        ["export", "ndjson", LOOPBACK, "--comm", ""],
        ["trace", "--verdict", ""],
        ["trace", "--chain", "a,,b"],
        ["record", "--iface", ""],
    ],
)
def test_other_commands_want_names_as_well(words):
    done = iptrec(*words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.endswith(" is empty\n")
