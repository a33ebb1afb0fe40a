"""nft's ruleset: what is understood, what is not, and whose words are believed."""

from __future__ import annotations

import collections
import copy
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iptrec.decode.rulesets import iptables_save, nft_json, nft_text
from iptrec.decode.rulesets.types import Base
from iptrec.errors import RecordingError
from iptrec.recording.rows import Snapshot
from iptrec.rulesets.nft import NFT
from iptrec.rulesets.targets import always_matches, is_ours

DATA = Path(__file__).parents[1] / "data" / "nft"
LISTING = (DATA / "statements.json").read_bytes()  # of nft 1.0.6: tests/live/test_nft_statements.py
TEXT = (DATA / "statements.txt").read_bytes()
ALWAYS, PERHAPS = False, True  # `Rule.conditional`
COUNTER = {"counter": None}
DPORT = {"payload": {"protocol": "udp", "field": "dport"}}
DPORT_53 = {"match": {"op": "==", "left": DPORT, "right": 53}}


def listing(*rules, family="inet", table="fw", chain="c", **more):
    """One chain with these rules, each a list of statements or a whole rule."""
    here = {"family": family, "table": table}
    hook = {"type": "filter", "hook": "input", "prio": 0, "policy": "accept"}
    objects = [
        {"table": {"family": family, "name": table}},
        {"chain": {**here, "name": chain, **hook, **more}},
    ]
    for handle, rule in enumerate(rules, 1):
        whole = rule if isinstance(rule, dict) else {"handle": handle, "expr": rule}
        objects.append({"rule": {**here, "chain": chain, **whole}})
    return json.dumps({"nftables": objects}).encode()


def rules(*some, text=b"", **where):
    found = nft_json.parse(listing(*some, **where), text)
    return found.chains[where.get("family", "inet"), where.get("table", "fw")]["c"].rules


@pytest.mark.parametrize(
    ("statements", "target", "conditional"),
    [
        ([COUNTER, {"accept": None}], "ACCEPT", ALWAYS),
        ([{"jump": {"target": "x"}}], "x", ALWAYS),
        ([COUNTER, "jump {\n\t\t\tcounter\n\t\t}"], None, ALWAYS),
        ([DPORT_53, "jump {\n\t\t\tcounter\n\t\t}"], None, PERHAPS),
        (["jump { counter; }", {"accept": None}], "ACCEPT", PERHAPS),
        ([{"log": None}, "what is this"], None, PERHAPS),
        ([{"unheard of": 5}, {"drop": None}], "DROP", PERHAPS),
        ([{"drop": None, "accept": None}], None, PERHAPS),
        ([{"accept": 5}], None, PERHAPS),
        ([{"jump": "x"}], None, PERHAPS),
        ([{"goto": {"target": 5}}], None, PERHAPS),
        ([5, None, [], {}], None, PERHAPS),
        (None, None, PERHAPS),
        ("accept", None, PERHAPS),
        ([], None, ALWAYS),
        ([{"counter": "named"}], None, ALWAYS),
        ([{"counter": {"map": {"key": DPORT, "data": "@m"}}}], None, PERHAPS),
        ([{"queue": {"num": 3}}], "QUEUE", ALWAYS),
        ([{"queue": {"num": {"map": {"key": DPORT, "data": "@m"}}}}], "QUEUE", PERHAPS),
        ([{"reject": {"type": "icmpx", "expr": "port-unreachable"}}], "REJECT", ALWAYS),
        ([{"reject": {"type": "icmp", "expr": "port-unreachable"}}], "REJECT", PERHAPS),
        ([{"mangle": {"key": {"meta": {"key": "nftrace"}}, "value": 0}}], None, PERHAPS),
        ([{"xt": {"type": "target", "name": "DNAT"}}], "DNAT", PERHAPS),
    ],
)
def test_statements(statements, target, conditional):
    """What is not understood may do anything, and nobody knows whether it matches; the rest is read."""
    accept = [{"accept": None}]
    before, rule, after = rules(accept, statements, accept)
    assert (rule.target, rule.conditional, rule.goto) == (target, conditional, False)
    assert rule.spec == json.dumps(statements, separators=(",", ":"))
    assert (before.target, after.target) == ("ACCEPT", "ACCEPT")


