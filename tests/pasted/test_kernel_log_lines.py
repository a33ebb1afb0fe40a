"""Lines of the kernel's log become events."""

from __future__ import annotations

import json
import textwrap

import numpy as np
import pytest
from command import iptrec

from iptrec.decode import nflog, packet
from iptrec.pasted.kernel_log import KernelLog
from iptrec.pasted.sources import Given

LINE = (
    "TRACE: raw:PREROUTING:policy:2 IN=eth0 OUT= MAC=02:00:00:00:00:02:02:00:00:00:00:01:08:00 SRC=10.0.0.1"
    " DST=10.0.0.2 LEN=60 TOS=0x00 PREC=0x00 TTL=64 ID=1 DF PROTO=TCP SPT=1000 DPT=22 SEQ=100 ACK=0"
    " WINDOW=64240 RES=0x00 SYN URGP=0 OPT (020405B40402080A0000000000000000) MARK=0x1 "
)


def read(*lines):
    """The events of some lines, and the source."""
    source = KernelLog().read([one.encode() for one in lines], Given({}, {}, 0))
    events = list(source)
    datagrams = b"".join(one.datagram for one in events)
    lengths = np.array([len(one.datagram) for one in events], np.uint32)
    times = np.array([one.time_ns for one in events], np.int64)
    return nflog.decode(datagrams, lengths, times), source


def test_a_line():
    """All that it tells is in the datagram."""
    events, source = read(LINE)
    assert packet.header(events.packet(0), 2) == {
        "src": "10.0.0.1", "dst": "10.0.0.2", "proto": "tcp", "length": 60, "ttl": 64, "id": 1, "tos": 0,
        "sport": 1000, "dport": 22, "flags": "SYN", "seq": 100, "ack": 0, "window": 64240,
        "csum": int.from_bytes(events.packet(0)[36:38]),
    }  # fmt: skip
    assert events.sites == [b"TRACE: raw:PREROUTING:policy:2 "]
    assert (events.hook[0], events.mark[0], source.links[int(events.indev[0])]) == (0, 1, "eth0")
    assert source.detail["sequence"] is False
    assert not source.lost


@pytest.mark.parametrize("end", range(4, len(LINE), 7))
def test_a_line_that_is_cut(end):
    """It is an event with less, or it is counted as one that is missing; never something else."""
    events, source = read(LINE[:end], LINE)
    assert len(events.datagram) + len(source.lost) in (1, 2)
    whole = packet.header(events.packet(len(events.datagram) - 1), 2)
    for name, value in packet.header(events.packet(0), 2).items():
        assert value == whole.get(name, True) or name == "csum"


def test_the_command(tmp_path):
    """It finds by itself what the file is."""
    (tmp_path / "log").write_text(f"Nov 30 10:00:00 host kernel: {LINE}\nsomething else\n")
    done = iptrec("import", tmp_path / "log", "-o", tmp_path / "t.db")
    assert done.stderr == f"iptrec import: imported 1 event: {tmp_path}/t.db\n"
    (shown,) = map(json.loads, iptrec("show", "--json", tmp_path / "t.db").stdout.splitlines())
    assert (shown["in"], shown["header"]["dport"]) == ("eth0", 22)


