"""Each sample as text and as JSON lines, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from iptrec.answers.packets import Packets
from iptrec.answers.path_counts import count_paths
from iptrec.answers.rules import count_rules
from iptrec.answers.selection import Selection
from iptrec.answers.summary import summarize
from iptrec.answers.why import explain
from iptrec.recording.reader import Reader
from iptrec.views import info, paths, rules, text, why
from iptrec.views import packet_json as as_json

ROOT = Path(__file__).parents[2]
SAMPLES = sorted(path.stem for path in (ROOT / "samples").glob("*.db"))


def views(sample):
    """What `show`, `paths` and `rules` print, and their --json."""
    with Reader(ROOT / "samples" / f"{sample}.db") as reader:
        packets = list(Packets(reader))
        found = count_paths(reader, Selection())
        tables = count_rules(reader, Selection())
        explained = list(explain(reader, Packets(reader)))
    layout = text.Layout(phys=True)
    return {
        "why.txt": "".join(
            line + "\n" for one in explained for line in why.as_text(one, colour=False)
        ),
        "why.jsonl": "".join(why.as_json(one) + "\n" for one in explained),
        "paths.txt": "".join(paths.as_text(one) for one in found),
        "paths.jsonl": "".join(paths.as_json(one) + "\n" for one in found),
        "rules.txt": "".join(line + "\n" for table in tables for line in rules.as_text(table)),
        "rules.jsonl": "".join(line + "\n" for table in tables for line in rules.as_json(table)),
        "txt": "\n".join(text.render(packet, layout) for packet in packets),
        "jsonl": "".join(as_json.line(packet) + "\n" for packet in packets),
    }


def validator(command):
    schema = json.loads((ROOT / "schemas" / f"{command}-v1.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_there_are_samples():
    """At least the four that the project promises."""
    assert {"docker_hairpin", "kubernetes", "ipv6", "loopback"} <= set(SAMPLES)


@pytest.mark.parametrize("sample", SAMPLES)
def test_sample_is_shown_as_before(sample, request):
    """A changed output is either a mistake or a decision: make golden, then read the diff."""
    for suffix, found in views(sample).items():
        golden = ROOT / "tests" / "golden" / f"{sample}.{suffix}"
        if request.config.getoption("--update-golden"):
            golden.write_text(found)
        assert golden.read_text() == found


@pytest.mark.parametrize("sample", SAMPLES)
def test_machine_output_fits_its_schema(sample):
    """What --json prints is what schemas/ says."""
    printed = views(sample)
    for schema, suffix in (
        ("show", "jsonl"),
        ("paths", "paths.jsonl"),
        ("rules", "rules.jsonl"),
        ("why", "why.jsonl"),
    ):
        lines = printed[suffix].splitlines()
        assert lines
        for line in lines:
            validator(schema).validate(json.loads(line))
    with Reader(ROOT / "samples" / f"{sample}.db") as reader:
        found = json.loads(info.as_json(reader, summarize(reader)))
    validator("info").validate(found)
    # The IPv6 sample has a packet whose hop limit ends at the router: no rule decides that.
    assert found["incomplete"] == (sample == "ipv6")
    assert found["closed"]
    assert (found["lost"], found["ambiguous"], found["orphans"]) == (0, 0, 0)
