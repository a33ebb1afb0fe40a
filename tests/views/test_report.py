"""The page of ``iptrec report``: alone, safe, small, and in accord with the other commands."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from command import iptrec
from handmade import HandMade, udp, written
from hostile_names import HOSTILE, RAW, hostile_recording
from hypothesis import example, given
from hypothesis import strategies as st

from iptrec.packets.model import LOST
from iptrec.views import report_packets
from iptrec.views.escape import printable
from iptrec.views.report_map import station
from iptrec.views.report_text import between, ends, packed, place, safe
from iptrec.views.report_times import Times
from iptrec.views.timestamps import Clock

ROOT = Path(__file__).parents[2]
SAMPLES = sorted((ROOT / "samples").glob("*.db"))
MOST = 5_000_000  # bytes


class Parsed(html.parser.HTMLParser):
    """What a browser finds in a page: the tags with their attributes, and the text of each script and style."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.within = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.within.append([tag, dict(attrs), ""])

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] in ("script", "style") and self.within:
            self.within[-1][2] += data

    def handle_endtag(self, tag):
        self.tags.append((f"/{tag}", {}))

    def texts(self, tag, kind=None):
        return [text for one, given, text in self.within if (one, given.get("type")) == (tag, kind)]


def reported(path, tmp_path, *options):
    """The page, and the data in it."""
    output = tmp_path / "report.html"
    done = iptrec("report", path, "-o", output, "--force", *options)
    assert (done.returncode, done.stderr) == (0, "")
    text = output.read_text(encoding="utf-8")
    (data,) = Parsed(text).texts("script", "application/json")
    return text, json.loads(data)


@pytest.fixture(scope="module", params=SAMPLES, ids=lambda path: path.stem)
def sample(request, tmp_path_factory):
    return request.param, *reported(request.param, tmp_path_factory.mktemp("report"), "--utc")


def lines(*arguments):
    """What a command prints in JSON."""
    return [json.loads(one) for one in iptrec(*arguments, "--json").stdout.splitlines()]


def test_it_is_alone(sample):
    """No address of anything else, in no attribute and no style; below 5 MB."""
    _, text, _ = sample
    assert len(text.encode()) < MOST
    page = Parsed(text)
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert name not in ("src", "srcset", "action", "style", "data") or value is None, (
                tag,
                name,
            )
            assert not name.startswith("on"), (tag, name)
            assert name != "href" or value.startswith("#"), (tag, value)
    (style,) = page.texts("style")
    assert "url(" not in style
    assert "@import" not in style
    (script,) = page.texts("script")
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|eval|Function\(|fetch|import", script
    )


def test_its_policy(sample):
    """Nothing may be loaded; the style and the script that are there are named by their hashes."""
    _, text, _ = sample
    page = Parsed(text)
    (policy,) = [
        given["content"] for _, given in page.tags
        if given.get("http-equiv") == "Content-Security-Policy"
    ]  # fmt: skip
    told = dict(one.strip().split(" ", 1) for one in policy.split(";"))
    assert told["default-src"] == told["base-uri"] == told["form-action"] == "'none'"
    assert "unsafe" not in policy
    for tag in ("script", "style"):
        (inside,) = page.texts(tag)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert told[f"{tag}-src"] == f"'sha256-{digest}'"


def test_the_policy_comes_first(sample):
    """Before anything that it is about."""
    _, text, _ = sample
    assert text.index("Content-Security-Policy") < text.index("<style>") < text.index("<script")


def test_it_says_what_paths_says(sample):
    """Each path, with its packets, its end and its steps."""
    path, _, data = sample
    found = {one["number"]: one for one in data["paths"]}
    told = {one["path"]: one for one in lines("paths", path)}
    assert found.keys() == told.keys()
    for number, one in told.items():
        page = found[number]
        assert (page["packets"], page["bytes"], page["verdict"]) == (
            one["packets"], one["bytes"], one["verdict"],
        )  # fmt: skip
        assert (page["complete"], page["ambiguous"]) == (one["complete"], one["ambiguous"])
        assert [
            (step["table"], step["chain"], step["rule"], step["type"]) for step in page["steps"]
        ] == [(step["table"], step["chain"], step["rule"], step["type"]) for step in one["steps"]]
        if one["decided_by"] is not None:
            step = page["steps"][page["decider"]]
            assert {name: step[name] for name in one["decided_by"]} == one["decided_by"]


