"""The ids in a text of nf_tables' traces tell which lines are of one packet, whatever else is missing."""

from __future__ import annotations

import json

import pytest
from command import iptrec

HEADERS = (
    "packet: {way} ip saddr 10.0.0.1 ip daddr 10.0.1.1 ip dscp cs0 ip ecn not-ect ip ttl 64 ip id {number}"
    " ip protocol udp ip length 36 udp sport 53 udp dport 7 udp length 16"
)
RULES = """table inet fw { # handle 1
	chain out { # handle 1
		type filter hook output priority -350; policy accept;
		meta nftrace set 1 # handle 2
	}
	chain post { # handle 3
		type filter hook postrouting priority -10; policy accept;
		udp dport 9 drop # handle 4
	}
	chain pre { # handle 5
		type filter hook prerouting priority raw; policy accept;
		meta nftrace set 1 # handle 6
	}
	chain fwd { # handle 7
		type filter hook forward priority filter; policy drop;
		udp dport 7 accept # handle 8
	}
}
"""
OUT, IN, FORWARDED = 'oif "b"', 'iif "a"', 'iif "a" oif "b"'


def packets(tmp_path, lines, rules=RULES):
    (tmp_path / "text").write_text("\n".join(lines) + "\n")
    (tmp_path / "rules").write_text(rules)
    done = iptrec(
        "import", tmp_path / "text", "--ruleset", tmp_path / "rules", "-o", tmp_path / "x.db"
    )
    assert done.returncode == 0, done.stderr
    shown = iptrec("show", "--json", tmp_path / "x.db")
    assert shown.returncode in (0, 1), shown.stderr
    return [json.loads(line) for line in shown.stdout.splitlines()]


def chain(place, *events, way="", number=1, trace="aaaaaaaa"):
    """The lines of one base chain; with ``way`` those of its packet before them."""
    head = f"trace id {trace} {place} "
    told = [HEADERS.format(way=way, number=number)] if way else []
    return [head + one for one in [*told, *events]]


def sent(**more):
    return chain(
        "inet fw out",
        "rule meta nftrace set 1 # handle 2 (verdict continue)",
        "policy accept",
        **more,
    )


def came(**more):
    return chain(
        "inet fw pre",
        "rule meta nftrace set 1 # handle 6 (verdict continue)",
        "policy accept",
        **more,
    )


def forwarded(**more):
    accept = "rule udp dport 7 accept # handle 8 (verdict accept)"
    return [*chain("inet fw fwd", accept, **more), *chain("inet fw post", "policy accept", **more)]


def told(packets):
    return [(one["verdict"], one["complete"], len(one["steps"])) for one in packets]


DROPS = "rule udp dport 7 drop # handle 9 (verdict drop)"


def test_a_table_that_was_not_pasted_drops(tmp_path):
    """What the told rules accepted another table dropped: that is one packet, and its end is sure."""
    found = packets(tmp_path, [*sent(way=OUT), *chain("ip other late", DROPS, way=OUT)])
    assert told(found) == [("DROP", True, 3)]
    decided = found[0]["decided_by"]
    assert (decided["table"], decided["chain"], decided["rule"]) == ("ip other", "late", None)
    assert found[0]["steps"][-1]["spec"] == "udp dport 7 drop"


def test_a_table_that_was_not_pasted_lets_pass(tmp_path):
    """Behind it the packet goes on in the chains that are known."""
    between = chain(
        "ip other fwd", "rule counter # handle 3 (verdict continue)", "policy accept", way=FORWARDED
    )
    found = packets(tmp_path, [*came(way=IN), *between, *forwarded(way=FORWARDED)])
    assert told(found) == [("ACCEPT", True, 6)]


@pytest.mark.parametrize("first", ["policy accept", "rule accept # handle 3 (verdict accept)"])
def test_a_table_that_was_not_pasted_is_the_first(tmp_path, first):
    """One packet, of which the beginning is not known."""
    before = chain("ip other o", first, way=OUT)
    found = packets(
        tmp_path, [*before, *sent(way=OUT), *chain("inet fw post", "policy accept", way=OUT)]
    )
    assert [len(one["steps"]) for one in found] == [4]


def test_a_chain_that_was_not_pasted(tmp_path):
    """So it is with a chain of a table that is known otherwise."""
    found = packets(tmp_path, [*sent(way=OUT), *chain("inet fw late", DROPS, way=OUT)])
    assert told(found) == [("DROP", True, 3)]


@pytest.mark.parametrize("way", [(IN, FORWARDED), ("", "")], ids=["equal", "no headers"])
def test_two_ids_are_two_packets(tmp_path, way):
    """Equal headers, or none, do not make one packet of two ids."""
    lines = [*came(way=way[0]), *forwarded(way=way[1], trace="bbbbbbbb")]
    found = packets(tmp_path, lines)
    assert [one["complete"] for one in found] == [False, False]
    assert [len(one["steps"]) for one in found] == [2, 2]


