"""Which tables iptables-save printed, where the kernel does not list them."""

from __future__ import annotations

import pytest

from iptrec.recorder.legacy import _tables


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_a_comment_names_no_table(end):
    """Nor need it be UTF-8."""
    rule = b'-A INPUT -m comment --comment "\\"x' + end + b"*nat\xff" + end + b'" -j ACCEPT\n'
    one = b"*%s\n:INPUT ACCEPT [0:0]\n%sCOMMIT\n# Completed\n"
    assert _tables(one % (b"raw", rule) + one % (b"filter", rule + rule)) == ["raw", "filter"]
