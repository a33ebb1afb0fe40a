"""Messages of a known layout are read as those that are walked attribute by attribute."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iptrec.decode import layouts, netlink
from iptrec.decode.layouts import Layouts
from iptrec.decode.netlink import Attributes, padded

LEAST = np.array([4, 8, 8, 5, 4, 12, 4])  # the last one stands for all higher types


def attribute(kind, size, said=None):
    """One with so many bytes of content; ``said``: what its header says instead of its length."""
    whole = struct.pack("<HH", size + 4 if said is None else said, kind) + bytes(size)
    return whole + bytes(-size & 3)


def buffer(*messages):
    """The words of messages, the first word of each and its length; something is in front."""
    whole = padded([bytes(4), *messages])
    left = np.array([len(one) for one in messages], np.int64)
    word = (4 + np.cumsum(left) - left) >> 2
    return whole.view("<u4"), word, left


def found(at, sound):
    """Where attributes lie in sound messages, by type."""
    return [[at[kind][row].item() for kind in range(len(LEAST))] for row in np.flatnonzero(sound)]


def check(*messages, of=None, known=None):
    """Compare both; ``of``: other lengths of the messages, ``known``: layouts."""
    words, word, left = buffer(*messages)
    left = left if of is None else np.array(of, np.int64)
    known = Layouts(LEAST, (0, 2)) if known is None else known
    at, sound = known.walk(words, word, left)
    expected, expected_sound = netlink.attributes(words, word, left, LEAST)
    assert sound.tolist() == expected_sound.tolist()
    assert found(at, sound) == found(Attributes.of(words, expected), sound)
    return known


PARTS = st.tuples(st.integers(0, 9) | st.just(0x8004), st.integers(0, 9))
SHAPES = st.lists(PARTS, max_size=6)


@given(st.lists(SHAPES, min_size=1, max_size=5), st.data())
def test_messages_are_read_as_in_lockstep(shapes, data):
    """Whatever their attributes are; of each shape come several, one after the other, and some are cut."""
    chosen = data.draw(st.lists(st.sampled_from(shapes), min_size=1, max_size=20))
    messages = [b"".join(attribute(*part) for part in shape) for shape in chosen]
    lengths = [
        max(0, len(one) - data.draw(st.sampled_from([0, 0, 0, 1, 3, 4, 9]))) for one in messages
    ]
    check(*messages, of=lengths)


LAYOUT = attribute(1, 4) + attribute(2, 4)


@pytest.mark.parametrize("last", [attribute(4, size) for size in (0, 1, 4, 9)])
def test_only_the_last_attribute_may_have_another_length(last):
    """One layout for all: what is read of the others is where the first one has it."""
    known = check(LAYOUT + attribute(4, 5), LAYOUT + last, LAYOUT + attribute(4, 5))
    assert len(known._known) == 1


@pytest.mark.parametrize(
    "lying",
    [
        attribute(4, 8, said=13), attribute(4, 8, said=8), attribute(4, 8, said=3), attribute(4, 8, said=0),
        attribute(3, 8), attribute(3, 0), attribute(0x4004, 8), attribute(4, 4) + attribute(4, 0),
    ],
)  # fmt: skip
def test_a_header_that_differs_is_not_taken_for_another(lying):
    """A length that lies, another type, more attributes: the message costs itself and nothing else."""
    check(LAYOUT + attribute(4, 8), LAYOUT + lying, LAYOUT + attribute(4, 8))


@pytest.mark.parametrize(
    "other",
    [
        attribute(1, 4) + attribute(2, 12) + attribute(5, 8),
        attribute(1, 4) + attribute(3, 4) + attribute(5, 16),
        attribute(1, 4) + attribute(0x4002, 4) + attribute(5, 16),
        LAYOUT + attribute(5, 4),
    ],
)
def test_every_header_is_looked_at(other):
    """Also where nothing else proposes another layout; and a last attribute that is too short is not sound."""
    same = LAYOUT + attribute(5, 16)
    check(same, other, same, known=Layouts(LEAST, (0,)))


def test_layouts_that_look_alike_are_told_apart():
    """What proposes a layout is equal in both."""
    one, other = LAYOUT + attribute(3, 4), LAYOUT + attribute(4, 4) + attribute(5, 8)
    assert len(check(*[one, other] * 20)._known) == 2


def test_learnt_layouts_are_known_in_later_blocks(monkeypatch):
    """Walked once, also where blocks are short; and there are no more of them than may be kept."""
    monkeypatch.setattr(layouts, "_BLOCK", 2)
    messages = [LAYOUT + attribute(4, size) + attribute(6, 4) for size in range(0, 40, 4)]
    known = check(*messages, *messages, known=Layouts(LEAST, (0, 4)))
    assert len(known._known) == len(messages)
    monkeypatch.setattr(layouts, "_MOST_LAYOUTS", 3)
    assert len(check(*messages)._known) == 3
    read = []
    monkeypatch.setattr(Layouts, "_read", lambda *words: read.append(words))
    check(*messages, known=known)
    assert read == []


def test_no_more_attributes_than_in_lockstep():
    """64 are sound, 65 are not."""
    messages = [attribute(4, 0) * count for count in (63, 64, 65, 300)]
    check(*messages, *messages)
