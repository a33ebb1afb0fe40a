"""What `redact --check` compares words with: any other word, anywhere in a rule, is noticed and named."""

from __future__ import annotations

import functools
import ipaddress
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from iptrec.recording.reader import Reader
from iptrec.redact.compare import Comparison
from iptrec.redact.compare_rulesets import KINDS, Rulesets
from iptrec.redact.key import Key
from iptrec.redact.maps import Redaction, surveyed
from iptrec.redact.nft_json import NftJson
from iptrec.redact.nft_text import NftText
from iptrec.redact.pairs import Pairs
from iptrec.redact.save_text import SaveText

ROOT = Path(__file__).parents[2]
LIVE = ROOT / "tests" / "live" / "real_hosts" / "rules"
SAVED = [
    ROOT / "tests" / "data" / "rulesets" / "docker-libvirt-ufw.rules",
    ROOT / "samples" / "kubeadm-flannel.rules",
    LIVE / "kubeadm6.rules",
]
OTHERS = """\
*filter
:INPUT ACCEPT [0:0]
:acme - [0:0]
-A INPUT -s 8.8.4.0/24 ! -d 8.8.0.0/255.255.0.0 -i customer+ -p tcp -m tcp --dport 22:80 --tcp-flags \
SYN,ACK SYN -j acme
-A INPUT -m iprange ! --src-range 9.1.2.3-9.1.4.5 -m mac --mac-source 52:54:00:AB:CD:EF -j SET --add-set \
beta src,dst
-A INPUT -p udp -m multiport --dports 53,5000:5010 -m u32 --u32 "0x6&0xff=0x11" -j IDLETIMER --timeout \
600 --label tim7
-A INPUT -m connlabel --label 40 --set -m connlabel --label customer -m realm --realm 7 -m statistic \
--mode nth --every 3
-A INPUT -m hashlimit --hashlimit-above 5kb/s --hashlimit-mode srcip,dstport --hashlimit-name acme -j CT \
--timeout slow
-A INPUT -m recent --set --name acme --mask 255.255.255.0 --rsource -m comment --comment "of \\"Acme\\" \
in 8.8.4.4" -j DROP
-A INPUT -m time --timestart 10:00:00 --weekdays Mon,Tue -m cgroup --cgroup 1048577 -m cgroup --path \
acme/one -j TEE --gateway 10.1.2.3
-A acme -p icmp -m icmp --icmp-type 8/0 -m conntrack --ctstate NEW --ctorigsrc 8.8.4.4/32 -j REJECT \
--reject-with icmp-port-unreachable
-A acme -p tcp -m socket --transparent -m ipvs --vmethod GATE -j DNAT --to-destination \
8.8.4.7-8.8.4.9:80-90 --persistent
COMMIT
"""
NFT = """\
table inet acme { # handle 1
	set good { # handle 2
		type ipv4_addr . ifname . inet_service
		flags interval,timeout
		elements = { 8.8.4.0/24 . "customer0" . 22, 8.8.5.1-8.8.5.9 . "eth0" . 80 timeout 1h comment "of Zed" }
	}
	ct timeout slow { # handle 3
		protocol tcp
		l3proto ip
		policy = { syn_sent : 10, established : 20 }
	}
	chain forward { # handle 4
		type filter hook forward priority filter + 10; policy drop;
		ip saddr . iifname . tcp dport @good counter packets 5 bytes 300 accept # handle 5
		iifname { "customer*", "eth0" } ct state established,related jump acme # handle 6
		ip saddr & 255.255.255.0 == 8.8.4.0 meta mark set mark and 0xffff00ff xor 0x00000100 # handle 7
		@nh,96,32 0x08080404 @th,0,16 { 22, 80 } drop # handle 8
		ether saddr 52:54:00:12:34:56 limit rate over 10/second burst 5 packets \
log prefix "acme: " # handle 9
		fib saddr . iif oif missing drop comment "not of Acme" # handle 10
		meta hour "10:00"-"23:30" ct expiration 20s-1m30s icmp type echo-request accept # handle 11
		tcp flags syn / fin,syn,rst,ack reject with tcp reset # handle 12
		ip daddr vmap { 8.8.4.4 : accept, 8.8.4.8/29 : goto beta } # handle 13
		tcp dport 80 dnat ip to 8.8.4.7-8.8.4.9:80-90 persistent # handle 14
	}
	chain beta { # handle 15
	}
}
"""


def redacted(change, content):
    """A text, what is in its place, and the maps."""
    key = Key(b"any")
    addresses, survey = surveyed(key, ())
    change(survey)(content)
    maps = Redaction(key, addresses, (), ())
    return change(maps)(content), maps


def snapshot(kind, content):
    content = content if isinstance(content, bytes) else content.encode()
    media = "json" if kind in ("nft", "nft-missed", "raw-table") else "text"
    return SimpleNamespace(kind=kind, content=content, media=media, time_ns=1)


def found(maps, kind, before, after):
    """What a check says of two listings."""
    both = ([snapshot(kind, one)] for one in (before, after))
    return list(Rulesets(Pairs(maps)).differences(*both))


