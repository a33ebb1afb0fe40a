"""What became of a packet behind the rules, in every view of a packet."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from explained import Way
from test_text_layout import packet, step

from iptrec.packets.ends import End
from iptrec.views import folded, packet_json, show, text, why

SEEN = End("seen", "IP_RPFILTER", "strict reverse path filtering", "ip_rcv_finish_core+0x25b", 7)
LIKELY = End("recorded", "IP_INNOROUTES", "no route leads to \x1b[31m10.9.9.9", sure=False)
LINES = {
    "seen": (SEEN, "strict reverse path filtering (IP_RPFILTER at ip_rcv_finish_core+0x25b)"),
    "recorded": (LIKELY, "no route leads to \\x1b[31m10.9.9.9"),
}


@pytest.mark.parametrize("case", LINES)
def test_text(case):
    """A line behind the steps, escaped as all that a recording holds."""
    end, line = LINES[case]
    one = packet(step(), end=end)
    explanation = replace(Way().base("filter").explanation(), packet=one)
    layout = text.Layout()
    assert show.as_text(one, layout).endswith(f"\n\tend: {line}\n")
    assert text.render(one, layout).endswith(f"\n\tend: {line}\n")
    assert list(why.as_text(explanation, layout))[-1] == f"  end: {line}"
    assert list(folded.as_text(explanation, layout))[-1] == f"  end: {line}"


def test_json():
    """All of it, or nothing where nothing is known."""
    assert json.loads(packet_json.line(packet(step(), end=SEEN)))["end"] == {
        "source": "seen",
        "reason": "IP_RPFILTER",
        "text": "strict reverse path filtering",
        "where": "ip_rcv_finish_core+0x25b",
        "time_ns": 7,
        "sure": True,
    }
    assert "end" not in packet_json.as_object(packet(step()))