IP = "SRC=10.0.0.1 DST=10.0.0.2 LEN=84 TOS=0x00 PREC=0x00 TTL=64 ID=1 "
IP6 = "SRC=fd00::1 DST=fd00::2 LEN=84 TC=0 HOPLIMIT=64 FLOWLBL=0 "
QUOTE = "[SRC=10.0.0.2 DST=10.0.0.9 LEN=40 TOS=0x00 PREC=0x00 TTL=1 ID=7 PROTO=UDP SPT=5 DPT=6 LEN=20 ] "
QUOTE6 = "[SRC=fd00::2 DST=fd00::9 LEN=60 TC=0 HOPLIMIT=1 FLOWLBL=0 PROTO=UDP SPT=5 DPT=6 LEN=20 ] "
FIELDS = {  # words of a line -> bytes of the packet, by where they are
    IP + "CE DF MF FRAG:185 PROTO=UDP ": {6: "e0b9"},
    IP + "PROTO=ICMP TYPE=3 CODE=4 " + QUOTE + "MTU=1400 ": {20: "03040000" "00000578", 28: "45000028"},
    IP + "PROTO=ICMP TYPE=5 CODE=1 GATEWAY=10.0.0.254 " + QUOTE: {20: "05010000" "0a0000fe", 28: "45000028"},
    IP + "PROTO=ICMP TYPE=12 CODE=0 PARAMETER=9 ": {20: "0c000000" "09000000"},
    IP6 + "PROTO=ICMPv6 TYPE=2 CODE=0 " + QUOTE6 + "MTU=1280 ": {40: "02000000" "00000500", 48: "60000000"},
    IP6 + "PROTO=ICMPv6 TYPE=4 CODE=1 POINTER=00000028 " + QUOTE6: {40: "04010000" "00000028"},
    IP + "PROTO=TCP INCOMPLETE [7 bytes] ": {9: "06"},
    IP + "PROTO=TCP SPT=1 DPT=2 WINDOW=3 RES=0x3c SYN URGP=4 ": {20: "00010002", 32: "5f020003", 38: "0004"},
    IP + "OPT (94040000) PROTO=2 ": {0: "46", 20: "94040000"},
    IP + "PROTO=ESP SPI=0x12345678 UID=1000 GID=7 MARK=0xffffffff ": {20: "12345678"},
}  # fmt: skip


