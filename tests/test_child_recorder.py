"""What `iptrec.record` and its child tell each other, without a kernel."""

from __future__ import annotations

import re

import pytest

import iptrec
from iptrec import child_recorder
from iptrec.kernel.iptables import RefusedError
from iptrec.kernel.legacy.lock import LockHeldError


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (LockHeldError("held"), iptrec.HostError),
        (RefusedError("iptables-restore", "-A x", "no", 1), iptrec.HostError),
        (iptrec.UsageError("what"), iptrec.UsageError),
        (iptrec.RecordingError("full"), iptrec.RecordingError),
        (iptrec.IptrecError("else"), iptrec.IptrecError),
    ],
)
def test_an_error_arrives_as_the_nearest_public_one(error, kind):
    """With its text; what is below the public kinds is iptrec's own."""
    answer = {"error": child_recorder._public(error), "text": str(error)}
    with pytest.raises(iptrec.IptrecError, match=re.escape(str(error))) as caught:
        child_recorder._raise_error(answer)
    assert type(caught.value) is kind