def test_it_says_what_show_and_why_say(sample):
    """Samples are small: all of their packets, with the sentence of `why` and its lines."""
    path, _, data = sample
    told = {one["packet"]["packet"]: one for one in lines("why", path)}
    found = {one["number"]: one for one in data["packets"]}
    assert found.keys() == told.keys()
    assert data["left_out"] == {"paths": 0, "packets": 0, "rules": 0, "chains": 0}
    for number, one in told.items():
        page = found[number]
        assert page["decision"] == one["decision"]
        assert page["verdict"] == one["packet"]["verdict"]
        assert len(page["changed"]) == len(one["packet"]["steps"])
    text = iptrec("why", path, "--utc").stdout
    for one in data["packets"]:
        assert "\n".join(data["lines"][str(line)] for line in one["why"]) in text


def test_it_says_what_rules_says(sample):
    """Each chain with each rule, what hit it, and which is never reached."""
    path, _, data = sample
    told = lines("rules", path)
    assert len(told) == len(data["chains"])
    for page, one in zip(data["chains"], told, strict=True):
        assert (page["table"], page["chain"], page["policy"]) == (
            one["table"], one["chain"], one["policy"],
        )  # fmt: skip
        assert page["end"]["packets"] == one["end"]["packets"]
        assert [
            (rule["number"], rule["packets"], rule["unreachable"]) for rule in page["rules"]
        ] == [(rule["rule"], rule["packets"], rule["unreachable_after"]) for rule in one["rules"]]


def iptrec_verdicts(path):
    """How many packets ended so, by `show`."""
    return dict(Counter(one["verdict"] for one in lines("show", path)))


def test_it_says_what_info_says(sample):
    """Line by line; and the verdicts, once more over time."""
    path, _, data = sample
    text = iptrec("info", path, "--utc").stdout
    assert (
        "".join(f"{name + ':':<13}{value}".rstrip() + "\n" for name, value in data["facts"]) == text
    )
    counted = {}
    for _, _, counts in data["times"]["bars"]:
        for verdict, packets in counts.items():
            counted[verdict] = counted.get(verdict, 0) + packets
    assert counted == data["verdicts"] == iptrec_verdicts(path)


def test_the_map_has_all_packets(sample):
    """Each step is in a base chain of the map, which counts each packet that passes it once."""
    _, _, data = sample
    passed = [0] * len(data["map"]["stations"])
    lost = list(passed)
    for path in data["paths"]:
        for number in {step["station"] for step in path["steps"]}:
            passed[number] += path["packets"]
        if path["verdict"] in LOST and path["steps"]:
            lost[path["steps"][-1]["station"]] += path["packets"]
    assert [one["packets"] for one in data["map"]["stations"]] == passed
    assert [one["lost"] for one in data["map"]["stations"]] == lost
    for one in data["paths"]:
        for step in one["steps"]:
            where = data["map"]["stations"][step["station"]]
            assert where["table"] == step["table"]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_texts(text):
    """No text of a recording ends the data or makes the page long; what it is can be read there."""
    found = packed(safe({"one": text, text: [text]}))
    assert found.isascii()
    assert not set("<>&") & set(found)
    assert len(found) < 100_000
    told = json.loads(found)
    assert told["one"].startswith(printable(text[:100]))
    assert told["one"].isprintable()
    assert safe(told) == told


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_recordings(tmp_path, text):
    """In names of chains, comments, interfaces, the host and the file there is nothing that a browser obeys."""
    page, data = reported(hostile_recording(tmp_path, text), tmp_path, "-q")
    assert len(page.encode()) < MOST
    plain, _ = reported(hostile_recording(tmp_path, "plain"), tmp_path, "-q")
    tags, ordinary = (
        [(tag, {**given, "content": None}) for tag, given in Parsed(one).tags]
        for one in (page, plain)
    )
    assert tags == ordinary
    told = dict(data["facts"])
    assert told["host"].startswith(printable(text[:100]))
    (chain,) = {one["chain"] for one in data["chains"]} - {"PREROUTING", "INPUT"}
    assert data["paths"][0]["steps"][-1]["chain"] == chain


