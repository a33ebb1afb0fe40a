"""The rules of real firewalls under packets from all sides: hits are the kernel's, and what is told is so."""

from __future__ import annotations

import os

import pytest
from real_hosts import hosts, truth
from rights import IS_ROOT

import iptrec

pytestmark = pytest.mark.live

PACKETS = int(os.environ.get("IPTREC_HOST_PACKETS", "300"))  # bench/hosts.py has more of everything
HERE = ("firewalld, nftables", "ufw, legacy", "kube-proxy, nftables")


@pytest.mark.skipif(not IS_ROOT, reason="the daemons need root")
@pytest.mark.parametrize("name", HERE)
def test_hits_are_the_kernels_and_what_is_told_is_so(lab, tmp_path, name):
    """Nothing that was told as dropped arrived, nothing that was told as accepted did not."""
    host = hosts.HOSTS[name]
    if missing := host.missing():
        pytest.skip(f"not installed: {', '.join(missing)}")
    found = truth.run(lab, host, tmp_path, PACKETS)
    assert found.differing == {}
    assert (found.uncountable, found.lost) == (0, 0)
    assert (found.wrong, found.vanished, found.untraced, found.false_ends) == ({}, {}, {}, [])
    assert (found.seen.mixed, found.seen.incomplete) == (0, 0)
    assert (found.blind.mixed, found.blind.unsure, found.blind.unknown) == (0, 0, [])
    assert found.seen.packets == found.blind.packets >= PACKETS
    assert found.hit > found.rules / 4
    assert len(found.blind.verdicts) > 1
    assert _nobody_s(tmp_path / "t.db") == set()


def _nobody_s(path):
    """Rules that dropped a packet, and of which `why` does not say whose they are: all are of one program."""
    with iptrec.open(path) as recording:
        return {
            (at.table, at.chain, at.rule)
            for one in recording.explain(verdict=["DROP", "REJECT"])
            if (at := one.packet.decided_by) is not None and one.origin is None
        }
