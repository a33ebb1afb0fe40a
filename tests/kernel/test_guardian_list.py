"""What the guardian's list takes while somebody undoes our changes again and again."""

from __future__ import annotations

import os

import pytest

from iptrec.errors import HostError
from iptrec.kernel.legacy import raw as legacy_raw
from iptrec.kernel.nft import raw as nft_raw
from iptrec.kernel.undo import lists
from iptrec.kernel.undo.changes import Changes
from iptrec.kernel.undo.guardian import Guardian


def test_the_same_change_is_written_down_once(tmp_path, monkeypatch):
    """Somebody may switch the logger back each second; the list lies in memory (/run)."""
    monkeypatch.setattr(lists, "STATE", tmp_path / "iptrec")
    watched = Guardian("iptrec:test", tmp_path / "t.db")
    for _ in range(1000):
        watched.expect_logger("ipv4", "nf_log_syslog")
    assert os.fstat(watched._list).st_size < 2000
    found = lists.read(watched._list)
    assert found.loggers == {"ipv4": "nf_log_syslog"}
    watched.dismiss()


def test_the_last_line_of_a_long_list_counts(tmp_path, monkeypatch):
    """However many lines there are before it."""
    monkeypatch.setattr(lists, "STATE", tmp_path / "iptrec")
    monkeypatch.setattr(lists, "_LARGEST", 2000)
    watched = Guardian("iptrec:test", tmp_path / "t.db")
    for number in range(100):
        watched.expect_logger("ipv4", f"logger-{number}")
    assert lists.read(watched._list).loggers == {"ipv4": "logger-99"}
    watched.dismiss()


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_what_cannot_be_appended_is_not_forgotten(monkeypatch, backend):
    """The kernel does not answer while cleanup --restore is at work: the rules are still in the list."""

    def fail(*_):
        raise HostError("no")

    for module in (legacy_raw, nft_raw):
        monkeypatch.setattr(module, "append", fail)
    changes = Changes("iptrec:test", 0, "")
    changes.of(backend, "ipv4").kept = ["OUTPUT   "]
    with pytest.raises(HostError):
        changes.restore()
    assert changes.of(backend, "ipv4").kept == ["OUTPUT   "]


@pytest.mark.parametrize("backend", ["legacy", "nft"])
def test_each_family_is_tried(monkeypatch, backend):
    """What is refused stays in the list and is told, the rest is not held up by it."""
    refused = {"ipv4": ["OUTPUT   one"], "ipv6": []}
    for module in (legacy_raw, nft_raw):
        monkeypatch.setattr(module, "append", lambda family, _: refused[family])
    changes = Changes("iptrec:test", 0, "")
    for family in refused:
        changes.of(backend, family).kept = ["OUTPUT   one", "OUTPUT   two"]
    with pytest.raises(HostError, match=r"refuses 1 rule of the ipv4 raw table.* such as `OUTPUT "):
        changes.restore()
    assert [changes.of(backend, family).kept for family in refused] == [["OUTPUT   one"], []]
