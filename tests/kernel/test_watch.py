"""What a watch keeps in mind, and what it does without."""

from __future__ import annotations

from iptrec.kernel.watch import Watch


def test_watch_remembers_the_last_states():
    """Rules that are new each second would otherwise take 100 MB a day, small as they are."""
    watch = Watch({}, {}, lambda _: None, None)
    for number in range(5000):
        watch._remember("ipv4", b"%d" % number, b"rules %d" % number)
    assert len(watch._contents) < 100
    assert watch._contents["ipv4", b"4999"] == b"rules 4999"
    watch.stop()
