"""`iptrec why` of rules that look at interfaces' groups and at IPsec, both of which may change."""

from __future__ import annotations

import sys
from collections import Counter

import frames
import pytest
from command import IPTREC
from judged import claims

from iptrec.matching.iptables_host import UNREAD

pytestmark = pytest.mark.live
FALSE = "false"
RULES = """\
*mangle
-A PREROUTING -m devgroup --src-group 0x7
-A PREROUTING -m devgroup ! --src-group default
-A PREROUTING -m policy --dir in --pol none
-A PREROUTING -m policy --dir in --pol ipsec
COMMIT
"""
NATIVE = """\
table ip mangle {
	chain PREROUTING {
		type filter hook prerouting priority mangle;
		iifgroup 7 counter
		iifgroup != "default" counter
		iifgroup { 1, 7 } counter
		meta ipsec missing counter
		meta ipsec exists counter
	}
}
"""
# A datagram each 2 ms, and another group of the interface each 300.
CHANGING = """
import socket, subprocess, time
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(600):
    if number % 150 == 75:
        group = "7" if number % 300 == 75 else "0"
        subprocess.run(["ip", "link", "set", "v1", "group", group], check=True)
    sender.sendto(b"x", ("10.0.1.1", 5000))
    time.sleep(0.002)
"""
ENTERED = """
import ctypes, os, socket
own, other = os.open("/proc/self/ns/net", 0), os.open("/run/netns/h", 0)
libc = ctypes.CDLL(None, use_errno=True)
assert libc.setns(other, 0) == 0
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
assert libc.setns(own, 0) == 0
"""
KEY = "0x" + 20 * "01"
STATE = (
    "xfrm state add src 10.0.1.2 dst 10.0.1.1 proto esp spi 5 reqid 1 mode transport"
    f" auth hmac(sha1) {KEY} enc cipher_null 0x"
)
POLICY = (
    "xfrm policy add src 10.9.1.2 dst 10.9.1.1 dir out tmpl src 10.9.1.2 dst 10.9.1.1 proto esp"
    " reqid 1 mode transport"
)


def said(path):
    """By rule, what was said of it: True, False, None, or that it was against the kernel.

    But for what was logged nobody knows when: under load, with events that waited.
    """
    found = {}
    for _, rule, matched, judgement in claims(path, ("mangle", "PREROUTING"), "v1"):
        if judgement.remark == UNREAD:
            continue
        one = judgement.fits if judgement.fits in (None, matched) else FALSE
        found.setdefault(rule.spec, Counter())[one] += 1
    return found


@pytest.mark.parametrize("sort", ["legacy", "nft", "native"])
def test_groups_that_change(lab, tmp_path, sort):
    """No claim is against the kernel, and few are not made."""
    frames.neighbour(lab)
    if sort == "native":
        (tmp_path / "rules.nft").write_text(NATIVE)
        lab.run(["nft", "-f", str(tmp_path / "rules.nft")])
    else:
        lab.restore(None, "ipv4", RULES, sort)
    path = tmp_path / "t.db"
    backend = "legacy" if sort == "legacy" else "nft"
    traffic = [sys.executable, "-c", ENTERED + CHANGING]
    lab.run([*IPTREC, "record", "--backend", backend, "udp", "-o", str(path), "--", *traffic])
    found = said(path)
    groups = {spec: one for spec, one in found.items() if "group" in spec}
    assert len(groups) == (3 if sort == "native" else 2)
    for one in groups.values():
        assert one[FALSE] == 0
        assert min(one[True], one[False]) > 50
        assert one[None] < 0.5 * one.total()
    of_ipsec = [found[spec] for spec in found if "policy" in spec or "meta ipsec" in spec]
    assert len(of_ipsec) == 2
    assert all(set(one) <= {True, False} for one in of_ipsec)


@pytest.mark.parametrize("ipsec", [STATE, POLICY])
def test_ipsec(lab, backend, tmp_path, ipsec):
    """Where there are states or policies that ask for some a packet may have come by them."""
    frames.neighbour(lab)
    if lab.run(["ip", *ipsec.split()], check=False).returncode:
        pytest.skip("no ESP in this kernel")
    lab.restore(None, "ipv4", RULES, backend)
    path = tmp_path / "t.db"
    send = "import socket; socket.socket(2, 2).sendto(b'x', ('10.0.1.1', 5000))"
    enter = ["nsenter", "--net=/run/netns/h", sys.executable, "-c", send]
    lab.run([*IPTREC, "record", "--backend", backend, "-o", str(path), "--", *enter])
    found = {spec: one for spec, one in said(path).items() if "policy" in spec}
    assert len(found) == 2
    assert all(set(one) == {None} for one in found.values())
