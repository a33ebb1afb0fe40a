"""`iptrec rules` of chains that are renamed while recording: one chain, with all that hit it."""

from __future__ import annotations

import json

import pytest
from command import IPTREC
from validation import fits

pytestmark = pytest.mark.live

RULES = """\
table inet fw {
	chain OLD { udp dport 9 counter; counter return; }
	chain input { type filter hook input priority 0; meta l4proto udp counter jump OLD; }
}
"""
SEND = "for i in 1 2 3 4 5; do echo $i > /dev/udp/127.0.0.1/9; done\n"


def record(lab, tmp_path, script):
    """The chains of `iptrec rules --json`, by name, and its text, after a script of bash."""
    trace = str(tmp_path / "t.db")
    lab.run(["nft", "-f", "-"], stdin=RULES.replace("OLD", "a"))
    words = [
        "record",
        "-q",
        "-o",
        trace,
        "--backend",
        "nft",
        "udp port 9",
        "--",
        "bash",
        "-ec",
        script,
    ]
    done = lab.run([*IPTREC, *words])
    assert done.returncode == 0, done.stderr
    lines = lab.run([*IPTREC, "rules", "--table", "inet fw", "--json", trace]).stdout.splitlines()
    found = [fits("rules", line) for line in lines]
    text = lab.run([*IPTREC, "rules", "--table", "inet fw", trace]).stdout
    return {one["chain"]: one for one in found}, text


def packets(chain):
    return [one["packets"] for one in chain["rules"]]


def counters(lab, chain):
    """What the kernel counted for each rule of a chain."""
    listed = lab.run(["nft", "-j", "list", "chain", "inet", "fw", chain]).stdout
    rules = [one["rule"]["expr"] for one in json.loads(listed)["nftables"] if "rule" in one]
    return [each["counter"]["packets"] for one in rules for each in one if "counter" in each]


def test_a_renamed_chain_is_one(lab, tmp_path):
    """Under its newest name, as often as the kernel counted; so is the rule that jumps to it."""
    rename = "nft rename chain inet fw"
    script = f"{SEND}{rename} a tmp\n{SEND}{rename} tmp b\n{SEND}"
    chains, text = record(lab, tmp_path, script)
    assert list(chains) == ["b", "input"]
    assert packets(chains["b"]) == counters(lab, "b") == [15, 15]
    assert packets(chains["input"]) == counters(lab, "input") == [15]
    assert [one["renamed_from"] for one in chains.values()] == [["a", "tmp"], []]
    assert "gone" not in text
    assert ":b - [0:0]  (renamed, was a, tmp)" in text


def test_names_that_were_changed_round(lab, tmp_path):
    """Each chain keeps what hit it, whose name ever it has now."""
    rename = "nft rename chain inet fw"
    script = (
        f"nft add chain inet fw b\nnft add rule inet fw b counter\n{SEND}"
        f"{rename} a tmp\n{rename} b a\n{rename} tmp b\n{SEND}"
    )
    chains, _ = record(lab, tmp_path, script)
    assert packets(chains["b"]) == counters(lab, "b") == [10, 10]
    assert packets(chains["a"]) == counters(lab, "a") == [0]
    assert chains["b"]["renamed_from"] == ["a", "tmp"]
    assert chains["a"]["renamed_from"] == ["b"]


def test_a_table_that_is_made_anew_has_other_chains(lab, tmp_path):
    """Though their handles are the same numbers."""
    anew = tmp_path / "anew.nft"
    anew.write_text("delete table inet fw\n" + RULES.replace("OLD", "b"))
    chains, text = record(lab, tmp_path, f"{SEND}nft -f {anew}\n{SEND}")
    assert packets(chains["b"]) == counters(lab, "b") == [5, 5]
    assert packets(chains["a"]) == [5, 5]
    assert all(one["renamed_from"] == [] for one in chains.values())
    assert "renamed" not in text