@pytest.mark.parametrize("broken", [{"expr": [{"drop": None}]}, {"handle": "x"}, {"handle": -1}])
def test_a_rule_without_a_handle_keeps_its_place(broken):
    """Those behind it have the numbers that they have; no event is its."""
    found = rules([{"accept": None}], {"expr": [], **broken}, [{"drop": None}])
    assert [one.handle for one in found] == [1, None, 3]


@pytest.mark.parametrize(
    ("chain", "base"),
    [
        ({}, Base("inet", 1, 0, "filter")),
        ({"type": None}, Base("inet", 1, 0, "")),
        ({"type": "nat", "prio": 7}, Base("inet", 1, 100, "nat")),
        ({"hook": "nowhere"}, None),
        ({"hook": 5}, None),
        ({"prio": "early"}, None),
    ],
)
def test_chains(chain, base):
    """A hook or a priority that is not understood leaves the chain with its rules."""
    found = nft_json.parse(listing([{"accept": None}], **chain)).chains["inet", "fw"]["c"]
    assert found.base == base
    assert len(found.rules) == 1


def nodes(value, path=()):
    yield path
    children = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, child in children:
        yield from nodes(child, (*path, key))


OBJECTS = json.loads(LISTING)["nftables"]
PATHS = [path for path in nodes(OBJECTS) if path]
SAVED = {
    "ip": iptables_save.parse(b"".join([
        b"*filter\n:FORWARD ACCEPT [0:0]\n:own - [0:0]\n", b"[0:0] -A FORWARD -j own\n" * 12,
        b"[0:0] -A own -s 10.0.1.2/32\n" * 3, b"COMMIT\n",
    ])),
}  # fmt: skip
WHOLE = nft_json.parse(LISTING, TEXT, SAVED)
ODDITIES = st.sampled_from(
    [
        "",
        "jump",
        "\ud800",
        0,
        -1,
        2**64,
        1.5,
        True,
        None,
        [],
        [[]],
        {},
        {"jump": {}},
        {"a": 1, "b": 2},
    ]
)


def by_place(found):
    return {
        (table, chain.name, index): rule
        for table, chains in found.chains.items()
        for chain in chains.values()
        for index, rule in enumerate(chain.rules)
    }


@settings(max_examples=500)
@given(st.sampled_from(PATHS), ODDITIES)
def test_a_broken_object_takes_no_other_with_it(path, oddity):
    """Any node of a real listing becomes something else: all other rules are read as they were."""
    objects = copy.deepcopy(OBJECTS)
    parent = objects
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = oddity
    found = nft_json.parse(json.dumps({"nftables": objects}).encode(), TEXT, SAVED)
    broken = OBJECTS[path[0]].get("rule", {}).get("handle")
    left = collections.defaultdict(list)
    for one in by_place(found).values():
        left[one.handle].append(one)
    were = [one for one in by_place(WHOLE).values() if one.handle != broken]
    assert [one for one in were if one not in left[one.handle]] == []
    for chain in (one for chains in found.chains.values() for one in chains.values()):
        assert all(one.spec.encode() is not None for one in chain.rules)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"nftables": {}}', b"\xff", b"[" * 10**5])
def test_what_is_no_listing(content):
    """One line that says so."""
    with pytest.raises(RecordingError, match="nft ruleset is damaged"):
        nft_json.parse(content)


def in_order(found):
    """Of each chain: policy, hook, and its rules' handles and texts. One has a comment that forges rules."""
    return {
        (table, chain.name): (
            chain.policy,
            chain.base,
            [(one.handle, one.spec) for one in chain.rules],
        )
        for table, chains in found.chains.items()
        for chain in chains.values()
        if chain.name != "sub"
    }


