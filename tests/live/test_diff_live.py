"""`iptrec diff` of nf_tables: each change that nft makes, between recordings and what nft prints."""

from __future__ import annotations

import pytest
from command import IPTREC

pytestmark = pytest.mark.live

RULES = """\
table inet fw {
	counter c { packets 3 bytes 4; }
	limit l { rate 400/minute; }
	set blocked { type ipv4_addr; flags interval; elements = { 10.0.0.0/24 }; }
	map ports { type inet_service : verdict; elements = { 22 : accept, 80 : drop }; }
	chain other { counter; }
	chain input {
		type filter hook input priority filter; policy accept;
		ct state established counter accept comment "it is { here"
		tcp dport vmap @ports
		jump { tcp dport 3 accept; counter; }
	}
	chain forward { type filter hook forward priority 0; }
}
table ip t { chain c { type nat hook postrouting priority srcnat; masquerade; }; }
"""
FORWARD = "chain inet fw forward"
CHANGES = {  # what is done, where it is seen, what differs
    "an element": ("add element inet fw blocked { 10.9.9.9 }", "inet fw/set blocked", ["+      10.9.9.9"]),
    "a verdict": (
        "delete element inet fw ports { 80 }; add element inet fw ports { 80 : accept }",
        "inet fw/map ports", ["-      80 : drop", "+      80 : accept"],
    ),
    "a priority": (
        f"delete {FORWARD}; add {FORWARD} {{ type filter hook forward priority -200; }}",
        "inet fw/forward",
        ["-      type filter hook forward priority filter;", "+      type filter hook forward priority -200;"],
    ),
    "a hook": (
        f"delete {FORWARD}; add {FORWARD} {{ type filter hook output priority 0; }}",
        "inet fw/forward",
        ["-      type filter hook forward priority filter;", "+      type filter hook output priority filter;"],
    ),
    "asleep": ("add table ip t { flags dormant; }", "ip t/table", ["+      flags dormant"]),
    "a set": ("add set inet fw new { type ipv4_addr; }", "inet fw/set new", ["+      type ipv4_addr"]),
    "a limit": ("delete limit inet fw l", "inet fw/limit l", ["-      rate 400/minute"]),
    "a rule": ("add rule inet fw input udp dport 53 drop", "inet fw/input", ["+    #4 udp dport 53 drop"]),
    "of iptables": (
        "add rule ip filter INPUT tcp dport 23 counter drop", "filter/INPUT",
        ["+    #2 tcp dport 23 counter drop"],
    ),
    "nothing": ("reset counters", "", []),
}  # fmt: skip


@pytest.fixture
def ruleset(lab):
    """Rules of nft and of iptables-nft, with a comment that nft does not print."""
    lab.run(["nft", "-f", "-"], stdin=RULES)
    rule = "-A INPUT -p tcp --dport 22 -m comment --comment ssh -j ACCEPT"
    lab.run(["iptables-nft", *rule.split()])


@pytest.mark.usefixtures("ruleset")
@pytest.mark.parametrize("case", CHANGES)
def test_each_change(lab, tmp_path, case):
    """Between recordings and what nft prints as text, with handles or without, and as JSON."""
    change, where, differs = CHANGES[case]
    family = "inet" if where.startswith("inet") else "ipv4"
    expected = [f"@@ {where} ({family}) @@", *differs] if differs else ["no difference"]
    trace = str(tmp_path / "t.db")
    kept = {}

    def keep(when):
        for name, words in (("text", []), ("handles", ["-a"]), ("json", ["-j"])):
            kept[name, when] = tmp_path / f"{name}-{when}"
            kept[name, when].write_text(lab.run(["nft", *words, "list", "ruleset"]).stdout)

    def diff(*operands):
        done = lab.run([*IPTREC, "diff", *map(str, operands)], check=False)
        assert done.stderr == ""
        assert done.returncode == (done.stdout != "no difference\n")
        return done.stdout.splitlines()

    keep("before")
    done = lab.run(
        [*IPTREC, "record", "-q", "-o", trace, "--backend", "nft", "icmp", "--", "nft", change]
    )
    assert done.returncode == 0, done.stderr
    keep("after")
    sides = [
        (kept["text", "before"], kept["text", "after"]),
        (kept["handles", "before"], kept["text", "after"]),
        (kept["text", "before"], f"{trace}@end"),
        (f"{trace}@start", kept["handles", "after"]),
    ]
    if case != "of iptables":  # a recording alone tells it in the words of iptables
        sides.append((f"{trace}@start", f"{trace}@end"))
    for side in sides:
        assert diff(*side)[: len(expected)] == expected, side
    for when, end in (("before", "start"), ("after", "end")):
        for name in ("text", "handles", "json"):
            assert diff(kept[name, when], f"{trace}@{end}") == ["no difference"], (name, end)
    if case != "asleep":  # nft 1.0.6 does not print it in JSON
        assert len(diff(kept["json", "before"], kept["json", "after"])) in (1, len(expected) + 1)


LATE = "add table ip n; add chain ip n o { type nat hook output priority 0; }"  # behind it packets are watched
LISTINGS = {
    "text": "nft list ruleset",
    "handles": "nft -a list ruleset",
    "json": "nft -j list ruleset",
}


@pytest.mark.usefixtures("ruleset")
@pytest.mark.parametrize("words", LISTINGS)
def test_our_own_tables_are_no_difference(lab, tmp_path, words):
    """In what nft prints while packets are traced."""
    lab.run(["nft", LATE])
    trace, listed = tmp_path / "t.db", tmp_path / "listed"
    command = ["sh", "-c", f"{LISTINGS[words]} > {listed}"]
    lab.run(
        [
            *IPTREC,
            "record",
            "-q",
            "-o",
            str(trace),
            "--backend",
            "nft",
            "udp port 9",
            "--",
            *command,
        ]
    )
    assert "accept" in listed.read_text().partition("iptrec-")[2]
    for sides in ([f"{trace}@end", str(listed)], [str(listed), f"{trace}@start"]):
        assert lab.run([*IPTREC, "diff", *sides]).stdout == "no difference\n"
