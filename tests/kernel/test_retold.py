"""Rules that soon went get their texts from the real kernel, many at once."""

from __future__ import annotations

import json
import re
import shutil
import sys

import pytest

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(
        shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin") is None, reason="no nft"
    ),
]

MANY = 250
SCRIPT = """
import json, subprocess, sys
from iptrec.kernel import netlink
from iptrec.kernel.deadline import Deadline
from iptrec.kernel.nft import nftrace, retold
from iptrec.kernel.nft.missed import Missed

def change(commands):
    subprocess.run(["nft", "-f", "-"], input=commands, text=True, check=True)

many = int(sys.argv[1])
rules = "; ".join(
    f"udp dport {{ {one}, {one + 1} }} udp sport != {{ 0, {one} }} counter" + " jump other" * (one % 9 == 0)
    for one in range(1, many + 1)
)
missed = Missed()
missed.begin()
with nftrace.ChangeSocket() as source:
    change(f"table inet t {{ chain other {{ }}; chain c {{ {rules}; }}; }}")
    change("delete table inet t; table ip t { chain c { ip ttl 7 counter; }; }")
    change("delete table ip t")
    while (told := source.receive()) is not None:
        for one in netlink.messages(told):
            missed.take(one)
gone = missed.gone()
refused = gone[9]._replace(rule=[(4, netlink.packed([(1, netlink.packed([(1, b"nonesuch\\0")]))]))])
print(json.dumps([len(gone), json.loads(retold.told([*gone[:9], refused, *gone[9:]], until=Deadline(60)))]))
"""


def test_many_rules_and_one_that_the_kernel_refuses(lab):
    """Sets without a name are those of their own rule, and the rules of a table stay in their order."""
    done = lab.run([sys.executable, "-c", SCRIPT, str(MANY)])
    count, parts = json.loads(done.stdout)
    text = parts["nft-text"]
    ports = re.findall(r"udp dport \{ (\d+), (\d+) \} udp sport != \{ 0, (\d+) \}", text)
    assert count == MANY + 1
    assert "ip ttl 7" in text
    assert ports == [(str(one), str(one + 1), str(one)) for one in range(1, MANY + 1)]
    assert text.count("jump other") == MANY // 9
