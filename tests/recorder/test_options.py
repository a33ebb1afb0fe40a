"""What can be said of options before anything is done."""

from __future__ import annotations

from pathlib import Path

import pytest

from iptrec.errors import UsageError
from iptrec.recorder.options import Options


def options(**given):
    return Options(output=Path("t.db"), bytecodes={}, **given)


@pytest.mark.parametrize(
    "name",
    [
        "eth0+ -j ACCEPT\n-A OUTPUT+",
        "a b+",
        'a"+',
        "a\\+",
        "/+",
        "sixteen-letters-+",
        "nope",
        "lo\n",
    ],
)
def test_interfaces_that_there_cannot_be(name):
    """A name goes into the text that iptables-restore reads: it is a name, and nothing else."""
    with pytest.raises(UsageError, match="no interface"):
        options(interfaces=(name,)).check_interfaces(["lo"])


@pytest.mark.parametrize("name", ["lo", "eth+", "+", "br-0.1+"])
def test_interfaces_that_there_may_be(name):
    """One that is there, or a beginning of names."""
    options(interfaces=(name,)).check_interfaces(["lo"])


def test_a_ring_is_told_by_the_stream():
    """What was let go is missing on purpose: whoever reads the file is told so."""
    assert options().ring == {}
    assert options(ring_bytes=0, ring_s=1.5).ring == {"ring_bytes": 0, "ring_s": 1.5}
