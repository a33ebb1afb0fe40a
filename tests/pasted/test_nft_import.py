"""Text of nft monitor trace and of xtables-monitor becomes a recording: what both really printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import iptrec, program
from validation import fits

DATA = Path(__file__).parents[1] / "data" / "pasted"
NFT = [
    ("icmp", None, "ACCEPT", "inet fw/input 4"), ("icmp", None, "ACCEPT", "inet fw/out None"),
    ("icmpv6", None, "ACCEPT", "inet fw/input 5"), ("icmpv6", None, "ACCEPT", "inet fw/out None"),
    ("udp", 53, "REJECT", "inet fw/input 6"), ("icmp", None, "ACCEPT", "inet fw/out None"),
    ("udp", 5000, "DROP", "inet fw/input None"), ("udp", 5001, "ACCEPT", "inet fw/__chain2998 None"),
    ("icmp", None, "ACCEPT", "inet fw/out None"), ("udp", 7777, "DROP", "netdev nd/ing 2"),
    ("udp", 1, "DROP", "inet fw/input None"), ("tcp", 22, "DROP", "inet fw/input None"),
    ("tcp", 80, "ACCEPT", "inet fw/web 3"), ("tcp", 43054, "ACCEPT", "inet fw/out None"),
    ("tcp", 81, "DROP", "inet fw/input 3"), ("tcp", 9000, "ACCEPT", "inet fw/input 2"),
    ("tcp", 47302, "ACCEPT", "inet fw/out None"), ("tcp", 8080, "ACCEPT", "inet fw/input 2"),
    ("tcp", 33534, "ACCEPT", "inet fw/out None"), ("tcp", 9, "DROP", "inet fw/input None"),
    ("udp", 53, "REJECT", "inet fw/input 6"), ("icmpv6", None, "ACCEPT", "inet fw/out None"),
    ("udp", 5000, "DROP", "inet fw/input None"), ("tcp", 22, "DROP", "inet fw/input None"),
]  # fmt: skip


def packets(tmp_path, text, *options):
    """The packets of an imported text, and what was said."""
    recording = tmp_path / "trace.db"
    done = iptrec("import", text, "-o", recording, *options)
    assert done.returncode == 0, done.stderr
    shown = iptrec("show", "--json", recording)
    return [json.loads(line) for line in shown.stdout.splitlines()], done.stderr


def told(packet):
    """Protocol, port, verdict and what decided."""
    by = packet["decided_by"] or {"table": "", "chain": "", "rule": None}
    header = packet["header"]
    place = f"{by['table']}/{by['chain']} {by['rule']}"
    return header["proto"], header.get("dport"), packet["verdict"], place


@pytest.mark.parametrize("listing", ["handles.nft", "plain.nft"])
def test_nft_monitor(tmp_path, listing):
    """Verdicts and deciding rules are those that a recorder saw at the same time, with or without handles."""
    found, said = packets(tmp_path, DATA / "monitor.txt", "--ruleset", DATA / listing)
    assert [told(one) for one in found] == NFT
    assert all(one["complete"] for one in found)
    assert "could not be read" not in said
    # Two equal rules, one behind the other
    counters = [one["rule"] for one in found[6]["steps"] if one["spec"] == "counter"]
    assert counters == [8, 9]


@pytest.mark.parametrize("listing", ["xtables.nft", "xtables.save"])
def test_xtables_monitor(tmp_path, listing):
    """So are those of iptables-nft, by nft's listing, or by iptables' with the handles that are told."""
    found, said = packets(tmp_path, DATA / "xtables.txt", "--ruleset", DATA / listing)
    decided = {told(one)[1:] for one in found if one["in"]}
    assert {
        (53, "REJECT", "filter/INPUT 2"), (80, "DROP", "filter/INPUT None"), (81, "DROP", "filter/WEB 2"),
        (85, "DROP", "filter/INPUT None"), (22, "ACCEPT", "filter/INPUT 3"), (9, "DROP", "filter/INPUT None"),
    } <= decided  # fmt: skip
    assert "with ports and no protocol taken for UDP" in said


def test_marks(tmp_path):
    """They are told at policies alone: a rule that sets one shows none, and none is said to have changed."""
    found, _ = packets(tmp_path, DATA / "monitor.txt", "--ruleset", DATA / "handles.nft")
    reply = found[1]
    assert [one["mark"] for one in reply["steps"]] == [None, None, None, 0x99]
    assert not any("mark" in one["changed"] for packet in found for one in packet["steps"])
    fits("show", json.dumps(reply))
    shown = iptrec("show", tmp_path / "trace.db", "--packet", "2").stdout
    assert "NFMARK=0x99" in shown
    assert "was 0x0" not in shown
    assert iptrec("show", "--classic", tmp_path / "trace.db").returncode == 0


def test_what_is_not_told(tmp_path):
    """No answer has sequence numbers or checksums, and info says what is not known."""
    found, _ = packets(tmp_path, DATA / "monitor.txt", "--ruleset", DATA / "handles.nft")
    assert not any({"seq", "ack", "csum"} & one["header"].keys() for one in found)
    info = iptrec("info", tmp_path / "trace.db").stdout
    assert "whether events are missing is not known" in info
    assert "lines of nft monitor trace" in info


@pytest.mark.parametrize(
    ("text", "listing"), [("monitor.txt", "plain.nft"), ("xtables.txt", "xtables.save")]
)
def test_redacted(tmp_path, text, listing):
    """Such recordings are redacted as others are: the same verdicts by the same rules."""
    found, _ = packets(tmp_path, DATA / text, "--ruleset", DATA / listing)
    done = iptrec("redact", tmp_path / "trace.db", "-o", tmp_path / "redacted.db")
    assert done.returncode == 0, done.stderr
    assert "cannot be read" not in done.stderr
    lines = iptrec("show", "--json", tmp_path / "redacted.db").stdout.splitlines()
    others = [json.loads(line) for line in lines]
    for one, other in zip(found, others, strict=True):
        assert one["verdict"] == other["verdict"]
        assert (one["decided_by"] or {}).get("rule") == (other["decided_by"] or {}).get("rule")


def test_losses_are_told(tmp_path):
    """What nft says that it has lost is a loss of the recording."""
    lines = (DATA / "monitor.txt").read_text().splitlines(keepends=True)
    lines.insert(3, "# ERROR: We lost some netlink events!\n")
    (tmp_path / "text").write_text("".join(lines))
    packets(tmp_path, tmp_path / "text", "--ruleset", DATA / "handles.nft")
    losses = json.loads(iptrec("info", "--json", tmp_path / "trace.db").stdout)["losses"]
    assert [one["how"] for one in losses] == ["enobufs"]


def test_a_packet_in_the_middle(tmp_path):
    """A text that begins and ends within a packet: both are incomplete, and none of them is decided wrongly."""
    lines = (DATA / "monitor.txt").read_text().splitlines(keepends=True)
    (tmp_path / "text").write_text("".join(lines[5:9]))
    found, _ = packets(tmp_path, tmp_path / "text", "--ruleset", DATA / "handles.nft")
    assert not any(one["complete"] for one in found)


def test_without_a_ruleset(tmp_path):
    """A rule that drops or rejects is believed; what comes after another one nobody knows."""
    found, _ = packets(tmp_path, DATA / "monitor.txt")
    assert {one["verdict"] for one in found} == {"UNKNOWN", "DROP", "REJECT"}
    assert not any(one["complete"] for one in found)
    steps = [step for one in found for step in one["steps"] if step["type"] == "rule"]
    assert {one["rule"] for one in steps} == {None}
    assert "udp dport 53 reject with icmpx admin-prohibited" in {one["spec"] for one in steps}
    shown = iptrec("show", tmp_path / "trace.db").stdout
    assert "MATCH RULE: tcp dport vmap @ports" in shown
    assert "iptrec's own" not in shown
    for command in ("why", "paths", "rules", "info"):
        assert "Traceback" not in iptrec(command, tmp_path / "trace.db").stderr
    redacted = iptrec("redact", tmp_path / "trace.db", "-o", tmp_path / "redacted.db")
    assert redacted.returncode == 0, redacted.stderr
    assert "MATCH RULE: tcp dport vmap" in iptrec("show", tmp_path / "redacted.db").stdout


def test_one_of_two_equal_rules(tmp_path):
    """Which one it was is not known: its text is shown, no number, and none of them was hit."""
    listing = (DATA / "handles.nft").read_text()
    twice = listing.replace(
        "\t\tudp dport 53 reject",
        "\t\tudp dport 53 reject with icmpx admin-prohibited # handle 99\n\t\tudp dport 53 reject",
    )
    (tmp_path / "nft.rules").write_text(twice)
    found, said = packets(tmp_path, DATA / "monitor.txt", "--ruleset", tmp_path / "nft.rules")
    assert "2 events of rules whose text stands more than once" in said
    last = found[4]["steps"][-1]
    assert (last["rule"], last["spec"]) == (None, "udp dport 53 reject with icmpx admin-prohibited")
    assert found[4]["verdict"] == "REJECT"
    shown = iptrec("show", tmp_path / "trace.db", "--packet", "5").stdout
    assert (
        "by inet fw/input rule (which of several equal ones is not known): udp dport 53 reject"
        in shown
    )
    why = iptrec("why", tmp_path / "trace.db", "--json", "--packet", "5").stdout
    assert "was rejected by one of several equal rules of inet fw/input." in why


def test_from_a_pipe(tmp_path):
    """Text from stdin, with times before its lines, and the names of interfaces in it."""
    text = (DATA / "monitor.txt").read_text()
    stamped = "".join(
        f"{1764480000 + n}.000500 {line}\n" for n, line in enumerate(text.splitlines())
    )
    recording = tmp_path / "trace.db"
    done = program("import", "-", "--ruleset", DATA / "handles.nft", "-o", recording, input=stamped)
    assert done.returncode == 0, done.stderr
    first = json.loads(iptrec("show", "--json", recording).stdout.splitlines()[0])
    assert first["time"].startswith("2025-11-30T05:20:0")
    assert first["in"] == "n23v0"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.nft", "hello", "is it a file of iptables-save, or of nft list ruleset?"),
        ("a.json", "{", "is not what nft -j list ruleset prints"),
    ],
)
def test_no_ruleset(tmp_path, name, content, said):
    """What is no ruleset is refused in one line."""
    (tmp_path / name).write_text(content)
    done = iptrec(
        "import", DATA / "monitor.txt", "-o", tmp_path / "x.db", "--ruleset", tmp_path / name
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_rules_of_another_kind(tmp_path):
    """Events of legacy iptables can be of no rule of nft."""
    line = (
        "TRACE: raw:PREROUTING:policy:2 IN=lo OUT= SRC=10.0.0.1 DST=10.0.0.2 LEN=60 TOS=0x00 PREC=0x00 TTL=64"
        " ID=1 DF PROTO=TCP SPT=1000 DPT=22 SEQ=100 ACK=0 WINDOW=64240 RES=0x00 SYN URGP=0"
    )
    (tmp_path / "log").write_text(line)
    done = iptrec(
        "import", tmp_path / "log", "-o", tmp_path / "x.db", "--ruleset", DATA / "handles.nft"
    )
    assert done.returncode == 2
    assert "has rules of nft" in done.stderr
