"""``iptrec redact``: options, refusals, and a check that can fail."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from command import iptrec
from handmade import RAW, HandMade, udp, written

from iptrec.cli import redact_check
from iptrec.redact import packets
from iptrec.redact.maps import Redaction
from iptrec.redact.nft_text import NftText
from iptrec.redact.save_text import SaveText

SAMPLES = Path(__file__).parents[2] / "samples"
SAMPLE = SAMPLES / "docker_hairpin.db"


def sources(recording):
    return [
        json.loads(line)["header"]["src"]
        for line in iptrec("show", recording, "--json").stdout.splitlines()
    ]


def test_a_random_key_maps_each_time_to_something_else(tmp_path):
    """And the key is nowhere."""
    made = [tmp_path / f"{number}.db" for number in (1, 2)]
    for one in made:
        assert iptrec("redact", SAMPLE, "-o", one, "-q").returncode == 0
    assert sources(made[0]) != sources(made[1]) != sources(SAMPLE)


def test_a_key_is_made_once_and_maps_alike(tmp_path):
    """Readable by its user alone."""
    key, made = tmp_path / "key", [tmp_path / f"{number}.db" for number in (1, 2)]
    for one in made:
        assert iptrec("redact", SAMPLE, "-o", one, "--key", key).returncode == 0
    assert key.stat().st_mode & 0o777 == 0o600
    assert sources(made[0]) == sources(made[1])
    assert key.read_bytes().strip() not in made[0].read_bytes()


def test_a_short_key_is_refused(tmp_path):
    """It could be guessed."""
    (tmp_path / "key").write_bytes(b"short")
    done = iptrec("redact", SAMPLE, "-o", tmp_path / "x.db", "--key", tmp_path / "key")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "5 bytes" in done.stderr


@pytest.mark.parametrize("words", ["nope", "names,addresses"])
def test_what_cannot_be_kept_is_refused(words, tmp_path):
    """One line with what can."""
    done = iptrec("redact", SAMPLE, "-o", tmp_path / "x.db", "--keep", words)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "names, macs, oui, payload, ports" in done.stderr


def test_ports_stay(tmp_path):
    """With the word and without it: see docs/redact.md."""
    before = ports(SAMPLE)
    for number, words in enumerate(([], ["--keep", "ports"])):
        made = tmp_path / f"{number}.db"
        assert iptrec("redact", SAMPLE, "-o", made, *words).returncode == 0
        assert ports(made) == before


def ports(recording):
    return [
        (one["header"]["sport"], one["header"]["dport"])
        for one in map(json.loads, iptrec("show", recording, "--json").stdout.splitlines())
    ]


def test_what_is_kept_stays(tmp_path):
    """Names and MAC addresses; addresses do not."""
    made = tmp_path / "x.db"
    done = iptrec("redact", SAMPLE, "-o", made, "--keep", "names,macs,payload", "--check")
    assert done.returncode == 0, done.stderr
    before, after = (json.loads(iptrec("show", one, "--json").stdout) for one in (SAMPLE, made))
    assert before["link"] == after["link"]
    assert [one["chain"] for one in before["steps"]] == [one["chain"] for one in after["steps"]]
    assert before["header"]["src"] != after["header"]["src"]


def test_the_recording_is_not_replaced(tmp_path):
    """Not with --force."""
    copy = tmp_path / "trace.db"
    copy.write_bytes(SAMPLE.read_bytes())
    done = iptrec("redact", copy, "-o", copy, "--force")
    assert done.returncode == 2
    assert copy.read_bytes() == SAMPLE.read_bytes()


def test_what_is_there_is_replaced_with_force_alone(tmp_path):
    """As by every command."""
    made = tmp_path / "x.db"
    made.write_text("mine")
    assert iptrec("redact", SAMPLE, "-o", made).returncode == 2
    assert made.read_text() == "mine"
    assert iptrec("redact", SAMPLE, "-o", made, "--force").returncode == 0


def test_a_redacted_recording_can_be_redacted(tmp_path):
    """It is a recording."""
    once, twice = tmp_path / "1.db", tmp_path / "2.db"
    assert iptrec("redact", SAMPLES / "both.db", "-o", once, "--check").returncode == 0
    done = iptrec("redact", once, "-o", twice, "--check")
    assert done.returncode == 0, done.stderr


def test_the_check_finds_an_answer_that_differs(tmp_path, monkeypatch):
    """A map that is not the same in packets and in rules: no file is left, and exit status 1."""
    monkeypatch.setattr(packets.Packets, "_address", lambda _, part, __: bytes(len(part)))
    made = tmp_path / "x.db"
    done = iptrec("redact", SAMPLE, "-o", made, "--check")
    assert done.returncode == 1
    assert "packet 1 differs: " in done.stderr
    assert not made.exists()


def test_the_check_finds_a_rule_that_matches_no_more(tmp_path, monkeypatch):
    """Networks of rules that are mapped elsewhere: what the packet was, `why` alone tells."""
    monkeypatch.setattr(Redaction, "network", lambda _, packed, __: b"\x01" * len(packed))
    done = iptrec("redact", SAMPLES / "kubernetes.db", "-o", tmp_path / "x.db", "--check")
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("sample", "change", "old", "new", "told"),
    [
        ("docker_hairpin", SaveText, "-p tcp", "-p udp", "(iptables-save) differs: -p"),
        ("kubernetes", SaveText, "--dport 53", "--dport 54", "(iptables-save) differs: --dport"),
        ("nftables", NftText, "dport", "sport", "(nft-text) differs: udp"),
    ],
)
def test_the_check_finds_another_word_of_a_rule(
    sample, change, old, new, told, tmp_path, monkeypatch
):
    """Whether a packet met it or not: the rule is named, and the option."""
    made = change.rule
    monkeypatch.setattr(
        change, "rule", lambda self, text, **more: made(self, text, **more).replace(old, new)
    )
    done = iptrec("redact", SAMPLES / f"{sample}.db", "-o", tmp_path / "x.db", "--check")
    assert done.returncode == 1
    assert re.search(f"^iptrec redact: rule .* {re.escape(told)}$", done.stderr, re.MULTILINE), (
        done.stderr
    )
    assert "rules or addresses would tell something else; no file is left" in done.stderr
    assert not (tmp_path / "x.db").exists()


def test_the_check_of_a_long_one_asks_why_once_a_kind(tmp_path, monkeypatch):
    """It compares what is told of each packet, and says of how many why was asked."""
    monkeypatch.setattr(redact_check, "_ALL", 0)
    path = SAMPLES / "kubernetes.db"
    packets = len(sources(path))
    done = iptrec("redact", path, "-o", tmp_path / "x.db", "--check")
    assert done.returncode == 0, done.stderr
    assert (
        f"{packets} packets with equal verdicts, steps and headers; why was asked of" in done.stderr
    )
    assert "one of each kind: equal" in done.stderr


def test_the_check_of_a_long_one_finds_what_differs(tmp_path, monkeypatch):
    """In a packet whose kind was known already; and in what only why tells."""
    monkeypatch.setattr(redact_check, "_ALL", 0)
    lines, reasons = redact_check._lines, redact_check._explained
    seen = []

    def spoilt(recording):
        seen.append(recording)
        of_the_second = recording is not seen[0]
        for line in lines(recording):
            yield re.sub(r'("time_ns":\d+)', r"\g<1>7", line) if of_the_second else line

    monkeypatch.setattr(redact_check, "_lines", spoilt)
    done = iptrec("redact", SAMPLES / "ipv6.db", "-o", tmp_path / "x.db", "--check")
    assert (done.returncode, "14 packets of 14 would tell" in done.stderr) == (1, True), done.stderr
    monkeypatch.setattr(redact_check, "_lines", lines)
    asked = []

    def otherwise(recording, numbers):
        asked.append(recording)
        mine = len(asked)
        return ({**one, "verdict": mine} for one in reasons(recording, numbers))

    monkeypatch.setattr(redact_check, "_explained", otherwise)
    done = iptrec("redact", SAMPLES / "ipv6.db", "-o", tmp_path / "x.db", "--check")
    assert done.returncode == 1
    assert not (tmp_path / "x.db").exists()


@pytest.mark.parametrize("mark", ["\u202e", "\u2029", "\x1b", "\U000e0041"])
def test_the_check_reads_what_is_shown_of_a_character_that_is_not(tmp_path, mark):
    """Rules are shown with escapes in their place, which are no words of the rule's."""
    comment = f'-A INPUT -p udp -m comment --comment "a{mark}b c" -j DROP'
    made = HandMade().ruleset(f"{RAW}*filter\n:INPUT ACCEPT [0:0]\n{comment}\nCOMMIT\n")
    made.events([("raw:PREROUTING:policy:2", udp(), {}), ("filter:INPUT:rule:1", udp(), {})])
    path = written(tmp_path / "t.db", made)
    done = iptrec("redact", path, "-o", tmp_path / "shared.db", "--check")
    assert (done.returncode, "1 packet with equal" in done.stderr) == (0, True), done.stderr


@pytest.mark.parametrize("command", ["redact", "import"])
def test_a_compressed_name_is_refused(tmp_path, command):
    """The file would be plain SQLite, whatever its name says."""
    source, output = tmp_path / "t.db", tmp_path / "s.db.gz"
    written(source, HandMade().ruleset(RAW))
    done = iptrec(command, source, "-o", output)
    assert done.returncode == 2
    assert f"{output}: iptrec {command} does not compress" in done.stderr
    assert not output.exists()
