"""A text of a rule finds its rule: by what it says, and by the order in which rules are met."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iptrec.decode.rulesets.types import SEVERAL, UNTOLD
from iptrec.pasted.nft_chains import Ends
from iptrec.pasted.nft_events import VERDICTS, Event
from iptrec.pasted.nft_packet import Packet
from iptrec.pasted.nft_rules import Handles, Listed
from iptrec.pasted.nft_words import alike, normal

LISTING = b"""table inet fw {
	chain input { # handle 1
		type filter hook input priority filter; policy drop;
		counter packets 7 bytes 9 # handle 2
		tcp dport { 22, 80 } accept # handle 3
		counter packets 8 bytes 9 # handle 4
		jump sub # handle 5
		counter packets 8 bytes 9 # handle 6
	}
	chain sub { # handle 7
		counter packets 1 bytes 1 # handle 8
		udp dport 1 accept # handle 9
		counter packets 1 bytes 1 # handle 10
	}
}
"""
CONTINUE, JUMP = VERDICTS["continue"], VERDICTS["jump"]


def event(text, chain="input", *, trace=1, verdict="continue", **more):
    """A rule's event without a handle."""
    return Event(
        trace=trace,
        family="inet",
        table="fw",
        chain=chain,
        text=text,
        verdict=VERDICTS[verdict],
        **more,
    )


def policy(trace=1):
    return Event(trace=trace, family="inet", table="fw", chain="input", policy=True, verdict=0)


def handles(*events, listing=LISTING):
    """The handles that events get, and the resolver."""
    resolver = Handles(None if listing is None else Listed.of(listing))
    found = [one for each in events for one in resolver.feed(each)]
    return [
        one.handle for one in [*found, *resolver.finish()] if not one.policy and not one.end
    ], resolver


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("counter packets 0 bytes 0", "counter packets 17 bytes 2000"),
        ("ip saddr { 10.0.0.1, 10.0.0.2 } drop", "ip saddr { 10.0.0.2, 10.0.0.1 } drop"),
        ("meta mark set 0x00000017", "meta mark set 0x17"),
        ("udp dport 81  counter packets 0 bytes 0 drop", "udp dport 81 counter drop"),
        ("update @s { ip saddr timeout 1h1m }", "update @s { ip saddr timeout 3660s }"),
        ("quota 10 mbytes used 3 kbytes drop", "quota 10 mbytes used 9 mbytes drop"),
        (
            "jump {\n\t\t\tcounter packets 7 bytes 376\n\t\t\taccept\n\t\t}",
            "jump { counter; accept; }",
        ),
    ],
)
def test_equal_texts(one, other):
    """What differs by state and order alone is of one rule."""
    assert normal(one) == normal(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("tcp dport 22 accept", "tcp dport 23 accept"),
        ('log prefix "counter packets 1 bytes 1"', 'log prefix "counter packets 2 bytes 2"'),
        ('comment "{ b, a }"', 'comment "{ a, b }"'),
        ("accept", "drop"),
    ],
)
def test_different_texts(one, other):
    """What is quoted is not touched."""
    assert normal(one) != normal(other)
    assert not alike(normal(one), normal(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("icmp type echo-request accept", "icmp type 8 accept"),
        ("meta l4proto { tcp, udp } goto rest", "meta l4proto { 6, 17 } goto rest"),
        ("meta nfproto ipv6 accept", "meta nfproto 10 accept"),
        ("meta l4proto ipv6-icmp accept", "meta l4proto 58 accept"),
        ("ct state established,related accept", "ct state 0x2,0x4 accept"),
        ("tcp flags syn / syn,ack accept", "tcp flags 0x2 / 0x2,0x10 accept"),
        ("udp dport 7 reject with icmpx admin-prohibited", "udp dport 7 reject with icmpx 3"),
        ("reject with icmpx no-route", "reject with icmpx 0"),
        ("reject with icmpx host-unreachable", "reject with icmpx 2"),
        ("reject with icmp port-unreachable", "reject with icmp 3"),
        ("reject with icmpv6 admin-prohibited", "reject with icmpv6 1"),
    ],
)
def test_numeric_texts(one, other):
    """Names and their numbers are the same (nft -nn)."""
    assert alike(normal(one), normal(other))
    assert alike(normal(other), normal(one))


def test_a_single_rule():
    """Its text is enough; what counts and the order of a set do not matter."""
    found, resolver = handles(event("tcp dport { 80, 22 } accept", verdict="accept"))
    assert found == [3]
    assert not resolver.ambiguous