def test_a_selection(tmp_path):
    """Only its packets; the page says so, and the exit status that there is none."""
    both = ROOT / "samples" / "both.db"
    _, data = reported(both, tmp_path, "--verdict", "DROP", "udp")
    assert data["selected"] == "--verdict DROP udp"
    assert {one["verdict"] for one in data["packets"]} == {"DROP"} == {*data["verdicts"]}
    assert data["all"]["packets"] == len(lines("show", both, "--verdict", "DROP", "udp"))
    done = iptrec("report", both, "-o", tmp_path / "none.html", "tcp")
    assert (done.returncode, done.stderr) == (1, "iptrec report: no packet matches\n")
    assert (tmp_path / "none.html").exists()


def test_it_replaces_nothing(tmp_path):
    """Without --force; with --mode others may read it."""
    both, output = ROOT / "samples" / "both.db", tmp_path / "report.html"
    assert iptrec("report", both, "-o", output, "--mode", "640").returncode == 0
    assert output.stat().st_mode & 0o777 == 0o640
    done = iptrec("report", both, "-o", output)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "exists; use --force" in done.stderr


def test_stdout_is_the_same(tmp_path):
    """- is stdout, and stdin is read as a file is."""
    both = ROOT / "samples" / "both.db"
    text, _ = reported(both, tmp_path)
    assert iptrec("report", both, "-o", "-").stdout == text


def many(count, ways, words="long " * 30, chains=0):
    """So many packets on so many paths, each of which a rule with a long text ends."""
    rules = [f'-A INPUT -p udp -m comment --comment "{at:05} {words}" -m udp --dport {at} -j DROP'
             for at in range(ways)]  # fmt: skip
    made = HandMade().ruleset(
        RAW
        + "*filter\n:INPUT ACCEPT [0:0]\n"
        + "".join(f":C{at:0200} - [0:0]\n" for at in range(chains))
        + "\n".join(rules)
        + "\nCOMMIT\n"
    )
    events = []
    for number in range(count):
        packet = udp(ident=number % 65_000, dport=number % ways)
        events += [
            ("raw:PREROUTING:policy:2", packet, {"indev": 1}),
            (f"filter:INPUT:rule:{number % ways + 1}", packet, {"indev": 1}),
        ]
    made.facts = replace(made.facts, stopped_ns=10**9)
    return made.events(events, per_chunk=500)


@pytest.mark.parametrize(("count", "ways"), [(6_000, 3), (1_000, 300)])
def test_it_stays_small(tmp_path, monkeypatch, count, ways):
    """However many packets, paths and rules; what is not there it says, and the counts are of all of them."""
    monkeypatch.setattr(report_packets, "_MOST", 100)
    path = written(tmp_path / "many.db", many(count, ways))
    page, data = reported(path, tmp_path)
    assert len(page.encode()) < MOST
    assert data["all"] == {"paths": ways, "packets": count}
    assert data["verdicts"] == {"DROP": count}
    assert len(data["packets"]) + data["left_out"]["packets"] == count
    assert len(data["paths"]) + data["left_out"]["paths"] == ways
    assert data["left_out"]["packets"] > 0
    assert sum(one["lost"] for one in data["map"]["stations"]) == count
    numbers = {one["number"] for one in data["paths"]}
    assert {one["path"] for one in data["packets"]} <= numbers
    if ways == 3:
        assert {one["path"] for one in data["packets"]} == numbers


STATIONS = {
    (0, "raw", "PREROUTING"): ("ip", "PREROUTING"),
    (2, "legacy filter", "FORWARD"): ("ip", "FORWARD"),
    (4, "inet fw", "out"): ("ip", "POSTROUTING"),
    (2, "bridge br", "between"): ("bridge", "FORWARD"),
    (0, "netdev guard", "in"): ("other", "INGRESS"),
    (1, "netdev guard", "out"): ("other", "EGRESS"),
    (5, "inet fw", "in"): ("other", "INGRESS"),
    (1, "arp fw", "out"): ("other", "ARP OUT"),
    (7, "netdev guard", "new"): ("other", "netdev 7"),
    (255, "filter", "A"): ("other", "hook not known"),
}


@pytest.mark.parametrize("place", STATIONS)
def test_places_on_the_map(place):
    """A hook's number means what it means in the family of the table."""
    assert station(*place)[:2] == STATIONS[place]


