"""What `redact --check` compares of sets, addresses, routes, neighbours: whatever differs is noticed."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from iptrec.decode import snapshots
from iptrec.errors import RecordingError
from iptrec.recording.reader import Reader
from iptrec.redact.compare_lists import KINDS, Lists
from iptrec.redact.key import Key
from iptrec.redact.pairs import Pairs
from iptrec.redact.recorded import redacted

SAMPLE = Path(__file__).parents[2] / "samples" / "ipsets.db"
WHOLE = [kind for kind in KINDS if kind != "links"]  # of which redact keeps every field


@functools.cache
def both():
    """Snapshots before and after, by kind, and the maps."""
    with Reader(SAMPLE) as source:
        made = redacted(source, Key(bytes(32)), ())
        after = {one.kind: one for one in made.snapshots() if one.kind in KINDS}
        return {one.kind: one for one in source.snapshots(*KINDS)}, after, made.maps


def found(kind, after):
    before, _, maps = both()
    return [one.where for one in Lists(Pairs(maps)).differences([before[kind]], [after])]


@pytest.mark.parametrize("kind", KINDS)
def test_what_redact_makes_is_alike(kind):
    """Up to what stands for what."""
    assert found(kind, both()[1][kind]) == []


@pytest.mark.parametrize("kind", [one for one in KINDS if one != "ip-rules"])
def test_what_is_not_redacted_is_not(kind):
    """Where an address or a name stayed."""
    assert found(kind, both()[0][kind]) != []


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(WHOLE), st.data())
def test_each_bit_that_tells_something_else(kind, data):
    """A member, a network, a table, a flag: any value that iptrec shows."""
    after = both()[1][kind]
    at = data.draw(st.integers(0, 8 * len(after.content) - 1))
    content = bytearray(after.content)
    content[at // 8] ^= 1 << at % 8
    told = []
    for one in (after.content, bytes(content)):
        try:
            told.append(json.loads(snapshots.shown(kind, one, after.media)))
        except RecordingError:
            told.append(None)
    assume(told[0] != told[1])
    assert found(kind, replace(after, content=bytes(content))) != []


@pytest.mark.parametrize("kind", KINDS)
def test_a_list_that_is_not_there(kind):
    """In one of both recordings."""
    before, after, maps = both()
    for some in (([before[kind]], []), ([], [after[kind]])):
        assert [one.where for one in Lists(Pairs(maps)).differences(*some)] == [
            f"the list of {kind}"
        ]
