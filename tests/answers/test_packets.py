"""Packets put together from events: ways, verdicts, who decided, what is missing."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from handmade import UUID, HandMade, udp, udp6
from hypothesis import given, settings
from hypothesis import strategies as st

from iptrec.answers.packets import Packets
from iptrec.answers.selection import Selection
from iptrec.answers.summary import summarize
from iptrec.packets import window
from iptrec.recording.rows import Snapshot, Stream

OWN = f'-m comment --comment "iptrec:{UUID}" -j TRACE'
RAW = f"*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n-A PREROUTING {OWN}\n-A OUTPUT {OWN}\nCOMMIT\n"


def filter_table(rules="", *, chains="", policy="ACCEPT"):
    return (
        f"*filter\n:INPUT {policy} [0:0]\n:FORWARD {policy} [0:0]\n:OUTPUT ACCEPT [0:0]\n"
        f"{chains}{rules}COMMIT\n"
    )


def ways(recording, **selection):
    """Each traversal as (verdict, complete, [(table/chain, rule or 'end', target), ...])."""
    return [
        (
            one.verdict,
            one.complete,
            [(f"{s.table}/{s.chain}", s.rule or s.type, s.target) for s in one.steps],
        )
        for one in Packets(recording, Selection(**selection))
    ]


def through(*prefixes, packet=None, **more):
    """The events of one packet."""
    return [(prefix, packet or udp(), more) for prefix in prefixes]


CASES = {
    "policy_accept": (
        filter_table(),
        ["raw:PREROUTING:policy:2", "filter:INPUT:policy:1"],
        "ACCEPT",
        [("raw/PREROUTING", "policy", "ACCEPT"), ("filter/INPUT", "policy", "ACCEPT")],
    ),
    "unconditional_drop_in_builtin_chain_is_that_rule": (
        filter_table("-A INPUT -j DROP\n"),
        ["raw:PREROUTING:policy:2", "filter:INPUT:policy:1"],
        "DROP",
        [("raw/PREROUTING", "policy", "ACCEPT"), ("filter/INPUT", 1, "DROP")],
    ),
    "unconditional_drop_in_user_chain_is_that_rule": (
        filter_table("-A INPUT -j BYE\n-A BYE -j DROP\n", chains=":BYE - [0:0]\n"),
        ["raw:PREROUTING:policy:2", "filter:INPUT:rule:1", "filter:BYE:return:1"],
        "DROP",
        [("raw/PREROUTING", "policy", "ACCEPT"), ("filter/INPUT", 1, "BYE"), ("filter/BYE", 1, "DROP")],
    ),
    "colons_in_chain_names": (
        filter_table("-A INPUT -j a:b:rule:1\n", chains=":a:b:rule:1 - [0:0]\n"),
        [
            "raw:PREROUTING:policy:2", "filter:INPUT:rule:1", "filter:a:b:rule:1:return:1",
            "filter:INPUT:policy:2",
        ],
        "ACCEPT",
        [
            ("raw/PREROUTING", "policy", "ACCEPT"), ("filter/INPUT", 1, "a:b:rule:1"),
            ("filter/a:b:rule:1", "return", "RETURN"), ("filter/INPUT", "policy", "ACCEPT"),
        ],
    ),
    "goto_returns_to_the_caller_of_the_caller": (
        filter_table(
            "-A INPUT -j one\n-A one -g two\n-A one -j DROP\n",
            chains=":one - [0:0]\n:two - [0:0]\n",
        ),
        [
            "raw:PREROUTING:policy:2", "filter:INPUT:rule:1", "filter:one:rule:1",
            "filter:two:return:1", "filter:INPUT:policy:2",
        ],
        "ACCEPT",
        [
            ("raw/PREROUTING", "policy", "ACCEPT"), ("filter/INPUT", 1, "one"),
            ("filter/one", 1, "two"), ("filter/two", "return", "RETURN"),
            ("filter/INPUT", "policy", "ACCEPT"),
        ],
    ),
    "goto_from_a_builtin_chain_ends_in_its_policy": (
        filter_table(
            "-A INPUT -p udp -g two\n-A INPUT -j ACCEPT\n", chains=":two - [0:0]\n", policy="DROP"
        ),
        [
            "raw:PREROUTING:policy:2", "filter:INPUT:rule:1", "filter:two:return:1",
            "filter:INPUT:policy:3",
        ],
        "DROP",
        [
            ("raw/PREROUTING", "policy", "ACCEPT"), ("filter/INPUT", 1, "two"),
            ("filter/two", "return", "RETURN"), ("filter/INPUT", "policy", "DROP"),
        ],
    ),
    "return_in_a_builtin_chain_is_the_policy": (
        filter_table("-A INPUT -p udp -j RETURN\n-A INPUT -j ACCEPT\n", policy="DROP"),
        ["raw:PREROUTING:policy:2", "filter:INPUT:rule:1", "filter:INPUT:policy:3"],
        "DROP",
        [
            ("raw/PREROUTING", "policy", "ACCEPT"), ("filter/INPUT", 1, "RETURN"),
            ("filter/INPUT", "policy", "DROP"),
        ],
    ),
    "targets_that_go_on": (
        filter_table("-A INPUT -p udp -j LOG\n-A INPUT -p udp\n-A INPUT -p udp -j REJECT --reject-with x\n"),
        [
            "raw:PREROUTING:policy:2", "filter:INPUT:rule:1", "filter:INPUT:rule:2",
            "filter:INPUT:rule:3",
        ],
        "REJECT",
        [
            ("raw/PREROUTING", "policy", "ACCEPT"), ("filter/INPUT", 1, "LOG"),
            ("filter/INPUT", 2, None), ("filter/INPUT", 3, "REJECT"),
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_way_of_one_packet(case):
    """The ruleset, not the kernel's word for the type, says what an event was."""
    rules, prefixes, verdict, steps = CASES[case]
    recording = HandMade().ruleset(RAW + rules).events(through(*prefixes))
    assert ways(recording) == [(verdict, True, steps)]


