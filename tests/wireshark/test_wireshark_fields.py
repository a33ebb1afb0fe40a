"""The fields that the plugin makes, as the real tshark shows them: what `show --json` says, nothing else."""

from __future__ import annotations

import json
import os
import pathlib
import random
import re
import shutil
import struct
import subprocess
import threading

import pytest
from command import iptrec
from handmade import HandMade, udp
from hostile_names import HOSTILE, hostile_recording

from iptrec.answers.packets import Packets
from iptrec.answers.paths import Path, PathStep
from iptrec.packets.ends import End, Ending
from iptrec.packets.model import RulePlace
from iptrec.views import pcapng
from iptrec.views.escape import printable
from iptrec.views.pcapng_fields import fields

ROOT = pathlib.Path(__file__).parents[2]
SAMPLES = sorted((ROOT / "samples").glob("*.db"))
PLUGIN = ROOT / "iptrec" / "wireshark" / "iptrec.lua"
LOOPBACK, NFT, BOTH = (ROOT / "samples" / f"{one}.db" for one in ("loopback", "nftables", "both"))
OF_PACKET = (
    "number", "verdict", "complete", "ambiguous", "reason", "end", "end.text", "netns", "host", "decided_by",
    "decided_by.table", "decided_by.chain", "decided_by.rule", "decided_by.rule_text",
)  # fmt: skip
OF_STEP = ("step", "table", "chain", "rule", "rule_text", "target", "backend")
NAMES = [f"iptrec.{one}" for one in (*OF_PACKET, *OF_STEP, "more_steps")]


@pytest.fixture
def export(tmp_path):
    """Exports recordings; the path of the file."""

    def run(*words):
        path = tmp_path / "out.pcapng"
        done = iptrec("export", "pcapng", *words, "-o", path, "--force")
        assert (done.returncode, done.stderr) == (0, "")
        return path

    return run


def shown(*words):
    return [json.loads(line) for line in iptrec("show", "--json", *words).stdout.splitlines()]


def listed(value):
    """A value as fields have it: none, or one."""
    return [] if value is None else [printable(str(value))]


def expected(packet, backend):
    """The fields of a packet by name, from what `show --json` says. ``backend``: of a recording with one."""
    by, steps, end = packet["decided_by"], packet["steps"], packet.get("end", {})
    decider = next((one for one in reversed(steps) if by and is_at(one, by)), {})
    found = {
        "number": [str(packet["packet"])],
        "verdict": [packet["verdict"]],
        "complete": [str(int(packet["complete"]))],
        "ambiguous": [str(int(packet["ambiguous"]))],
        "reason": listed(packet["reason"]),
        "end": listed(end.get("reason")),
        "end.text": listed(end.get("text")),
        "netns": listed(packet["netns"]),
        "host": listed(packet.get("host")),
        "decided_by.table": listed(by and by["table"]),
        "decided_by.chain": listed(by and by["chain"]),
        "decided_by.rule": listed(by and by["rule"]),
        "decided_by.rule_text": listed(decider.get("spec")),
        "decided_by": [],
        "more_steps": [],
    }
    if by:
        unlisted = "unlisted" if decider.get("type") == "rule" else "policy"
        found["decided_by"] = [place(by, by["rule"] or unlisted)]
    for name, key in (
        ("table", "table"), ("chain", "chain"), ("rule", "rule"), ("rule_text", "spec"), ("target", "target"),
    ):  # fmt: skip
        found[name] = [printable(str(one[key])) for one in steps if one[key] is not None]
    found["backend"] = [one.get("backend", backend) for one in steps]
    found["step"] = [place(one, what(one)) for one in steps]
    return {f"iptrec.{name}": value for name, value in found.items()}


def is_at(step, by):
    at_end = step["type"] == "policy"
    known = (step["table"], step["chain"], step["rule"]) == (by["table"], by["chain"], by["rule"])
    return known and (by["rule"] is not None or at_end or step["spec"] is None)


def place(one, name):
    return f"{printable(one['table'])}/{printable(one['chain'])}/{name}"


