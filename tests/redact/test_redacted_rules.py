"""Rules as text and JSON: what is mapped, what stays, what is taken out, what is refused."""

from __future__ import annotations

import json
import re
import unicodedata
from types import SimpleNamespace

import pytest

from iptrec.decode import containers, packet
from iptrec.decode.rulesets import iptables_save
from iptrec.errors import UsageError
from iptrec.matching import judge
from iptrec.matching.facts import Facts
from iptrec.redact.compare import Comparison
from iptrec.redact.compare_json import NftObjects
from iptrec.redact.compare_nft import NftRules
from iptrec.redact.compare_save import SaveRules
from iptrec.redact.filters import filter_words
from iptrec.redact.key import Key
from iptrec.redact.maps import Redaction, surveyed
from iptrec.redact.nft_json import NftJson
from iptrec.redact.nft_text import NftText
from iptrec.redact.pairs import Pairs
from iptrec.redact.save_text import SaveText
from iptrec.redact.snapshots import Snapshots


def mapped(change, *values, keeps=()):
    """What becomes of values, once all of them were looked at."""
    key = Key(b"any")
    addresses, survey = surveyed(key, keeps)
    looks = change(survey)
    for one in values:
        looks(one)
    made = Redaction(key, addresses, keeps, ())
    return [change(made)(one) for one in values], made


def nft_json(maps):
    return NftJson(maps, {})


STAY = [
    "-A INPUT -p tcp -m tcp --dport 22 -m conntrack --ctstate NEW,ESTABLISHED -m limit --limit 3/min -j ACCEPT",
    "-A INPUT -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j REJECT --reject-with tcp-reset",
    "-A INPUT -m time --datestart 2037-01-01T00:00:00 --weekdays Mon,Tue -j DROP",
    "-A INPUT -m statistic --mode random --probability 0.50000000000 -j DOCKER-USER",
    "-A INPUT -s 127.0.0.0/8 ! -d 224.0.0.0/4 -i lo -j KUBE-SERVICES",
    "-A INPUT -m mark --mark 0x4000/0x4000 -j MARK --set-xmark 0x1/0xffffffff",
    '-A INPUT -m bpf --bytecode "4,48 0 0 9,21 0 1 17,6 0 0 1,6 0 0 0" -j TRACE',
    '-A INPUT -m u32 --u32 "0x6&0xff=0x11" -j DROP',
    "-A PREROUTING -m helper --helper ftp -j ACCEPT",
    "-A INPUT -m addrtype --dst-type LOCAL -m pkttype --pkt-type broadcast -j RETURN",
]
# Numbers that are not names, and words of options that iptables has
NUMBERS = [
    "-A INPUT -j IDLETIMER --timeout 600 --label 7",
    "-A INPUT -j SET --add-set KUBE-SERVICES src,dst --timeout 300",
    "-A INPUT -m connlabel --label 40 --set",
    "-A INPUT -m realm --realm 0x7 -m devgroup --src-group 3 -m cgroup --cgroup 1048577",
    "-A INPUT -m owner --uid-owner 0-65534 -m ipvs --vmethod GATE --vdir ORIGINAL",
    "-A INPUT -m policy --dir in --pol none -m dscp --dscp-class AF11 -m time --monthdays 1,2",
]


@pytest.mark.parametrize("rule", [*STAY, *NUMBERS])
def test_what_is_nobodys_stays(rule):
    """Numbers, words of iptables, public chains."""
    assert mapped(SaveText, rule)[0] == [rule]


NFT_STAYS = [
    "meta nfproto ipv4 fib saddr . mark . iif oif missing counter drop",
    "fib daddr . iif type != { local, broadcast } drop",
    "fib saddr oif exists counter",
    "fib saddr . iif check missing drop",
    'meta hour "10:00"-"23:30" meta day "Sunday" counter',
    'meta time < "2027-01-01 00:00:00" counter drop',
    "ct expiration 20s-1m30s counter drop",
    "limit rate over 1 mbytes/second burst 2 mbytes drop",
    "limit rate 5/minute counter",
    "meta sdif 0 meta oiftype ether counter",
    "xt match tos counter xt target TRACE",
    "ct event set new,destroy ct event set protoinfo,helper,seqadj",
    "tcp option mptcp subtype 1 reset tcp option mptcp",
    "exthdr frag exists frag more-fragments 1 frag reserved2 1 srh sid[1] ::1 rt4 tag 7",
    "mh type { binding-update, home-test-init } igmp type membership-query dccp type dataack",
    "sctp chunk asconf seqno 7 sctp chunk init num-outbound-streams 7",
    "ipsec out reqid 7 ipsec in spnum 1 reqid 7 arp operation { inreply, nak }",
    'osf ttl loose name "Linux" osf version { "Linux:3.0", "Windows:XP" } meta iifkind "wireguard"',
    "vxlan vni 7 geneve vni 7 meta iiftype { ipip6, ipgre }",
]


