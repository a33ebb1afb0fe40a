"""Chains that packets pass before they are traced, or beside that: named, and never called unused."""

from __future__ import annotations

import json
import signal
import sys

import pytest
import recorder
import test_nft
from command import iptrec
from test_nft import router
from test_nft_dormant import SEND

import iptrec as api

pytestmark = test_nft.pytestmark

DROP = "udp dport 1000 counter drop;\n"
ARP = "table arp a {\n\tchain c { type filter hook input priority 0; counter;\n\t}\n}\n"


def chain(family, hook, rest=DROP):
    return f"table {family} early {{\n\tchain c {{ type filter hook {hook}; {rest}\t}}\n}}\n"


def recorded(lab, path, backend, rules):
    """What the recorder says before it records; two datagrams come by."""
    router(lab)
    lab.run(["nft", "-f", "-"], stdin=rules)
    child, said = recorder.started(lab, "--backend", backend, "udp", "-o", path)
    lab.run([sys.executable, "-c", SEND, "999", "1000"], "a")
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=60)
    assert child.returncode == 0
    return said


BESIDE = {
    "arp": (ARP, "arp a/c", ["arp a"]),
    "egress": (chain("netdev", 'egress device "to-b" priority 0', "arp operation 9 counter;\n"),
               "netdev early/c", ["netdev early"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BESIDE)
def test_what_frames_pass_beside(lab, tmp_path, case):
    """The user hears of it, and none of its rules is called unused."""
    rules, shown, tables = BESIDE[case]
    path = tmp_path / "t.db"
    said = recorded(lab, path, "nft", rules)
    assert f"{shown}: frames that do not come through IP pass there untraced" in said
    told(path, tables, "beside")


def told(path, tables, why):
    """What all views say of these tables' chains."""
    info = json.loads(iptrec("info", path, "--json").stdout)
    assert {one["table"] for one in info["untraced"]} == {*tables}
    assert {one["why"] for one in info["untraced"]} == {why}
    assert info["complete"] == (why == "beside")
    assert "not traced:  " in iptrec("info", path).stdout
    for table in tables:
        unused = iptrec("rules", path, "--table", table, "--unused")
        assert (unused.returncode, unused.stdout) == (1, "")
        assert " ? " in iptrec("rules", path, "--table", table).stdout
        lines = iptrec("rules", path, "--json", "--table", table).stdout.splitlines()
        assert [json.loads(one)["untraced"] for one in lines] == [why]
    with api.open(path) as recording:
        assert {one.table for one in recording.rules() if one.untraced} == {*tables}
        assert recording.summary().complete == (why == "beside")
        asked = "SELECT DISTINCT table_name, untraced FROM rules WHERE untraced IS NOT NULL"
        assert set(recording.query(asked)) == {(one, why) for one in tables}


@pytest.mark.parametrize("hook", ["prerouting priority -450", 'ingress device "to-a" priority 0'])
def test_legacy_names_chains_of_nf_tables_too(lab, tmp_path, hook):
    """They see packets first, and nothing there can be traced by legacy iptables."""
    said = recorded(lab, tmp_path / "t.db", "legacy", chain("inet", hook))
    assert "inet early/c may be passed before tracing begins" in said
    info = json.loads(iptrec("info", tmp_path / "t.db", "--json").stdout)
    early = {"family": "inet", "table": "inet early", "chain": "c", "why": "before"}
    assert (info["complete"], info["untraced"]) == (False, [early])
