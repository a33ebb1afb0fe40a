"""Packets are selected by the word of their end, whoever told it, and by all answers alike."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from command import iptrec
from handmade import UUID, HandMade, udp, written
from selected import by_reason
from test_ends import FILTER, RAWS, TIME, recording

from iptrec.answers.select import selection
from iptrec.errors import UsageError
from iptrec.packets.ends import WORDS
from iptrec.recording.reader import Reader

ROOT = Path(__file__).parents[2]
SAMPLES = {
    "ipsets": {"NO_SOCKET": 1}, "ipv6": {"IP_INHDR": 1}, "loopback": {"NO_SOCKET": 1}, "kubernetes": {},
    "docker_hairpin": {}, "docker_hairpin_nft": {}, "nftables": {}, "both": {},
}  # fmt: skip
MADE = {
    "no route": ({}, {"IP_INNOROUTES": 1}),
    "perhaps no route": ({"lists": 1}, {"IP_INNOROUTES": 1}),
    "nobody knows": ({"dst": "10.2.0.9"}, {"NOT_SPECIFIED": 1}),
    "nothing was listed": ({"lists": 0}, {}),
}


def counted(found):
    return {word: len(numbers) for word, numbers in found.items()}


@pytest.mark.parametrize("sample", SAMPLES)
def test_of_samples(sample):
    with Reader(ROOT / "samples" / f"{sample}.db") as reader:
        assert counted(by_reason(reader)) == SAMPLES[sample]


@pytest.mark.parametrize("case", MADE)
def test_of_what_is_recorded(case):
    given, expected = MADE[case]
    assert counted(by_reason(recording(FILTER, RAWS, **given))) == expected


OWN = f'-m comment --comment "iptrec:{UUID}" -j TRACE'
RULES = f"*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING {OWN}\nCOMMIT\n{FILTER}"


def dropped():
    """Two that are equal of which one was dropped, one that was, and one that was not."""
    packets = [udp(ident=number) for number in (1, 1, 2, 3)]
    made = HandMade().ruleset(RULES)
    made.events([("raw:PREROUTING:policy:2", one, {"indev": 2}) for one in packets], start_ns=TIME)
    return made.drops([(TIME + 9_000, 2, packets[0], {}), (TIME + 9_000, 3, packets[2], {})])


def test_of_what_the_kernel_told():
    """Also where only one of several equal ones was dropped, and nobody knows which."""
    assert counted(by_reason(dropped())) == {"NOT_SPECIFIED": 2, "NO_SOCKET": 1}


@pytest.mark.parametrize("sample", ["ipsets", "ipv6", "loopback"])
def test_every_command(sample, tmp_path):
    """Of a word that there is, in whatever case, and of one that nobody has."""
    path = str(ROOT / "samples" / f"{sample}.db")
    (word,) = SAMPLES[sample]
    with Reader(path) as reader:
        (numbers,) = by_reason(reader).values()
    option = "--reason", word.lower()
    shown = [json.loads(one) for one in done("show", "--json", path, *option)]
    assert [one["packet"] for one in shown] == numbers
    assert {one["end"]["reason"] for one in shown} == {word}
    explained = [json.loads(one) for one in done("why", "--json", path, *option)]
    assert len(explained) == len(numbers)
    paths = [json.loads(one) for one in done("paths", "--json", path, *option)]
    assert sum(one["packets"] for one in paths) == len(numbers)
    assert done("rules", "--json", path, *option)
    database = str(tmp_path / "t.sqlite")
    done("export", "sqlite", path, *option, "-o", database)
    (asked,) = done(
        "query", "--json", path, f"SELECT count(*) n FROM packets WHERE end_reason = '{word}'"
    )
    assert json.loads(asked) == {"n": len(numbers)}
    expectation = tmp_path / "e.toml"
    expectation.write_text(f'[[expect]]\nreason = "{word.lower()}"\ncount = {len(numbers)}\n')
    done("check", path, str(expectation))
    other = iptrec("show", path, "--reason", "IP_INVALID_DEST")
    assert (other.returncode, other.stdout) == (1, "")
    assert f"none ended by IP_INVALID_DEST, but {word}" in other.stderr


def done(*arguments):
    """The lines of what succeeds."""
    found = iptrec(*arguments)
    assert found.returncode == 0, found.stderr
    return found.stdout.splitlines()


def test_a_word_that_there_is_not(tmp_path):
    """One line, with those that there are; another kernel's word is none of this recording's."""
    bare, told = ROOT / "samples" / "loopback.db", tmp_path / "told.db"
    names = {"4": "SKB_DROP_REASON_NO_SOCKET", "99": "SKB_DROP_REASON_QDISC_DROP"}
    made = HandMade().ruleset(json.dumps({"skb_drop_reason": names}), "drop-reasons")
    written(told, made)
    for path, word, more in (
        (bare, "NO_SUCH", ""),
        (bare, "QDISC_DROP", ""),
        (bare, "5", ""),
        (told, "NO_SUCH", ", or another of the kernel's 1"),
    ):
        found = iptrec("paths", str(path), "--reason", f"no_socket,{word}")
        expected = f"iptrec: --reason='{word}': must be one of {', '.join(WORDS)}{more}\n"
        assert (found.returncode, found.stdout, found.stderr) == (2, "", expected)
    with Reader(told) as reader:
        known = selection(reader, None, {"reason": {"qdisc_drop", "No_Socket", "131"}})
        assert known.reasons == {"QDISC_DROP", "NO_SOCKET", "131"}
        with pytest.raises(UsageError, match=r"^reason=5: expected a text, or several"):
            selection(reader, None, {"reason": 5})


def test_the_words_are_those_of_the_documentation():
    """Each is in a table of docs/ends.md, or below it."""
    text = (ROOT / "docs" / "ends.md").read_text()
    rows = re.findall(r"^\| [^|]+ \| ([^|]+) \|", text, re.MULTILINE)
    told = {word for row in rows for word in re.findall(r"\b[A-Z]+_?[A-Z_]+\b", row)}
    told |= {*re.findall(r"\b(E[A-Z]{5,})\*", text)}
    assert told - {"IP"} - {*WORDS} == set()
    assert {*WORDS} - told == set()