@pytest.mark.parametrize("rule", NFT_STAYS)
def test_what_nft_says_stays(rule):
    """Its words, times and rates; what it quotes of interfaces goes."""
    line = f"\t\t{rule} # handle 1\n"
    [made], _ = mapped(NftText, line)
    assert made == line


HEADERS = ["exthdr", "tcp option", "ip option", "sctp chunk", "dccp option"]


@pytest.mark.parametrize("kind", HEADERS)
def test_names_of_headers_are_no_names_in_json(kind):
    """Nor in what is written into them; a check wants them to stay."""
    of = {kind: {"name": "mulberry", "field": "subtype"}}
    rules = [
        {"match": {"op": "==", "left": of, "right": 7}},
        {"mangle": {"key": of, "value": 7}},
        {"reset": of},
    ]
    told = {"rule": {"family": "inet", "table": "t", "chain": "c", "handle": 1, "expr": rules}}
    [made], maps = mapped(nft_json, json.dumps({"nftables": [told]}).encode())
    [found] = json.loads(made)["nftables"]
    assert found["rule"]["expr"] == rules
    other = json.loads(json.dumps(found).replace("mulberry", maps.name("mulberry")))
    assert not [*NftObjects(Pairs(maps)).object(told, found)]
    assert len([*NftObjects(Pairs(maps)).object(told, other)]) == len(rules)


def test_systems_and_kinds_of_links_are_no_names_in_json():
    """What `osf` and `iifkind` are compared with is nft's own; an interface of the same name is not."""
    left = [{"osf": {"key": "name", "ttl": "loose"}}, {"meta": {"key": "iifkind"}}]
    rules = [{"match": {"op": "==", "left": one, "right": {"set": ["mulberry"]}}} for one in left]
    device = {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "mulberry"}}
    told = {"rule": {"family": "inet", "table": "t", "chain": "c", "expr": [*rules, device]}}
    [made], maps = mapped(nft_json, json.dumps({"nftables": [told]}).encode())
    found = json.loads(made)["nftables"][0]["rule"]["expr"]
    assert found[:2] == rules
    assert found[2]["match"]["right"] == maps.name("mulberry") != "mulberry"


KEYWORDS = ["stream", "http", "window", "echo"]


@pytest.mark.parametrize("name", KEYWORDS)
def test_a_name_that_is_a_keyword_elsewhere_is_one_name(name):
    """Of a meter, an object in a map, an interface in a set: as where it is said what it is."""
    _, maps = mapped(SaveText)
    change = NftJson(maps, {})
    element = {"concat": [name, 7]}
    objects = [
        {"counter": {"family": "ip", "table": "t", "name": name}},
        {"map": {"family": "ip", "table": "t", "name": "m", "type": "mark", "map": "counter",
                 "elem": [[7, name]]}},
        {"map": {"family": "ip", "table": "t", "name": "n", "type": "mark", "map": "ifname",
                 "elem": [[7, name]]}},
        {"set": {"family": "ip", "table": "t", "name": "s", "type": ["ifname", "mark"], "elem": [element]}},
        {"rule": {"family": "ip", "table": "t", "chain": "c", "expr": [
            {"counter": {"map": {"key": {"meta": {"key": "mark"}}, "data": {"set": [[7, name]]}}}},
            {"match": {"op": "==", "left": {"fib": {"result": "oifname", "flags": []}}, "right": name}},
            {"ct timeout": name}]}},
    ]  # fmt: skip
    made = json.loads(change(json.dumps({"nftables": objects}).encode()))["nftables"]
    wanted = maps.name(name)
    assert wanted != name
    assert json.dumps(made).count(f'"{wanted}"') == json.dumps(objects).count(f'"{name}"')
    for old, new in zip(objects, made, strict=True):
        assert not [*NftObjects(Pairs(maps)).object(old, new)]
    assert NftText(maps)(f"meter {name} {{ ip saddr }}") == f"meter {wanted} {{ ip saddr }}"