@pytest.mark.parametrize("way", [(IN, FORWARDED), ("", ""), (IN, ""), ("", FORWARDED)])
def test_one_id_is_one_packet(tmp_path, way):
    """Whatever is told of its headers."""
    found = packets(tmp_path, [*came(way=way[0]), *forwarded(way=way[1])])
    assert told(found) == [("ACCEPT", True, 4)]


def test_an_id_is_used_again(tmp_path):
    """Another packet has the id of one before it: its headers tell, or that it begins anew."""
    first, second = came(way=IN), forwarded(way=FORWARDED, number=2)
    assert not any(one["complete"] for one in packets(tmp_path, [*first, *second]))
    whole = [*came(way=IN), *forwarded(way=FORWARDED)]
    (tmp_path / "x.db").unlink()
    assert told(packets(tmp_path, [*whole, *whole])) == [("ACCEPT", True, 4)] * 2


def test_no_copy_of_itself(tmp_path):
    """A line that is missing between two of POSTROUTING makes no copy of one packet."""
    lines = [*sent(way=OUT), *chain("inet fw post", "policy accept", way=OUT)]
    found = packets(tmp_path, [*lines, lines[-1]])
    assert not any("copy" in json.dumps(one["related"]) for one in found)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("udp dport 7 reject with icmpx 3", "REJECT"),
        ("-p udp -j REJECT --reject-with icmp-port-unreachable", "REJECT"),
        ('udp dport 7 counter drop comment "reject or not"', "DROP"),
    ],
)
@pytest.mark.parametrize("handle", ["", " # handle 9"])
def test_a_rule_that_is_not_known_rejects(tmp_path, text, verdict, handle):
    """The kernel tells `drop` of both; the words of the line tell which it was."""
    lines = [*sent(way=OUT), *chain("inet fw post", f"rule {text}{handle} (verdict drop)", way=OUT)]
    found = packets(tmp_path, lines)
    assert told(found) == [(verdict, True, 3)]
    assert found[0]["steps"][-1]["spec"] == text


def test_unknown_addresses_are_equal_to_nothing(tmp_path):
    """What is masked makes no packet the one that was sent before, looped back."""
    lines = [*sent(way=OUT), *chain("inet fw post", "policy accept", way=OUT)]
    lines += [*came(way='iif "b"', trace="bbbbbbbb"), *forwarded(way=FORWARDED, trace="bbbbbbbb")]
    masked = [one.replace("10.0.0.1", "a.b.c.d").replace("10.0.1.1", "x.x.x.x") for one in lines]
    assert [one["related"] for one in packets(tmp_path, masked)] == [[], []]


BRIDGE = """table bridge br { # handle 1
	chain pre { # handle 1
		type filter hook prerouting priority -300; policy accept;
		meta nftrace set 1 # handle 2
	}
}
table inet fw { # handle 2
	chain in { # handle 1
		type filter hook input priority filter; policy accept;
		udp dport 9 drop # handle 2
	}
}
"""


@pytest.mark.parametrize(("iif", "count"), [('iif "br0"', 1), ('iif "port"', 2)])
def test_a_bridge_hands_over(tmp_path, iif, count):
    """By the interface of the bridge the packet has another id: it is the same one, if it is the only one."""
    rule = "rule meta nftrace set 1 # handle 2 (verdict continue)"
    frame = 'iif "port" ether saddr 2e:49:6a:55:43:15 ether daddr 1a:77:b7:6c:c8:f8'
    lines = chain("bridge br pre", rule, "policy accept", way=frame)
    lines += chain("inet fw in", "policy accept", way=iif, trace="bbbbbbbb")
    assert len(packets(tmp_path, lines, BRIDGE)) == count


def test_the_version_is_told_by_another_table(tmp_path):
    """A table of ip6 that the packet passes later tells what the lines of inet before were about."""
    six = chain("ip6 other p", "policy accept")
    found = packets(tmp_path, [*came()[:2], *six, *forwarded()])
    assert [(one["family"], one["verdict"], one["complete"]) for one in found] == [
        ("ipv6", "ACCEPT", True)
    ]


def test_the_version_of_masked_addresses(tmp_path):
    """The words of the line tell it."""
    lines = [one.replace("ip saddr 10.0.0.1", "ip6 saddr x:y::z") for one in came(way=IN)]
    assert [one["family"] for one in packets(tmp_path, lines)] == ["ipv6"]


def test_the_version_may_never_be_told(tmp_path):
    """Order and number of events stay, however many wait."""
    lines = [one for number in range(1500) for one in came(trace=f"{number:08x}")]
    assert len(packets(tmp_path, lines)) == 1500


EARLY = """	chain early { # handle 9
		type filter hook forward priority -400; policy accept;
		udp dport 7 drop # handle 9
	}
"""


def test_the_ruleset_is_another_one(tmp_path):
    """The packet went on where the given rules do not have it: what they accepted is not sure."""
    rules = RULES.removesuffix("}\n") + EARLY + "}\n"
    lines = [
        *came(way=IN),
        *forwarded(way=FORWARDED),
        *chain("inet fw early", DROPS, way=FORWARDED),
    ]
    (found,) = packets(tmp_path, lines, rules)
    assert (found["verdict"], found["ambiguous"], len(found["steps"])) == ("DROP", True, 5)