BROKEN = {
    "starts_late": (["filter:INPUT:policy:1"], "ACCEPT", "its beginning was not recorded"),
    "cut_off_by_routing": (["raw:PREROUTING:policy:2"], "UNKNOWN", "not seen after raw PREROUTING"),
    "breaks_off_in_a_chain": (
        ["raw:PREROUTING:policy:2", "filter:FORWARD:rule:1"],
        "UNKNOWN",
        "the trace breaks off after filter/FORWARD rule 1",
    ),
    "hole_in_the_middle": (
        ["raw:PREROUTING:policy:2", "filter:FORWARD:rule:1", "filter:FORWARD:rule:3"],
        "DROP",
        "events are missing in the middle",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_incomplete_trace_says_why(case):
    """A trace that was not seen from beginning to end is incomplete, with the reason."""
    prefixes, verdict, reason = BROKEN[case]
    rules = filter_table("-A FORWARD -p udp -j LOG\n-A FORWARD -j LOG\n-A FORWARD -p udp -j DROP\n")
    recording = HandMade().ruleset(RAW + rules).events(through(*prefixes))
    (found,) = Packets(recording)
    assert (found.verdict, found.complete) == (verdict, False)
    assert found.reason is not None
    assert found.reason.startswith(reason)


def test_loopback_is_two_traversals():
    """OUTPUT and PREROUTING of a looped-back packet; our own rule's second match stays hidden."""
    recording = HandMade().ruleset(RAW + filter_table())
    recording.events(
        through(
            "raw:OUTPUT:policy:2", "filter:OUTPUT:policy:1",
            "raw:PREROUTING:rule:1", "raw:PREROUTING:policy:2", "filter:INPUT:policy:1",
        )
    )  # fmt: skip
    assert ways(recording) == [
        ("ACCEPT", True, [("raw/OUTPUT", "policy", "ACCEPT"), ("filter/OUTPUT", "policy", "ACCEPT")]),
        ("ACCEPT", True, [("raw/PREROUTING", "policy", "ACCEPT"), ("filter/INPUT", "policy", "ACCEPT")]),
    ]  # fmt: skip


def test_own_rules_do_not_count():
    """Rule numbers are the user's: those of the recorder's own rules are taken out."""
    raw = RAW.replace("COMMIT", "-A PREROUTING -p udp -j NOTRACK\nCOMMIT")
    recording = HandMade().ruleset(raw + filter_table())
    recording.events(
        through("raw:PREROUTING:rule:2", "raw:PREROUTING:policy:3", "filter:INPUT:policy:1")
    )
    (found,) = Packets(recording)
    assert [(step.rule, step.target) for step in found.steps] == [
        (1, "NOTRACK"), (None, "ACCEPT"), (None, "ACCEPT"),
    ]  # fmt: skip


def test_nat_change_is_one_packet_and_is_said():
    """DNAT changes addresses and ports; the event after it shows what changed, old and new."""
    nat = (
        "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n"
        ":POSTROUTING ACCEPT [0:0]\n-A PREROUTING -p udp -j DNAT --to-destination 10.9.9.9:5353\nCOMMIT\n"
    )
    recording = HandMade().ruleset(RAW + nat + filter_table("-A FORWARD -p udp -j DROP\n"))
    changed = udp(dst="10.9.9.9", dport=5353, ttl=63)
    recording.events(
        through("raw:PREROUTING:policy:2", "nat:PREROUTING:rule:1", indev=1)
        + through("filter:FORWARD:rule:1", packet=changed, indev=1, outdev=2)
    )
    (found,) = Packets(recording)
    assert found.verdict == "DROP"
    assert found.steps[1].target_args == "--to-destination 10.9.9.9:5353"
    assert found.steps[2].changed == {
        "out": (None, "if2"), "dst": ("10.0.0.2", "10.9.9.9"), "dport": (53, 5353), "ttl": (64, 63),
    }  # fmt: skip


def test_equal_packets_in_flight_together_are_ambiguous():
    """Two packets that nothing tells apart: both assignments are possible, and that is said."""
    recording = HandMade().ruleset(RAW + filter_table(), kind="ip6tables-save")
    one = udp6()
    recording.events(
        through(
            "raw:PREROUTING:policy:2", "raw:PREROUTING:policy:2",
            "filter:INPUT:policy:1", "filter:INPUT:policy:1", packet=one,
        )
    )  # fmt: skip
    found = list(Packets(recording))
    assert [(one.verdict, one.complete, one.ambiguous) for one in found] == [
        ("ACCEPT", True, True),
        ("ACCEPT", True, True),
    ]


def test_equal_payloads_of_two_senders_are_told_apart_by_their_addresses():
    """Interleaved packets with the same key go to the packet with the same addresses."""
    recording = HandMade().ruleset(RAW + filter_table(), kind="ip6tables-save")
    a, b = udp6(last=1), udp6(last=9)
    recording.events(
        through("raw:PREROUTING:policy:2", packet=a)
        + through("raw:PREROUTING:policy:2", packet=b)
        + through("filter:INPUT:policy:1", packet=a)
    )
    found = list(Packets(recording))
    assert [(one.verdict, one.ambiguous, len(one.steps)) for one in found] == [
        ("ACCEPT", False, 2),
        ("UNKNOWN", False, 1),
    ]


def test_rule_that_no_ruleset_knows():
    """A rule number beyond the recorded chain is shown as it is, without a made-up text."""
    recording = HandMade().ruleset(RAW + filter_table())
    recording.events(through("raw:PREROUTING:policy:2", "filter:INPUT:rule:7"))
    (found,) = Packets(recording)
    last = found.steps[-1]
    assert (last.rule, last.spec, last.target, found.verdict) == (7, None, None, "UNKNOWN")
    assert not found.complete


def test_selection():
    """Verdict, number and interface select traversals; numbers are of the whole recording."""
    recording = HandMade().ruleset(RAW + filter_table("-A INPUT -p udp -j DROP\n"))
    dropped = ["raw:PREROUTING:policy:2", "filter:INPUT:rule:1"]
    passed = ["raw:PREROUTING:policy:2", "filter:INPUT:policy:2"]
    recording.events(
        through(*dropped, indev=1)
        + through(*passed, packet=udp(ident=8), indev=2)
        + through(*dropped, packet=udp(ident=9), indev=3)
    )
    numbers = lambda **selection: [one.number for one in Packets(recording, Selection(**selection))]  # noqa: E731
    assert numbers() == [1, 2, 3]
    assert numbers(verdicts=frozenset({"DROP"})) == [1, 3]
    assert numbers(number=2) == [2]
    recording.snapshots_.append(
        type(recording.snapshots_[0])(9, 1, "links", 0, "links", b'[{"index":3,"name":"eth3"}]')
    )
    assert numbers(interfaces=frozenset({"eth3"})) == [3]


WAYS = [
    ["raw:PREROUTING:policy:2", "filter:INPUT:rule:1"],
    ["raw:PREROUTING:policy:2", "filter:FORWARD:policy:1"],
    ["raw:OUTPUT:policy:2", "filter:OUTPUT:policy:1", "raw:PREROUTING:rule:1",
     "raw:PREROUTING:policy:2", "filter:INPUT:rule:1"],
]  # fmt: skip


@settings(max_examples=60)
@given(data=st.data())
def test_any_interleaving_yields_the_same_traces(data):
    """However the events of different packets interleave, each packet's trace is the same."""
    kinds = data.draw(st.lists(st.sampled_from(range(len(WAYS))), min_size=1, max_size=12))
    queues = {
        number: through(*WAYS[kind], packet=udp(b"%d" % number, ident=number))
        for number, kind in enumerate(kinds)
    }
    order = data.draw(st.permutations([n for n, queue in queues.items() for _ in queue]))
    rules = RAW + filter_table("-A INPUT -p udp -j DROP\n")
    mixed = HandMade().ruleset(rules).events([queues[number].pop(0) for number in order])
    found = sorted(
        (one.header["id"], one.verdict, one.complete, [step.chain for step in one.steps])
        for one in Packets(mixed)
    )
    expected = []
    for number, kind in enumerate(kinds):
        if kind == 0:
            expected.append((number, "DROP", True, ["PREROUTING", "INPUT"]))
        elif kind == 1:
            expected.append((number, "ACCEPT", True, ["PREROUTING", "FORWARD"]))
        else:
            expected.append((number, "ACCEPT", True, ["OUTPUT", "OUTPUT"]))
            expected.append((number, "DROP", True, ["PREROUTING", "INPUT"]))
    assert found == sorted(expected)


@settings(max_examples=30)
@given(size=st.integers(1, 40), per_chunk=st.integers(1, 7), window_events=st.integers(1, 20))
def test_windows_do_not_change_the_answer(size, per_chunk, window_events):
    """However chunks and windows cut the stream, the traversals and their numbers are the same."""
    events = []
    for number in range(size):
        events += through(*WAYS[number % 3], packet=udp(b"%d" % number, ident=number))
    rules = RAW + filter_table("-A INPUT -p udp -j DROP\n")
    whole = HandMade().ruleset(rules).events(events)
    cut = HandMade().ruleset(rules).events(events, per_chunk=per_chunk)
    before = window.WINDOW_EVENTS
    try:
        window.WINDOW_EVENTS = window_events
        in_windows = list(Packets(cut))
        followed = list(Packets(cut).follow([0, 10, 10**12]))
    finally:
        window.WINDOW_EVENTS = before
    assert in_windows == list(Packets(whole)) == followed


def test_summary_counts_everything():
    """Events, strays and traversals add up to what was recorded."""
    recording = HandMade().ruleset(RAW + filter_table("-A INPUT -p udp -j DROP\n"))
    recording.events(
        through("raw:PREROUTING:policy:2", "filter:INPUT:rule:1")
        + through("filter:INPUT:policy:2", packet=udp(ident=8))
        + [("nonsense:INPUT", udp(ident=9), {})]
    )
    summary = summarize(recording)
    assert (summary.events, summary.packets, summary.orphans) == (4, 2, 1)
    assert (summary.incomplete, summary.complete) == (1, False)
    assert summary.verdicts == {"DROP": 1, "ACCEPT": 1}


@pytest.mark.parametrize(
    ("last", "out", "told"),
    [
        ("raw:PREROUTING:policy:2", 0, ""),  # nothing tells where it was to go
        ("filter:INPUT:policy:2", 0, None),
        ("filter:FORWARD:policy:1", 5, "if5"),
    ],
)
def test_this_host_gets_what_came_to_its_input(last, out, told):
    """Of what was seen before routing alone nobody knows."""
    recording = HandMade().ruleset(RAW + filter_table("-A INPUT -p udp -j DROP\n"))
    came = through("raw:PREROUTING:policy:2", indev=4)
    recording.events(came if last.startswith("raw") else came + through(last, indev=4, outdev=out))
    assert summarize(recording).interfaces == {("if4", told): 1}


def test_equal_packets_with_their_own_arrival_stamps_are_told_apart():
    """Nothing but the stamp differs, and that tells: no doubt, each event with its packet."""
    recording = HandMade().ruleset(
        RAW + filter_table("-A FORWARD -p udp -j LOG\n"), kind="ip6tables-save"
    )
    recording.streams[0].detail["stamps_ns"] = 0
    first, second = 10**12, 10**12 + 5_000
    places = ("raw:PREROUTING:policy:2", "filter:FORWARD:rule:1", "filter:FORWARD:policy:2")
    order = [(0, first), (0, second), (1, second), (1, first), (2, first), (2, second)]
    recording.events(
        [(places[at], udp6(), {"stamp_ns": stamp}) for at, stamp in order], start_ns=10**12 + 10**9
    )
    found = list(Packets(recording))
    assert [(one.ambiguous, one.complete, [step.time_ns for step in one.steps]) for one in found] == [
        (False, True, [first] * 3), (False, True, [second] * 3),
    ]  # fmt: skip


def test_packet_without_arrival_stamp_is_one_packet():
    """What a socket of this host sent has another stamp at each rule; that does not tear it apart."""
    recording = HandMade().ruleset(RAW + filter_table())
    recording.streams[0].detail["stamps_ns"] = 0
    events = [
        (place, udp(), {"stamp_ns": 10**12 + 1_000 * at})
        for at, place in enumerate(("raw:PREROUTING:policy:2", "filter:INPUT:policy:1"))
    ]
    recording.events(events, start_ns=10**12 + 10**9)
    assert [one.complete for one in Packets(recording)] == [True]


@settings(max_examples=200)
@given(data=st.data())
def test_equal_packets_are_right_or_said_to_be_unsure(data):
    """However packets that nothing tells apart interleave: the same ways as theirs, or ambiguous."""
    kinds = data.draw(st.lists(st.sampled_from(range(len(WAYS))), min_size=1, max_size=6))
    queues = [through(*WAYS[kind], packet=udp(b"same", ident=7)) for kind in kinds]
    order = data.draw(st.permutations([n for n, queue in enumerate(queues) for _ in queue]))
    rules = RAW + filter_table("-A INPUT -p udp -j DROP\n")
    mixed = HandMade().ruleset(rules).events([queues[number].pop(0) for number in order])
    expected = []
    for kind in kinds:
        expected += [["OUTPUT", "OUTPUT"]] if kind == 2 else []
        expected += [["PREROUTING", "FORWARD" if kind == 1 else "INPUT"]]
    found = list(Packets(mixed))
    assert sum(len(one.steps) for one in found) == sum(map(len, expected))
    if not any(one.ambiguous for one in found):
        assert sorted([step.chain for step in one.steps] for one in found) == sorted(expected)


def test_equal_packets_of_two_connections_are_told_apart():
    """Where the kernel gives the connection's id with each event, it tells."""
    recording = HandMade().ruleset(
        RAW + filter_table("-A INPUT -p udp -j LOG\n"), kind="ip6tables-save"
    )
    raw, log, end = "raw:PREROUTING:policy:2", "filter:INPUT:rule:1", "filter:INPUT:policy:2"
    order = [(raw, 1), (raw, 2), (log, 2), (log, 1), (end, 1), (end, 2)]
    recording.events([(place, udp6(), {"mark": ct, "conntrack": ct}) for place, ct in order])
    found = list(Packets(recording))
    assert [{step.mark for step in one.steps} for one in found] == [{1}, {2}]
    assert not any(one.ambiguous for one in found)


def test_packets_of_several_streams_have_different_numbers():
    """Numbers go on from stream to stream."""
    recording = HandMade(streams=[Stream(1, 1, "nflog", {}), Stream(2, 1, "nflog", {})])
    recording.ruleset(RAW + filter_table())
    for ident in (1, 2):
        recording.events(
            through("raw:PREROUTING:policy:2", "filter:INPUT:policy:1", packet=udp(ident=ident))
        )
    recording.chunks_ += [replace(one, id=one.id + 2, stream=2) for one in recording.chunks_]
    assert [one.number for one in Packets(recording)] == [1, 2, 3, 4]
    assert [one.number for one in Packets(recording).follow([10**15])] == [1, 2, 3, 4]
    assert [one.number for one in Packets(recording, Selection(number=3))] == [3]


SYNPROXY = "-A INPUT -p tcp -m conntrack --ctstate INVALID,UNTRACKED -j SYNPROXY --mss 1460\n"
MAY = "SYNPROXY may have dropped it"


@pytest.mark.parametrize(
    ("acks", "more", "verdict", "doubt"),
    [
        ((5, 5), [], "STOLEN", None),
        (
            (5, 6),
            [],
            "STOLEN",
            "SYNPROXY dropped an ACK meanwhile (cookie_invalid), perhaps this one",
        ),
        (
            (5, 9),
            [],
            "STOLEN",
            "SYNPROXY dropped 4 ACKs meanwhile (cookie_invalid), perhaps this too",
        ),
        ((5,), [], "STOLEN", MAY),
        ((), [], "STOLEN", MAY),
        ((5, 6), ["filter:INPUT:policy:2"], "ACCEPT", None),  # RST and the like go on
    ],
)
def test_what_synproxy_takes(acks, more, verdict, doubt):
    """What it was given and did not give back; of ACKs that it did not believe only their number is known."""
    recording = HandMade().ruleset(RAW + filter_table(SYNPROXY))
    for at, count in enumerate(acks, 1):
        statistics = f"entries cookie_invalid\n00000000 {count:08x}\n00000000 00000000"
        content = json.dumps({"stat/synproxy": statistics}).encode()
        recording.snapshots_.append(Snapshot(9 + at, 1, "counters", at, "/proc/net", content))
    recording.events(through("raw:PREROUTING:policy:2", "filter:INPUT:rule:1", *more))
    (packet,) = Packets(recording)
    assert (packet.verdict, packet.complete, packet.ambiguous) == (verdict, True, doubt is not None)
    assert packet.reason == doubt
    assert packet.decided_by.rule == (1 if verdict == "STOLEN" else None)