def test_a_line_ends_where_a_program_ends_it():
    """Other characters that end lines elsewhere may be in a comment."""
    for end in "\x0b\x0c\x1c\x85\u2028\u2029":
        rule = f'-A INPUT -m comment --comment "a{end}b" -j DROP\n'
        [made], _ = mapped(SaveText, rule)
        assert made.startswith('-A INPUT -m comment --comment "'), made
        assert made.endswith('" -j DROP\n'), made
        assert made.count('"') == 2


GOES = {
    "-A acme-in -j beta": ["acme", "beta"],
    "-A INPUT -s 8.8.4.0/24 -i customer0 -j DROP": ["8.8.4", "customer"],
    '-A INPUT -m comment --comment "of Acme in 8.8.4.4" -j DROP': ["Acme", "8.8.4.4"],
    '-A INPUT -j LOG --log-prefix "acme: "': ["acme"],
    "-A PREROUTING -m helper --helper helpAcme -j ACCEPT": ["Acme"],
    '-A INPUT -m string --string "secret" --algo bm -j DROP': ["secret"],
    '-A INPUT -m u32 --u32 "0xc=0x8080404" -j DROP': ["0x808"],
    '-A INPUT -m bpf --bytecode "3,32 0 0 12,21 0 1 134744072,6 0 0 1" -j DROP': ["134744072"],
    "-A INPUT -m set --match-set acme src -j DROP": ["acme"],
    "-A INPUT -m mac --mac-source 52:54:00:12:34:56 -j DROP": ["52:54:00", "12:34:56"],
    "-A INPUT -m recent --set --name acme --mask 255.255.255.255 --rsource": ["acme"],
    "-A INPUT -m newmatch --newoption acme -j DROP": ["acme"],
}


@pytest.mark.parametrize("rule", GOES)
def test_what_is_somebodys_goes(rule):
    """And the rule has as many words as before."""
    [made], _ = mapped(SaveText, rule)
    assert not [one for one in GOES[rule] if one in made]
    assert made.split()[:2][0] == "-A"


@pytest.mark.parametrize(
    "rule",
    [
        "-A INPUT -s 10.0.0.5/255.0.0.255 -j DROP",
        "-A INPUT -d fe80::1200/120 -j DROP",
        "-A INPUT -m mac --mac-source 52:54:00:12:34:56/ff:00:ff:00:00:00 -j DROP",
    ],
)
def test_a_rule_that_would_not_stay_true_is_refused(rule):
    """With its text."""
    with pytest.raises(UsageError, match="would not stay true") as refused:
        mapped(SaveText, rule)
    assert rule in str(refused.value)


U32 = {
    '"0xc=0xa4d0002"': '"0xc=0x{}"',
    '"0xc&0xffffff00=0xa4d0000"': '"0xc&0xffffff00=0x{}"',
    '"0x10=0xa4d0001:0xa4d0009,0xa4d0002&&0x6&0xff=0x11"': '"0x10=0x{}:0x{},0x{}&&0x6&0xff=0x11"',
    '"0xc>>0x18=0xa"': '"redacted"',
    '"0xc&0xff=0x7"': '"redacted"',
    '"0x0>>0x16&0x3c@0x8=0x7472656d"': '"redacted"',
    '"0x9=0xa4d00"': '"redacted"',
}


