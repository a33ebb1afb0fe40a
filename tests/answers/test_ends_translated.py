"""What came in by an interface that forwards nothing, and got a destination from NAT that no rule tells."""

from __future__ import annotations

import json

import pytest
from test_ends import FILTER, KNOWN, NAT, NATS, RAWS, SECOND, recording, told

OFF = KNOWN | {"net/ipv4/conf/eth0/forwarding": "0"}
OWN = {"dst": "10.1.0.1"}
NOT_FORWARDED = ("IP_INADDRERRORS", True)
CASES = {  # tables and last event, the packet, how many were not forwarded and not tracked, what is told
    "it was counted": ((NAT + FILTER, RAWS), OWN, (1, 0), NOT_FORWARDED),
    "whatever it was for": ((NAT + FILTER, RAWS), {}, (1, 0), NOT_FORWARDED),
    "nothing was counted": ((NAT + FILTER, RAWS), OWN, (0, 0), None),
    "nobody counted": ((NAT + FILTER, RAWS), OWN, None, ("IP_INADDRERRORS", False)),
    "connection tracking may have dropped it": (
        (NAT + FILTER, RAWS), OWN, (1, 1), ("IP_INADDRERRORS", False)),
    "before or after": (
        (NAT + FILTER, RAWS), OWN | {"after": {"net/ipv4/conf/eth0/forwarding": "1"}}, (1, 0), None),
    "forwarding is on": ((NAT + FILTER, RAWS), OWN | {"settings": KNOWN}, (1, 0), None),
    "not known": ((NAT + FILTER, RAWS), OWN | {"lists": 0}, (1, 0), None),
    "or its source was filtered, here": (
        (NAT + FILTER, RAWS),
        OWN | {"src": "10.2.0.9", "settings": OFF | {"net/ipv4/conf/eth0/rp_filter": "1"}}, (1, 0), None),
    "no chain would tell that it was for this host": ((NAT, RAWS), OWN, (1, 0), None),
    "the first of its connection": ((NAT + FILTER, RAWS, NATS), {}, (0, 0), NOT_FORWARDED),
    "to a group": ((NAT + FILTER, RAWS), {"dst": "224.0.0.5"}, (1, 0), None),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_not_forwarded_wherever_nat_sends_it(case):
    """It is told where nothing else can have been: for this host INPUT would have seen it."""
    (tables, *prefixes), given, counted, expected = CASES[case]
    made = recording(tables, *prefixes, **({"settings": OFF} | given))
    for time, times in ((1, 0), (1000 * SECOND, 1)) if counted else ():
        unforwarded, untracked = (7 + times * one for one in counted)
        files = {
            "snmp": f"Ip: InAddrErrors\nIp: {unforwarded}\n",
            "stat/nf_conntrack": f"drop\n{untracked:x}\n",
        }
        made.snapshot("counters", json.dumps(files).encode(), time)
    assert told(made) == expected