def what(step):
    """The last part of iptrec.step."""
    if step["type"] == "rule":
        return step["rule"] or ("own" if step["spec"] is not None else "unlisted")
    if step["type"] in ("policy", "return"):
        return step["type"]
    return f"match of {step['rule']}" if step["type"] == "match" else f"{step['rule']} or end"


def backend_of(*recordings):
    streams = json.loads(iptrec("info", "--json", recordings[0]).stdout)["streams"]
    return "nft" if any(one["kind"] == "nftrace" for one in streams) else "legacy"


def compare(tshark, path, *words):
    """The fields of each packet are those of `show --json`; how many packets there are."""
    packets, backend = shown(*words), backend_of(*words)
    rows = tshark.fields(path, *NAMES)
    assert len(rows) == len(packets)
    for packet, row in zip(packets, rows, strict=True):
        assert dict(zip(NAMES, row, strict=True)) == expected(packet, backend)
    return len(packets)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_fields_are_those_of_show(sample, export, tshark):
    """Every field of every packet of every sample."""
    assert compare(tshark, export(sample), sample)


def test_fields_of_several_hosts(export, tshark):
    """Each packet has its host's name."""
    words = (LOOPBACK, BOTH)
    path = export(*words)
    rows = tshark.fields(path, "iptrec.number", "iptrec.host", "iptrec.verdict")
    wanted = [[[str(one["packet"])], [one["host"]], [one["verdict"]]] for one in shown(*words)]
    assert rows == wanted
    assert len({host for _, (host,), _ in rows}) == 2


def test_stages_have_the_steps_so_far(export, tshark):
    """Before NAT fewer steps than behind it; who decides is told of both."""
    path = export(ROOT / "samples" / "docker_hairpin.db", "--stages")
    (packet,) = shown(ROOT / "samples" / "docker_hairpin.db")
    before, after = tshark.fields(
        path, "iptrec.step", "iptrec.decided_by.rule_text", "iptrec.number"
    )
    wanted = expected(packet, "legacy")
    assert after[0] == wanted["iptrec.step"]
    assert before[0] == after[0][: len(before[0])] != after[0]
    assert before[1:] == after[1:] == [wanted["iptrec.decided_by.rule_text"], ["1"]]


def test_events_have_no_fields(export, tshark):
    """They are no packets: each is one step of one."""
    path = export(LOOPBACK, "--events")
    assert tshark.count(path, "frame") > 0
    assert tshark.count(path, "iptrec") == 0


def quoted(value):
    """As display filters have strings."""
    return '"{}"'.format(value.replace("\\", "\\\\").replace('"', '\\"'))


@pytest.mark.parametrize("sample", [LOOPBACK, NFT, BOTH], ids=lambda path: path.stem)
def test_every_field_can_be_asked_for(sample, export, tshark):
    """Each value of the first packet that has one finds those packets that have it, at any step."""
    path = export(sample)
    rows = [dict(zip(NAMES, one, strict=True)) for one in tshark.fields(path, *NAMES)]
    numbers = {"number", "decided_by.rule", "rule", "complete", "ambiguous"}
    asked = 0
    for name in NAMES:
        found = next((row[name] for row in rows if row[name]), None)
        if found is None:
            continue
        value = found[-1]
        asked += 1
        literal = value if name.removeprefix("iptrec.") in numbers else quoted(value)
        wanted = sum(value in row[name] for row in rows)
        assert tshark.count(path, f"{name} == {literal}") == wanted, (name, value)
    assert asked >= 14


def test_numbers_are_numbers_and_flags_are_flags(export, tshark):
    """They compare as such; iptrec.chain is of any step, iptrec.decided_by.chain of the one that decided."""
    path, packets = export(LOOPBACK), shown(LOOPBACK)
    low = [one for one in packets if any((step["rule"] or 0) >= 2 for step in one["steps"])]
    assert 0 < len(low) < len(packets)
    assert tshark.count(path, "iptrec.rule >= 2") == len(low)
    assert tshark.count(path, "iptrec.complete == 1") == sum(one["complete"] for one in packets)
    assert tshark.count(path, "iptrec.number > 3") == sum(one["packet"] > 3 for one in packets)
    passed = [one for one in packets if any(step["chain"] == "PREROUTING" for step in one["steps"])]
    decided = [one for one in packets if (one["decided_by"] or {}).get("chain") == "PREROUTING"]
    assert len(decided) < len(passed)
    assert tshark.count(path, 'iptrec.chain == "PREROUTING"') == len(passed)
    assert tshark.count(path, 'iptrec.decided_by.chain == "PREROUTING"') == len(decided)


