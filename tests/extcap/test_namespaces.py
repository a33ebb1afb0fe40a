"""Which network namespaces are offered."""

from __future__ import annotations

import os
from pathlib import Path

from iptrec.extcap import namespaces
from iptrec.extcap.sentences import Choice
from iptrec.kernel import netns

OURS = Path("/proc/self/ns/net")


def offered(monkeypatch, found):
    monkeypatch.setattr(netns, "namespaces", lambda: found)
    return namespaces.choices()


def test_by_the_name_that_lasts(monkeypatch):
    """One of `ip netns`, else Docker's, else a process; ours is not among them."""
    mine = OURS.stat().st_ino
    process = Path(f"/proc/{os.getpid()}/ns/net")
    found = {
        mine: [OURS, Path("/run/netns/ours")],
        1: [process, Path("/run/docker/netns/0123"), Path("/run/netns/web")],
        2: [process, Path("/run/docker/netns/0123")],
        3: [process],
        4: [Path("/proc/999999999/ns/net")],
    }
    name = Path("/proc/self/comm").read_text().strip()
    assert set(offered(monkeypatch, found)) == {
        Choice("web", "web"),
        Choice("/run/docker/netns/0123", "Docker 0123"),
        Choice(str(os.getpid()), f"process {os.getpid()} ({name})"),
        Choice("999999999", "process 999999999"),  # gone meanwhile
    }


def test_where_nothing_can_be_seen(monkeypatch):
    def refused():
        raise PermissionError

    monkeypatch.setattr(netns, "namespaces", refused)
    assert namespaces.choices() == []
