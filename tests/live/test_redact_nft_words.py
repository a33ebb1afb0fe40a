"""Whatever nft can say stays nft in a redacted listing: the real one takes it, as text and as JSON."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from iptrec.redact.compare_rulesets import Rulesets
from iptrec.redact.key import Key
from iptrec.redact.maps import Redaction, surveyed
from iptrec.redact.nft_json import NftJson
from iptrec.redact.nft_text import NftText
from iptrec.redact.pairs import Pairs

pytestmark = pytest.mark.live

EXPRESSIONS = Path(__file__).parents[1] / "data" / "nft-expressions.txt"
LEAST = 250  # expressions that nft 1.0.6 takes
TABLES = {
    "inet fw": """
	counter acmecount { }
	ct helper h1 { type "sip" protocol udp; }
	ct timeout slow { protocol tcp; policy = { established : 20 }; }
	ct expectation e1 { protocol tcp; dport 9876; timeout 2m; size 12; l3proto ip; }
	set sdyn { type ipv4_addr; flags dynamic,timeout; size 100; timeout 1m; }
	map counted { type ifname : counter; elements = { "acme0" : "acmecount" } }
	chain leaf { }
	chain forward { type filter hook forward priority 0; }
	chain pre { type filter hook prerouting priority 0; }
	chain out { type route hook output priority 0; }
""",
    "ip fw": """
	chain pre { type nat hook prerouting priority 0; }
	chain post { type nat hook postrouting priority 0; }
	chain pre4 { type filter hook prerouting priority 0; }
""",
    "bridge fw": "chain pre { type filter hook prerouting priority 0; }\n",
    "arp fw": "chain in { type filter hook input priority 0; }\n",
}
CHAINS = ["inet fw forward", "inet fw pre", "inet fw out", "ip fw pre", "ip fw post", "ip fw pre4",
          "bridge fw pre", "arp fw in"]  # fmt: skip


def nft(lab, *words, given=""):
    """What nft did in the lab."""
    return lab.run(["nft", *words], stdin=given, check=False)


def taken(lab):
    """The listing of all expressions that are taken, and how many these are."""
    nft(lab, "flush", "ruleset")
    for table, text in TABLES.items():
        made = nft(lab, "-f", "-", given=f"table {table} {{ {text} }}")
        assert not made.returncode, made.stderr
    lines = [one for one in EXPRESSIONS.read_text().splitlines() if one and one[0] != "#"]
    left = [one for one in lines if not any(_added(lab, chain, one) for chain in CHAINS)]
    return nft(lab, "-a", "list", "ruleset").stdout, nft(lab, "-j", "list", "ruleset").stdout, left


def _added(lab, chain, line):
    return not nft(lab, "-f", "-", given=f"add rule {chain} {line}").returncode


def snapshot(kind, content):
    media = "json" if kind == "nft" else "text"
    return [SimpleNamespace(kind=kind, content=content.encode(), media=media, time_ns=1)]


def test_all_that_nft_says_stays_nft(lab):
    """Keywords are no names, wherever they stand; and a check finds that nothing else changed."""
    text, told, left = taken(lab)
    assert text.count("# handle") > LEAST, left
    key = Key(b"any")
    addresses, survey = surveyed(key, ())
    for change, listing in ((NftText, text), (lambda maps: NftJson(maps, {}), told.encode())):
        change(survey)(listing)
    maps = Redaction(key, addresses, (), ())
    made = NftText(maps)(text), NftJson(maps, {})(told.encode()).decode()
    assert "acme" in text
    assert "acme" not in "".join(made)
    for kind, before, after in (("nft-text", text, made[0]), ("nft", told, made[1])):
        pairs = Rulesets(Pairs(maps))
        assert not [*pairs.differences(snapshot(kind, before), snapshot(kind, after))], kind
    nft(lab, "flush", "ruleset")
    again = nft(lab, "-f", "-", given=made[0])
    assert not again.returncode, again.stderr