@pytest.mark.parametrize("test", U32)
def test_addresses_that_u32_compares_are_mapped(test):
    """Whole ones, networks, ranges; other bytes of an address, and payloads, are taken out; --check agrees."""
    rule = f"-A INPUT -m u32 ! --u32 {test} -j DROP"
    [made], maps = mapped(SaveText, rule)
    found = re.fullmatch(re.escape(U32[test]).replace(r"\{\}", "([0-9a-f]+)"), made.split()[6])
    assert found, made
    whole = [
        maps.address(bytes.fromhex(one.zfill(8))).hex() for one in ("a4d0002", "a4d0001", "a4d0009")
    ]
    for one in found.groups():
        assert one.zfill(8) in whole or one.endswith("00")
        assert not one.startswith("a4d0")
    pairs = SaveRules(Pairs(maps))
    assert not [*pairs.rule(rule, made)]
    assert [*pairs.rule(rule, rule)] == ["--u32"]
    if "redacted" not in made:
        assert [*pairs.rule(rule, made.replace("=0x", "=0x1", 1))] == ["--u32"]


def test_what_was_taken_out_may_not_be_judged_any_more():
    """It is unknown whether such a rule fits, but not said to be otherwise; of another rule it is told."""
    rules = '-m u32 --u32 "0xc>>0x18=0xa" -j DROP', "-p tcp -j DROP"
    made, maps = mapped(SaveText, *rules)
    comparison = Comparison(maps)
    for old, new, unknown, other in zip(
        rules, made, ([], [("fits",)]), ([("fits",)],) * 2, strict=True
    ):
        before, after = ({"spec": one, "fits": False} for one in (old, new))
        assert [*comparison.differences(before, after)] == []
        assert [*comparison.differences(before, {**after, "fits": None})] == unknown
        assert [*comparison.differences(before, {**after, "fits": True})] == other


GONE = '-m string --string "secret" --algo bm'


@pytest.mark.parametrize("no", ["", "! "])
def test_a_test_that_is_gone_is_not_judged(no):
    """Its words are not in packets any more: neither that it fits is known, nor that it does not."""
    gone = GONE.replace("--string", f"{no}--string")
    rules = f"-A INPUT {gone} -j DROP", f"-A INPUT {gone} -p udp -m udp --dport 500 -j DROP"
    made, maps = mapped(SaveText, *rules)
    content = bytes.fromhex("4500001c000000004011000008080404080804050001003500080000")
    facts = Facts(packet.header(content, 2), 0, None, None, None, None, None)
    wanted = [(None, None), (False, "--dport 500 (it is 53)")]
    for old, new, (fits, because) in zip(rules, made, wanted, strict=True):
        saved = f"*filter\n:INPUT ACCEPT [0:0]\n{new}\nCOMMIT\n".encode()
        (rule,) = iptables_save.parse(saved).tables["filter"]["INPUT"].rules
        found = judge(rule, facts)
        assert found.fits is fits, new
        assert because is None or found.because == because
        assert not [*SaveRules(Pairs(maps)).rule(old, new)]
        untrue = new.replace("--redacted", "--string")
        assert [*SaveRules(Pairs(maps)).rule(old, untrue)] == ["--string"]


def test_another_condition_may_tell_why_a_rule_did_not_fit():
    """Of a rule whose first reason is gone; of no other rule, and not that it fits."""
    rule = '-m u32 --u32 "0x1c=0x71756f6b" -p udp -m udp --dport 501 -j DROP'
    [made], maps = mapped(SaveText, rule)
    before = {"spec": rule, "fits": False, "because": '--u32 "0x1c=0x71756f6b"'}
    after = {"spec": made, "fits": False, "because": "--dport 501 (it is 53)"}
    comparison = Comparison(maps)
    assert not [*comparison.differences(before, after)]
    assert [*comparison.differences(before, {**after, "fits": True})] == [("fits",)]
    other = {**before, "because": "-p udp (it is tcp)"}
    assert [*comparison.differences(other, after)] == [("because",)]
    assert [*comparison.differences(before, {**before, "because": "-p"})] == [
        ("spec",),
        ("because",),
    ]


KEPT = {
    '"0x1c=0x71756f6b"': True,
    '"0x0>>0x16&0x3c@0x8=0x7472656d"': True,
    '"0x6&0xff=0x11&&0x0>>0x16&0x3c@0x0>>0x10=0x35"': True,
    '"0xc&0xff=0x7"': False,
    '"0x9=0xa4d00"': False,
    '"0x0>>0x17&0x3c@0x8=0x7472656d"': False,
}


