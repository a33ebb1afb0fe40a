"""What the guardian's list takes while somebody undoes our changes again and again."""

from __future__ import annotations

import os

from iptrec.kernel.undo import lists
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
