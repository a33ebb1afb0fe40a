"""``iptrec pack``: what is in it, that every command reads it, that what was chosen is told as before."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from pathlib import Path

import jsonschema
import pytest
from command import iptrec, program

ROOT = Path(__file__).parents[2]
SAMPLES = sorted((ROOT / "samples").glob("*.db"))
SAMPLE = ROOT / "samples" / "nftables.db"
SCHEMA = json.loads((ROOT / "schemas" / "pack-v1.schema.json").read_text())


def packed(recording, directory, *options):
    made = directory / "made.zip"
    done = iptrec("pack", recording, "-o", made, "--force", *options)
    assert done.returncode == 0, done.stderr
    return made


def manifest(pack):
    with zipfile.ZipFile(pack) as archive:
        return json.loads(archive.read("manifest.json"))


def shown(recording, *options):
    """Packets by number, without what changes when others are left out."""
    done = iptrec("show", recording, "--json", *options)
    return {one["packet"]: one for one in map(json.loads, done.stdout.splitlines())}


def without_numbers(packet):
    related = [one["kind"] for one in packet.get("related", [])]
    return json.loads(re.sub(r"#\d+", "#", json.dumps({**packet, "packet": 0, "related": related})))


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda one: one.stem)
def test_what_is_in_a_pack(sample, tmp_path):
    """Four files, as the manifest says, and the answers of the recording."""
    made = packed(sample, tmp_path)
    told = manifest(made)
    jsonschema.validate(told, SCHEMA)
    with zipfile.ZipFile(made) as archive:
        assert archive.testzip() is None
        assert {one.filename for one in archive.infolist()} == {
            "report.html", "why.md", "recording.db", "manifest.json",
        }  # fmt: skip
        for one in told["files"]:
            data = archive.read(one["name"])
            assert len(data) == one["size"]
            assert hashlib.sha256(data).hexdigest() == one["sha256"]
            assert archive.getinfo(one["name"]).compress_size == one["packed"]
    assert told["selected"] is None
    assert told["redacted"] is None
    assert shown(made) == shown(sample)
    assert told["recording"]["packets"] == len(shown(sample))


COMMANDS = [
    ("show", "{}"), ("show", "{}", "--json"), ("why", "{}"), ("paths", "{}"), ("rules", "{}"),
    ("diff", "{}"), ("diff", "{}@start", "{}@end"), ("diff", "--traces", "{}", "{}"),
    ("diff", "--packets", "1", "2", "{}"), ("info", "{}", "--json"), ("query", "{}", "SELECT * FROM packets"),
    ("export", "ndjson", "{}", "-o", "-"), ("export", "pcapng", "{}", "-o", "-"),
    ("check", "{}", ROOT / "tests" / "data" / "expectations.toml"),
    ("report", "{}", "-o", "-", "-q"), ("redact", "{}", "-o", "-", "-q"), ("pack", "{}", "-o", "-", "-q"),
]  # fmt: skip


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(map(str, words)))
def test_every_command_reads_a_pack(words, tmp_path):
    """As it is; the status is that of the recording itself."""
    made = packed(SAMPLE, tmp_path)

    def run(of):
        return program(*(str(one).replace("{}", str(of)) for one in words), encoding="latin-1")

    found, expected = run(made), run(SAMPLE)
    assert found.returncode == expected.returncode, found.stderr
    assert bool(found.stdout) == bool(expected.stdout)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda one: one.stem)
def test_a_chosen_packet_is_told_as_before(sample, tmp_path):
    """Each alone, with those that belong to it: no other is there, and nothing is told otherwise."""
    every = shown(sample)
    for number in list(every)[:6]:
        made = packed(sample, tmp_path, "--packet", number)
        told = manifest(made)
        jsonschema.validate(told, SCHEMA)
        found = shown(made)
        selected = told["selected"]
        assert len(found) == selected["packets"] + selected["related"] < 1 + len(every)
        here = [without_numbers(one) for one in found.values()]
        assert without_numbers(every[number]) in here


def test_what_was_left_out_is_said(tmp_path):
    """By info, on stderr of each command, in the report; the packets are those that were asked for."""
    made = packed(SAMPLE, tmp_path, "--verdict", "REJECT")
    told = manifest(made)["selected"]
    assert (told["packets"], told["of"]) == (1, 9)
    assert told["selection"] == "--verdict REJECT"
    left = 9 - told["packets"] - told["related"]
    said = f"{left} packets that nobody chose"
    assert said in iptrec("info", made).stdout
    assert "complete:    yes, of the packets that were chosen" in iptrec("info", made).stdout
    assert "complete:    yes\n" in iptrec("info", packed(SAMPLE, tmp_path)).stdout
    made = packed(SAMPLE, tmp_path, "--verdict", "REJECT")
    assert said in iptrec("show", made).stderr
    assert said in iptrec("report", made, "-o", "-", "-q").stdout


def test_a_selection_is_not_told_where_it_is_redacted(tmp_path):
    """It may have addresses; nor is the file's name."""
    recording = tmp_path / "customer.db"
    recording.write_bytes(SAMPLE.read_bytes())
    made = packed(recording, tmp_path, "--redact", "host", "10.0.1.2")
    assert manifest(made)["selected"]["selection"] is None
    assert manifest(made)["redacted"] == {"kept": []}
    with zipfile.ZipFile(made) as archive:
        for one in archive.namelist():
            data = archive.read(one)
            assert b"10.0.1.2" not in data
            assert b"customer" not in data


def test_nothing_that_fits(tmp_path):
    """Status 1, a word, no file."""
    made = tmp_path / "made.zip"
    done = iptrec("pack", SAMPLE, "-o", made, "host", "192.0.2.77")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "no packet matches" in done.stderr
    assert not made.exists()


def test_its_name(tmp_path):
    """Beside the recording; what is there is not replaced."""
    recording = tmp_path / "t.db"
    recording.write_bytes(SAMPLE.read_bytes())
    assert iptrec("pack", recording).returncode == 0
    done = iptrec("pack", recording)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "t.zip exists" in done.stderr


def test_keys_are_for_redacting(tmp_path):
    """One line."""
    done = iptrec("pack", SAMPLE, "-o", tmp_path / "x.zip", "--keep", "names")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--redact" in done.stderr
