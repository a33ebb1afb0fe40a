"""The process that prints copies of tables is through when its iptables-save is, whoever else lives on."""

from __future__ import annotations

import os
import socket

import pytest

from iptrec.kernel.legacy import printer

SCRIPT = "exec 3<{} && echo printed && {{ cat <&3 >&2 & }}"


@pytest.mark.timeout(30)
def test_the_end_of_the_command_is_enough(tmp_path):
    """Before Linux 6.11 a filter is there until its process was waited for; here somebody else has it, too."""
    held = tmp_path / "held"
    os.mkfifo(held)
    # Opened both ways: whoever reads has neither anything to read nor an end of it.
    with held.open("r+b", buffering=0):
        command = ["/bin/sh", "-c", SCRIPT.format(held)]
        request = printer.Request(command, dict(os.environ), socket.SOL_IP, b"", b"")
        assert printer.printed(request) == (
            printer.REFUSED, b"", b"it asks the kernel in another way",
        )  # fmt: skip
