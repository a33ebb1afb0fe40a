"""Answers that a masquerading host gets back by an interface whose packets it does not forward."""

from __future__ import annotations

import pytest
import recorder

pytestmark = pytest.mark.live

MASQUERADE = """\
*nat
-A POSTROUTING -o to-b -j MASQUERADE
COMMIT
*filter
-A INPUT -p icmp -j ACCEPT
-A FORWARD -p icmp -j ACCEPT
COMMIT
"""
PINGS = 5
ECHO_REPLY = 0


@pytest.fixture
def router(lab):
    for number, name in enumerate("ab", 1):
        lab.host(name)
        lab.link(name, "eth0", f"10.0.{number}.2/24", peer=f"to-{name}")
        lab.ip(None, f"address add 10.0.{number}.1/24 dev to-{name}")
        lab.ip(name, f"route add default via 10.0.{number}.1")
    lab.sysctl(None, "net/ipv4/ip_forward", 1)
    for name in ("all", "to-a", "to-b"):
        lab.sysctl(None, f"net/ipv4/conf/{name}/rp_filter", 0)
    lab.settle()
    return lab


def not_forwarded(lab):
    """What the kernel has counted."""
    names, values = (
        line.split()
        for line in lab.run(["cat", "/proc/net/snmp"]).stdout.splitlines()
        if line.startswith("Ip:")
    )
    return int(values[names.index("InAddrErrors")])


@pytest.mark.parametrize("forwards", [False, True])
def test_answers_to_somebody_else_end_there(router, tmp_path, backend, forwards):
    """Each, as many as the kernel counted; what is for this host, or forwarded, does not."""
    router.restore(None, "ipv4", MASQUERADE, backend)
    router.sysctl(None, "net/ipv4/conf/to-b/forwarding", int(forwards))
    path = tmp_path / "t.db"
    child = recorder.start(router, "--backend", backend, "-o", path, notes=True)
    before = not_forwarded(router)
    ping = ["ping", "-q", "-i", "0.05", "-W", "1", "-c", str(PINGS)]
    router.run([*ping, "10.0.2.2"], "a", check=False)
    router.run([*ping, "10.0.2.1"], "b", check=False)
    counted = not_forwarded(router) - before
    recorder.stop(child)
    came = [
        one
        for one in recorder.packets(path)
        if (one.in_, one.header["src"], one.header["proto"]) == ("to-b", "10.0.2.2", "icmp")
    ]
    answers = [one for one in came if one.header["type"] == ECHO_REPLY]
    assert (len(answers), counted) == (PINGS, 0 if forwards else PINGS)
    ends = {(one.verdict, one.end and (one.end.reason, one.end.sure)) for one in answers}
    if forwards:
        assert ends == {("ACCEPT", None)}
    else:
        assert ends == {("UNKNOWN", ("IP_INADDRERRORS", True))}
        assert {"net.ipv4.conf.to-b.forwarding is 0" in one.end.text for one in answers} == {True}
    asked = [(one.verdict, one.end) for one in came if one not in answers]
    assert asked == [("ACCEPT", None)] * PINGS
