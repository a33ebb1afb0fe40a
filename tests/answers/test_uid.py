"""Whose socket a packet is of: what legacy iptables tells is shown, and selects."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import iptrec as command

import iptrec
from iptrec.errors import UsageError
from iptrec.views import show
from iptrec.views.text import Layout

LOOPBACK = Path(__file__).parents[2] / "samples" / "loopback.db"


@pytest.fixture
def recording():
    with iptrec.open(LOOPBACK) as opened:
        yield opened


def test_packets_of_a_user(recording):
    """Those that a socket sent; the answers of the kernel itself are nobody's."""
    every = list(recording.packets())
    chosen = list(recording.packets(uid=0))
    assert 0 < len(chosen) < len(every)
    assert [one.number for one in chosen] == [one.number for one in every if one.uid == 0]
    assert {one.gid for one in chosen} == {0}
    assert list(recording.packets(uid=[1, 2])) == []
    assert [one.number for one in recording.packets(uid={0, 7})] == [one.number for one in chosen]


def test_it_is_shown(recording):
    """In the words of the LOG target, and nothing of who is nobody's."""
    for one in recording.packets():
        told = show.as_text(one, Layout()).splitlines()[1]
        assert told.endswith(" UID=0 GID=0") is (one.uid == 0)


def test_tables_have_it(recording):
    rows = recording.query("SELECT packet, uid, gid FROM packets WHERE uid IS NOT NULL")
    assert list(rows) == [(one.number, 0, 0) for one in recording.packets(uid=0)]


@pytest.mark.parametrize("uid", ["root", -1.5, [], None])
def test_what_is_not_the_number_of_a_user(recording, uid):
    with pytest.raises(UsageError, match="uid="):
        list(recording.packets(uid=uid))


def test_the_option(recording):
    """A number, or several; names of users are those of another host."""
    found = command("show", LOOPBACK, "--uid", "0,7", "--brief").stdout.splitlines()[1:]
    assert len(found) == len(list(recording.packets(uid=0)))
    refused = command("show", LOOPBACK, "--uid", "root")
    said = "iptrec: --uid 'root': expected the number of a user, such as 1000\n"
    assert (refused.returncode, refused.stderr) == (2, said)
