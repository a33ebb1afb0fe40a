"""Each sample in each view, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import iptrec
from validation import validator

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
SAMPLES = sorted(path.stem for path in (ROOT / "samples").glob("*.db"))
RULES = str(ROOT / "samples" / "kubeadm-flannel.rules")
HAIRPIN = str(ROOT / "samples" / "docker_hairpin.db")
EXPECTATIONS = str(ROOT / "tests" / "data" / "expectations.toml")
VIEWS = {  # name of the golden file -> the command; {} is the sample
    "txt": ["show", "{}"],
    "brief.txt": ["show", "{}", "--brief"],
    "classic.txt": ["show", "{}", "--classic", "--phys"],
    "jsonl": ["show", "{}", "--json"],
    "orphans.txt": ["show", "{}", "--orphans"],
    "why.txt": ["why", "{}"],
    "why-all.txt": ["why", "{}", "--all"],
    "why.jsonl": ["why", "{}", "--json"],
    "paths.txt": ["paths", "{}"],
    "paths.jsonl": ["paths", "{}", "--json"],
    "rules.txt": ["rules", "{}"],
    "rules.jsonl": ["rules", "{}", "--json"],
    "info.txt": ["info", "{}"],
    "info.json": ["info", "{}", "--json"],
    "diff.txt": ["diff", RULES, "{}"],
    "diff.json": ["diff", "--json", RULES, "{}"],
    "traces.txt": ["diff", "--traces", HAIRPIN, "{}"],
    "traces.jsonl": ["diff", "--traces", "--json", HAIRPIN, "{}"],
    "check.txt": ["check", "{}", EXPECTATIONS],
    "check.jsonl": ["check", "{}", EXPECTATIONS, "--json"],
}
ENDED = {"orphans", "diff", "traces", "check"}  # whose exit status is an answer
LINES = {  # schema -> the view of which each line fits it
    "show": "jsonl", "paths": "paths.jsonl", "rules": "rules.jsonl", "why": "why.jsonl",
    "check": "check.jsonl", "diff": "diff.json", "diff-traces": "traces.jsonl",
}  # fmt: skip


def printed(sample, view):
    """What a view prints; with its exit status, and what is on stderr, where they are the answer."""
    done = iptrec(*(one.format(ROOT / "samples" / f"{sample}.db") for one in VIEWS[view]))
    name, _, kind = view.rpartition(".")
    text, said = (one.replace(f"{ROOT}/", "") for one in (done.stdout, done.stderr))
    if kind == "txt" and name in ENDED:
        return f"{text}{said}exit status {done.returncode}\n"
    if name == "diff" and sample == "ipv6":  # it has no family of the file's
        assert done.returncode == 2
        return f"{text}{said}"
    assert (done.returncode in {0, name in ENDED}, done.stderr) == (True, "")
    if name.startswith("why") and kind == "txt":  # the explanations one below the other
        return "".join(line for line in text.splitlines(keepends=True) if line.strip())
    return text


def test_there_are_samples():
    """At least the four that the project promises."""
    assert {"docker_hairpin", "kubernetes", "ipv6", "loopback"} <= set(SAMPLES)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("sample", SAMPLES)
def test_sample_is_shown_as_before(sample, view, request):
    """A changed output is either a mistake or a decision: make golden, then read the diff."""
    found = printed(sample, view)
    golden = GOLDEN / f"{sample}.{view}"
    if request.config.getoption("--update-golden"):
        golden.write_text(found)
    assert golden.read_text() == found


def test_no_golden_file_is_stale():
    """Each is compared with something."""
    used = {f"{sample}.{view}" for sample in SAMPLES for view in VIEWS}
    assert {path.name for path in GOLDEN.iterdir()} == used


@pytest.mark.parametrize("schema", LINES)
@pytest.mark.parametrize("sample", SAMPLES)
def test_machine_output_fits_its_schema(sample, schema):
    """What --json prints is what schemas/ says."""
    lines = printed(sample, LINES[schema]).splitlines()
    assert lines
    if (sample, schema) == ("ipv6", "diff"):
        return  # refused
    for line in lines:
        validator(schema).validate(json.loads(line))


@pytest.mark.parametrize("sample", SAMPLES)
def test_samples_are_whole(sample):
    """Nothing was lost, nothing is unsure; `info` says so in the words of its schema."""
    found = json.loads(printed(sample, "info.json"))
    validator("info").validate(found)
    # Of ipv6 a packet's hop limit ends at the router: no rule decides that. Of loopback two of IPv6 came in
    # where only the raw table was loaded: nothing tells whether they went on.
    assert found["incomplete"] == {"ipv6": 1, "loopback": 2}.get(sample, 0)
    assert found["closed"]
    assert (found["lost"], found["ambiguous"], found["orphans"]) == (0, 0, 0)
