"""Whose sockets packets are of: told where only one can be meant, shown, selected; else nothing."""

from __future__ import annotations

import ipaddress
import json
import struct

import pytest
from answers.test_ends import (
    DONE,
    FILTER,
    KNOWN,
    RAWS,
    SECOND,
    TIME,
    TPROXY,
    recording,
    with_sockets,
)  # fmt: skip
from handmade import attribute, netlink
from hypothesis import given
from hypothesis import strategies as st

from iptrec.answers import owners
from iptrec.answers.packets import Packets
from iptrec.answers.selection import Selection
from iptrec.decode.owners import Owner
from iptrec.decode.packet import header
from iptrec.recording.rows import Loss
from iptrec.views import show
from iptrec.views.packet_json import as_object
from iptrec.views.text import Layout

ANY = "0.0.0.0"  # noqa: S104 - nothing is bound
ID = "4f" * 32
DOCKER = f"/system.slice/docker-{ID}.scope"


def sock(cookie=1, *, own=ANY, port=53, peer=None, index=0, uid=7, cgroup=50, v6only=0):
    """A socket of UDP, whose inode is ten times its cookie."""
    family = 10 if ":" in own else 2
    addresses = [
        ipaddress.ip_address(one).packed.ljust(16, b"\0")
        for one in (own, peer or ("::" if family == 10 else ANY))
    ]
    head = struct.pack(
        ">BBBBHH16s16s", family, 7, 0, 0, port, 40000 if peer else 0, *addresses
    ) + struct.pack("<IQ12xII", index, cookie, uid, cookie * 10)
    told = attribute(10, b"\x11") + attribute(11, bytes([v6only]))
    return netlink(20, head + told + attribute(21, struct.pack("<Q", cgroup)))


def holder(cookies=(1,), pid=123, comm="named", cgroup="0::/system.slice/named.service\n"):
    return {"pid": pid, "comm": comm, "cgroup": cgroup, "sockets": [10 * one for one in cookies]}


NAMED = Owner(7, 123, "named", "/system.slice/named.service")


def told(
    first=None,
    last=None,
    closed=(),
    *,
    processes=None,
    cgroups=None,
    tables=FILTER,
    settings=KNOWN,
    since=1,
):
    """A datagram to 10.1.0.1, port 53, that came to INPUT."""
    made = recording(tables, RAWS, "filter:INPUT:policy:1", dst="10.1.0.1", lists=0)
    first = [sock()] if first is None else first
    last = first if last is None else last
    owners = {
        "processes": [holder()] if processes is None else processes,
        "cgroups": {"50": "/system.slice/named.service"} if cgroups is None else cgroups,
        "unread": 0,
        "cut": False,
    }
    lists = [
        (time, DONE * 2 + b"".join(sockets) + DONE * 2)
        for time, sockets in ((since, first), (1000 * SECOND, last))
    ]
    with_sockets(made, lists, closed, settings)
    return made.snapshot("owners", json.dumps(owners).encode(), 1)


def owner_of(made):
    (found,) = Packets(made)
    return found.owner