@pytest.mark.parametrize("content", [b"", LISTING[:179] + b"\n", LISTING[:-30], b"{}", b"[]"])
def test_a_listing_that_breaks_off(content):
    """The text tells the same tables, chains, hooks and rules; of its conditions nothing is claimed."""
    found = nft_json.parse(content, TEXT, SAVED)
    assert (WHOLE.whole, found.whole) == (True, False)
    assert in_order(found) == in_order(WHOLE)
    for (table, *_, index), rule in by_place(found).items():
        assert rule.conditional, rule
        if table[1] == "raw" and "nftrace" in rule.spec:
            assert is_ours(rule, "iptrec:1"), index


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("reject", "REJECT"),
        ("udp dport 53 counter reject with icmpx admin-prohibited", "REJECT"),
        ('tcp dport 53 reject with tcp reset comment "no"', "REJECT"),
        ("meta nftrace set 1", "TRACE"),
        ('log prefix "x reject with "', "LOG"),
        ("log level " * 100_000 + "1", None),
        ("jump { reject; }", None),
        ("udp dport vmap { 53 : drop }", None),
        ("counter drop", None),
        ("reject with " * 100_000 + '"x"', None),
    ],
)
def test_targets_by_the_text(text, target):
    """What no event of a trace tells: that a drop is a reject, an accept NAT's, and where tracing begins."""
    whole = f"table ip x {{\n\tchain c {{\n\t\t{text} # handle 5\n\t}}\n}}\n"
    ((rule,),) = (
        one.rules for one in nft_json.parse(b"", whole.encode()).chains["ip", "x"].values()
    )
    assert (rule.target, rule.conditional, rule.handle) == (target, True, 5)


@pytest.mark.parametrize("line", ["table a b {", "\tchain a {", "\t\ta # handle {}"])
def test_too_much_text(line):
    """More than memory is to be taken for is refused, in one line."""
    lines = "\n".join(line.replace("{}", str(at)) for at in range(nft_json._MOST_TOLD + 1))
    text = f"table ip x {{\n\tchain c {{\n{lines}\n".encode()
    with pytest.raises(RecordingError, match="by its text alone"):
        nft_json.parse(b"", text)


HOOK_LINES = [
    ("inet", "type filter hook input priority filter - 1; policy drop;", Base("inet", 1, -1, "filter")),
    ("ip", "type route hook output priority raw; policy accept;", Base("ip", 3, -300, "route")),
    ("ip", "type filter hook input priority -2147483648;", Base("ip", 1, -2147483648, "filter")),
    ("bridge", "type filter hook input priority filter; policy accept;", Base("bridge", 1, -200, "filter")),
    ("netdev", 'type filter hook ingress device "lo" priority filter + 5; policy accept;',
     Base("netdev", 0, 5, "filter")),
    ("ip", "type filter hook input priority nowhere; policy accept;", None),
    ("ip", "type filter hook nowhere priority 0; policy accept;", None),
    ("ip", "udp dport 53 type filter hook input priority 0;", None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "devices"),
    [
        ('device "v0"', {"v0"}),
        ("device v0", {"v0"}),
        ("devices = { v1, v0 }", {"v0", "v1"}),
        ('devices = { "v1", "v 0" }', {"v1", "v 0"}),
        ("", None),
    ],
)
def test_devices_by_the_text(line, devices):
    """The JSON of nft 1.0.6 has none."""
    text = (
        "table netdev t { # handle 1\n\tchain c { # handle 2\n\t\ttype filter hook ingress"
        f" {line} priority 0; policy accept;\n\t}}\n}}\n"
    ).encode()
    found = nft_text.devices(text)
    assert found == ({("netdev", "t", "c"): frozenset(devices)} if devices else {})


@pytest.mark.parametrize(("family", "line", "base"), HOOK_LINES)
def test_hooks_by_the_text(family, line, base):
    text = f"table {family} x {{ # handle 1\n\tchain c {{ # handle 1\n\t\t{line}\n\t}}\n}}\n"
    (chain,) = nft_json.parse(b"", text.encode()).chains[family, "x"].values()
    assert chain.base == base


