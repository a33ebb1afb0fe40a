"""Lists that the kernel is asked for: whole, refused, or cut."""

from __future__ import annotations

import json
import os
import socket
import struct

import pytest

from iptrec.decode import snapshots
from iptrec.kernel import dumps, ipsets, links, sysctls
from iptrec.kernel.child import Forked
from iptrec.names import AF_INET

RTM_GETADDR = 22


def test_a_list_is_whole():
    """Loopback is everywhere; nobody needs rights to see it."""
    content = links.dumps()["links"]
    assert snapshots.state(content, "netlink") == "whole"
    assert (1, "lo") in snapshots.links(content, "netlink")


def test_a_list_that_is_the_same_has_the_same_bytes():
    """It is then stored once."""
    assert links.dumps()["ip-rules"] == links.dumps()["ip-rules"]


def test_a_refusal_is_not_an_empty_list():
    """Who may not see the sets is told so by the kernel: that is what is kept."""

    def look():
        if not os.geteuid():
            os.setresuid(65534, 65534, 65534)
        return ipsets.dumps()

    with Forked("the sets", look) as aside:
        (content,) = aside.result().values()
    assert snapshots.state(content, "netlink") == "EPERM"


def test_a_kernel_without_it_is_not_an_empty_list(monkeypatch):
    """A protocol that it does not know is refused by socket(2), before anything can be asked."""

    def refused(*_):
        raise OSError(93, "Protocol not supported")

    monkeypatch.setattr(socket, "socket", refused)
    assert snapshots.state(ipsets.dumps()["ipsets"], "netlink") == "EPROTONOSUPPORT"
    assert json.loads(snapshots.shown("ipsets", ipsets.dumps()["ipsets"], "netlink")) == []


@pytest.mark.parametrize("limit", [0, 100, 10_000])
def test_what_is_too_large_is_cut_and_says_so(monkeypatch, limit):
    """As many datagrams as there is room for, none in part."""
    parts = [struct.pack("=IHHII", 100, RTM_GETADDR, 2, 1, 0) + bytes(84)] * 1000
    monkeypatch.setattr(dumps, "datagrams", lambda *_: iter(parts))
    content = dumps.dump(0, RTM_GETADDR, bytes(8), limit)
    assert len(content) == limit
    assert snapshots.state(content, "netlink") == "cut"


def test_a_list_that_changed_meanwhile_is_asked_for_again(monkeypatch):
    """And is kept as it is where that goes on and on."""
    done = struct.pack("=IHHIIi", 20, 3, 2, 1, 0, 0)
    changed = struct.pack("=IHHII", 16, 20, 0x12, 1, 0) + done
    answers = [changed, done]
    monkeypatch.setattr(dumps, "datagrams", lambda *_: iter([answers.pop(0)]))
    assert dumps.dump(0, RTM_GETADDR, bytes(8)) == done
    answers = [changed] * 3
    assert snapshots.state(dumps.dump(0, RTM_GETADDR, bytes(8)), "netlink") == "changed"


def test_an_unknown_request_is_refused():
    """The kernel's own word."""
    content = dumps.dump(socket.NETLINK_ROUTE, 0x7FE, struct.pack("B", AF_INET))
    assert snapshots.state(content, "netlink") == "EOPNOTSUPP"


def test_settings(tmp_path, monkeypatch):
    """Files that everybody may read; those that cannot be read say why."""
    for name, text in {
        "ipv4/a": "1\n",
        "ipv4/secret": "s",
        "ipv6/b": "2",
        "netfilter/c": "3\t4\n",
    }.items():
        path = tmp_path / "net" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "net/ipv4/secret").chmod(0o600)
    (tmp_path / "net/ipv4/directory").mkdir()
    (tmp_path / "net/ipv4/loop").symlink_to("loop")
    monkeypatch.setattr(sysctls, "ROOT", f"{tmp_path}/")
    expected = {"net/ipv4/a": "1", "net/ipv6/b": "2", "net/netfilter/c": "3\t4"}
    assert json.loads(sysctls.settings()) == expected | {"net/ipv4/loop": {"error": "ELOOP"}}
    monkeypatch.setattr(sysctls, "MOST_FILES", 1)
    assert json.loads(sysctls.settings()) == {
        "net/ipv4/a": "1",
        "net/ipv4/directory": {"error": "cut"},
    }