def blocks(data):
    """(type, body) of each block."""
    at = 0
    while at < len(data):
        kind, size = struct.unpack_from("<II", data, at)
        yield kind, data[at + 8 : at + size - 4]
        at += size


def comments(data):
    """The bytes of each packet's comments."""
    return [
        [value for code, value in options(body) if code == 1]
        for kind, body in blocks(data)
        if kind == 6
    ]


def options(body):
    at = 20 + (struct.unpack_from("<I", body, 12)[0] + 3 & ~3)
    while at < len(body):
        code, size = struct.unpack_from("<HH", body, at)
        yield code, body[at + 4 : at + 4 + size]
        at += 4 + (size + 3 & ~3)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_what_tshark_writes_again_has_all(sample, export, tmp_path, tshark):
    """Comments byte for byte, and the fields; editcap and mergecap take it. "Save As" does the same."""
    path, again = export(sample, "--stages", "--no-epb-verdict"), tmp_path / "again.pcapng"
    tshark("-r", path, "-w", again)
    before = comments(path.read_bytes())
    assert all(len(one) == 2 for one in before)
    assert comments(again.read_bytes()) == before
    edited, merged = tmp_path / "edited.pcapng", tmp_path / "merged.pcapng"
    # editcap and mergecap of 4.0 take no file with names of addresses, which this one has not any more.
    subprocess.run(["editcap", again, edited], check=True, capture_output=True)
    subprocess.run(["mergecap", "-w", merged, edited, again], check=True, capture_output=True)
    rows = tshark.fields(path, *NAMES)
    assert rows
    assert tshark.fields(edited, *NAMES) == rows
    # Packets of both, by time.
    assert sorted(tshark.fields(merged, *NAMES)) == sorted(rows * 2)


def test_the_comment_for_people_comes_first(export):
    """And is as it is without fields; the other one is plain ASCII."""
    for person, program in comments(export(LOOPBACK).read_bytes()):
        assert person.split(b" ")[0].isupper()
        assert b"iptrec:1?" not in person
        assert program.startswith(b"iptrec:1?verdict=")
        assert program.isascii()
        assert program.decode().isprintable()


