"""What nft prints beside rules, as values: by its text and by its JSON."""

from __future__ import annotations

import contextlib
import json

import pytest

from iptrec.decode.rulesets import nft_json, nft_objects
from iptrec.decode.rulesets.nft_objects import Object

TEXT = """\
table inet fw { # handle 1
	comment "my table"
	flags dormant
	counter c1 { # handle 4
		packets 5 bytes 7
	}

	quota q1 { # handle 5
		over 25 mbytes used 3 bytes
	}

	ct helper ftp { # handle 7
		type "ftp" protocol tcp
		l3proto inet
	}

	set blocked { # handle 9
		type ipv4_addr
		flags interval,timeout
		comment "a, b { x }"
		elements = { 10.0.0.0/24 timeout 30m expires 29m59s996ms comment "x, } y",
			192.0.2.0-192.0.2.77 expires 59m59s996ms }
	}

	set dyn { # handle 11
		type ipv4_addr . inet_service
		size 1000
		flags dynamic,timeout
		counter
		elements = { 1.2.3.4 . 80 counter packets 3 bytes 9 timeout 10m expires 9m59s996ms }
	}

	map services { # handle 12
		type inet_service : verdict
		elements = { 22 : accept, 23 : jump other, 80 : drop }
	}

	chain other { # handle 1
		counter packets 1 bytes 84 # handle 14
	}

	chain input { # handle 2
		type filter hook input priority filter; policy drop;
		ct state established accept comment "it's { here" # handle 15
		jump {
			tcp dport 3 accept
			counter packets 2 bytes 4
		} # handle 22
	}
}
table ip6 t6 { # handle 2
}
"""
OBJECTS = [
    Object("counter", "c1", ""),
    Object("quota", "q1", "over 25 mbytes"),
    Object("ct helper", "ftp", 'type "ftp" protocol tcp; l3proto inet'),
    Object("set", "blocked", 'type ipv4_addr; flags interval,timeout; comment "a, b { x }"',
           ('10.0.0.0/24 timeout 30m comment "x, } y"', "192.0.2.0-192.0.2.77")),
    Object("set", "dyn", "type ipv4_addr . inet_service; size 1000; flags dynamic,timeout; counter",
           ("1.2.3.4 . 80 counter timeout 10m",)),
    Object("map", "services", "type inet_service : verdict", ("22 : accept", "23 : jump other", "80 : drop")),
    Object("chain", "other", ""),
    Object("chain", "input", "type filter hook input priority filter;"),
    Object("table", "", 'comment "my table"; flags dormant'),
]  # fmt: skip
BARE = "\n".join(line.partition(" # handle")[0] for line in TEXT.split("\n"))


@pytest.mark.parametrize("text", [TEXT, BARE], ids=["handles", "none"])
def test_of_text(text):
    """Objects, in nft's words, without what counts or runs out."""
    assert nft_objects.of_text(text.encode()) == {("inet", "fw"): OBJECTS, ("ip6", "t6"): []}


@pytest.mark.parametrize("text", [TEXT, BARE], ids=["handles", "none"])
def test_rules_of_a_text(text):
    """They are the same rules with and without handles, whatever they have counted."""
    listing = nft_json.parse(b"", nft_objects.numbered(text.encode()))
    chains = listing.chains["inet", "fw"]
    assert [rule.spec for rule in chains["other"].rules] == ["counter"]
    assert [rule.spec for rule in chains["input"].rules] == [
        'ct state established accept comment "it\'s { here"',
        "jump { tcp dport 3 accept; counter; }",
    ]
    assert chains["input"].policy == "DROP"


def listed(**value):
    (kind, what), *_ = value.items()
    one = {"family": "inet", "table": "fw", "handle": 3} | what
    return json.dumps({"nftables": [{"metainfo": {}}, {kind.replace("_", " "): one}]}).encode()


