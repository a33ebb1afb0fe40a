"""Base chains of nf_tables by hand: what tells that a packet went on, and in which order chains are passed."""

from __future__ import annotations

import json
import struct
from itertools import permutations

import numpy as np
import pytest
from handmade import UUID, HandMade, attribute, udp

from iptrec.answers.packets import Packets
from iptrec.answers.summary import summarize
from iptrec.recording.rows import Chunk, Snapshot, Stream

SECOND = 10**9
OURS = f"ip iptrec-{UUID}"
ACCEPT, DROP = 1, 0
PRE, FORWARD, INPUT = (
    ("ip fw/pre", "prerouting", 0),
    ("ip fw/fwd", "forward", 0),
    ("ip fw/in", "input", 0),
)
OUT, POST = ("ip fw/out", "output", 0), ("ip fw/post", "postrouting", 0)
ROUTE, NAT = ("ip fw/out", "output", -150, "route"), ("ip fw/nat", "output", -100, "nat")
LATE_IN, LATE_OUT = (
    (f"{OURS}/input", "input", 2**31 - 1),
    (f"{OURS}/postrouting", "postrouting", 2**31 - 1),
)


def start(hook="prerouting"):
    """The chain that traces."""
    return "ip raw/P", hook, -300


def listed(chains):
    """What nft prints of base chains with a rule each: JSON and text. The handle of a rule is 4."""
    objects, lines = [], []
    for table in dict.fromkeys(one[0].partition("/")[0] for one in chains):
        family, name = table.split()
        objects.append({"table": {"family": family, "name": name, "handle": 1}})
        lines.append(f"table {table} {{ # handle 1")
        for place, hook, priority, *kind in chains:
            if place.startswith(f"{table}/"):
                here = {"family": family, "table": name}
                chain = place.partition("/")[2]
                attached = {
                    "type": (*kind, "filter")[0],
                    "hook": hook,
                    "prio": priority,
                    "policy": "accept",
                }
                words = _words(table)
                objects.append({"chain": here | attached | {"name": chain, "handle": 2}})
                objects.append({"rule": here | {"chain": chain, "handle": 4} | words[1]})
                lines.append(f"\tchain {chain} {{ # handle 2\n\t\t{words[0]} # handle 4\n\t}}")
        lines.append("}")
    return json.dumps({"nftables": objects}).encode(), "\n".join(lines).encode()


def _words(table):
    comment = {"comment": f"iptrec:{UUID}"}
    if table == OURS:
        return f'accept comment "iptrec:{UUID}"', comment | {"expr": [{"accept": None}]}
    if table == "ip raw":
        does = {"mangle": {"key": {"meta": {"key": "nftrace"}}, "value": 1}}
        return f'meta nftrace set 1 comment "iptrec:{UUID}"', comment | {"expr": [does]}
    return "counter", {"expr": [{"counter": {"packets": 0, "bytes": 0}}]}


def told(place, packet, *, trace=7, policy=None, verdict=2**32 - 1):
    """What the kernel tells of a chain's rule, or of its policy."""
    table, chain = place.split()[1].split("/")
    fields = [
        (1, table.encode() + b"\0"),
        (2, chain.encode() + b"\0"),
        (6, struct.pack("!I", trace)),
    ]
    if policy is None:
        said = (3, struct.pack("!Q", 4)), (5, attribute(1, struct.pack("!I", verdict)))
        fields += (*said, (4, struct.pack("!I", 2)))
    else:
        fields += ((4, struct.pack("!I", 1)), (16, struct.pack("!I", policy)))
    fields += (15, struct.pack("!I", 2)), (8, packet[:20]), (9, packet[20:40])
    body = struct.pack("=BBH", 2, 0, 0) + b"".join(attribute(*one) for one in fields)
    return struct.pack("=IHHII", 16 + len(body), 0x0A11, 0, 0, 0) + body


