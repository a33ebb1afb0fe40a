"""Whose a rule is: of rulesets that programs write, and of those that nobody but their user wrote."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from explained import Way
from handmade import HandMade, udp, written
from hypothesis import given
from hypothesis import strategies as st
from validation import fits, validator

import iptrec
from iptrec.answers.origins import Decider, Origin, entries, origin, origin_of
from iptrec.decode.rulesets import iptables_save
from iptrec.packets.outcome import Outcome
from iptrec.rulesets.places import Place
from iptrec.views import folded, why
from iptrec.views.text import Layout

ROOT = Path(__file__).parents[2]
THERE = {
    "docker": {"filter": ["FORWARD", "DOCKER", "DOCKER-USER"]},
    "ufw": {"filter": ["INPUT", "FORWARD", "ufw-before-input", "ufw-before-forward"]},
    "firewalld": {"filter": ["INPUT", "FORWARD", "INPUT_direct"]},
}
ENDS = {"drop": "DROP", "accept": "ACCEPT", "reject": "REJECT"}


class Case(NamedTuple):
    """A line of tests/data/origins.txt, which describes it."""

    wanted: str | None
    tables: dict[str, list[str]]
    decider: Decider

    def __str__(self):
        return f"{self.wanted} {self.decider.table}/{self.decider.chain} {self.decider.text}"


def case(line):
    wanted, beside, where, text = (part.strip() for part in line.split("|", 3))
    tables = {}
    for name in filter(None, beside.split(", ")):
        table, _, chain = name.partition("/")
        for one, chains in THERE.get(name, {table: [chain]}).items():
            tables.setdefault(one, []).extend(chains)
    return Case(None if wanted == "-" else wanted, tables, decider(*where.split("/", 1), text))


def decider(table, chain, text):
    if text.startswith("policy "):
        return Decider(table, chain, True, text.removeprefix("policy "), "", None)
    if re.search(r"(^| )-j ", text):
        saved = f"*{table}\n:{chain} - [0:0]\n-A {chain} {text}\nCOMMIT\n"
        (read,) = iptables_save.parse(saved.encode()).tables[table][chain].rules
        return Decider(table, chain, False, read.target, read.spec, read.comment)
    spec, _, told = text.partition(" => ")
    words, _, comment = spec.partition(" comment ")
    (*_, end) = re.findall(r"\b(drop|accept|reject)\b", words)
    return Decider(table, chain, False, told or ENDS[end], spec, comment.strip('"') or None)


LINES = [one for one in (ROOT / "tests/data/origins.txt").read_text().splitlines() if one]
CASES = [case(one) for one in LINES if not one.startswith("#")]
REPORTS = dict(one[1:].split(": ", 1) for one in LINES if re.match(r"#\d", one))


def found(decider, tables):
    there = origin(decider, tables)
    return there and there.id


@pytest.mark.parametrize("case", CASES, ids=str)
def test_whose_it_is(case):
    """The entry that fits first; a user's own rule is nobody's, however much it looks like another's."""
    assert found(case.decider, case.tables) == case.wanted


@pytest.mark.parametrize("report", REPORTS)
def test_reports(report):
    """The packets that users asked about: who decided, and what to do."""
    wanted, tables, decider = case(REPORTS[report])
    there = origin(decider, tables)
    assert (there and there.id) == wanted
    assert there is None or there.switch


def test_no_entry_is_shadowed():
    """Each is found for some rule: none of the earlier ones takes all of its rules."""
    assert {one.wanted for one in CASES} - {None} == {one.origin.id for one in entries()}


KEYS = {"id", "owner", "what", "source", "chains"}
MORE = {"switch", "policy", "target", "text", "comment", "beside"}
TEXTS = KEYS - {"chains"} | {"switch", "target", "text", "comment"}
UNBOUNDED = re.compile(r"[*+]|\{\d+,\}")
NESTED = re.compile(r"\((?:[^()]|\([^()]*\))*[*+](?:[^()]|\([^()]*\))*\)[*+{]")