@pytest.mark.parametrize("flags", ["flags dormant", "flags dormant,owner", "flags owner, dormant;"])
def test_a_dormant_table(flags):
    """Its chains are attached nowhere: the text says so, whatever the JSON makes of its flags."""
    text = f"table inet fw {{ # handle 1\n\t{flags}\n\n\tchain c {{ # handle 1\n\t}}\n}}\n"
    printed = listing([{"drop": None}], policy="drop")
    assert nft_json.parse(printed).chains["inet", "fw"]["c"].base
    found = nft_json.parse(printed, text.encode())
    chain = found.chains["inet", "fw"]["c"]
    assert (chain.policy, chain.base, len(chain.rules)) == ("DROP", None, 1)
    awake = nft_json.parse(printed).chains["inet", "fw"]["c"].base
    assert found.dormant == {("inet", "fw"): {"c": awake}}


def test_handles_by_the_text():
    """Those of tables, chains and rules, also where the JSON broke off."""
    text = b"table ip x { { # handle 7\n\tflags owner\n\tchain c { # handle 9\n\t\tdrop # handle 12\n\t}\n}\n"
    found = nft_json.parse(b"", text)
    chain = found.chains["ip", "x {"]["c"]
    assert (found.handles, chain.handle) == ({("ip", "x {"): 7}, 9)
    assert [one.handle for one in chain.rules] == [12]


@pytest.mark.parametrize(
    "line", ["\tset s { # handle 2\n\t\tflags dormant", "\tflags owner", "\tset flags dormant {"]
)
def test_an_awake_table(line):
    text = f"table inet fw {{ # handle 1\n{line}\n\t}}\n}}\n"
    assert nft_json.parse(listing([]), text.encode()).chains["inet", "fw"]["c"].base


def test_texts_of_rules():
    """An anonymous chain is one text; what only looks like a rule is none."""
    text = """\
table inet fw { # handle 1
	chain c { # handle 1
		type filter hook input priority filter; policy accept;
		udp dport 53 counter jump {
			counter comment "}"
			return
		} # handle 1
		counter comment "two
		accept # handle 3
	lines" # handle 2
		accept comment "x # handle 5" # handle 4
		drop # handle 3
	}
}
"""
    found = rules(*[[]] * 4, text=text.encode())
    assert [one.spec for one in found] == [
        'udp dport 53 counter jump { counter comment "}"; return; }', "[]", "[]",
        'accept comment "x # handle 5"',
    ]  # fmt: skip


@pytest.mark.parametrize(
    "line", ['\t\t"', "\t\t{", "\t\t\tcounter # handle 5", "table ip x {", "\tchain x {"]
)
@pytest.mark.parametrize("first", ['\t\tcounter comment "a', "\t\tjump {"])
def test_a_text_that_never_ends(first, line):
    """Read once, however long it is: 0.2 s, where each line looking back at all would take hours."""
    text = f"table inet fw {{\n\tchain c {{\n{first}\n" + f"{line}\n" * 200_000
    assert rules([], text=text.encode())[0].spec == "[]"


def match(left, right, op="=="):
    return {"match": {"op": op, "left": left, "right": right}}


def ip(field):
    return {"payload": {"protocol": "ip", "field": field}}


def tcp(field):
    return {"payload": {"protocol": "tcp", "field": field}}


def meta(key):
    return {"meta": {"key": key}}


def xt(name, kind="match"):
    return {"xt": {"type": kind, "name": name}}


