"""How a packet was lost behind the rules, or may have been, in every view."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from explained import Way
from handmade import UUID, HandMade, udp
from test_text_layout import packet as shown
from test_text_layout import step
from validation import fits

from iptrec.answers.packets import Packets
from iptrec.answers.path_counts import count_paths
from iptrec.answers.selection import Selection
from iptrec.answers.summary import summarize
from iptrec.answers.why import explain
from iptrec.packets.ends import End, Ending
from iptrec.recording.rows import Loss, Stream
from iptrec.views import folded, info, json_lines, packet_json, paths, pcapng, show, table_rows, why
from iptrec.views.tables import BY_NAME
from iptrec.views.text import Layout, render
from iptrec.views.title import brief

OWN = f'-m comment --comment "iptrec:{UUID}" -j TRACE'
RULES = f"*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING {OWN}\nCOMMIT\n"
WORDS = "a route blackholes, prohibits or refuses the destination (NOT_SPECIFIED at ip_error+0x94)"
BEGIN = 10**12
SEEN = End("seen", "IP_RPFILTER", "strict reverse path filtering", "ip_rcv_finish_core+0x25b", 7)
LIKELY = End("recorded", "IP_INNOROUTES", "no route leads to \x1b[31m10.9.9.9", sure=False)
LINES = {
    "seen": (SEEN, "strict reverse path filtering (IP_RPFILTER at ip_rcv_finish_core+0x25b)"),
    "recorded": (LIKELY, "perhaps no route leads to \\x1b[31m10.9.9.9"),
}


def recorded(*idents, dropped, step_ns=0):
    made = HandMade().ruleset(RULES)
    event = {"indev": 2, "stamp_ns": BEGIN}
    made.events(
        [("raw:PREROUTING:policy:2", udp(ident=one), event) for one in idents],
        start_ns=BEGIN + 1000, step_ns=0,
    )  # fmt: skip
    return made.drops(
        [(BEGIN + 2000 + at * step_ns, 2, udp(ident=one), {}) for at, one in enumerate(dropped)]
    )


@pytest.fixture
def lost():
    """A recording of one packet, which was dropped."""
    return recorded(1, dropped=[1])


@pytest.fixture
def perhaps():
    """Of two, one of which was."""
    return recorded(1, 1, dropped=[1])


def test_show(lost):
    """The last line, marked at the margin."""
    (packet,) = Packets(lost)
    *_, last = show.as_text(packet, Layout()).splitlines()
    assert last == f"-->\tend: {WORDS}"
    assert " DISCARDED udp 10.0.0.1:1000 > 10.0.0.2:53 in if2 by the kernel" in show.as_text(
        packet, Layout()
    )
    assert brief(packet, Layout()).endswith(f" by the kernel ({WORDS})")
    assert brief(packet, Layout()).startswith("--> #1")


def test_show_what_may_have_been(perhaps):
    """Without a mark: nobody is blamed."""
    for packet in Packets(perhaps):
        *_, last = show.as_text(packet, Layout()).splitlines()
        assert last == f"\tend: perhaps {WORDS}"
        assert f" (perhaps {WORDS}) (incomplete and ambiguous: " in brief(packet, Layout())
        assert "by the kernel" not in show.as_text(packet, Layout())


def test_why(lost, perhaps):
    """The decision in a sentence, and the line below the steps, whether rules are folded or not."""
    (explanation,) = explain(lost, Packets(lost))
    told = f"): every rule let it pass; then the kernel discarded it: {WORDS}."
    assert why.decision(explanation.packet).endswith(told)
    for lines in (folded.as_text(explanation, Layout()), why.as_text(explanation, Layout())):
        assert [*lines][-1] == f"--> end: {WORDS}"
    fits("why", why.as_json(explanation))
    other, _ = explain(perhaps, Packets(perhaps))
    assert "no rule is known to have decided" in why.decision(other.packet)
    fits("why", why.as_json(other))


def test_json(lost, perhaps):
    (packet,) = Packets(lost)
    assert fits("show", packet_json.line(packet))["end"] == {
        "reason": "NOT_SPECIFIED", "where": "ip_error+0x94",
        "text": WORDS.partition(" (")[0], "time_ns": BEGIN + 2000, "source": "seen", "sure": True,
    }  # fmt: skip
    other, _ = Packets(perhaps)
    doubtful = fits("show", packet_json.line(other))["end"]
    assert (doubtful["sure"], doubtful["text"]) == (False, f"perhaps {WORDS.partition(' (')[0]}")


def test_who_is_not_lost_has_no_end():
    (packet,) = Packets(recorded(1, dropped=[]))
    assert "end" not in fits("show", packet_json.line(packet))


def test_paths():
    """Packets that were lost are on another path than those that were not."""
    made = recorded(1, 2, 3, dropped=[1, 3])
    found = {one.path.verdict: one for one in count_paths(made, Selection())}
    assert {verdict: one.count.packets for verdict, one in found.items()} == {
        "DISCARDED": 2,
        "UNKNOWN": 1,
    }
    assert f"DISCARDED by the kernel: {WORDS}" in paths.as_text(found["DISCARDED"])
    assert fits("paths", paths.as_json(found["DISCARDED"]))["end"]["reason"] == "NOT_SPECIFIED"
    assert "end" not in fits("paths", paths.as_json(found["UNKNOWN"]))


def test_pcapng_says_it(lost):
    (one,) = count_paths(lost, Selection())
    assert (
        pcapng.comment(one.path, Ending(one.end, None), 9).splitlines()[0]
        == f"DISCARDED by the kernel: {WORDS}"
    )


def test_tables(lost):
    ((_, filed),) = table_rows.rows(lost, Packets(lost), ["packets"])
    rows = filed.rows()
    (row,) = (dict(zip(BY_NAME["packets"].places, one, strict=True)) for one in rows)
    told = [row[f"end_{name}"] for name in ("reason", "where", "source", "text", "ns", "sure")]
    assert told == [
        "NOT_SPECIFIED",
        "ip_error+0x94",
        "seen",
        WORDS.partition(" (")[0],
        BEGIN + 2000,
        1,
    ]


def reasons_line(made):
    text = info.as_text(made, summarize(made))
    return next((line[13:] for line in text.splitlines() if line.startswith("drop reason:")), None)


def test_info(lost):
    """How many for which reason; what is lost of them is not an event that is lost."""
    assert reasons_line(lost) == "behind the rules: 1 NOT_SPECIFIED"
    assert reasons_line(recorded(1, dropped=[])) == "none behind the rules"
    lost.losses = [Loss(2, 1, 2, 7, "ring-full")]
    assert reasons_line(lost) == "behind the rules: 1 NOT_SPECIFIED; 7 records found no room"
    assert summarize(lost).lost == 0
    assert fits("info", info.as_json(lost, summarize(lost)))["drop_reasons"] == {
        "recorded": True, "why_not": None, "lost": 7, "ends": {"NOT_SPECIFIED": 1}, "in_doubt": 0,
        "disagree": 0,
    }  # fmt: skip


def test_info_where_it_is_not_known_whose_they_are(perhaps):
    """One of two equal packets was dropped: that is not none."""
    assert reasons_line(perhaps) == "behind the rules: 2 packets in doubt, 0 known"
    also = recorded(1, 1, 2, 3, dropped=[1, 2])
    assert reasons_line(also) == "behind the rules: 1 NOT_SPECIFIED; 2 packets in doubt"
    told = fits("info", info.as_json(also, summarize(also)))["drop_reasons"]
    assert (told["ends"], told["in_doubt"]) == ({"NOT_SPECIFIED": 1}, 2)


def test_info_where_the_drop_monitor_told(lost):
    """It is of the whole host, which text and JSON say."""
    *others, stream = lost.streams
    lost.streams = [*others, replace(stream, detail={"source": "NET_DM"})]
    words = (
        "behind the rules: 1 NOT_SPECIFIED; told by the host's drop monitor, of all its namespaces"
    )
    assert reasons_line(lost) == words
    assert fits("info", info.as_json(lost, summarize(lost)))["drop_reasons"]["source"] == "NET_DM"


def test_info_where_they_were_not_recorded():
    made = HandMade().ruleset(RULES).events([("raw:PREROUTING:policy:2", udp(), {})])
    assert reasons_line(made) is None
    assert "drop_reasons" not in fits("info", info.as_json(made, summarize(made)))
    made.streams = [*made.streams, Stream(2, 1, "drops", {"not_recorded": "no BTF"})]
    assert reasons_line(made) == "not recorded (no BTF)"
    assert fits("info", info.as_json(made, summarize(made)))["drop_reasons"]["why_not"] == "no BTF"


def test_many_that_read_alike():
    """Are made together, each with its own moment."""
    made = recorded(*range(1, 9), dropped=range(1, 9), step_ns=1)
    singly = [packet_json.line(one) for one in Packets(made)]
    (batch,) = Packets(made).batches()
    assert sum(len(one.positions) for one in batch.shapes()) == 8
    assert "".join(json_lines.text(batch)).splitlines() == singly
    ends = [fits("show", one)["end"]["time_ns"] - BEGIN for one in singly]
    assert ends == [*range(2000, 2008)]
    ((_, filed),) = table_rows.rows(made, Packets(made), ["packets"])
    assert [row[BY_NAME["packets"].places["end_ns"]] - BEGIN for row in filed.rows()] == ends


@pytest.mark.parametrize("case", LINES)
def test_text_of_each_source(case):
    """A line behind the steps, escaped as all that a recording holds."""
    end, line = LINES[case]
    one = shown(step(), end=end)
    explanation = replace(Way().base("filter").explanation(), packet=one)
    layout = Layout()
    assert show.as_text(one, layout).endswith(f"\n\tend: {line}\n")
    assert render(one, layout).endswith(f"\n\tend: {line}\n")
    assert list(why.as_text(explanation, layout))[-1] == f"  end: {line}"
    assert list(folded.as_text(explanation, layout))[-1] == f"  end: {line}"


def test_json_has_all_of_it():
    """All of it, or nothing where nothing is known."""
    assert json.loads(packet_json.line(shown(step(), end=SEEN)))["end"] == {
        "source": "seen",
        "reason": "IP_RPFILTER",
        "text": "strict reverse path filtering",
        "where": "ip_rcv_finish_core+0x25b",
        "time_ns": 7,
        "sure": True,
    }
    assert "end" not in packet_json.as_object(shown(step()))