@pytest.mark.parametrize("test", KEPT)
def test_what_u32_compares_with_a_payload_that_is_kept_stays(test):
    """With --keep payload, where it reads behind the header; --check agrees."""
    rule = f"-A INPUT -m u32 --u32 {test} -j DROP"
    [made], maps = mapped(SaveText, rule, keeps=["payload"])
    assert (made == rule) is KEPT[test], made
    assert ("redacted" in made) is not KEPT[test]
    assert not [*SaveRules(Pairs(maps)).rule(rule, made)]


CHANGES = {
    "inserted": "-s 8.8.4.4 -j acme",
    "deleted": "ip saddr 8.8.4.4 jump acme",
    "policy": "DROP",
}


@pytest.mark.parametrize("kind", [*CHANGES, "renamed"])
def test_each_change_of_rules_is_compared(kind):
    """A rule as one, a policy, and the new name of a chain as a name: another word is noticed."""
    text = CHANGES.get(kind, "beta-quix")
    change = {"kind": kind, "table": "inet acme", "chain": "acme", "rule": None, "spec": text}
    _, maps = mapped(SaveText, "-A INPUT -s 8.8.4.4 -j acme")
    made = {
        "inserted": SaveText(maps).rule, "deleted": NftText(maps).rule, "policy": str, "renamed": maps.name,
    }[kind](text)  # fmt: skip
    after = {
        **change,
        "table": f"inet {maps.name('acme')}",
        "chain": maps.name("acme"),
        "spec": made,
    }
    [*found] = Comparison(maps).differences({"altered_by": change}, {"altered_by": after})
    assert not found
    for other in (made + "x", "x" + made, *([text] if text != made else [])):
        wrong = {"altered_by": {**after, "spec": other}}
        assert [*Comparison(maps).differences({"altered_by": change}, wrong)], other


def test_networks_hold_their_addresses():
    """Of rules and of other rules, and ends of ranges."""
    made, _ = mapped(
        SaveText,
        "-A INPUT -s 8.8.4.0/24 -d 8.8.4.77/32 -j DROP",
        "-A INPUT -m iprange --src-range 9.1.2.3-9.1.4.5 -d 9.1.2.3 -s 9.1.4.5 -j DROP",
    )
    network, address = made[0].split()[3], made[0].split()[5]
    assert network.rpartition(".")[0] == address.rpartition(".")[0]
    low, high = made[1].split()[5].split("-")
    assert made[1].split()[7] == low
    assert made[1].split()[9] == high


RULES = [
    ({"payload": {"protocol": "ip", "field": "saddr"}}, "8.8.4.4", "ip saddr 8.8.4.4"),
    (
        {"payload": {"protocol": "ip", "field": "saddr"}},
        {"prefix": {"addr": "8.8.4.0", "len": 24}},
        "ip saddr 8.8.4.0/24",
    ),
    (
        {"payload": {"protocol": "ip6", "field": "daddr"}},
        {"range": ["fd01::1", "fd01::9"]},
        "ip6 daddr fd01::1-fd01::9",
    ),
    (
        {"&": [{"payload": {"protocol": "ip", "field": "saddr"}}, "255.255.255.0"]},
        "8.8.4.0",
        "ip saddr & 255.255.255.0 == 8.8.4.0",
    ),
    ({"meta": {"key": "iifname"}}, "customer0", 'iifname "customer0"'),
    (
        {"payload": {"protocol": "ether", "field": "saddr"}},
        "52:54:00:12:34:56",
        "ether saddr 52:54:00:12:34:56",
    ),
    ({"payload": {"protocol": "tcp", "field": "dport"}}, 443, "tcp dport 443"),
    ({"ct": {"key": "state"}}, ["established", "related"], "ct state established,related"),
]


@pytest.mark.parametrize(("left", "right", "text"), RULES, ids=[one[2] for one in RULES])
def test_nfts_text_and_json_are_mapped_alike(left, right, text):
    """The same words in both."""
    rule = {"match": {"op": "==", "left": left, "right": right}}
    content = json.dumps(
        {
            "nftables": [
                {
                    "rule": {
                        "family": "inet",
                        "table": "fw",
                        "chain": "acme",
                        "handle": 1,
                        "expr": [rule],
                    }
                }
            ]
        }
    ).encode()
    [found], _ = mapped(nft_json, content)
    [made], _ = mapped(NftText, f"\t\t{text} # handle 1\n")
    match = json.loads(found)["nftables"][0]["rule"]["expr"][0]["match"]["right"]
    words = next(iter(match.values())) if isinstance(match, dict) else match
    for word in (
        [*words.values()]
        if isinstance(words, dict)
        else words
        if isinstance(words, list)
        else [words]
    ):
        assert str(word) in made
    assert ("8.8.4" in made) is ("customer" in made) is ("12:34:56" in made) is False


