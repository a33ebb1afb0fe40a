"""Tables of our own as nft reads them, and whether they are there."""

from __future__ import annotations

import socket

import pytest

from iptrec.errors import HostError
from iptrec.kernel.nft import table
from iptrec.kernel.nft.bases import Base
from iptrec.kernel.nft.table import Own

UUID = "0" * 8 + "-0000-0000-0000-" + "0" * 12
COMMENT = f"iptrec:{UUID}"
IP = Base("inet", "fw", "c", 0, -450)
LOWEST = Base("ip", "fw", "c", 3, -(2**31))
LO = Base("netdev", "fw", "c", 0, 7, ("lo", "gone"))
BRIDGE = Base("bridge", "fw", "c", 2, 0)
BRIDGES = [Base("bridge", "fw", "c", hook, 0) for hook in (1, 4)]
MATCHES = {"ipv4": ["udp"], "ipv6": ["udp"]}


def own(*early, matches=MATCHES, alone=False, interfaces=(), frames=False):
    return Own(COMMENT, ["ipv4", "ipv6"], interfaces, matches, alone, early, frames=frames)


@pytest.fixture(autouse=True)
def devices(monkeypatch):
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(1, "lo")])


@pytest.mark.parametrize(
    ("made", "chains"),
    [
        (own(), None),
        (own(alone=True), ["prerouting", "output"]),
        (own(IP), ["early_prerouting", "early_output"]),
        (own(IP, alone=True), ["prerouting", "output", "early_prerouting", "early_output"]),
        (own(LO), ["early_prerouting", "early_output", "ingress"]),
        (own(LO, matches=None), None),
        (own(BRIDGE), ["early_prerouting", "early_output", "bridged"]),
        (own(IP, frames=True), ["early_prerouting", "early_output"]),
        (own(BRIDGE, frames=True), ["early_prerouting", "early_output", "bridged"]),
        (
            own(*BRIDGES, frames=True),
            ["early_prerouting", "early_output", "bridged", "bridged_input", "bridged_output"],
        ),
        (own(IP, LO, BRIDGE, matches=None), ["early_prerouting", "early_output", "bridged"]),
    ],
)
def test_which_chains_there_are(made, chains):
    """As many as are needed; at ingress none without words of nft."""
    assert made.needed == (chains is not None)
    if chains is not None:
        found = [line.split()[1] for line in made.text().splitlines() if " chain " in line]
        assert found == chains


@pytest.mark.parametrize(("early", "priority"), [([IP], -(2**31) + 1), ([IP, LOWEST], -(2**31))])
def test_no_early_chain_comes_before_ours(early, priority):
    """Of equal priorities the newest is the first; before br_netfilter's only where it has to be."""
    assert f"hook prerouting priority {priority};" in own(*early).text()


def test_at_ingress_are_the_devices_that_are_there():
    """One of them may have gone since."""
    assert 'hook ingress devices = { "lo" } priority' in own(LO).text()


def test_frames_that_no_chain_of_ip_sees():
    """Those of every interface that is recorded; of those that are sent, IP as well: packet sockets'."""
    text = own(*BRIDGES, interfaces=("a", "b"), frames=True).text()
    assert text.count("meta protocol != ip meta protocol != ip6 iifname") == 2
    assert [one in text for one in ('  oifname "a" counter', '  oifname "b" counter')] == [True] * 2
    assert text.count("oifname") == 2
    assert text.count("ether daddr 01:80:c2:00:00:02-01:80:c2:00:00:0f iifname") == 2


@pytest.mark.parametrize(
    ("refused", "kept"),
    [
        ("nothing", [IP, LO, BRIDGE]),
        ("table bridge", [IP, LO]),
        ("hook ingress", [IP]),
        ("early_", []),
        ("table inet", None),
    ],
)
@pytest.mark.parametrize("alone", [False, True])
def test_what_a_kernel_refuses_is_left_out(monkeypatch, refused, kept, alone):
    """The rest is traced; without any early chain there is a table only where there is no other."""
    made = []

    def insert(self):
        if refused in self.text():
            raise HostError("refused")
        made.append(self)

    monkeypatch.setattr(Own, "insert", insert)
    monkeypatch.setattr(table, "remove", lambda *_: None)
    wanted = own(IP, LO, BRIDGE, alone=alone)
    if kept is None and alone:
        with pytest.raises(HostError):
            wanted.made()
        return
    found = wanted.made()
    assert [*found.early] == (kept or [])
    assert made == ([found] if kept or alone else [])
