"""Who holds sockets, out of a /proc made by hand."""

from __future__ import annotations

import json
import struct

import pytest
from handmade import netlink

from iptrec.kernel import owners


def socket(inode):
    """A message of sock_diag; its control group is one that nobody has."""
    body = bytes(68) + struct.pack("=I", inode) + struct.pack("=HHQ", 12, 21, 2**62)
    return netlink(20, body)


@pytest.fixture
def proc(tmp_path):
    """Processes: of two sockets, of another's, of none, one that is gone, and what is no process."""
    for pid, held in (("12", (20, 30)), ("13", (99,)), ("14", ())):
        directory = tmp_path / pid / "fd"
        directory.mkdir(parents=True)
        for number, inode in enumerate(held):
            (directory / str(number)).symlink_to(f"socket:[{inode}]")
        (directory / "9").symlink_to("/dev/null")
        (tmp_path / pid / "comm").write_bytes(b"a\n\xff\n")
        (tmp_path / pid / "cgroup").write_text("0::/x\n")
    (tmp_path / "15").mkdir()
    (tmp_path / "net").mkdir()
    return tmp_path


def test_the_holders(proc):
    told = json.loads(owners.dump(socket(20) + socket(30) + socket(40), proc))
    process = {"pid": 12, "comm": "a\n\\xff", "cgroup": "0::/x\n", "sockets": [20, 30]}
    assert told == {"processes": [process], "unread": 0, "cut": False, "cgroups": {}}


def test_nobody_is_looked_at_without_sockets(proc):
    assert json.loads(owners.dump(b"", proc))["processes"] == []


def test_those_that_may_not_be_looked_at(proc, monkeypatch):
    def refuse(_):
        raise PermissionError

    monkeypatch.setattr(owners, "_open_in", refuse)
    told = json.loads(owners.dump(socket(20), proc))
    assert (told["processes"], told["unread"]) == ([], 4)


def test_it_takes_no_longer(proc, monkeypatch):
    monkeypatch.setattr(owners, "_PATIENCE_S", -1.0)
    told = json.loads(owners.dump(socket(20), proc))
    assert (told["processes"], told["cut"]) == ([], True)