JSON = {
    "set": (
        listed(set={"name": "s", "type": "ipv4_addr", "flags": ["timeout"], "elem": [
            "10.0.0.1",
            {"elem": {"val": {"prefix": {"addr": "10.1.0.0", "len": 16}}, "expires": 7}},
            {"elem": {"val": "10.2.0.1", "timeout": 60, "expires": 7, "counter": {"packets": 1, "bytes": 2}}},
        ]}),
        Object("set", "s", 'type ipv4_addr; flags ["timeout"]', (
            "10.0.0.1", '{"prefix":{"addr":"10.1.0.0","len":16}}',
            '{"elem":{"val":"10.2.0.1","timeout":60,"counter":null}}',
        )),
    ),
    "map": (
        listed(map={"name": "m", "type": "inet_service", "map": "verdict", "elem": [[22, {"accept": None}]]}),
        Object("map", "m", "type inet_service; map verdict", ('[22,{"accept":null}]',)),
    ),
    "counter": (listed(counter={"name": "c", "packets": 1, "bytes": 2}), Object("counter", "c", "")),
    "quota": (listed(quota={"name": "q", "bytes": 9, "used": 2}), Object("quota", "q", "bytes 9")),
    "base chain": (
        listed(chain={"name": "i", "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}),
        Object("chain", "i", "type filter; hook input; prio 0"),
    ),
    "helper": (listed(ct_helper={"name": "h", "type": "ftp"}), Object("ct helper", "h", "type ftp")),
}  # fmt: skip


@pytest.mark.parametrize("case", JSON)
def test_of_json(case):
    """The same by nft's JSON, in its words."""
    listing, expected = JSON[case]
    assert nft_objects.of_json(listing) == {("inet", "fw"): [expected]}


@pytest.mark.parametrize("listing", [b"", b"{", b"[]", b"{}", b'{"nftables": 3}', b"[" * 100_000])
def test_what_is_not_json_of_nft(listing):
    """One error, or nothing."""
    with contextlib.suppress(ValueError):
        assert nft_objects.of_json(listing) == {}


def test_flags_that_nft_spoils():
    """1.0.6 prints, in the place of one flag, what it has freed before: often the table's name."""
    listing = {"nftables": [{"table": {"family": "ip6", "name": "t6", "flags": "t6"}}]}
    unnamed = [Object("table", "", nft_objects.UNNAMED_FLAG)]
    assert nft_objects.of_json(json.dumps(listing).encode()) == {("ip6", "t6"): unnamed}
    listing = {"nftables": [{"table": {"family": "ip6", "name": "t6", "flags": ["dormant"]}}]}
    assert nft_objects.of_json(json.dumps(listing).encode()) == {
        ("ip6", "t6"): [Object("table", "", "flags dormant")]
    }


COMMENTED = """\
table inet fw {
	chain in {
		comment "my
		chain { counter packets 1 bytes 2"
		type filter hook input priority filter; policy accept;
		tcp dport 1 counter packets 5 bytes 7 drop comment "counter packets 5 bytes 7"
	}
}
"""


BEHIND_COMMENTS = """\
table inet fw {
	chain in {
		tcp dport 1 accept comment "of two
lines"
		tcp dport 2 jump {
			tcp dport 3 accept comment "} {"
			counter packets 1 bytes 2
		} comment "behind"
		tcp dport 4 accept
	}
}
"""


def test_rules_behind_comments_of_several_lines():
    """And behind an anonymous chain that has a comment: each of them is there once."""
    listing = nft_json.parse(b"", nft_objects.numbered(BEHIND_COMMENTS.encode()))
    (chain,) = listing.chains["inet", "fw"].values()
    ports = [rule.spec[:11] for rule in chain.rules]
    assert ports == ["tcp dport 1", "tcp dport 2", "tcp dport 4"]


def test_a_comment_of_a_chain_is_no_rule():
    """Nor is what stands in a comment a count."""
    listing = nft_json.parse(b"", nft_objects.numbered(COMMENTED.encode()))
    (chain,) = listing.chains["inet", "fw"].values()
    assert chain.policy == "ACCEPT"
    assert [one.spec for one in chain.rules] == [
        'tcp dport 1 counter drop comment "counter packets 5 bytes 7"'
    ]


def test_what_a_quota_has_used():
    """It is no part of a rule, by nft's JSON as little as by its text."""
    quota = {"val": 10, "val_unit": "mbytes"}
    used, fresh = (
        json.dumps({"rule": {"expr": [{"quota": quota | more}]}}).encode()
        for more in ({"used": 5, "used_unit": "kbytes"}, {})
    )
    assert nft_objects.stateless(used) == fresh