NET = {"prefix": {"addr": "10.0.0.0", "len": 8}}
BOTH = [  # as iptables-nft 1.8.9 and nft 1.0.6 print rules that iptables made
    ("-s 10.0.0.1/32 ! -d 10.0.0.0/8 -p tcp -m tcp --dport 80 -j ACCEPT",
     [match(ip("saddr"), "10.0.0.1"), match(ip("daddr"), NET, "!="), match(tcp("dport"), 80), COUNTER,
      {"accept": None}]),
    ("-s 10.0.5.0/255.0.255.0 -j ACCEPT",
     [match({"&": [ip("saddr"), "255.0.255.0"]}, "10.0.5.0"), COUNTER, {"accept": None}]),
    ("-p tcp -m tcp ! --sport 5 --dport 22:33 -g own",
     [match(tcp("sport"), 5, "!="), match(tcp("dport"), {"range": [22, 33]}), COUNTER,
      {"goto": {"target": "own"}}]),
    ("-p tcp -m tcp --sport 0:1023 --dport 1024:65535",
     [match(tcp("sport"), 1023, "<="), match(tcp("dport"), 1023, ">"), COUNTER]),
    ("! -i eth+ -m mark ! --mark 0x1/0xff -j DROP",
     [match(meta("iifname"), "eth*", "!="), match({"&": [meta("mark"), 255]}, 1, "!="), COUNTER,
      {"drop": None}]),
    ("-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN",
     [match({"&": [tcp("flags"), ["syn", "fin", "rst", "ack"]]}, "syn"), COUNTER]),
    ("-p tcp -m tcp --tcp-flags FIN,SYN NONE", [match(tcp("flags"), ["fin", "syn"], "!"), COUNTER]),
    ("! -f", [match({"&": [ip("frag-off"), 8191]}, 0), COUNTER]),
    ('-m limit --limit 3/min --limit-burst 7 -j LOG --log-prefix "x -m y "',
     [{"limit": {"rate": 3, "burst": 7, "per": "minute"}}, COUNTER, xt("LOG", "target")]),
    ('-p tcp -m tcp --tcp-option 5 -m state --state NEW -m comment --comment "a b" -j NOTRACK',
     [match(meta("l4proto"), "tcp"), xt("tcp"), xt("conntrack"), xt("comment"), COUNTER,
      xt("CT", "target")]),
    ("-j TRACE", [COUNTER, {"mangle": {"key": meta("nftrace"), "value": 1}}]),
    ("-j NFLOG --nflog-group 3", [COUNTER, {"log": {"group": 3}}]),
]  # fmt: skip
LESS = [  # as iptables-nft-save prints rules of nft's own, which say more, or another thing
    ("-j DROP", [match(ip("saddr"), "@blocklist"), COUNTER, {"drop": None}]),
    ("-s 10.0.0.9/32", [match(ip("saddr"), {"range": ["10.0.0.1", "10.0.0.9"]}), COUNTER]),
    ("-s 10.0.0.9/32", [match(ip("saddr"), "10.0.0.9", ">"), COUNTER]),
    ("-s 10.0.0.9/32", [match(ip("saddr"), "10.0.0.8"), COUNTER]),
    ("-p udp", [match({"payload": {"protocol": "udp", "field": "length"}}, 9), COUNTER]),
    ("-p udp", [{"vmap": {"key": DPORT, "data": "@vm"}}]),
    ("-p udp", [match(DPORT, 53), "jump { counter; }"]),
    ("-p udp", [match(meta("l4proto"), "udp"), match(ip("protocol"), "tcp"), COUNTER]),
    ("-p tcp -m tcp --dport 90", [match(tcp("dport"), 80), match(tcp("dport"), 90), COUNTER]),
    ("-p tcp -j ACCEPT", [match(tcp("dport"), {"set": [80, 81]}), COUNTER, {"accept": None}]),
    ("-j ACCEPT", [match(meta("pkttype"), {"set": ["broadcast"]}), COUNTER, {"accept": None}]),
    ("-j ACCEPT", [COUNTER, {"drop": None}]),
    ("-j own", [COUNTER, {"goto": {"target": "own"}}]),
    ("-m limit --limit 10/sec", [{"limit": {"rate": 10, "per": "second", "inv": True}}, COUNTER]),
    ("-m conntrack --ctstate NEW -m mark --mark 0x1", [xt("conntrack"), COUNTER]),
    ("-m recent --set", [xt("conntrack"), COUNTER]),
    ("-p udp -m udp --dport 53 -j ACCEPT", [match(DPORT, 53), {"accept": None}]),
    ("", [{"counter": "named"}]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "statements", "agree"), [(*o, True) for o in BOTH] + [(*o, False) for o in LESS]
)
def test_whose_words(spec, statements, agree):
    """The words are iptables' where they say all that nft's JSON says, else nft's."""
    saved = iptables_save.parse(f"*filter\n:INPUT ACCEPT [0:0]\n-A INPUT {spec}\nCOMMIT\n".encode())
    printed = listing(statements, family="ip", table="filter", chain="INPUT")
    found = nft_json.parse(printed, b"", {"ip": saved})
    (told,) = found.iptables["ip", "filter"]["INPUT"].rules
    (native,) = found.chains["ip", "filter"]["INPUT"].rules
    assert told.handle == 1
    assert (told.spec == spec, told == native) == (agree, not agree)