def texts():
    """Kind, text, what is in its place, maps, of rulesets of both kinds."""
    listed = [
        ("ip6tables-save" if "6" in one.name else "iptables-save", one.read_text()) for one in SAVED
    ]
    listed += [("iptables-save", OTHERS), ("nft-text", NFT)]
    for kind, text in listed:
        change = NftText if kind == "nft-text" else SaveText
        yield kind, text, *redacted(change, text)
    for path in sorted((ROOT / "samples").glob("*.db")):
        with Reader(path) as reader:
            for one in reader.snapshots("nft-text", "iptables-save", "ip6tables-save"):
                text = one.content.decode()
                yield (
                    one.kind,
                    text,
                    *redacted(NftText if one.kind == "nft-text" else SaveText, text),
                )


TEXTS = list(texts())
LISTINGS = []
for _path in sorted((ROOT / "samples").glob("*.db")):
    with Reader(_path) as _reader:
        LISTINGS += [
            (one.content, *redacted(lambda maps: NftJson(maps, {}), one.content))
            for one in _reader.snapshots("nft")
        ]


@pytest.mark.parametrize("case", range(len(TEXTS)))
def test_a_redacted_ruleset_is_the_same(case):
    """Nothing is said of it."""
    kind, before, after, maps = TEXTS[case]
    assert found(maps, kind, before, after) == []


@pytest.mark.parametrize("case", range(len(LISTINGS)))
def test_a_redacted_listing_is_the_same(case):
    """Nor of nft's JSON."""
    before, after, maps = LISTINGS[case]
    assert found(maps, "nft", before, after) == []


WORD = re.compile(r'[^\s"{}();,]+')
HIDDEN = re.compile(r"redacted|--u32|--bytecode|--string|--hex-string")


def rules_of(kind, text):
    """Lines that are rules, by their numbers."""
    start = "\t" if kind == "nft-text" else ("-A", "[")
    return [
        at
        for at, line in enumerate(text.split("\n"))
        if line.startswith(start) and line.strip(" \t}")
    ]


@pytest.mark.parametrize("case", range(5))
def test_each_word_of_each_rule_counts(case):
    """Each keyword, number, name, address in turn, none too many or too few: rule and field are told."""
    kind, before, after, maps = TEXTS[case]
    lines, made = before.split("\n"), after.split("\n")
    checked = 0
    for at in rules_of(kind, after):
        checker = Rulesets(Pairs(maps))
        for word in WORD.finditer(made[at]):
            if HIDDEN.search(made[at]):
                continue
            for other in ("", "7" + word[0], word[0] + "x", word[0] + " more"):
                wrong = made[at][: word.start()] + other + made[at][word.end() :]
                said = list(checker._lines(kind, [lines[at]], [wrong]))
                assert said, (made[at], wrong)
                assert all(one.field and one.where for one in said)
                checked += 1
    assert checked > 50


@given(st.data())
def test_any_word_by_chance_counts(data):
    """A character that is another one; the check of the whole listing names the line's rule."""
    kind, before, after, maps = TEXTS[data.draw(st.integers(0, len(TEXTS) - 1))]
    lines = after.split("\n")
    at = data.draw(st.sampled_from(rules_of(kind, after)))
    assume(not HIDDEN.search(lines[at]))
    place = data.draw(st.integers(0, len(lines[at]) - 1))
    other = data.draw(st.sampled_from("aZ059-.:/ "))
    assume(other != lines[at][place])
    quoted = '"' in lines[at]  # where that ends elsewhere, the next lines are of the same rule
    lines[at] = lines[at][:place] + other + lines[at][place + 1 :]
    (said, *_) = found(maps, kind, before, "\n".join(lines)) or [None]
    assert said is not None, lines[at]
    assert said.where.endswith(f"({kind})") or (
        quoted and said.where == f"the {kind} of the recording"
    )
    assert said.field


def test_the_rule_and_the_option_are_named():
    """By its table, chain and number; of nft by its handle; of JSON by its path."""
    _, before, after, maps = TEXTS[3]
    [one] = found(maps, "iptables-save", before, after.replace("--timeout 600", "--timeout 583"))
    assert (one.where, one.field) == ("rule 3 of filter/INPUT (iptables-save)", "--timeout")
    _, before, after, maps = TEXTS[4]
    [one] = found(maps, "nft-text", before, after.replace("ct state", "ct status"))
    assert (one.where, one.field) == ("rule inet acme/forward handle 6 (nft-text)", "ct")


@pytest.mark.parametrize("case", range(5))
def test_an_address_that_stayed_is_noticed(case):
    """A rule that is as it was, though addresses or names of it are others, is told."""
    kind, before, after, maps = TEXTS[case]
    lines, made = before.split("\n"), after.split("\n")
    known = [at for at in rules_of(kind, after) if lines[at] != made[at]]
    for at in known[:50]:
        some = [*made[:at], lines[at], *made[at + 1 :]]
        if not HIDDEN.search(made[at]):
            assert found(maps, kind, before, "\n".join(some)), lines[at]
    assert len(known) > 3


