"""The lab itself: who is started in it ends with it, whichever thread started it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

pytestmark = pytest.mark.live


def test_what_other_threads_start_ends_with_the_lab(lab):
    """Rules that change all the time come from a thread, beside senders and recorders."""
    with ThreadPoolExecutor(8) as threads:
        children = list(threads.map(lambda _: lab.popen(["sleep", "60"], stdout=-1), range(64)))
        assert list(threads.map(lambda _: lab.run(["true"]).returncode, range(16))) == [0] * 16
    lab.close()
    assert all(child.poll() is not None for child in children)
    assert all(child.stdout.closed for child in children)