def test_through_a_fifo(export, tmp_path, tshark):
    """As it comes live: dumpcap reads it, tshark shows the fields of what dumpcap wrote."""
    if shutil.which("dumpcap") is None:
        pytest.skip("dumpcap is not installed, or this user may not run it")
    data, fifo = export(LOOPBACK).read_bytes(), tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_bytes, args=(data,))
    writer.start()
    done = subprocess.run(
        ["tshark", "-n", "-l", "-i", fifo, "-T", "fields", "-e", "iptrec.number", "-e", "iptrec.verdict"],
        env=tshark.environment, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    writer.join()
    wanted = [f"{one['packet']}\t{one['verdict']}" for one in shown(LOOPBACK)]
    assert done.stdout.decode().splitlines() == wanted, done.stderr


GOOD = b"iptrec:1?verdict=DROP&complete=1&ambiguous=0"
STEP = b"&step=filter/INPUT/rule/1/DROP/legacy/-j DROP"
STRANGERS = {
    "none": [],
    "what a person wrote": [b"DROP by filter/INPUT rule 1"],
    "about iptrec": [b"iptrec: DROP", b"see iptrec:1?"],
    "behind a space": [b" " + GOOD],
    "in the middle of a text": [b"netns=a&" + GOOD],
    "nothing": [b"iptrec:1?"],
    "no verdict": [b"iptrec:1?complete=1&ambiguous=0"],
    "an empty verdict": [GOOD.replace(b"DROP", b"")],
    "a flag that is none": [GOOD.replace(b"complete=1", b"complete=2")],
    "a name twice": [GOOD + b"&verdict=ACCEPT"],
    "a number too big": [GOOD + b"&more=4294967296"],
    "a number of 60,000 digits": [GOOD + b"&more=" + b"9" * 60_000],
    "a negative number": [GOOD + b"&more=-1"],
    "a control character": [GOOD + b"&netns=%1b[31m"],
    "NUL": [GOOD + b"&netns=a%00b"],
    "not UTF-8": [GOOD + b"&netns=%ff"],
    "a surrogate": [GOOD + b"&netns=%ed%a0%80"],
    "an overlong slash": [GOOD + b"&netns=%c0%af"],
    "half a percent": [GOOD + b"&netns=100%"],
    "a quote": [GOOD + b'&netns="'],
    "bytes beyond ASCII": [GOOD + "&netns=é".encode()],
    "no name": [GOOD + b"&=1"],
    "60,000 separators": [b"iptrec:1?" + b"&" * 60_000],
    "a step too short": [GOOD + STEP[:-8]],
    "a step too long": [GOOD + STEP + b"/x"],
    "a step of no kind": [GOOD + STEP.replace(b"/rule/", b"/evil/")],
    "a step's number that is none": [GOOD + STEP.replace(b"/1/", b"/x/")],
    "a step without a chain": [GOOD + STEP.replace(b"INPUT", b"!")],
    "a decider of two parts": [GOOD + b"&decided_by=filter/INPUT"],
    "a decider that is none": [GOOD + b"&decided_by=filter/INPUT/evil"],
}


def test_other_comments_are_not_taken_for_ours(tmp_path, capture, tshark):
    """Not a word is said of such packets, and no script fails."""
    (tmp_path / "x.pcapng").write_bytes(capture(*STRANGERS.values(), [GOOD]))
    rows = tshark.fields(tmp_path / "x.pcapng", "iptrec", "iptrec.verdict", "_ws.lua.error")
    assert dict(zip(STRANGERS, rows[:-1], strict=True)) == {
        name: [[], [], []] for name in STRANGERS
    }
    assert rows[-1] == [["iptrec: DROP"], ["DROP"], []]


def test_broken_comments(tmp_path, capture, tshark):
    """Of a comment with bytes that are changed, lost or twice either nothing is told, or all that it says."""
    chance = random.Random(23)  # noqa: S311
    path, said = tmp_path / "x.pcapng", [GOOD + b"&decided_by=filter/INPUT/1&netns=a%c3%a9" + STEP]
    for _ in range(1_500):
        one = bytearray(said[0])
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len(one))
            put = chance.choice([b"", b"%", b"&", b"/", b"\xff", b"0", b"x", one[at:]])
            one[at : at + chance.randrange(3)] = put
        said.append(bytes(one))
    path.write_bytes(capture(*([one] for one in said)))
    names = ("iptrec", "iptrec.verdict", "iptrec.complete", "iptrec.ambiguous", "_ws.lua.error")
    rows = tshark.fields(path, *names)
    assert len(rows) == len(said)
    assert not any(failed for *_, failed in rows)
    taken = [row for row in rows if row[0]]
    assert 20 < len(taken) < len(rows) - 20
    assert all(len(value) == 1 and value[0] for row in taken for value in row[1:4] if row[1])
    by_itself = ["iptrec: fields of a newer iptrec; install its plugin"]
    assert all(row[1] or row[0] == by_itself for row in taken)


CLAIMS = {
    "two": ([GOOD, GOOD], "iptrec: two comments with fields; neither is believed"),
    "of later": ([b"iptrec:2?x"], "iptrec: fields of a newer iptrec; install its plugin"),
    "a name of later": ([GOOD + b"&later=x"], "iptrec: DROP"),
    "percents": (
        [GOOD.replace(b"DROP", b"%25s%25n") + STEP.replace(b"INPUT", b"%25s%25n")], "iptrec: %s%n",
    ),
    "by the kernel": (
        [b"iptrec:1?verdict=DISCARDED&complete=1&ambiguous=0&end=NO_SOCKET"],
        "iptrec: DISCARDED by the kernel (NO_SOCKET)",
    ),
    "unsure": (
        [b"iptrec:1?verdict=DROP&complete=0&ambiguous=1&decided_by=a:b c/d%2fe/unlisted"],
        "iptrec: DROP by a:b c/d/e rule (not in the recorded ruleset) (incomplete and ambiguous)",
    ),
    "a decider": ([GOOD + b"&decided_by=filter/INPUT/policy"], "iptrec: DROP by filter/INPUT policy"),
}  # fmt: skip