def leaves(value, path=()):
    if isinstance(value, dict):
        for key, one in value.items():
            yield from leaves(one, (*path, key))
    elif isinstance(value, list):
        for at, one in enumerate(value):
            yield from leaves(one, (*path, at))
    else:
        yield path, value


def test_each_value_of_nfts_json_counts():
    """Values by turns, and keys: the object and the path are told."""
    checked = 0
    for before, after, maps in LISTINGS:
        told = json.loads(after)
        for path, value in [*leaves(told)][checked % 5 :: 5]:
            wrong = json.loads(after)
            place = wrong
            for one in path[:-1]:
                place = place[one]
            place[path[-1]] = value + 1 if isinstance(value, int) else f"{value}x"
            said = found(maps, "nft", before, json.dumps(wrong).encode())
            assert said, path
            assert all(one.field for one in said)
            del place[path[-1]]
            assert found(maps, "nft", before, json.dumps(wrong).encode()), path
            checked += 1
    assert checked > 100


def test_a_snapshot_that_is_not_there_is_told():
    """Of a kind that could be read."""
    _, before, _, maps = TEXTS[3]
    [one] = Rulesets(Pairs(maps)).differences([snapshot("iptables-save", before)], [])
    assert "iptables-save" in one.where
    assert not [*Rulesets(Pairs(maps)).differences([snapshot("nft", b'{"nftables": [')], [])]
    assert {"iptables-save", "nft", "nft-text"} < set(KINDS)


def of_address(change):
    """Maps of which that of addresses is another one."""
    key = Key(b"any")
    addresses, _ = surveyed(key, ())
    maps = Redaction(key, addresses, (), ())
    maps.address = change
    return maps


@functools.cache
def plain_maps(secret):
    key = Key(secret)
    addresses, _ = surveyed(key, ())
    return Redaction(key, addresses, (), ())


def text_of(packed):
    return str(ipaddress.ip_address(packed))


def test_two_addresses_that_become_one_are_noticed():
    """Though each is what the map says."""
    maps = of_address(lambda packed: packed[:3] + b"\x07")
    comparison = Comparison(maps)
    assert comparison.texts("from 8.8.4.4", "from 8.8.4.7")
    assert not comparison.texts("from 8.8.4.5", "from 8.8.4.7")


def test_prefixes_that_are_not_kept_are_noticed():
    """Two addresses of a /24 that are none afterwards."""
    maps = of_address(lambda packed: packed[:2] + packed[3:] + packed[2:3])
    pairs = Comparison(maps).pairs
    assert pairs.addresses("8.8.4.4", "8.8.4.4")
    assert pairs.addresses("8.8.4.5", "8.8.5.4")
    assert list(pairs.torn()) == [("8.8.4.4", "8.8.4.5")]


@given(
    st.lists(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), max_size=8),
    st.sampled_from([b"one", b"two"]),
)
def test_the_maps_keep_prefixes(some, secret):
    """Nothing is said of them."""
    pairs = Pairs(plain_maps(secret))
    for one in some:
        made = text_of(pairs.maps.address(one.packed))
        assert str(one) == made or pairs.addresses(str(one), made)
    assert not [*pairs.torn()]


def test_addresses_of_packets_that_stayed_are_noticed():
    """As those of rules; what is not mapped may be there again."""
    _, maps = redacted(SaveText, OTHERS)
    comparison = Comparison(maps)
    packet = {
        "header": {"src": "8.8.4.4", "dst": "127.0.0.1"},
        "link": {"src": "52:54:00:12:34:56"},
    }
    assert list(comparison.differences(packet, packet)) == [("header", "src"), ("link", "src")]


SENTENCES = [
    ("-p tcp (it is udp)", "-p tcp (it is icmp)"),
    ("--dport 22 (it is 80)", "--dport 22 (it is 81)"),
    ("udp dport 53 (it is 54)", "udp dport 54 (it is 54)"),
    ("was dropped by the policy of filter/INPUT", "was accepted by the policy of filter/INPUT"),
    (
        "dropped by filter/INPUT rule 2, `-p tcp -j DROP`.",
        "dropped by filter/INPUT rule 2, `-p udp -j DROP`.",
    ),
    ("tcp checksum 5 (it is 9)", "udp checksum 5 (it is 9)"),
]


@pytest.mark.parametrize(("before", "after"), SENTENCES)
def test_sentences_that_differ(before, after):
    """In words of rules, and in numbers."""
    _, maps = redacted(SaveText, OTHERS)
    assert not Comparison(maps).texts(before, after)


def test_what_differs_of_a_packet_is_told_in_order():
    """The first field first; all of it where nothing else can be said."""
    _, maps = redacted(SaveText, OTHERS)
    comparison = Comparison(maps)
    before = {"verdict": "DROP", "in": "acme", "steps": [{"spec": "-p tcp"}], "n": 1}
    after = {"verdict": "ACCEPT", "in": maps.name("acme"), "steps": [{"spec": "-p udp"}], "m": 1}
    assert list(comparison.differences(before, after)) == [
        ("verdict",), ("steps", "0", "spec"), ("n",), ("m",),
    ]  # fmt: skip
    assert list(comparison.differences(before, None)) == [()]
