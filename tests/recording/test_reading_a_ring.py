"""A recording that is read while its recorder lets go of what is old."""

from __future__ import annotations

import pytest

from iptrec.errors import RecordingError
from iptrec.recording.reader import Reader
from iptrec.recording.writer import Writer


@pytest.fixture
def halfway(tmp_path, facts):
    """A recorder, and a reader that has read the first of three snapshots."""
    with Writer.create(tmp_path / "t.db", facts) as writer:
        namespace = writer.add_namespace(None, 1)
        for number in (1, 2, 3):
            writer.add_snapshot(namespace, "nft", number, "nft", str(number).encode(), number)
        with Reader(tmp_path / "t.db") as reader:
            reading = reader.snapshots()
            assert next(reading).content == b"1"
            yield writer._connection, reading


def test_a_snapshot_that_went_meanwhile(halfway):
    """It is left out."""
    recorder, reading = halfway
    recorder.execute("DELETE FROM snapshot WHERE id = 2")
    recorder.execute("DELETE FROM blob WHERE sha256 NOT IN (SELECT blob FROM snapshot)")
    assert [one.content for one in reading] == [b"3"]


def test_a_content_that_is_missing(halfway):
    """Its snapshot is there still: that is damage."""
    recorder, reading = halfway
    recorder.execute("PRAGMA foreign_keys = OFF")
    recorder.execute("DELETE FROM blob WHERE sha256 = (SELECT blob FROM snapshot WHERE id = 2)")
    with pytest.raises(RecordingError, match="is missing or not what it was"):
        list(reading)