def test_a_dropped_condition_is_no_barrier():
    """The rule that iptables-nft-save calls -j DROP may be passed over."""
    saved = iptables_save.parse(b"*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j DROP\nCOMMIT\n")
    statements = [match(ip("saddr"), "@blocklist"), COUNTER, {"drop": None}]
    printed = listing(statements, family="ip", table="filter", chain="INPUT")
    (told,) = nft_json.parse(printed, b"", {"ip": saved}).iptables["ip", "filter"]["INPUT"].rules
    assert always_matches(saved.tables["filter"]["INPUT"].rules[0])
    assert not always_matches(told)


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (xt("conntrack"), "-m conntrack --ctstate NEW"),
        (match(ip("saddr"), "10.0.0.1"), "-s 10.0.0.1/32"),
    ],
)
def test_a_mixed_table(first, words):
    """Of each rule it is judged whose words it is told in, whatever others are in its table."""
    text = f"*filter\n:INPUT ACCEPT [0:0]\n-A INPUT {words}\n-A INPUT\nCOMMIT\n"
    lookup = match(ip("saddr"), "@good")
    printed = listing(
        [first, COUNTER], [lookup, COUNTER], family="ip", table="filter", chain="INPUT"
    )
    found = nft_json.parse(printed, b"", {"ip": iptables_save.parse(text.encode())})
    one, other = found.iptables["ip", "filter"]["INPUT"].rules
    assert one.spec == words
    assert "@good" in other.spec


def snapshots(*parts):
    return [
        Snapshot(number, 1, kind, time_ns, kind, content, None if time_ns == 1 else time_ns - 1)
        for number, (kind, time_ns, content) in enumerate(parts, 1)
    ]


def last_spec(*parts):
    timelines = NFT.history(snapshots(*parts), single=True)
    (chain,) = timelines.loaded("ipv4")["filter"].states[-1].chains.values()
    return chain.rules[0].spec


NATIVE = listing(
    [match(ip("saddr"), "10.0.0.9"), COUNTER], family="ip", table="filter", chain="INPUT"
)
IPTABLES = b"*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -s 10.0.0.9/32\nCOMMIT\n"


def test_words_of_one_moment():
    """What iptables printed belongs to the listing of its moment, and to no later one."""
    now = ("iptables-nft-save", 1, IPTABLES), ("nft", 1, NATIVE)
    assert last_spec(*now) == "-s 10.0.0.9/32"
    other = NATIVE.replace(b"10.0.0.9", b"10.0.0.8")
    assert "10.0.0.8" in last_spec(*now, ("nft", 9, other))
    assert "saddr" in last_spec(now[0], ("nft", 9, NATIVE))


QUOTA = [{"quota": {"val": 1, "val_unit": "mbytes", "inv": True}}, COUNTER]
MORE = listing(
    [match(ip("saddr"), "10.0.0.9"), COUNTER], QUOTA, family="ip", table="filter", chain="INPUT"
)


@pytest.mark.parametrize("order", [1, -1], ids=["comes", "goes"])
def test_words_outlive_what_iptables_cannot_say(order):
    """A native rule beside it, for which iptables-nft-save prints nothing of the table: the same rule."""
    with_words = (("iptables-nft-save", IPTABLES), ("nft", NATIVE))
    moments = [with_words, (("nft", MORE),)][::order]
    parts = [(kind, 1 + 8 * at, text) for at, some in enumerate(moments) for kind, text in some]
    states = NFT.history(snapshots(*parts), single=True).loaded("ipv4")["filter"].states
    told = [[one.spec for one in state.chains["INPUT"].rules] for state in states]
    assert [one[0] for one in told] == ["-s 10.0.0.9/32"] * 2
    assert [len(one) for one in told] == [1, 2][::order]