def test_what_the_tree_begins_with(tmp_path, capture, tshark):
    """One line for the packet; where it is not known which comment is iptrec's, no field."""
    (tmp_path / "x.pcapng").write_bytes(capture(*(said for said, _ in CLAIMS.values())))
    rows = tshark.fields(tmp_path / "x.pcapng", "iptrec", "iptrec.verdict", "_ws.lua.error")
    found = {
        name: (line, bool(verdict), failed)
        for name, (line, verdict, failed) in zip(CLAIMS, rows, strict=True)
    }
    assert found == {
        name: ([told], "comments" not in told and "newer" not in told, [])
        for name, (_, told) in CLAIMS.items()
    }


def test_many_steps_and_many_packets(capture, tmp_path, tshark):
    """As many steps as a comment holds, of more packets than the plugin remembers."""
    steps = (65_000 - len(GOOD)) // len(STEP)
    several = [[GOOD + STEP * steps], *([GOOD + b"&more=%d" % one] for one in range(1_500))]
    (tmp_path / "x.pcapng").write_bytes(capture(*several))
    rows = tshark.fields(tmp_path / "x.pcapng", "iptrec.step", "iptrec.more_steps")
    assert rows[0] == [["filter/INPUT/1"] * steps, []]
    assert [more for _, more in rows[1:]] == [[str(one)] for one in range(1_500)]


def section(recording):
    made = pcapng.Capture(recording.facts, "auto")
    return b"".join(pcapng.section(made, recording, Packets(recording), "packets"))


def test_an_endless_way_says_how_much_is_left_out(tmp_path, tshark):
    """Long rules: what has room, the number of the rest, and the beginning of a text."""
    rules = "".join(f"-A c -m comment --comment {'x' * 200}{n}\n" for n in range(400))
    long = f'-A c -m comment --comment "{"é" * 5_000}" -j DROP\n'
    recording = HandMade().ruleset(
        f"*filter\n:INPUT ACCEPT [0:0]\n:c - [0:0]\n-A INPUT -j c\n{rules}{long}COMMIT\n"
    )
    places = ["filter:INPUT:rule:1", *(f"filter:c:rule:{n}" for n in range(1, 402))]
    recording.events([(one, udp(), {"indev": 1}) for one in places])
    (tmp_path / "x.pcapng").write_bytes(section(recording))
    ((steps, more, text, by),) = tshark.fields(
        tmp_path / "x.pcapng",
        "iptrec.step", "iptrec.more_steps", "iptrec.decided_by.rule_text", "iptrec.decided_by",
    )  # fmt: skip
    assert len(steps) + int(more[0]) == 402
    assert 100 < len(steps) < 402
    assert [one.split("/")[1] for one in steps] == ["INPUT", *["c"] * (len(steps) - 1)]
    assert by == ["filter/c/401"]
    assert 3_990 < len(text[0].encode()) <= 4_003
    assert text[0].endswith("é…")


NAMES_OF_ANY = [
    "a:b c", "quo\"te'", "a/b", "100%25s", "a&b=c", "!", "x\x1b[31m\u202e", "naïve ✓ 😀", "a\\x1b", "~^|{}",
    " ", "\udcff", "", "x" * 900,
]  # fmt: skip


def test_names_of_any_characters(tmp_path, capture, tshark):
    """A name is told as it is, what is not to be printed in visible form; nothing around it suffers."""
    (tmp_path / "x.pcapng").write_bytes(capture(*([named(one)] for one in NAMES_OF_ANY)))
    twice = ("chain", "table", "rule_text", "target")  # of two steps
    once = (
        "decided_by.chain",
        "decided_by.rule_text",
        "netns",
        "host",
        "reason",
        "end",
        "end.text",
    )
    names = (f"iptrec.{one}" for one in (*twice, *once, "verdict"))
    rows = tshark.fields(tmp_path / "x.pcapng", *names)
    for name, row in zip(NAMES_OF_ANY, rows, strict=True):
        # tshark prints no empty values
        found = [[value for value in values if value] for values in row]
        one = [printable(name)] if name else []
        assert found == [*([one * 2] * len(twice)), *([one] * len(once)), ["DROP"]], name


