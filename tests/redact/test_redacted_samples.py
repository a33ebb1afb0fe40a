"""Every sample redacted answers as before, and tells nothing of what it held."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from command import iptrec
from redacting import everything, redact, seen

SAMPLES = sorted((Path(__file__).parents[2] / "samples").glob("*.db"))
PAYLOADS = [b"anybody", b"hello", b"GET /", b"recorded", b"sendto", b"python3"]


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_all_answers_of_a_sample_are_equal(sample, tmp_path):
    """Steps, verdicts and reasons, up to what stands for what."""
    _, done = redact(tmp_path, sample, "--check")
    assert done.returncode == 0, done.stderr
    assert "equal answers of why" in done.stderr


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_nothing_of_a_sample_is_found_in_the_redacted_file(sample, tmp_path):
    """No address, as text or as bytes; no MAC address; not the command line, nor the host."""
    output, done = redact(tmp_path, sample)
    assert done.returncode == 0, done.stderr
    addresses, macs = seen(sample)
    assert addresses or sample.stem in ("loopback", "tapped")  # 127.0.0.1 alone
    found = everything(output)
    for one in addresses:
        assert one.packed not in found, one
        assert not re.search(
            rb"(?<![\d.:a-f])" + re.escape(str(one).encode()) + rb"(?![\d.:a-f])", found
        ), one
    for one in macs:
        assert bytes.fromhex(one.replace(":", "")) not in found, one
        assert one.encode() not in found, one
    for word in PAYLOADS:
        assert word not in found, word
    facts = json.loads(iptrec("info", output, "--json").stdout)["recording"]
    assert facts["host"] == "redacted"
    assert facts["command"] == ["iptrec", "redacted"]


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_counts_are_those_of_the_sample(sample, tmp_path):
    """Events, packets, verdicts, losses, streams."""
    output, _ = redact(tmp_path, sample)
    before, after = (json.loads(iptrec("info", one, "--json").stdout) for one in (sample, output))
    for name in ("events", "packets", "lost", "complete", "closed", "verdicts"):
        assert before[name] == after[name], name
    assert [one["kind"] for one in before["streams"]] == [one["kind"] for one in after["streams"]]