@given(
    st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.booleans()), min_size=1, max_size=50)
)
@example([(-1_000_000, True), (99_000_000, True)])  # a hundred bars, and one begun before
@example([(-1_000_000, True), (999_000_000 - 1, True)])
@example([(-(2**63), True), (2**63 - 1, False)])
def test_any_times(found):
    """However far apart they are: at most a hundred bars, in order, which have all packets."""
    times = Times()
    for time_ns, dropped in found:
        times.add(batch([time_ns], ["DROP" if dropped else "ACCEPT"]))
    told = times.as_object(Clock(utc=True))
    bars = told["bars"]
    assert bars[0][0] == 0
    assert [one[0] for one in bars] == sorted({one[0] for one in bars})
    assert bars[-1][0] < 100
    assert sum(sum(counts.values()) for _, _, counts in bars) == len(found)
    last = told["first_ns"] + (bars[-1][0] + 1) * told["length_ns"]
    assert told["first_ns"] <= min(found)[0] <= max(found)[0] < last


def batch(times, verdicts):
    """As much of one as `Times` looks at: packets of one event each."""
    kinds = sorted(set(verdicts))
    assembly = SimpleNamespace(
        rows=np.arange(len(times)),
        first=np.arange(len(times)),
        outcome=np.array([kinds.index(one) for one in verdicts]),
        outcomes=[SimpleNamespace(verdict=one) for one in kinds],
    )
    window = SimpleNamespace(assembly=assembly, moment_ns=np.array(times, np.int64))
    return SimpleNamespace(window=window, positions=np.arange(len(times)))


@pytest.mark.parametrize("count", [0, 1, 119, 120, 199, 200, 201, 4_096])
def test_ends_of_many(count):
    """Short ways are whole; of long ones each step is where it is told to be."""
    values = list(range(count))
    kept = ends(values)
    assert len(kept) + between(values) == count
    assert (between(values) > 0) == (count > 200)
    for one in values:
        where = place(one, values)
        assert (one in kept) == (where is not None)
        assert where is None or kept[where] == one


def test_it_stays_small_whatever_is_escaped(tmp_path):
    """Of characters that take six bytes in a page, too; and with chains without end."""
    path = written(tmp_path / "many.db", many(2_000, 400, "<" * 900, 20_000))
    page, data = reported(path, tmp_path)
    assert 2_000_000 < len(page.encode()) < MOST
    assert data["all"] == {"paths": 400, "packets": 2_000}
    assert data["left_out"]["chains"] == 20_002 - len(data["chains"]) > 0
    rules = sum(len(one["rules"]) for one in data["chains"])
    assert data["left_out"]["rules"] == 400 - rules > 0


def test_what_was_dropped_makes_room(tmp_path, monkeypatch):
    """Where there is none for a packet of each path, those that got through go."""
    monkeypatch.setattr(report_packets, "_MOST", 10)
    made = many(40, 20)
    made.snapshots_.clear()
    rules = [
        f"-A INPUT -p udp -m udp --dport {at} -j {'ACCEPT' if at < 10 else 'DROP'}"
        for at in range(20)
    ]
    made.ruleset(RAW + "*filter\n:INPUT ACCEPT [0:0]\n" + "\n".join(rules) + "\nCOMMIT\n")
    _, data = reported(written(tmp_path / "t.db", made), tmp_path)
    assert len(data["paths"]) == 20
    assert {one["verdict"] for one in data["packets"]} == {"DROP"}
    assert data["left_out"]["packets"] == 40 - len(data["packets"])


def test_long_ways(tmp_path):
    """A packet that never ends: its first and its last steps, and how many are between."""
    made = HandMade().ruleset(
        RAW + "*filter\n:INPUT ACCEPT [0:0]\n:A - [0:0]\n-A INPUT -j A\n-A A -j A\nCOMMIT\n"
    )
    packet = udp()
    begin = [("raw:PREROUTING:policy:2", packet, {}), ("filter:INPUT:rule:1", packet, {})]
    made.events(begin + [("filter:A:rule:1", packet, {"hook": 1})] * 1_000)
    _, data = reported(written(tmp_path / "t.db", made), tmp_path, "-q")
    (path,) = data["paths"]
    assert path["gap"] == [120, 1_002 - 200]
    assert len(path["steps"]) == len(data["packets"][0]["changed"]) == 200