class NftByHand(HandMade):
    """A recording of nf_tables; ``rulesets``: one a second and a half."""

    def __init__(self, *rulesets):
        super().__init__(streams=[Stream(1, 1, "nftrace", {"slots": 1})])
        for number, chains in enumerate(rulesets):
            time, (printed, text) = number * 3 * SECOND // 2, listed(chains)
            for kind, content in (("nft-text", text), ("nft", printed)):
                one = len(self.snapshots_) + 1
                after = time - 1 if number else None
                self.snapshots_.append(
                    Snapshot(one, 1, kind, time, "json", content, after_ns=after)
                )

    def passes(self, time, *places, packet=None, last=ACCEPT, trace=7):
        """A packet passes these chains; what the last one does with it; ``trace``: the kernel's id."""
        packet = packet or udp(dport=9)
        for place, *_ in places:
            end = last if place == places[-1][0] else ACCEPT
            told_of = [
                told(place, packet, trace=trace),
                told(place, packet, trace=trace, policy=end),
            ]
            if place.startswith(OURS):
                told_of = [told(place, packet, trace=trace, verdict=ACCEPT)]
            lengths = np.array([len(one) for one in told_of], np.uint32)
            received = np.full(len(told_of), time, np.int64)
            self.chunks_.append(
                Chunk(len(self.chunks_) + 1, 1, received, lengths, b"".join(told_of))
            )
        return self


IN = start()
SENT = start("output")
NOT_SEEN, NOTHING_TELLS = "not seen after", "nothing tells what became of it after"


@pytest.mark.parametrize(
    ("there", "passed", "verdict", "reason"),
    [
        # What came in, and where it was seen last
        ([IN, PRE], [IN, PRE], "UNKNOWN", NOTHING_TELLS),
        ([IN, PRE, INPUT], [IN, PRE], "UNKNOWN", NOTHING_TELLS),
        ([IN, PRE, INPUT, FORWARD], [IN, PRE], "UNKNOWN", NOT_SEEN),
        ([IN, PRE, INPUT], [IN, PRE, INPUT], "ACCEPT", None),
        ([IN, PRE, FORWARD], [IN, PRE], "UNKNOWN", NOTHING_TELLS),
        ([IN, PRE, FORWARD], [IN, PRE, FORWARD], "ACCEPT", None),
        ([IN, PRE, POST], [IN, PRE, POST], "ACCEPT", None),
        ([IN, PRE, FORWARD, LATE_IN], [IN, PRE], "UNKNOWN", NOT_SEEN),
        ([IN, PRE, FORWARD, LATE_IN], [IN, PRE, LATE_IN], "ACCEPT", None),
        ([IN, LATE_IN, LATE_OUT], [IN], "UNKNOWN", NOT_SEEN),
        ([IN, LATE_IN, LATE_OUT], [IN, LATE_OUT], "ACCEPT", None),
        # What the host sends goes where it is routed, unless a rule changes that
        ([SENT, OUT], [SENT, OUT], "ACCEPT", None),
        ([SENT, OUT, POST], [SENT, OUT], "UNKNOWN", NOT_SEEN),
        ([SENT, ROUTE], [SENT, ROUTE], "UNKNOWN", NOTHING_TELLS),
        ([SENT, NAT], [SENT, NAT], "UNKNOWN", NOTHING_TELLS),
        ([SENT, NAT], [SENT], "ACCEPT", None),
        ([SENT, NAT, OUT], [SENT, NAT], "UNKNOWN", NOT_SEEN),
        ([SENT, NAT, OUT], [SENT, NAT, OUT], "ACCEPT", None),
        ([SENT, ROUTE, LATE_OUT], [SENT, ROUTE, LATE_OUT], "ACCEPT", None),
    ],
)  # fmt: skip
def test_what_tells_that_a_packet_went_on(there, passed, verdict, reason):
    """Routing drops packets and tells nobody: only a later chain tells that it did not."""
    recording = NftByHand(there).passes(SECOND, *passed)
    (packet,) = Packets(recording)
    assert (packet.verdict, packet.complete, packet.ambiguous) == (verdict, reason is None, False)
    assert (packet.reason or "").startswith(reason or "")
    assert {step.table for step in packet.steps} <= {"raw", "ip fw"}
    assert packet.decided_by is None or "iptrec" not in packet.decided_by.table


def test_a_drop_needs_nothing_to_tell_it():
    (packet,) = Packets(NftByHand([IN, PRE]).passes(SECOND, IN, PRE, last=DROP))
    assert (packet.verdict, packet.complete) == ("DROP", True)