@pytest.mark.parametrize(("handle", "same"), [(1, True), (2, False)])
def test_words_end_with_their_table(handle, same):
    """Of iptables' extensions nft prints the name alone: made anew, an equal text may be another rule."""

    def in_table(number, printed):
        objects = json.loads(printed)
        objects["nftables"].insert(
            0, {"table": {"family": "ip", "name": "filter", "handle": number}}
        )
        return json.dumps(objects).encode()

    first = ("iptables-nft-save", 1, IPTABLES), ("nft", 1, in_table(1, NATIVE))
    spec = last_spec(*first, ("nft", 9, in_table(handle, MORE)))
    assert (spec == "-s 10.0.0.9/32") is same


@pytest.mark.parametrize(
    ("family", "table", "name"),
    [("ip", "filter", "filter"), ("ip", "own", "ip own"), ("inet", "filter", "inet filter")],
)
def test_names_of_tables(family, table, name):
    """By what they are, whoever made them; where legacy iptables was recorded as well it is told apart."""
    printed = listing([QUOTA[0], COUNTER], family=family, table=table)
    recorded = snapshots(("nft", 1, printed))
    assert list(NFT.history(recorded, single=True).loaded("ipv4")) == [name]
    prefixed = f"nft {name}" if name == "filter" else name
    assert list(NFT.history(recorded, single=False).loaded("ipv4")) == [prefixed]


@pytest.mark.parametrize("saved", [b"*filter\n:INPUT ACCEPT [0:0]\n", b"\xff", b"-A INPUT"])
def test_damaged_words(saved):
    """They are an addition: nft's own are there."""
    assert "saddr" in last_spec(("iptables-nft-save", 1, saved), ("nft", 1, NATIVE))


@pytest.mark.parametrize(
    ("statements", "table", "own"),
    [
        ([xt("comment"), COUNTER, BOTH[-2][1][-1]], "raw", True),
        (
            [match(meta("iifname"), "lo"), xt("bpf"), xt("comment"), COUNTER, BOTH[-2][1][-1]],
            "raw",
            True,
        ),
        ([COUNTER, BOTH[-2][1][-1]], "raw", False),
        ([xt("addrtype"), xt("comment"), COUNTER, BOTH[-2][1][-1]], "raw", False),
        ([xt("comment"), COUNTER, BOTH[-2][1][-1]], "mangle", False),
        ([xt("comment"), COUNTER, {"accept": None}], "raw", False),
    ],
)
def test_our_own_rule_without_its_comment(statements, table, own):
    """Where iptables prints nothing our rule is known by its shape: nft does not print its comment."""
    (rule,) = rules(statements, family="ip", table=table)
    assert is_ours(rule, "iptrec:00000000-0000-4000-8000-000000000001") == own
    assert not is_ours(rule, None)


def test_our_own_rule_makes_no_table_native():
    """The rules of iptables beside it are told in its words."""
    trace = [xt("comment"), COUNTER, {"mangle": {"key": meta("nftrace"), "value": 1}}]
    text = (
        '*raw\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -m comment --comment "iptrec:1" -j TRACE\n'
        "-A OUTPUT -s 10.0.0.9/32\nCOMMIT\n"
    )
    printed = listing(
        trace, [match(ip("saddr"), "10.0.0.9"), COUNTER], family="ip", table="raw", chain="OUTPUT"
    )
    found = nft_json.parse(printed, b"", {"ip": iptables_save.parse(text.encode())})
    own, user = found.iptables["ip", "raw"]["OUTPUT"].rules
    assert (own.comment, user.spec) == ("iptrec:1", "-s 10.0.0.9/32")
    assert is_ours(own, "iptrec:1")