@pytest.mark.parametrize(
    "entry",
    tomllib.loads(files("iptrec.answers").joinpath("origins.toml").read_text())["origin"],
    ids=lambda entry: entry["id"],
)
def test_shape(entry):
    """Each says who, what for, and where that stands; its patterns take linear time, or nearly."""
    assert KEYS <= entry.keys() <= KEYS | MORE
    assert all(isinstance(entry[key], str) and entry[key].strip() for key in TEXTS & entry.keys())
    assert isinstance(entry.get("policy", True), bool)
    assert entry["source"].startswith("https://")
    assert re.fullmatch(r"[a-z0-9-]+/[a-z0-9-]+", entry["id"])
    for key in ("owner", "what", "switch"):
        assert entry.get(key, "x").isascii()
        assert entry.get(key, "x").isprintable()
        assert not entry.get(key, "x").endswith(".")
    chains = [*entry["chains"], *entry.get("beside", ())]
    assert all("/" in one for one in chains)
    patterns = [part for one in chains for part in one.split("/", 1)]
    patterns += [entry[key] for key in ("target", "text", "comment") if key in entry]
    for pattern in patterns:
        re.compile(pattern)
        assert not NESTED.search(pattern), pattern
        assert len(UNBOUNDED.findall(pattern)) <= 5, pattern


def test_ids_are_unique():
    """They are in JSON."""
    assert max(Counter(one.origin.id for one in entries()).values()) == 1


def test_patterns_that_are_not_linear_are_seen():
    """The test of the shape can fail."""
    assert NESTED.search("(a+)+")
    assert NESTED.search("(x(a|b)*y)*")
    assert not NESTED.search("(a|b)*c+")


def saved(path):
    """Each rule of a ruleset that iptables-save printed, and each policy."""
    tables = iptables_save.parse(path.read_bytes()).tables
    for table, chains in tables.items():
        for chain in chains.values():
            for one in chain.rules:
                yield Decider(table, chain.name, False, one.target, one.spec, one.comment), tables
            if chain.policy is not None:
                yield Decider(table, chain.name, True, chain.policy, "", None), tables


FINAL = ("ACCEPT", "DROP", "REJECT")
RULESETS = {
    "tests/data/rulesets/docker-libvirt-ufw.rules": {
        "docker/user": 2, "docker/chain": 2, "docker/isolation": 1, "docker/unpublished": 1,
        "docker-or-ufw/forward-policy": 1, "libvirt/chain": 22, "libvirt/to-guest": 2, "libvirt/from-guest": 2,
        "ufw/user": 4, "ufw/limit": 2, "ufw/default": 3, "ufw/before": 18, "ufw/chain": 2, "ufw/policy": 1,
        None: 1,  # OUTPUT's policy, ACCEPT
    },
    "samples/kubeadm-flannel.rules": {
        "flannel/forward": 2, "kubelet/localnet": 1, "kube-proxy/invalid": 1, "kube-proxy/chain": 2,
        None: 3,  # the policies, ACCEPT
    },
}  # fmt: skip


@pytest.mark.parametrize("path", RULESETS)
def test_rulesets_of_real_hosts(path):
    """Each rule of the filter table that ends a packet's way has its owner."""
    told = Counter(
        found(one, tables)
        for one, tables in saved(ROOT / path)
        if one.table == "filter" and one.target in FINAL
    )
    assert told == RULESETS[path]


LONG = "-m comment --comment " + "a" * 1_000_000


def test_a_rule_of_megabytes():
    """What is too long is not looked into; where it is told whose it is all the same."""
    assert (
        found(Decider("raw", "PREROUTING", False, "DROP", LONG, "a" * 1_000_000), THERE["docker"])
        is None
    )
    assert found(Decider("filter", "a" * 1_000_000, False, "DROP", LONG, None), {}) is None
    assert found(Decider("filter", "DOCKER-USER", False, "DROP", LONG, None), {}) == "docker/user"


NAMES = st.text(max_size=30) | st.sampled_from(
    ["filter", "raw", "inet fw4", "DOCKER", "FORWARD", "cali-x"]
)


