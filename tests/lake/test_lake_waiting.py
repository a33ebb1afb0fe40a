"""While an engine is at work: Ctrl-C is heard, and a terminal shows that something goes on."""

from __future__ import annotations

import threading

import pytest
from lakes import put, sample
from slow import interrupted

from iptrec.lake.answer import waited


def test_what_it_returns_or_raises():
    """In the thread that waits."""
    assert waited(lambda: 7, stop=pytest.fail, look=lambda: None) == 7
    with pytest.raises(ZeroDivisionError):
        waited(lambda: 1 / 0, stop=pytest.fail, look=lambda: None)


def test_it_has_ended_when_the_exception_goes_on():
    """So that its files can be taken away: it is told to stop, and waited for."""
    stop, ended = threading.Event(), []

    def work():
        stop.wait(60)
        ended.append(stop.is_set())

    def look():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        waited(work, stop=stop.set, look=look)
    assert ended == [True]


def test_interrupted_at_a_terminal(tmp_path):
    """A bar with the name of the question; after Ctrl-C no word, and nothing in $TMPDIR."""
    put(tmp_path / "lake", sample("docker_hairpin"), sample("kubernetes"))
    folder = tmp_path / "tmp"
    folder.mkdir()
    status, said, left = interrupted(
        tmp_path / "lake", folder, at=lambda said, _: "talkers" in said and "0:00:0" in said
    )
    assert (status, left) == (130, [])
    assert "Traceback" not in said
    assert "iptrec:" not in said
