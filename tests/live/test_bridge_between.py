"""What a bridge drops while it has asked IP's rules (br_netfilter) is not told as dropped by IP."""

from __future__ import annotations

import json
import sys

import frames
import pytest
import recorder

pytestmark = pytest.mark.live

GROUP = "239.1.2.3"
REPORT = 0x16  # of IGMPv2 (RFC 2236)
IGMP = 2
RULES = "*filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\n-A INPUT -p igmp -j ACCEPT\nCOMMIT\n"


@pytest.fixture
def bridge(lab):
    """A bridge with an address, which listens to IGMP, and asks IP's rules."""
    switch = "net/bridge/bridge-nf-call-iptables"
    if lab.run(["test", "-e", f"/proc/sys/{switch}"], check=False).returncode:
        pytest.skip("br_netfilter is not loaded")
    lab.ip(None, "link add br0 type bridge mcast_snooping 1\nlink set br0 up")
    lab.ip(None, "address add 10.5.0.1/24 dev br0")
    lab.host("a")
    lab.link("a", "eth0", "10.5.0.2/24", peer="to-a", bridge="br0")
    lab.settle()
    lab.sysctl(None, switch, 1)
    return lab


def report(*, bad):
    """A report of IGMP, whose checksum may be wrong, which the bridge drops (br_ip4_multicast_igmp)."""
    body = bytes([REPORT, 0, 0, 0]) + bytes([239, 1, 2, 3])
    body = body[:2] + (frames.checksum(body) ^ bad).to_bytes(2) + body[4:]
    router_alert = bytes([148, 4, 0, 0])
    return frames.ipv4(IGMP, body, src="10.5.0.2", dst=GROUP, ttl=1, options=router_alert)


@pytest.mark.parametrize("drops", ["no", "auto"])
@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_who_dropped_it_is_not_sure(bridge, tmp_path, backend, drops):
    """Neither that IP has not joined the group, nor what else routing or the kernel's answer would say."""
    bridge.restore(None, "ipv4", RULES, backend)
    child = recorder.start(
        bridge, "dst net 239.0.0.0/8", "--backend", backend, "--drops", drops, "-o", tmp_path / "t.db",
        notes=True,
    )  # fmt: skip
    told = frames.framed(
        [report(bad=True)] * 3, "01:00:5e:01:02:03", frames.mac(bridge, "a", "eth0")
    )
    bridge.run([sys.executable, "-c", frames.SEND, "/dev/stdin"], "a", stdin=json.dumps(told))
    recorder.stop(child)
    found = recorder.packets(tmp_path / "t.db")
    assert len(found) == 3
    for one in found:
        assert one.end is None or one.end.reason != "NOT_JOINED" or not one.end.sure, one.end
