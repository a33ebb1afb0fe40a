"""Base chains beside raw and before it: which of them the kernel passes first, and what is seen of it."""

from __future__ import annotations

import signal
import sys

import pytest
import recorder
import test_nft
from command import iptrec
from recorder import packets
from test_nft import router
from test_nft_dormant import SEND

pytestmark = test_nft.pytestmark

CHAIN = """\
table %s early {
	chain p { type filter hook prerouting priority %d; udp dport 1000 counter drop;
	}
}
"""
OUR_CHAINS = "SELECT content FROM snapshots WHERE kind = 'nft'"
RAW = "table ip raw {\n\tchain PREROUTING { type filter hook prerouting priority -300; counter;\n\t}\n}\n"


@pytest.mark.parametrize(
    ("rules", "early"),
    [
        (CHAIN % ("inet", -300), False),  # ours is newer, and so passed first
        (CHAIN % ("ip", -300), False),
        (CHAIN % ("inet", -300) + RAW, True),  # its age nobody knows
        (RAW + CHAIN % ("inet", -300), True),
        (RAW + CHAIN % ("ip", -300), True),
        (CHAIN % ("inet", -301), True),
        (RAW + CHAIN % ("inet", -299), False),
    ],
)
def test_of_equal_priorities_the_newest_is_passed_first(lab, tmp_path, rules, early):
    """A drop is seen in any case; where tracing may begin too late, a table of our own comes first."""
    router(lab)
    lab.run(["nft", "-f", "-"], stdin=rules)
    path = tmp_path / "t.db"
    child, said = recorder.started(lab, "--backend", "nft", "udp", "-o", path)
    lab.run([sys.executable, "-c", SEND, "999", "1000"], "a")
    family = rules.partition(" early")[0].split()[-1]
    counted = lab.run(["nft", "list", "table", family, "early"])
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=60)
    assert (child.returncode, "counter packets 1 " in counted.stdout) == (0, True)
    found = [(one.header["dport"], one.verdict, one.complete) for one in packets(path)]
    assert found == [(999, "ACCEPT", True), (1000, "DROP", True)]
    assert "may be passed before tracing begins" not in said
    assert ("early_prerouting" in iptrec("query", path, OUR_CHAINS).stdout) == early
