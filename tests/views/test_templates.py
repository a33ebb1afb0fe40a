"""A template gives what dumping each object would give, as texts and as bytes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iptrec.decode.headers import Texts
from iptrec.views.templates import Template

PLAIN = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters='"\\\\'))
NAMES = st.text(max_size=8)


@st.composite
def objects(draw):
    """Objects that differ in some places, and the columns of these."""
    count = draw(st.integers(1, 9))
    numbers = st.integers(-(2**63), 2**63 - 1) | st.integers(0, 10**5)
    model = draw(st.dictionaries(NAMES, NAMES | st.none() | st.integers(), max_size=4))
    model["steps"] = [{"a": "%s", "b": 0}, {"b": 0, "c": ""}]
    values = []
    for place in draw(st.sets(st.sampled_from([(0, "a"), (0, "b"), (1, "b"), (1, "c")]))):
        if draw(st.booleans()):
            column = np.array([draw(numbers) for _ in range(count)], np.int64)
        else:
            distinct = draw(st.lists(PLAIN, min_size=1, max_size=3))
            which = [draw(st.integers(0, len(distinct) - 1)) for _ in range(count)]
            column = Texts(distinct, np.array(which))
        values.append((("steps", *place), column))
    return model, values, count


def each(model, values, count):
    """Every object as JSON."""
    for number in range(count):
        one = json.loads(json.dumps(model))
        for (_, step, name), column in values:
            listed = column.listed() if isinstance(column, Texts) else column.tolist()
            one["steps"][step][name] = listed[number]
        yield json.dumps(one)


@given(objects(), st.data())
@settings(deadline=None)
def test_lines(drawn, data):
    """Any object without our mark: texts, and some of the lines as bytes, among bytes of others."""
    model, values, count = drawn
    model = json.loads(next(each(model, values, 1)))  # its values are of the kinds of the others
    template = Template.of(model, values, json.dumps)
    if template is None:
        assert "\ue000" in json.dumps(model, ensure_ascii=False)
        return
    if not values:  # of which there is no number
        return
    expected = list(each(model, values, count))
    assert list(template.texts()) == expected
    low = data.draw(st.integers(0, count - 1))
    some = slice(low, data.draw(st.integers(low + 1, count)))
    lines = template.lines(count)
    assert lines.sizes.tolist() == [len(one.encode()) for one in expected]
    sizes = lines.sizes[some]
    starts = np.cumsum(sizes + 3) - sizes
    buffer = np.full(int((sizes + 3).sum()), ord("."), np.uint8)
    lines.write(buffer, starts, low)
    assert bytes(buffer) == "".join(f"...{one}" for one in expected[some]).encode()


def test_the_mark():
    """Who writes our mark has no template: no text of a recording is taken for a place."""
    model = {"a": '"\ue0000\ue000"', "b": 1}
    assert Template.of(model, [(("b",), np.arange(3))], json.dumps) is None


@pytest.mark.parametrize(
    "number", [0, 9, 10, 9999, 10_000, 10**16 - 1, 10**18 - 1, 10**18, 2**63 - 1]
)
def test_digits(number):
    """Where a number gets longer."""
    template = Template.of({"a": 1}, [(("a",), np.array([number, 5]))], json.dumps)
    lines = template.lines(2)
    buffer = np.zeros(int(lines.sizes.sum()), np.uint8)
    lines.write(buffer, np.array([0, lines.sizes[0]]))
    assert bytes(buffer).decode() == f'{{"a": {number}}}{{"a": 5}}'
