"""Packets of text, whose addresses no rule changes, are told apart by them."""

from __future__ import annotations

import pytest
from command import iptrec

LINE = (
    "[{time}.0] TRACE: {place} IN=eth0 OUT= MAC= SRC=fd00::{source} DST=fd00::1 LEN=72 TC=0 HOPLIMIT=255"
    " FLOWLBL=0 PROTO=ICMPv6 TYPE=135 CODE=0 "
)
RULES = "*raw\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n*filter\n:INPUT DROP [0:0]\nCOMMIT\n"
NAT = "*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n"
MANGLE = "*mangle\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n-A PREROUTING -j {}\nCOMMIT\n"


@pytest.mark.parametrize(
    ("more", "count"),
    [
        ("", 2),
        (NAT, 1),
        (MANGLE.format("DNPT --src-pfx fd00::/64 --dst-pfx fd01::/64"), 1),
        (MANGLE.format("MARK --set-xmark 0x1/0xff"), 2),
    ],
    ids=["no NAT", "nat", "DNPT", "MARK"],
)
def test_events_with_other_addresses(tmp_path, more, count):
    """The first packet's second line is lost, and the second one's first line."""
    mangled = ["mangle:PREROUTING:rule:1", "mangle:PREROUTING:policy:2"] if "mangle" in more else []
    behind = ["mangle:INPUT:policy:1"] if mangled else []
    lines = [
        *(
            LINE.format(time=1, place=one, source=2)
            for one in ["raw:PREROUTING:policy:1", *mangled]
        ),
        *(LINE.format(time=1, place=one, source=3) for one in [*behind, "filter:INPUT:policy:1"]),
    ]
    (tmp_path / "log").write_text("\n".join(lines))
    (tmp_path / "rules").write_text(RULES + more)
    options = ["--ruleset", f"ipv6:{tmp_path / 'rules'}", "-o", tmp_path / "t.db"]
    assert iptrec("import", tmp_path / "log", *options).returncode == 0
    assert len(iptrec("show", "--json", tmp_path / "t.db").stdout.splitlines()) == count
