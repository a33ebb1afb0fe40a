"""Tables of legacy iptables are copied when they are found, and printed later: they may have gone by then."""

from __future__ import annotations

import sys

import changing
import pytest
import recorder
from rights import ROOT, since

import iptrec

pytestmark = [pytest.mark.live, ROOT, since(5, 17, "reading another's registers")]

RULES = """\
*filter
:INPUT DROP [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:own - [0:0]
-A INPUT -p udp -m udp --dport 1000:1005 -m comment --comment "a b" -j own
-A INPUT -m set --match-set some src -j REJECT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -g own
-A own -m mark --mark 0x1/0xff -j RETURN
COMMIT
"""
PRINTED = """
import subprocess, sys
from iptrec.kernel.iptables import save
from iptrec.kernel.legacy.digest import Tables
from iptrec.kernel.legacy.printing import _Printer
from iptrec.kernel.legacy.saved import normal

family, command, rules = sys.argv[1:]
of = "inet6" if "6" in command else "inet"
subprocess.run(["ipset", "create", "some", "hash:ip", "family", of], check=True)
subprocess.run([f"{command}-legacy-restore", "-w"], input=rules.encode(), check=True)
printer = _Printer()
with Tables(family) as tables:
    was = normal(save(family, table="filter", counters=False)[1])
    copy = tables.copy("filter", tables.taken("filter"))
    for rule in (["-F"], ["-A", "FORWARD", "-j", "DROP"]):
        subprocess.run([f"{command}-legacy", "-w", *rule], check=True)
        print(was == printer.printed(family, "filter", copy), was.count(b"-A "))
        assert printer._child.wait(60) == 0
printer.close()
"""


@pytest.mark.parametrize(("family", "command"), [("ipv4", "iptables"), ("ipv6", "ip6tables")])
def test_a_table_that_has_gone(lab, family, command):
    """It is printed as it was, with the names of sets, which the kernel is asked for.

    Who prints does not stay when there is nothing to print, and is started again.
    """
    done = lab.run([sys.executable, "-c", PRINTED, family, command, RULES])
    assert done.stdout.splitlines() == ["True 4"] * 2


def test_states_that_are_gone_before_they_could_be_printed(lab, tmp_path):
    """A table of so many rules takes longer to print than the next one takes to come."""
    path, count = tmp_path / "t.db", 30
    changing.router(lab)
    some = "".join(f"-A INPUT -s 192.0.2.1 -m comment --comment {n} -j DROP\n" for n in range(2000))
    lab.restore(None, "ipv4", f"*raw\nCOMMIT\n*mangle\nCOMMIT\n*filter\n{some}COMMIT\n")
    child = recorder.start(lab, "udp", "--backend", "legacy", "-o", path)
    code = "import socket; socket.socket(2, 2).sendto(b'x', ('10.0.2.2', {}))"
    for number in range(count):
        rule = ["-I", "FORWARD", "-p", "udp", "-m", "comment", "--comment", f"n{number}"]
        lab.run(["iptables-legacy", "-w", *rule, "-j", "ACCEPT"])
        lab.run([sys.executable, "-c", code.format(5000 + number)], "a")
        lab.run(["iptables-legacy", "-w", "-D", "FORWARD", "1"])
    recorder.stop(child)
    with iptrec.open(path) as recorded:
        packets = list(recorded.packets())
    assert len(packets) == count
    sure = [one for one in packets if one.complete and not one.ambiguous]
    for packet in sure:
        (step,) = [one for one in packet.steps if one.type == "rule"]
        assert f"n{packet.header['dport'] - 5000} " in step.spec
    # On a busy host a state may go before anybody looks.
    assert len(sure) > (0 if changing.SLOW else count * 3 // 4)
