"""Commands that only look, and that may not end by themselves."""

from __future__ import annotations

import time

import pytest

from iptrec.errors import HostError
from iptrec.kernel import process


def test_a_listing_that_does_not_end_is_ended():
    """Otherwise a recorder whose ruleset changes all the time could not be stopped."""
    begun = time.monotonic()
    with pytest.raises(HostError, match=r"sleep does not come to an end: .*change all the time"):
        process.run(["sleep", "60"], until=begun + 0.2)
    assert time.monotonic() - begun < 30