def test_copies_that_only_we_saw_are_no_packets():
    """A bridge floods copies, each of which comes to our last chain: events are counted, the packet is one."""
    recording = NftByHand([IN, LATE_IN, LATE_OUT]).passes(SECOND, IN, LATE_OUT)
    recording.passes(SECOND + 1, LATE_OUT).passes(SECOND + 2, LATE_IN)
    (packet,) = Packets(recording)
    assert (packet.verdict, packet.complete, packet.ambiguous) == ("ACCEPT", True, False)
    found = summarize(recording)
    assert (found.packets, found.events, found.orphans) == (1, 5, 0)


def test_nothing_but_copies():
    assert list(Packets(NftByHand([IN, LATE_IN]).passes(SECOND, LATE_IN))) == []


@pytest.mark.parametrize("there", [True, False], ids=["came later", "went"])
def test_our_chain_tells_the_same_whenever_it_was_there(there):
    """Its rules are not asked for: what it saw arrived for sure, and what it did not see nobody knows."""
    rulesets = [[IN, PRE], [IN, PRE, LATE_IN]]
    recording = NftByHand(*(rulesets if there else rulesets[::-1]))
    for number, time in enumerate((0, 3 * SECOND // 2 - 1, 2 * SECOND)):
        recording.passes(time + 1, IN, PRE, LATE_IN, packet=udp(ident=number))
        recording.passes(time + 2, IN, PRE, packet=udp(ident=10 + number))
    for packet in Packets(recording):
        arrived = packet.header["id"] < 10
        told_of = packet.verdict, packet.complete, packet.ambiguous
        assert told_of == (("ACCEPT", True, False) if arrived else ("UNKNOWN", False, False))


@pytest.mark.parametrize("priorities", [(-10, 10), (10, -10), (10, 20), (0, -10)])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("time", [SECOND, 2 * SECOND])
def test_a_chain_that_was_moved(priorities, first, time):
    """It is passed where it stands then, before another table's chain or after it; the packet is one."""
    states = [("ip other/c", "forward", one) for one in priorities]
    recording = NftByHand(*([IN, FORWARD, one] for one in states))
    here = priorities[time > 3 * SECOND // 2]
    if here != 0 and (here < 0) != first:
        return  # the kernel does not pass it so
    moved, stays = states[0], FORWARD
    (packet,) = Packets(recording.passes(time, IN, *((moved, stays) if first else (stays, moved))))
    assert (packet.verdict, packet.complete, packet.ambiguous) == ("ACCEPT", True, False)
    assert len(packet.steps) == 5


@pytest.mark.parametrize(
    "hooks", [*permutations(("prerouting", "input", "forward"), 2)], ids="-".join
)
@pytest.mark.parametrize("last", [ACCEPT, DROP])
@pytest.mark.parametrize("time", [SECOND, 2 * SECOND])
def test_a_chain_that_keeps_its_name_at_another_hook(hooks, last, time):
    """The hook is that of the rules of the time: the packet is one, and seen as a whole."""
    states = [("ip fw/c", one, 0) for one in hooks]
    recording = NftByHand(*([IN, one, LATE_IN, LATE_OUT] for one in states))
    here = states[time > 3 * SECOND // 2]
    way = {"input": [LATE_IN], "forward": [LATE_OUT], "prerouting": [LATE_OUT]}[here[1]]
    (packet,) = Packets(
        recording.passes(time, IN, here, *(way if last == ACCEPT else []), last=last)
    )
    verdict = "ACCEPT" if last == ACCEPT else "DROP"
    assert (packet.verdict, packet.complete, packet.ambiguous) == (verdict, True, False)


def test_a_packet_while_its_chain_gets_another_hook():
    """Nobody knows at which it passed: it is one packet all the same."""
    states = [[IN, ("ip fw/c", one, 0), LATE_OUT] for one in ("forward", "prerouting")]
    recording = NftByHand(*states).passes(3 * SECOND // 2, IN, states[0][1], LATE_OUT)
    (packet,) = Packets(recording)
    assert (packet.verdict, packet.complete) == ("ACCEPT", True)