@given(NAMES, NAMES, st.booleans(), st.none() | NAMES, st.text(), st.none() | NAMES, NAMES, NAMES)
def test_of_any_rule(table, chain, policy, target, text, comment, other, beside):
    """Nothing that a stranger's file says is repeated: an entry is told word for word, or nothing."""
    there = origin(
        Decider(table, chain, policy, target, text, comment), {table: [chain], other: [beside]}
    )
    assert there is None or there in [one.origin for one in entries()]


OWNER = Origin("docker/x", "Docker", "drops it", "publish the port", "https://example.com/")


@pytest.mark.parametrize("as_text", [folded.as_text, why.as_text])
@pytest.mark.parametrize(
    ("switch", "lines"),
    [
        (
            "publish the port",
            ["  origin: Docker; drops it", "  switch: publish the port (https://example.com/)"],
        ),
        (None, ["  origin: Docker; drops it (https://example.com/)"]),
    ],
)
def test_in_words(as_text, switch, lines):
    """Below the rule that decided."""
    owner = Origin("docker/x", "Docker", "drops it", switch, "https://example.com/")
    explanation = Way().base("filter", "DROP", policy=None).explanation(origin=owner)
    assert list(as_text(explanation, Layout()))[-len(lines) :] == lines


def test_fits_on_the_screen():
    """With it, too: what is above is folded more."""
    way = (
        Way().base("mangle", *["MARK"] * 40).base("filter", *[[], "MARK"] * 40, "DROP", policy=None)
    )
    assert len(list(folded.as_text(way.explanation(origin=OWNER), Layout()))) < 25


def test_schema_knows_every_id():
    """What is in JSON fits the schema, whichever entry it is."""
    schema = validator("why").schema["properties"]["origin"]
    for one in entries():
        told = why.as_origin(one.origin)
        assert told.keys() - {"switch"} == set(schema["required"])
        assert re.search(schema["properties"]["id"]["pattern"], told["id"])
        assert re.search(schema["properties"]["source"]["pattern"], told["source"])


DOCKER_HOST = """*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -p udp -m udp --dport 54 -j DROP
-A FORWARD -j DOCKER-USER
-A DOCKER-USER -p udp -m udp --dport 55 -j DROP
COMMIT
"""


@pytest.mark.parametrize(
    ("port", "events", "wanted"),
    [
        (
            53,
            ["FORWARD:rule:2", "DOCKER-USER:return:2", "FORWARD:policy:3"],
            "docker/forward-policy",
        ),
        (54, ["FORWARD:rule:1"], None),
        (55, ["FORWARD:rule:2", "DOCKER-USER:rule:1"], "docker/user"),
    ],
)
def test_of_a_recording(tmp_path, port, events, wanted):
    """From the kernel's events and the rules that were in force, in Python as in JSON."""
    packet = udp(dport=port)
    interfaces = {"indev": 2, "outdev": 3}
    made = HandMade().ruleset(f"*raw\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n{DOCKER_HOST}").events([
        ("raw:PREROUTING:policy:1", packet, {"indev": 2}),
        *((f"filter:{one}", packet, interfaces) for one in events),
    ])  # fmt: skip
    with iptrec.open(written(tmp_path / "t.db", made)) as recording:
        explanation = recording.why(1)
    assert explanation.packet.verdict == "DROP"
    assert (explanation.origin and explanation.origin.id) == wanted
    told = fits("why", why.as_json(explanation))
    assert told.get("origin", {}).get("id") == wanted


def test_where_it_may_have_been_another_rule():
    """Of a packet that may have met other rules than those that are told nothing is said."""
    read = iptables_save.parse(DOCKER_HOST.encode())
    at = Place(2, "filter", "FORWARD", 3, None, True, True, False, None, "end", "DROP")
    book = SimpleNamespace(places=[at], grammars=[SimpleNamespace(ruleset=read)])
    told = Outcome((0,), "DROP", 0, complete=True, finished=True, queued=False, reason=None)
    assert origin_of(book, told).id == "docker/forward-policy"
    assert origin_of(book, replace(told, unsure=frozenset([0]))) is None
    assert origin_of(book, replace(told, decider=None)) is None