def test_by_order():
    """Three equal rules, all of them met; one of them behind another rule."""
    met = [event("counter"), event("counter"), event("jump sub", verdict="jump", target="sub")]
    assert handles(*met, event("counter"), policy())[0] == [2, 4, 5, 6]
    assert handles(event("jump sub", verdict="jump", target="sub"), event("counter"), policy())[
        0
    ] == [5, 6]


def test_open():
    """One of several equal rules, and nothing tells which: it gets none of their handles."""
    found, resolver = handles(event("counter"), policy())
    assert found == [SEVERAL]
    assert resolver.ambiguous == 1
    assert resolver.texts == {("inet", "fw", SEVERAL): ("input", "counter")}


def test_each_packet_for_itself():
    """What another packet met says nothing; the order of all events stays."""
    one = [event("counter", trace=1), event("counter", trace=1), event("counter", trace=1)]
    other = [
        event("counter", trace=2),
        event("tcp dport { 22, 80 } accept", trace=2, verdict="accept"),
    ]
    found, resolver = handles(one[0], other[0], one[1], other[1], one[2], policy(1))
    assert found == [2, 2, 4, 3, 6]
    assert not resolver.ambiguous


def test_a_chain_anew():
    """A chain that is called again begins at its first rule."""
    call = event("jump sub", verdict="jump", target="sub")
    inside = [event("counter", "sub"), event("udp dport 1 accept", "sub", verdict="accept")]
    packet = Packet(iif="lo")
    first = event("counter", packet=packet)
    again = [first, event("counter"), call, *inside, first, event("counter"), call, *inside]
    assert handles(*again)[0] == [2, 4, 5, 8, 9] * 2


def test_unlisted():
    """A rule that the ruleset does not have, and no ruleset at all."""
    found, resolver = handles(event("udp dport 9"), policy())
    assert found == [UNTOLD]
    assert resolver.unlisted == 1
    found, resolver = handles(event("a"), event("b"), event("a"), policy(), listing=None)
    assert found == [UNTOLD, UNTOLD + 1, UNTOLD]
    assert (resolver.unlisted, resolver.ambiguous) == (0, 0)


def test_told_handles():
    """A handle that is told is believed, and tells where the others are."""
    found, _ = handles(event("counter", handle=4), event("counter"), policy())
    assert found == [4, 6]


def test_a_listing_without_handles():
    """Numbers are in the place of handles; those that a trace tells are others."""
    plain = b"\n".join(line.partition(b" # handle")[0] for line in LISTING.split(b"\n"))
    found, _ = handles(
        event("tcp dport { 22, 80 } accept", handle=3, verdict="accept"), listing=plain
    )
    assert found == [5]  # its line


@given(
    st.lists(st.sampled_from(["counter", "tcp dport { 22, 80 } accept", "udp dport 9", "jump sub"]))
)
def test_never_a_wrong_order(texts):
    """Whatever is met: handles of the ruleset rise within a chain, and each is of a rule with that text."""
    found, _ = handles(*map(event, texts), policy())
    of = {2: "counter", 4: "counter", 6: "counter", 3: "tcp dport { 22, 80 } accept", 5: "jump sub"}
    assert len(found) == len(texts)
    assert all(of[one] == text for one, text in zip(found, texts, strict=True) if one < UNTOLD)


def ends(*events):
    """The chains of events, those of ends in brackets."""
    known = Ends()
    return [
        f"[{one.chain}]" if one.end else one.chain for each in events for one in known.feed(each)
    ]


def test_ends_of_chains():
    """A packet that goes on in the calling chain came to the end of the one that was called."""
    call = event("jump sub", verdict="jump", target="sub", packet=Packet(iif="lo"))
    deeper = event("jump low", "sub", verdict="jump", target="low")
    assert ends(call, policy()) == ["input", "[sub]", "input"]
    assert ends(call, event("a", "sub"), event("b")) == ["input", "sub", "[sub]", "input"]
    assert ends(call, deeper, event("c", "low"), policy()) == [
        "input",
        "sub",
        "low",
        "[low]",
        "[sub]",
        "input",
    ]


def test_no_ends():
    """A rule that returns or decides, an end that is told, a goto, and a chain that nobody saw being called."""
    call = event("jump sub", verdict="jump", target="sub", packet=Packet(iif="lo"))
    assert ends(call, event("a", "sub", verdict="return"), policy()) == ["input", "sub", "input"]
    told = Event(trace=1, family="inet", table="fw", chain="sub")
    assert ends(call, told, policy()) == ["input", "[sub]", "input"]
    assert ends(event("a", "sub"), policy()) == ["sub", "input"]
    away = event("goto low", "sub", verdict="goto", target="low")
    assert ends(call, away, event("a", "low"), policy()) == [
        "input",
        "sub",
        "low",
        "[low]",
        "input",
    ]
