"""`iptrec rules` of rules behind an anonymous chain: which of them the kernel never came to."""

from __future__ import annotations

import json

import pytest
from command import IPTREC
from validation import fits

pytestmark = pytest.mark.live

CHAINS = {  # the rules of a chain, and after which one nothing is reached
    "jump that ends all": ("jump { udp dport 7 drop; accept; }", 1),
    "jump that returns": ("jump { udp dport 7 drop; return; }", None),
    "jump that may end": ("jump { udp dport 7 drop; }", None),
    "goto": ("goto { udp dport 7 drop; }", 1),
    "conditional goto": ("udp dport 9 goto { counter; }", None),
    "verdict behind return": ("jump { udp dport 8 return; drop; }", None),
}


@pytest.mark.parametrize("case", CHAINS)
def test_what_is_never_reached(lab, tmp_path, case):
    """It is said of no rule that the kernel counted a packet for; packets are told as often as it counted."""
    rule, after = CHAINS[case]
    rules = f"{rule}\n\t\tmeta l4proto udp counter\n\t\tudp dport 8 counter\n"
    table = f"table inet fw {{\n\tchain in {{\n\t\ttype filter hook input priority 0;\n\t\t{rules}\t}}\n}}\n"
    lab.run(["nft", "-f", "-"], stdin=table)
    send = "for port in 7 8 9 8; do echo > /dev/udp/127.0.0.1/$port || :; done"
    trace = str(tmp_path / "t.db")
    words = ["record", "-q", "-o", trace, "--backend", "nft", "udp", "--", "bash", "-c", send]
    done = lab.run([*IPTREC, *words])
    assert done.returncode == 0, done.stderr
    lines = lab.run([*IPTREC, "rules", "--table", "inet fw", "--json", trace]).stdout.splitlines()
    chain = next(one for line in lines if (one := fits("rules", line))["chain"] == "in")
    listed = json.loads(lab.run(["nft", "-j", "list", "chain", "inet", "fw", "in"]).stdout)
    counted = [
        each["counter"]["packets"]
        for one in listed["nftables"]
        for each in one.get("rule", {}).get("expr", ())
        if isinstance(each, dict) and "counter" in each
    ]
    assert [one["packets"] for one in chain["rules"][1:]] == counted
    assert [one["unreachable_after"] for one in chain["rules"]] == [None, after, after]
    assert (counted == [0, 0]) == (after is not None)
    text = lab.run([*IPTREC, "rules", "--table", "inet fw", trace]).stdout
    assert "rules of an anonymous chain, which nft does not number" in text
    assert "they changed just then" not in text
    shown = lab.run([*IPTREC, "show", "--json", trace]).stdout.splitlines()
    assert all(json.loads(line)["complete"] for line in shown)
