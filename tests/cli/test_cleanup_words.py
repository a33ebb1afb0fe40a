"""What ``iptrec cleanup`` says of a recording that was to be compressed."""

from __future__ import annotations

from iptrec.cli.cleanup import _what
from iptrec.kernel.undo.changes import Changes
from iptrec.kernel.undo.leftovers import Leftover


def said(output):
    return _what(Leftover(None, "iptrec:1", {}, Changes("iptrec:1", 7, str(output)), None))


def test_a_part_that_is_there_is_told_with_what_it_was_to_be(tmp_path):
    """It is a recording: nobody needs to look for the other file."""
    part = tmp_path / "t.part.db"
    part.write_bytes(b"")
    assert f"recording {part}, which was to become t.db.gz; every command reads it)" in said(part)


def test_of_others_only_their_name(tmp_path):
    """Of a part that is gone, and of a recording that is not to be compressed."""
    there = tmp_path / "t.db"
    there.write_bytes(b"")
    for one in (tmp_path / "t.part.db", there):
        assert said(one).endswith(f"recording {one})")