POD = "0b4e3f52-1c7d-4f0e-9a55-7d1f6f3c9b21"
KUBELETS = f"/kubepods/burstable/pod{POD}/{ID}"
SLICE = f"kubepods-besteffort-pod{POD.replace('-', '_')}.slice"
COLONS = f"/system.slice/containerd.service/{SLICE}:cri-containerd:{ID}"
LIBPOD = f"/machine.slice/libpod-{ID}.scope"
# As /proc/PID/cgroup reads on hosts with both versions: the socket's control group, the text, what is told.
HYBRID = {
    "docker": (
        "/system.slice/containerd.service",
        f"12:hugetlb:/docker/{ID}\n11:rdma:/\n1:name=systemd:/docker/{ID}\n0::/system.slice/containerd.service\n",
        f"/docker/{ID}", None,
    ),
    "kubelet, cgroupfs": (
        "/",
        f"11:memory:{KUBELETS}\n10:rdma:/\n9:cpu,cpuacct:{KUBELETS}\n1:name=systemd:{KUBELETS}\n0::/\n",
        KUBELETS, POD,
    ),
    "containerd, two drivers": (
        "/system.slice/containerd.service",
        f"4:pids:{COLONS}\n3:rdma:/\n1:name=systemd:{COLONS}\n0::/system.slice/containerd.service\n",
        COLONS, POD,
    ),
    "Podman": (
        "/",
        f"9:pids:{LIBPOD}\n8:rdma:/\n4:memory:{LIBPOD}\n1:name=systemd:{LIBPOD}/container\n0::/\n",
        LIBPOD, None,
    ),
}  # fmt: skip
LATER, BEFORE = TIME + 5 * SECOND, TIME - 5 * SECOND
CASES = {
    "one socket": ({}, NAMED),
    "another port": ({"first": [sock(port=54)]}, None),
    "another address": ({"first": [sock(own="10.1.0.2")]}, None),
    "its address": ({"first": [sock(own="10.1.0.1")]}, NAMED),
    "of both families": ({"first": [sock(own="::")]}, NAMED),
    "of IPv6 alone": ({"first": [sock(own="::", v6only=1)]}, None),
    "connected to another": ({"first": [sock(own="10.1.0.1", peer="10.1.0.77")]}, None),
    "of another interface": ({"first": [sock(index=77)]}, None),
    "not in the end": ({"last": []}, None),
    "not in the beginning": ({"first": [], "last": [sock()]}, None),
    "not yet listed": ({"since": TIME + SECOND}, None),
    "closed later": ({"last": [], "closed": [(LATER, sock())]}, NAMED),
    "closed before": ({"last": [], "closed": [(BEFORE, sock())]}, None),
    "perhaps closed": ({"last": [], "closed": [(TIME + SECOND // 2, sock())]}, None),
    "bound elsewhere since": ({"last": [sock(own="10.1.0.2")]}, None),
    "one that came and went": ({"closed": [(LATER, sock(2))]}, None),
    "one that had come and gone": ({"closed": [(BEFORE, sock(2))]}, NAMED),
    "one that came": ({"last": [sock(), sock(2)]}, None),
    "one of another protocol came": ({"last": [sock(), sock(2, port=54)]}, NAMED),
    "the more special": (
        {"first": [sock(2), sock(own="10.1.0.1")], "processes": [holder(), holder([2], 9, "x")]},
        NAMED,
    ),
    "two of one program": (
        {"first": [sock(), sock(2)], "processes": [holder(), holder([2], 124)]},
        Owner(7, None, "named", NAMED.cgroup),
    ),
    "two of two programs": (
        {
            "first": [sock(), sock(2, uid=8, cgroup=51)],
            "processes": [holder(), holder([2], 9, "x", "0::/x\n")],
        },
        None,
    ),
    "shared by two processes": (
        {"processes": [holder(), holder(pid=124, comm="other")]},
        Owner(7, None, None, NAMED.cgroup),
    ),
    "processes not told": ({"processes": []}, Owner(7, cgroup=NAMED.cgroup)),
    "control groups not told": ({"cgroups": {}}, NAMED),
    "nothing told": ({"processes": [], "cgroups": {}}, Owner(7)),
    "a container": (
        {"cgroups": {"50": DOCKER}},
        Owner(7, 123, "named", DOCKER, ID),
    ),
    "a container of version 1": (
        {
            "cgroups": {"50": "/"},
            "processes": [
                holder(cgroup=f"9:pids:/docker/{ID}\n1:name=systemd:/docker/{ID}\n0::/\n")
            ],
        },
        Owner(7, 123, "named", f"/docker/{ID}", ID),
    ),
    # Where both versions are there, version 2 has the daemon's control group, or the root.
    **{
        f"of version 1, {name}": (
            {"cgroups": {"50": own}, "processes": [holder(cgroup=text)]},
            Owner(7, 123, "named", path, ID, pod),
        )
        for name, (own, text, path, pod) in HYBRID.items()
    },
    "two containers of version 1": (
        {
            "cgroups": {"50": "/"},
            "processes": [
                holder(cgroup=f"9:pids:/docker/{one}\n0::/\n") for one in (ID, "5e" * 32)
            ],
        },
        Owner(7, 123, "named", "/"),
    ),
    "a process of version 2 that was given a socket": (
        {"processes": [holder(cgroup=f"0::{DOCKER}\n")]},
        NAMED,
    ),
    "diverted": ({"tables": TPROXY + FILTER}, None),
    "balanced": ({"settings": KNOWN | {"net/ipv4/vs/conntrack": "0"}}, None),
}


@pytest.mark.parametrize("case", CASES)
def test_whose_it_is(case):
    given, expected = CASES[case]
    assert owner_of(told(**given)) == expected


def test_ends_of_sockets_were_lost():
    made = told()
    made.losses.append(Loss(4, TIME, TIME, None, "enobufs"))
    assert owner_of(made) is None


def test_it_is_shown():
    """In the line of the header; names come from strangers."""
    hostile = holder(comm="a b\x1b[31m\n=x")
    (found,) = Packets(told(processes=[hostile], cgroups={"50": DOCKER}))
    line = show.as_text(found, Layout()).splitlines()[1]
    words = rf"UID=7 COMM=a\x20b\x1b[31m\x0a=x PID=123 CGROUP={DOCKER} CONTAINER=4f4f4f4f4f4f"
    assert line.endswith(words)
    assert as_object(found)["owner"] == {
        "uid": 7, "pid": 123, "comm": "a b\x1b[31m\n=x", "cgroup": DOCKER, "container": ID,
    }  # fmt: skip
    (found,) = Packets(told(first=[]))
    assert "owner" not in as_object(found)


SELECTED = {
    "its name": ({"comms": {"x", "named"}}, True),
    "another name": ({"comms": {"name"}}, False),
    "the whole id": ({"containers": {ID}}, True),
    "how it begins": ({"containers": {"4f4f"}}, True),
    "too little of it": ({"containers": {"4f"}}, False),
    "another": ({"containers": {"web"}}, False),
    "both": ({"containers": {ID}, "comms": {"named"}}, True),
    "its user": ({"uids": {7, 8}}, True),
    "another user": ({"uids": {8}}, False),
    "its user and name": ({"uids": {7}, "comms": {"named"}}, True),
    "another's process": ({"uids": {8}, "comms": {"named"}}, False),
    "one of both": ({"containers": {ID}, "comms": {"nobody"}}, False),
}


@pytest.mark.parametrize("case", SELECTED)
def test_what_is_selected(case):
    conditions, expected = SELECTED[case]
    selection = Selection(**{name: frozenset(one) for name, one in conditions.items()})
    made = told(cgroups={"50": DOCKER})
    assert len(list(Packets(made, selection))) == expected
    assert list(Packets(told(first=[]), selection)) == []


def test_the_root_of_control_groups_is_not_worth_a_word():
    root = [holder(cgroup="0::/\n")]
    (found,) = Packets(told(processes=root, cgroups={"50": "/"}))
    assert show.as_text(found, Layout()).splitlines()[1].endswith(" UID=7 COMM=named PID=123")
    assert as_object(found)["owner"]["cgroup"] == "/"


class Captured:
    """One event's packet, as `_ends` asks for it."""

    def __init__(self, data, family):
        self._data, self._family = data, family

    def packet(self, _):
        return self._data

    def address_family(self, _):
        return self._family

    def header(self, _):
        return header(self._data, self._family)


@given(st.data())
def test_plain_packets_have_the_same_ends(data):
    """Whatever is in their headers, and wherever they are cut off."""
    whole = bytearray(
        bytes.fromhex("4500003c1c4640004006b1e6ac100a63ac100a0c04d2005000000001") + bytes(40)
    )
    for at in data.draw(
        st.lists(st.sampled_from([0, 6, 7, 9, 12, 16, 20, 21, 22, 23]), max_size=4)
    ):
        whole[at] = data.draw(
            st.sampled_from([0, 1, 6, 17, 0x40, 0x45, 0x46, 0x4F, 0x60, 0x80, 255])
        )
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    events = Captured(cut, data.draw(st.sampled_from([0, 2, 10])))
    for sent in (True, False):
        found = owners._ends_of_plain(events, 0, sent=sent)
        assert found in (None, owners._ends(events, 0, sent=sent))


def test_plain_packets_are_plain():
    """TCP and UDP over IPv4, with options and without."""
    for first, protocol in ((0x45, 6), (0x45, 17), (0x46, 17)):
        data = bytearray(48)
        data[0], data[9] = first, protocol
        assert owners._ends_of_plain(Captured(bytes(data), 2), 0, sent=True)