@pytest.mark.parametrize("words", FIELDS)
def test_fields(words):
    """What is rare: errors with their quotes, fragments, options."""
    events, source = read(f"TRACE: raw:PREROUTING:rule:1 IN=eth0 OUT= MAC= {words}")
    payload = events.packet(0)
    for at, found in FIELDS[words].items():
        assert payload[at : at + len(found) // 2].hex() == found
    assert not source.lost
    assert int.from_bytes(payload[2:4]) == 84 or payload[0] == 0x60
    if "UID" in words:
        assert (events.uid[0], events.gid[0], events.mark[0]) == (1000, 7, 0xFFFFFFFF)


MACS = "MACSRC=02:00:00:00:00:01 MACDST=02:00:00:00:00:02 "
ENDS = {  # what is before the addresses -> names of the interfaces, and the header of the link layer
    "IN=eth0 OUT= MAC= ": ("eth0", "", "", "", ""),
    "IN= OUT=tun0 ": ("", "tun0", "", "", ""),
    "IN=br0 OUT=eth1 PHYSIN=eth2 PHYSOUT=eth3 MAC=" + "01:" * 13 + "01 ": (
        "br0", "eth1", "eth2", "eth3", "01" * 14,
    ),
    f"IN=eth0 OUT= {MACS}MACPROTO=0800 ": ("eth0", "", "", "", "0200000000020200000000010800"),
    f"IN=eth0 OUT= {MACS}VPROTO=8100 VID=7 MACPROTO=0800 ": (
        "eth0", "", "", "", "0200000000020200000000010800",
    ),
    "IN=sit1 OUT= MAC=01:02:03 TUNNEL=10.0.0.1->10.0.0.2 ": ("sit1", "", "", "", "010203"),
}  # fmt: skip


@pytest.mark.parametrize("ends", ENDS)
def test_interfaces(ends):
    """Names, ports of bridges, and what is known of the frame."""
    events, source = read(f"TRACE: raw:PREROUTING:rule:1 {ends}{IP}PROTO=2 ")
    indexes = (
        int(column[0])
        for column in (events.indev, events.outdev, events.physindev, events.physoutdev)
    )
    names = tuple(source.links.get(one, "") for one in indexes)
    assert (*names, events.frame(0).hex()) == ENDS[ends]


HOOKS = {  # lines of one packet: place and interfaces -> hooks
    "a chain of a user's": [
        ("filter:INPUT:rule:1", "IN=a OUT=", 1),
        ("filter:x:rule:1", "IN=a OUT=", 1),
    ],
    "nat": [("nat:PREROUTING:rule:1", "IN=a OUT=", 0), ("nat:x:return:1", "IN=a OUT=", 0)],
    "nat, later": [("nat:INPUT:rule:1", "IN=a OUT=", 1), ("nat:x:return:1", "IN=a OUT=", 1)],
    "alone": [("filter:x:rule:1", "IN=a OUT=b", 2), ("raw:x:rule:1", "IN= OUT=b", 3)],
    "not known": [("nat:x:rule:1", "IN=a OUT=", 255), ("mangle:x:rule:1", "IN= OUT=b", 255)],
    "a name that is of no hook there": [("filter:PREROUTING:rule:1", "IN=a OUT=", 1)],
}


@pytest.mark.parametrize("case", HOOKS)
def test_hooks(case):
    """By the built-in chain, by that from which the packet came, by its interfaces; else not known."""
    events, _ = read(*(f"TRACE: {place} {ends} {IP}PROTO=2 " for place, ends, _ in HOOKS[case]))
    assert events.hook.tolist() == [hook for _, _, hook in HOOKS[case]]


@pytest.mark.parametrize(
    ("match", "told"), [("tos --tos 0x01/0x01", None), ("length --length 1", "no")]
)
def test_bits_that_are_not_told(tmp_path, match, told):
    """The log leaves out the last bit of TOS: why does not say that a rule about it did not match by it."""
    rules = (
        f"*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -m {match} -j DROP\n-A INPUT -j ACCEPT\nCOMMIT\n"
    )
    (tmp_path / "rules").write_text(rules)
    (tmp_path / "log").write_text(f"TRACE: filter:INPUT:policy:2 IN=a OUT= MAC= {IP}PROTO=2 ")
    iptrec("import", tmp_path / "log", "--ruleset", tmp_path / "rules", "-o", tmp_path / "t.db")
    line = iptrec("why", tmp_path / "t.db").stdout.partition("#1    -m")[2].partition("\n")[0]
    assert line
    assert ("<- no:" in line) == (told == "no")


SAVED = """*raw
:PREROUTING ACCEPT [0:0]
-A PREROUTING -j TRACE
COMMIT
*filter
:INPUT DROP [0:0]
-A INPUT -p tcp -j ACCEPT
COMMIT
"""


@pytest.mark.parametrize(("place", "table"), [("policy:2", "filter"), ("rule:1", None)])
def test_rules_that_the_log_contradicts(tmp_path, place, table):
    """No answer rests on a table of which the log tells a place that it does not have: it is left out."""
    met = LINE.replace("raw:PREROUTING:policy:2", f"filter:INPUT:{place}")
    (tmp_path / "v4").write_text(SAVED if table is None else SAVED.replace("-p tcp -j", "-j"))
    (tmp_path / "log").write_text(f"{LINE}\n{met}\n")
    done = iptrec("import", tmp_path / "log", "--ruleset", tmp_path / "v4", "-o", tmp_path / "t.db")
    said = "table filter of" in done.stderr and "filter:INPUT:rule:1" not in done.stderr
    assert said == (table is not None)
    (packet,) = map(json.loads, iptrec("show", "--json", tmp_path / "t.db").stdout.splitlines())
    assert packet["verdict"] == ("ACCEPT" if table is None else "UNKNOWN")
    assert packet["complete"] == (table is None)
    assert packet["steps"][-1]["spec"] == ("-p tcp -j ACCEPT" if table is None else None)
    assert ("table filter of" in iptrec("info", tmp_path / "t.db").stdout) == said
    redacted = iptrec("redact", tmp_path / "t.db", "-o", tmp_path / "r.db")
    assert ("remarks of iptrec import" in redacted.stderr) == said
    assert "remarks" not in iptrec("info", "--json", tmp_path / "r.db").stdout


SECOND = LINE.replace("raw:", "mangle:")
STAMPED = f"Nov 30 10:00:00 fw kernel: [  100.000001] {LINE}"
SECONDS = [f"2026-11-30T10:00:0{n}Z fw kernel: {LINE}" for n in (1, 2, 3)]
KMSG = f"4,7,100000001,-;{LINE}"
DMESG = json.dumps({"dmesg": [{"pri": 4, "time": 3.25, "msg": LINE}]}, indent=3).replace(
    "raw:PRE", r"raw:\"a\u00e9 \"PRE"
)
WRAPPED = "\n".join(textwrap.wrap(STAMPED, 50, break_on_hyphens=False)).replace(
    "TRACE: ", "TRACE: \n"
)


@pytest.mark.parametrize(
    ("text", "events", "left_out", "alike"),
    [
        (f"{KMSG}\n{KMSG}", 1, 1, 0), (f"{KMSG}\n{KMSG[:150]}", 1, 1, 0),
        (f"{KMSG}\n{KMSG.replace(',7,', ',8,')}", 2, 0, 0),
        (f"{STAMPED}\n{STAMPED}", 1, 1, 0), (f"{STAMPED}\n{STAMPED.replace('Nov', 'Dec')}", 1, 1, 0),
        (f"{STAMPED}\n{STAMPED.replace('000001]', '000002]')}", 2, 0, 0),
        (f"{STAMPED}\n{STAMPED.replace('raw:', 'mangle:')}", 2, 0, 0),
        (f"Nov 30 10:00:00 fw kernel: {LINE}\nNov 30 10:00:00 fw kernel: {LINE}", 2, 0, 1),
        (f"Nov 30 10:00:00 fw kernel: {LINE}\nNov 30 10:00:01 fw kernel: {LINE}", 2, 0, 0),
        (f"2026-11-30T10:00:00.123456+01:00 h kernel: {LINE}\n" * 3, 1, 2, 0),
        (f"{LINE}\n{LINE}", 2, 0, 1),
        ("\n".join([*SECONDS, *SECONDS]), 3, 3, 0), ("\n".join([*SECONDS[::-1], SECONDS[0]]), 4, 0, 1),
    ],
)  # fmt: skip
def test_lines_that_come_again(text, events, left_out, alike):
    """What is certainly the same event is taken once; what may be it is told."""
    found, source = read(*text.splitlines())
    assert len(found.datagram) == events
    said = "; ".join(source.remarks)
    assert ("that came again" in said) == bool(left_out)
    assert (f"{left_out} line" in said) == bool(left_out)
    assert ("1 line is equal to an earlier one" in said) == bool(alike)


@pytest.mark.parametrize(
    "text",
    [
        f"\x1b[32m[    1.0] \x1b[0m\x1b[33mTRACE: \x1b[0m\x1b[1m{LINE[7:]}\x1b[0m",
        LINE.replace("TRACE", "\x1b[01;31m\x1b[KTRACE\x1b[m\x1b[K"),
        LINE.replace(" ", "\t"), LINE.replace(" ", "\u00a0"), LINE.replace(" ", "  "),
        LINE.replace("02:00:00:00:00:02", "XX:XX:XX:XX:XX:XX"), WRAPPED, DMESG,
    ],
    ids=["dmesg", "grep", "tabs", "nbsp", "blanks", "mac", "wrapped", "json"],
)  # fmt: skip
def test_what_becomes_of_a_text(tmp_path, text):
    """Colours, blanks, hidden MAC addresses, lines that a mail wrapped: the same event."""
    (tmp_path / "log").write_text(f"{text}\n")
    done = iptrec("import", tmp_path / "log", "-o", tmp_path / "t.db")
    assert "imported 1 event:" in done.stderr
    (packet,) = map(json.loads, iptrec("show", "--json", tmp_path / "t.db").stdout.splitlines())
    (step,) = packet["steps"]
    chain = '"aé "PREROUTING' if text is DMESG else "PREROUTING"
    assert (step["table"], step["chain"], packet["in"]) == ("raw", chain, "eth0")
    assert packet["header"]["sport"] == 1000
    if text is DMESG:
        assert packet["time_ns"] == 3_250_000_000


def test_addresses_that_were_masked(tmp_path):
    """The answer says how many lines could not be read, and why the first one."""
    log, made = tmp_path / "log", tmp_path / "t.db"
    masked = LINE.replace("10.0.0.1", "x.x.x.x")
    log.write_text(f"{masked}\n{masked.replace('raw', 'nat')}\n")
    done = iptrec("import", log, "-o", made)
    why = "'x.x.x.x' does not appear to be an IPv4 or IPv6 address"
    said = "2 lines of TRACE could not be read and are left out; of the first one"
    assert done.stderr == f"iptrec: {log} holds no packet: {said}: {why}\n"
    assert (done.returncode, made.exists()) == (2, False)
    log.write_text(f"{masked}\n{SECOND}\n")
    done = iptrec("import", log, "-o", made)
    said = f"1 line of TRACE could not be read and is left out; of the first one: {why}"
    assert said in done.stderr
    assert said in " ".join(iptrec("info", made).stdout.split())


def test_lines_of_several_kinds(tmp_path):
    """One file is read as one kind: how many lines of another one it has is told, also by `info`."""
    other = "trace id 1f2e3d4c inet fw input rule accept (verdict accept)"
    said = "2 lines of another kind left out: lines of nft monitor trace (--from nft-monitor)"
    (tmp_path / "log").write_text(f"{LINE}\n{other}\n{SECOND}\n{other}\n")
    done = iptrec("import", tmp_path / "log", "-o", tmp_path / "t.db")
    assert done.stderr == f"iptrec import: imported 2 events: {tmp_path}/t.db; {said}\n"
    assert said in " ".join(iptrec("info", tmp_path / "t.db").stdout.split())


@pytest.mark.parametrize("prefix", ['"TRACE: filter:INPUT:rule:1 "', "TRACE:"])
def test_a_rule_that_logs_lines_like_those_of_trace(prefix):
    """The line behind that of such a rule, of the same packet, is the rule's own."""
    logs = f"-A INPUT -p tcp -j LOG --log-prefix {prefix}"
    saved = f"*filter\n:INPUT DROP [0:0]\n-A INPUT -p udp\n{logs}\nCOMMIT\n"
    at = [LINE.replace("raw:PREROUTING:policy:2", f"filter:INPUT:rule:{n}") for n in (1, 2)]
    other = at[0].replace("SPT=1000", "SPT=1001")
    logged = (
        at[0].replace("SEQ=100 ACK=0 ", "").replace("OPT (020405B40402080A0000000000000000) ", "")
    )
    lines = [at[0], at[1], other, logged, at[0]]
    given = Given({}, {"iptables-save": saved.encode()}, 0)
    source = KernelLog().read([one.encode() for one in lines], given)
    assert len(list(source)) == (4 if '"' in prefix else 5)
    assert ("1 line is of a LOG rule" in "; ".join(source.remarks)) == ('"' in prefix)


def test_packets_that_may_be_there_twice(tmp_path):
    """Where times do not tell it, answers about packets say so."""
    line = f"Nov 30 10:00:00 fw kernel: {LINE}\n"
    (tmp_path / "log").write_text(line * 2)
    assert iptrec("import", tmp_path / "log", "-o", tmp_path / "t.db").returncode == 0
    for command in ("show", "info"):
        done = iptrec(command, tmp_path / "t.db")
        assert "1 line may be there twice" in " ".join((done.stdout + done.stderr).split())
    (tmp_path / "log").write_text(line)
    assert iptrec("import", tmp_path / "log", "-o", tmp_path / "t.db", "--force").returncode == 0
    assert "twice" not in iptrec("show", tmp_path / "t.db").stderr