def named(name):
    """The comment about a packet that met this name everywhere."""
    step = PathStep(name, name, "rule", 7, name, name, None)
    path = Path(
        family="ipv4", netns=name, verdict="DROP", decided_by=RulePlace(name, name, 7), complete=True,
        ambiguous=False, steps=(step, step), host=name,
    )  # fmt: skip
    return fields(path, Ending(End("asked", name, name), name), ["nft", "nft"], 2)


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:20]))
def test_hostile_recordings(text, export, tmp_path, tshark):
    """Texts from strangers in every place of a recording: the fields are those of `show --json`."""
    recording = hostile_recording(tmp_path, text)
    path = export(recording, "-q")
    packets = shown(recording)
    rows = tshark.fields(path, "iptrec.verdict", "iptrec.chain", "iptrec.rule_text")
    assert len(rows) == len(packets) > 0
    for packet, (verdict, chains, texts) in zip(packets, rows, strict=True):
        assert verdict == [packet["verdict"]]
        assert chains == [printable(one["chain"]) for one in packet["steps"]]
        wanted = [printable(one["spec"]) for one in packet["steps"] if one["spec"]]
        assert [one.removesuffix("…") for one in texts] == [
            one if len(one.encode()) <= 4_000 else one.encode()[:4_000].decode(errors="ignore")
            for one in wanted
        ]


def test_two_copies_are_as_good_as_one(tmp_path, tshark, capture):
    """Of the host and of the user: no error, and nothing is told twice."""
    (tmp_path / "x.pcapng").write_bytes(capture([GOOD]))
    again = ("-X", f"lua_script:{PLUGIN}")
    rows = tshark.fields(tmp_path / "x.pcapng", "iptrec", "iptrec.verdict", words=again)
    assert rows == [[["iptrec: DROP"], ["DROP"]]]


def test_the_script_touches_nothing():
    """It needs nothing of Lua's that reads or writes files, starts programs, or runs other code."""
    text = PLUGIN.read_text()
    words = (
        "io",
        "os",
        "require",
        "dofile",
        "loadfile",
        "load",
        "loadstring",
        "package",
        "debug",
        "Dir",
    )
    for word in words:
        assert not re.search(rf"\b{word}\s*[.(]", text), word


def test_the_page_lists_every_field():
    """And no other one; those of the tests are all as well."""
    made = set(re.findall(r'ProtoField\.\w+\("([\w.]+)"', PLUGIN.read_text()))
    page = (ROOT / "docs" / "wireshark.md").read_text()
    table = re.search(r"\| field \|.*?\n\n", page, re.DOTALL).group()
    first = [line.split("|")[1] for line in table.strip().splitlines()]
    assert set(re.findall(r"`(iptrec\.[\w.]+)`", "".join(first))) == made
    assert set(NAMES) == made


def test_filters_of_the_page_are_understood(export, tshark):
    """Each of the table's, and those in its sentences."""
    page = (ROOT / "docs" / "wireshark.md").read_text()
    found = re.findall(r"`(iptrec\.[^`]* (?:==|in|contains|matches) [^`]*)`", page)
    assert len(found) >= 9
    path = export(LOOPBACK)
    for one in found:
        assert tshark.count(path, one.replace("\\|", "|")) >= 0
    lost = next(one for one in found if '"DISCARDED"' in one)
    assert tshark.count(path, lost) > 0


def test_it_may_be_there_twice(export, tshark):
    """For all users and for this one: each packet has one tree, and nothing is complained of."""
    path = export(LOOPBACK)
    words = ("-X", f"lua_script:{PLUGIN}")
    once, twice = (tshark.fields(path, "iptrec.verdict", words=more) for more in ((), words))
    assert once == twice