@pytest.mark.parametrize(
    "match",
    [
        {
            "left": {"&": [{"payload": {"protocol": "ip", "field": "saddr"}}, "255.0.255.0"]},
            "right": "10.0.1.0",
        },
        {"left": {"payload": {"base": "nh", "offset": 104, "len": 24}}, "right": 5},
        {"left": {"payload": {"base": "ll", "offset": 0, "len": 24}}, "right": 5},
    ],
)
def test_a_rule_of_nft_that_would_not_stay_true_is_refused(match):
    """With its JSON."""
    rule = {
        "rule": {
            "family": "ip",
            "table": "t",
            "chain": "c",
            "handle": 1,
            "expr": [{"match": {"op": "==", **match}}],
        }
    }
    with pytest.raises(UsageError, match="would not stay true"):
        mapped(nft_json, json.dumps({"nftables": [rule]}).encode())


def test_what_is_taken_out_is_counted():
    """By what it was."""
    _, made = mapped(SaveText, '-A INPUT -m string --string "secret" --algo bm -j DROP')
    assert made.removals == {"what iptables's --string looks for": 1}


def test_a_payload_that_is_kept_is_looked_for():
    """With --keep payload."""
    rule = '-A INPUT -m string --string "secret" --algo bm -j DROP'
    assert mapped(SaveText, rule, keeps=["payload"])[0] == [rule]


def test_a_container_is_shown_by_the_name_in_its_path():
    """As its id by itself is mapped."""
    one = "0123456789abcdef" * 4
    _, made = mapped(SaveText)
    snapshots = Snapshots(made, {})
    content = json.dumps({"7": f"/system.slice/docker-{one}.scope"}).encode()
    snapshot = SimpleNamespace(kind="sender-cgroups", content=content, media="json")
    path = json.loads(snapshots(snapshot))["7"]
    assert containers.container(path) == made.name(one) != one


def test_a_filter_keeps_its_words():
    """And its addresses are those of the packets."""
    _, made = mapped(SaveText)
    text = filter_words(
        made,
        "tcp port 443 and (host 8.8.4.4 or net 8.8.4.0/24) and not ether host 52:54:00:12:34:56",
    )
    assert text.startswith("tcp port 443 and (host ")
    assert "8.8.4" not in text
    assert "12:34:56" not in text
    assert (
        filter_words(made, "tcp[tcpflags] & (tcp-syn|tcp-ack) != 0")
        == "tcp[tcpflags] & (tcp-syn|tcp-ack) != 0"
    )


def test_files_of_proc_that_are_not_known_go():
    """Of a later version, or a stranger's; names of interfaces are mapped."""
    _, made = mapped(SaveText)
    dev = "Inter-|   Receive\n face |bytes\n customer0: 1 2 3\n"
    content = json.dumps({"snmp": "Ip: A\nIp: 1", "secret": "acme", "dev": dev}).encode()
    snapshot = SimpleNamespace(kind="counters", content=content, media="json")
    found = json.loads(Snapshots(made, {})(snapshot))
    assert set(found) == {"snmp", "dev"}
    assert f" {made.name('customer0')}: 1 2 3" in found["dev"]


@pytest.mark.parametrize("option", ["-m connlabel --label", "-j CT --timeout", "-m realm --realm"])
def test_a_name_in_the_place_of_a_number_goes(option):
    """As connlabel.conf, nfct and rt_realms have them."""
    [made], _ = mapped(SaveText, f"-A INPUT {option} customer")
    assert "customer" not in made


def test_words_of_an_option_that_is_not_known_are_told():
    """They may be names, or not."""
    [made], maps = mapped(SaveText, "-A INPUT -m newmatch --newoption acme -j DROP")
    assert "acme" not in made
    assert maps.removals == {"words behind iptables's --newoption, which may be names": 1}


