"""One native rule beside those of iptables: tables, rules and their words stay what they were."""

from __future__ import annotations

import json
import re
import sys
import time

import pytest
import test_nft
from command import IPTREC, iptrec
from recorder import packets, stop, until
from test_nft import router, start
from test_nft_dormant import SEND, states

pytestmark = test_nft.pytestmark

DROP = "-p udp -m udp --dport 1000 -j DROP"
NATIVE = {
    "set": "udp dport { 1002, 1003 } counter",
    "quota": "udp dport 1002 quota over 1 mbytes counter drop",  # iptables-nft-save: incompatible
}


def counted(path):
    """What `rules` tells of filter/FORWARD: number, packets, text; None: a rule that is gone."""
    lines = iptrec("rules", path, "--json", "--chain", "filter/FORWARD").stdout.splitlines()
    (chain,) = [one for one in map(json.loads, lines) if one["family"] == "ipv4"]
    return [(one["rule"], one["packets"], one["spec"]) for one in chain["rules"]]


def kinds(*operands):
    done = iptrec("diff", "--json", *operands)
    return [(one["kind"], one["table"]) for one in json.loads(done.stdout)["changes"]]


@pytest.mark.parametrize("rule", NATIVE.values(), ids=NATIVE)
@pytest.mark.parametrize("first", [True, False], ids=["removed", "added"])
def test_a_native_rule_beside_those_of_iptables(lab, tmp_path, rule, first):
    """Hits are the kernel's, nothing is ambiguous, `diff` knows one change, names find what they found."""
    router(lab)
    lab.run(["iptables-nft", "-A", "FORWARD", "-p", "udp", "--dport", "1000", "-j", "DROP"])
    add = ["nft", "add", "rule", "ip", "filter", "FORWARD", *rule.split()]
    before, after, path = (tmp_path / f"{name}.db" for name in ("before", "after", "t"))
    if first:
        lab.run(add)
    send = [sys.executable, "-c", SEND, "1000"]
    lab.run([*IPTREC, "record", "--backend", "nft", "udp", "-o", str(before), "--", *send])
    child = start(lab, path, "--backend", "nft", "udp")
    lab.run(send, "a")
    time.sleep(0.5)  # nearer to the change it could be ambiguous
    if first:
        lab.run(["nft", "delete", "rule", "ip", "filter", "FORWARD", "handle", handle(lab, rule)])
    else:
        lab.run(add)
    until(lambda: states(path) == 1)
    lab.run(send, "a")
    save = lab.run(["nft", "-a", "list", "chain", "ip", "filter", "FORWARD"]).stdout
    stop(child)
    lab.run([*IPTREC, "record", "--backend", "nft", "udp", "-o", str(after), "--", *send])
    assert "counter packets 2 " in save
    left = [] if first else [(2, 0, rule)]
    told = counted(path)
    assert [one[:2] for one in told] == [(1, 2), *(one[:2] for one in left)]
    assert [one[2] for one in told[1:]] == [one[2] for one in left]
    assert told[0][2] == DROP
    assert [(one.verdict, one.complete, one.ambiguous) for one in packets(path)] == [
        ("DROP", True, False)
    ] * 2
    changed = [("deleted" if first else "inserted", "filter")]
    assert kinds(path) == changed
    assert kinds(before, after) == changed
    assert kinds(f"{path}@start", before) == kinds(f"{path}@end", after) == []
    for where in ("filter/FORWARD", "ip filter/FORWARD", "nft filter/FORWARD"):
        shown = iptrec("show", path, "--chain", where).stdout
        assert len(re.findall(r"^#.* DROP udp .* by filter/FORWARD ", shown, re.MULTILINE)) == 2


ANONYMOUS = """\
table inet fw {
	chain c {
		type filter hook forward priority 0; policy accept;
		udp dport 1000-1001 counter jump { udp dport 1000 counter drop; counter; }
	}
}
"""


def test_a_rule_of_an_anonymous_chain_decides(lab, tmp_path):
    """Nft does not list it, but table and chain are known; a change of the rules before is not to blame."""
    router(lab)
    lab.run(["nft", "-f", "-"], stdin=ANONYMOUS)
    path = tmp_path / "t.db"
    child = start(lab, path, "--backend", "nft", "udp")
    lab.run(["nft", "add", "rule", "inet", "fw", "c", "counter"])
    until(lambda: states(path) == 1)
    time.sleep(0.5)  # nearer to the change it could be ambiguous
    lab.run([sys.executable, "-c", SEND, "1000", "1001"], "a")
    stop(child)
    dropped, accepted = packets(path)
    chain = dropped.steps[-1].chain
    assert chain.startswith("__chain")
    assert (dropped.verdict, accepted.verdict) == ("DROP", "ACCEPT")
    assert (dropped.altered_by, accepted.altered_by) == (None, None)
    shown = json.loads(iptrec("show", path, "--json", "--verdict", "DROP").stdout)
    assert shown["decided_by"] == {"table": "inet fw", "chain": chain, "rule": None}
    assert shown["steps"][-1]["type"] == "rule"
    told = f"inet fw/{chain} rule (not in the recorded ruleset)"
    assert f" by {told}\n" in iptrec("show", path, "--verdict", "DROP").stdout
    assert f"DROP by {told}" in iptrec("paths", path, "--verdict", "DROP").stdout
    why = iptrec("why", path, "--verdict", "DROP").stdout
    assert f"by {told}\n" in why


def handle(lab, rule):
    lines = lab.run(
        ["nft", "-a", "-s", "list", "chain", "ip", "filter", "FORWARD"]
    ).stdout.splitlines()
    (found,) = [line for line in lines if rule in line]
    return found.rpartition(" ")[2]