def test_a_program_of_the_recorders_own_is_not_counted():
    """It is the filter, which was typed to iptrec; what a user's compares is counted."""
    code = '-m bpf --bytecode "3,32 0 0 12,21 0 1 134744072,6 0 0 1"'
    ours = f"-A OUTPUT {code} -m comment --comment iptrec:042adda5-ddfe-492c-a838-8e02fb241ddc -j TRACE"
    [made, _], maps = mapped(SaveText, ours, f"-A INPUT {code} -j DROP")
    assert "134744072" not in made
    assert maps.removals == {"what iptables's --bytecode compares": 1}


@pytest.mark.parametrize("mark", ["\u202e", "\u200b", "\u2066", "\x1b", "\u2028", "\u3000", "\xa0"])
def test_a_character_that_is_not_shown_stays_one(mark):
    """It becomes one of its category: a blank would hide what a stranger hid."""
    rule = f'-A INPUT -m comment --comment "a{mark}b" -j DROP\n'
    [made], _ = mapped(SaveText, rule)
    [found] = re.findall(r'"(?s:.)(.)(?s:.)"', made)
    assert unicodedata.category(found) == unicodedata.category(mark)
    assert found.isspace() == mark.isspace()


def test_a_chain_may_have_blanks_of_unicode():
    """Iptables splits at those of ASCII alone: a name is one word, everywhere the same."""
    name = "a\u2009cme"
    [made], maps = mapped(SaveText, f"-A INPUT -j {name}")
    assert made == f"-A INPUT -j {maps.name(name)}"


def test_a_flow_table_is_called_as_it_is_named():
    """In nft's JSON, where a rule has it with @; and the type of a map's values stays."""
    rule = {"flow": {"op": "add", "flowtable": "@acme"}}
    listing = {
        "nftables": [
            {"flowtable": {"family": "ip", "table": "t", "name": "acme", "dev": ["customer0"]}},
            {"rule": {"family": "ip", "table": "t", "chain": "c", "handle": 1, "expr": [rule]}},
            {
                "map": {
                    "family": "ip",
                    "table": "t",
                    "name": "m",
                    "type": "ipv4_addr",
                    "map": "mark . ifname",
                }
            },
        ]
    }
    [found], maps = mapped(nft_json, json.dumps(listing).encode())
    table, rule, values = (next(iter(one.values())) for one in json.loads(found)["nftables"])
    assert rule["expr"][0]["flow"]["flowtable"] == f"@{table['name']}" == f"@{maps.name('acme')}"
    assert values["map"] == "mark . ifname"


COPIES = [
    ({"dup": {"addr": "customer0"}}, 'dup to "customer0"'),
    ({"dup": {"addr": "8.8.4.4", "dev": "customer0"}}, 'dup to 8.8.4.4 device "customer0"'),
    ({"fwd": {"dev": "customer0"}}, 'fwd to "customer0"'),
    ({"fwd": {"dev": "customer0", "family": "ip", "addr": "8.8.4.4"}}, 'fwd ip to 8.8.4.4 device "customer0"'),
    ({"dup": {"addr": "ether"}}, 'dup to "ether"'),  # a device that is called like a word of nft
]  # fmt: skip


@pytest.mark.parametrize(("statement", "text"), COPIES, ids=[one[1] for one in COPIES])
def test_where_copies_go_is_mapped_and_checked(statement, text):
    """A device in the place of an address, too: alike in text and JSON."""
    rule = {"family": "netdev", "table": "t", "chain": "c", "handle": 1, "expr": [statement]}
    content = json.dumps({"nftables": [{"rule": rule}]}).encode()
    line = f"\t\t{text} # handle 1\n"
    [found], maps = mapped(nft_json, content)
    [made], _ = mapped(NftText, line)
    for one in (found.decode(), made):
        assert not re.search(r"customer|8\.8\.4|ether", one), one
        assert text.count("customer0") == one.count(maps.name("customer0"))
    before, after = (json.loads(one)["nftables"][0] for one in (content, found))
    assert not [*NftObjects(Pairs(maps)).object(before, after)]
    assert [*NftObjects(Pairs(maps)).object(before, before)]
    assert not [*NftRules(Pairs(maps)).rule(line, made)]
    assert [*NftRules(Pairs(maps)).rule(line, line)]
