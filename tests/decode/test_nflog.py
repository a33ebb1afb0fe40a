"""Columns out of nfnetlink_log datagrams: real ones, odd ones, hostile ones."""

import json
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iptrec.decode import netlink, nflog
from iptrec.errors import RecordingError

# Datagrams of a 6.18 kernel and what each says, one a line.
CAPTURED = json.loads(Path(__file__).with_name("nflog_datagrams.json").read_text())
REAL = [bytes.fromhex(captured["datagram"]) for captured in CAPTURED]
NUMBERS = (
    *("stamp_ns", "seq", "family", "hook", "protocol", "mark", "uid", "gid", "conntrack"),
    *("indev", "outdev", "physindev", "physoutdev"),
)


def attribute(kind, value, length=None):
    """Build an attribute; ``length`` is what it claims, when that is not the truth."""
    size = 4 + len(value)
    return struct.pack("<HH", size if length is None else length, kind) + value + bytes(-size % 4)


def message(*attributes, kind=0x0400, family=2, length=None):
    """Build a packet message (or one of another ``kind``)."""
    body = struct.pack("<BBH", family, 0, 0) + b"".join(attributes)
    size = 16 + len(body)
    return struct.pack("<IHHII", size if length is None else length, kind, 0, 0, 0) + body


DONE, NOOP, ERROR = (message(kind=kind) for kind in (3, 1, 2))


def decode(datagrams):
    """Decode datagrams received at 1000, 1001, ..."""
    lengths = np.array([len(datagram) for datagram in datagrams], np.uint32)
    return nflog.decode(b"".join(datagrams), lengths, np.arange(len(datagrams)) + 1000)


def rows(events):
    """Return the events as dictionaries, with bytes in place of offsets."""
    cut = events.buffer.tobytes()

    def piece(start, length):
        assert (start >= 0 and start + length <= len(cut)) or (start, length) == (-1, 0)
        return None if start < 0 else cut[start : start + length]

    return [
        {
            "datagram": int(events.datagram[i]),
            "received_ns": int(events.received_ns[i]),
            **{name: int(getattr(events, name)[i]) for name in NUMBERS},
            "prefix": events.sites[events.site[i]] if events.site[i] >= 0 else None,
            "payload": piece(int(events.payload[i]), int(events.payload_length[i])),
            "link": piece(int(events.link[i]), int(events.link_length[i])),
        }
        for i in range(len(events))
    ]


class UnsoundError(Exception):
    """The reference decoder's way to give up on a message."""


@dataclass
class Reference:
    """One datagram decoded slowly and obviously."""

    events: list
    undecoded: bool


def attributes(data, least):
    """Return type -> value of the last attribute of each type."""
    found, at, count = {}, 0, 0
    while at < len(data):
        count += 1
        if count > 64 or at + 4 > len(data):
            raise UnsoundError
        length, kind = struct.unpack_from("<HH", data, at)
        kind &= 0x3FFF
        if not max(4, 4 + least.get(kind, 0)) <= length <= len(data) - at:
            raise UnsoundError
        found[kind] = data[at + 4 : at + length]
        at += (length + 3) & ~3
    return found


def packet(data):
    """Decode one packet message."""
    least = dict.fromkeys((1, 2, 4, 5, 6, 7, 11, 12, 14), 4) | {3: 16}
    found = attributes(data[20:], least)
    if len(found.get(10, b"")) > 128:
        raise UnsoundError
    nested = attributes(found[18], {12: 4}) if 18 in found else {}

    def number(kind, missing, among=found):
        return int.from_bytes(among[kind][:4], "big") if kind in among else missing

    seconds, microseconds = struct.unpack_from(">QQ", found.get(3, bytes(16)))
    fits = seconds < 2**32 and microseconds < 2**32
    return {
        "stamp_ns": seconds * 10**9 + microseconds * 1000 if fits else 0,
        "seq": number(12, -1),
        "family": data[16],
        "hook": found[1][2] if 1 in found else 255,
        "protocol": number(1, 0) >> 16,
        "mark": number(2, 0),
        "uid": number(11, -1),
        "gid": number(14, -1),
        "conntrack": number(12, -1, nested),
        "indev": number(4, 0),
        "outdev": number(5, 0),
        "physindev": number(6, 0),
        "physoutdev": number(7, 0),
        "prefix": found[10].removesuffix(b"\0") if 10 in found else None,
        "payload": found.get(9),
        "link": found.get(16),
    }


def reference(datagram):
    """Decode one datagram."""
    result = Reference([], undecoded=not datagram)
    at = count = 0
    while at < len(datagram):
        count += 1
        if count > 256 or at + 16 > len(datagram):
            result.undecoded = True
            break
        length, kind = struct.unpack_from("<IH", datagram, at)
        if not 16 <= length <= len(datagram) - at:
            result.undecoded = True
            break
        if kind == 3:
            break
        if kind == 0x0400 and length >= 20:
            try:
                result.events.append(packet(datagram[at : at + length]))
            except UnsoundError:
                result.undecoded = True
        elif kind != 1:
            result.undecoded = True
        at += (length + 3) & ~3
    return result


def assert_as_reference(datagrams):
    """Compare a chunk's decoding with those of its datagrams one at a time."""
    references = [reference(datagram) for datagram in datagrams]
    events = decode(datagrams)
    assert rows(events) == [
        {"datagram": i, "received_ns": 1000 + i, **event}
        for i, each in enumerate(references)
        for event in each.events
    ]
    assert events.undecoded.tolist() == [i for i, each in enumerate(references) if each.undecoded]
    assert len(set(events.sites)) == len(events.sites)


@pytest.mark.parametrize("captured", CAPTURED, ids=lambda captured: captured["scene"])
def test_captured_datagram_means(captured):
    """A real datagram says what the scene that made it was."""
    expected = dict(captured["event"])
    events = decode([bytes.fromhex(captured["datagram"])])
    assert events.sites == [expected.pop("prefix").encode()]
    assert events.site.tolist() == [0]
    assert {name: getattr(events, name).tolist() for name in expected} == {
        name: [value] for name, value in expected.items()
    }
    assert events.undecoded.tolist() == []


def test_columns_have_the_promised_types():
    """Callers put columns into fixed places: their types do not depend on what is present."""
    types = {
        **dict.fromkeys(("datagram", "received_ns", "stamp_ns", "seq", "payload", "link"), "int64"),
        **dict.fromkeys(("uid", "gid", "conntrack", "undecoded"), "int64"),
        **dict.fromkeys(("mark", "indev", "outdev", "physindev", "physoutdev"), "uint32"),
        **dict.fromkeys(("site", "payload_length", "link_length"), "int32"),
        **dict.fromkeys(("family", "hook", "buffer"), "uint8"),
        "protocol": "uint16",
    }
    for datagrams in ([], [message()], [b"bad"], REAL):
        events = decode(datagrams)
        assert {name: str(getattr(events, name).dtype) for name in types} == types


@pytest.mark.parametrize(
    ("attributes", "field", "value"),
    [
        ([], "mark", 0),
        ([], "seq", -1),
        ([], "hook", 255),
        ([], "prefix", None),
        ([], "payload", None),
        ([attribute(1, b"\x86\xdd\x04\x00")], "protocol", 0x86DD),
        ([attribute(1, b"\x86\xdd\x04\x00")], "hook", 4),
        ([attribute(2, b"\xff\xff\xff\xfe")], "mark", 0xFFFFFFFE),
        ([attribute(0x8002, b"\0\0\0\1")], "mark", 1),
        ([attribute(0x4002, b"\0\0\0\1")], "mark", 1),
        ([attribute(2, b"\0\0\0\1"), attribute(2, b"\0\0\0\2")], "mark", 2),
        ([attribute(999, b"new"), attribute(2, b"\0\0\0\1")], "mark", 1),
        ([attribute(12, b"\xff\xff\xff\xff")], "seq", 2**32 - 1),
        ([attribute(11, bytes(4))], "uid", 0),
        ([attribute(3, struct.pack(">QQ", 2**32 - 1, 999999))], "stamp_ns", 4294967295999999000),
        ([attribute(3, struct.pack(">QQ", 2**32, 0))], "stamp_ns", 0),
        ([attribute(3, struct.pack(">QQ", 1, 2**32))], "stamp_ns", 0),
        ([attribute(9, b"")], "payload", b""),
        ([attribute(9, b"12345")], "payload", b"12345"),
        ([attribute(16, b"")], "link", b""),
        ([attribute(10, b"")], "prefix", b""),
        ([attribute(10, b"\0")], "prefix", b""),
        ([attribute(10, b"x\0\0")], "prefix", b"x\0"),
        ([attribute(10, b"x" * 127 + b"\0")], "prefix", b"x" * 127),
        ([attribute(10, b"x" * 128)], "prefix", b"x" * 128),
        ([attribute(0x8012, attribute(12, b"\xde\xad\xbe\xef"))], "conntrack", 0xDEADBEEF),
        ([attribute(18, attribute(3, bytes(4)) + attribute(12, b"\0\0\0\1"))], "conntrack", 1),
        ([attribute(18, attribute(3, bytes(4)))], "conntrack", -1),
        ([attribute(18, b"")], "conntrack", -1),
        ([attribute(2, b"\0\0\0\1")] * 64, "mark", 1),
    ],
)
def test_attributes_mean(attributes, field, value):
    """What the captured messages happen not to hold is read as the kernel headers say."""
    events = decode([message(*attributes)])
    assert events.undecoded.tolist() == []
    assert [row[field] for row in rows(events)] == [value]


@pytest.mark.parametrize(
    "unsound",
    [
        b"",
        b"\x10",
        bytes(15),
        bytes(16),
        message()[:19],
        message(length=19),
        message(length=15),
        message(length=24),
        message(length=2**32 - 1),
        message(kind=0x0401),
        ERROR,
        message(attribute(9, b"12345678", length=13)),
        message(attribute(9, b"1234", length=3)),
        message(attribute(9, b"1234", length=0)),
        message(attribute(2, b"\0\0\0", length=7)),
        message(attribute(3, bytes(15))),
        message(attribute(10, b"x" * 129)),
        message(attribute(9, b"1234"), b"\0"),
        message(attribute(18, attribute(12, bytes(3)))),
        message(attribute(18, attribute(12, bytes(4), length=9))),
        message(attribute(18, b"\x04")),
        message(attribute(18, attribute(1, b"") * 65)),
        message(attribute(2, b"\0\0\0\1") * 65),
        message(attribute(0, b"") * 1_000_000),
        REAL[0][:-1],
        REAL[0][:-4],
    ],
    ids=range(26),
)
def test_unsound_datagram_is_named_and_costs_no_other(unsound):
    """What lies about a length, or is no packet, is listed; its neighbours are not harmed."""
    events = decode([REAL[0], unsound, REAL[1]])
    assert events.datagram.tolist() == [0, 2]
    assert events.undecoded.tolist() == [1]
    assert [row["payload"] for row in rows(events)] == [REAL[0][96:180], REAL[1][100:184]]


@pytest.mark.parametrize(
    ("datagram", "marks", "undecoded"),
    [
        ([1, 2, 3], [1, 2, 3], False),
        ([1, 2, DONE], [1, 2], False),
        ([1, DONE, 2], [1], False),
        ([1, NOOP, 2], [1, 2], False),
        ([DONE], [], False),
        ([1, ERROR, 2], [1, 2], True),
        ([1, message(attribute(2, b"")), 2], [1, 2], True),
        ([1, bytes(16), 2], [1], True),
        ([1, b"\0\0\0\0"], [1], True),
        ([1] * 256, [1] * 256, False),
        ([1] * 257, [1] * 256, True),
    ],
    ids=range(11),
)
def test_datagram_of_many_messages(datagram, marks, undecoded):
    """Messages come in their order; sound ones count even beside unsound ones."""
    marked = b"".join(
        part if isinstance(part, bytes) else message(attribute(2, part.to_bytes(4, "big")))
        for part in datagram
    )
    events = decode([REAL[0], marked, REAL[1]])
    assert events.mark.tolist() == [0, *marks, 0]
    assert events.datagram.tolist() == [0, *[1] * len(marks), 2]
    assert events.undecoded.tolist() == [1] * undecoded


def test_chunk_of_many_blocks():
    """A chunk longer than a block decodes as its datagrams do."""
    assert_as_reference([REAL[i % len(REAL)] for i in range(2 * nflog._BLOCK + 1)])


def test_equal_hashes_are_not_equal_prefixes(monkeypatch):
    """Prefixes are told apart by their bytes, however badly the hash does."""
    monkeypatch.setattr(netlink, "_HASH_FACTORS", np.zeros_like(netlink._HASH_FACTORS))
    odd = [b"", b"\0\0", b"x", b"x\0\0", b"x\0\0\0", b"y" * 127, b"y" * 128]
    assert_as_reference([*REAL, *(message(attribute(10, prefix)) for prefix in odd), *REAL])


def test_prefixes_that_differ_in_zeros_only():
    """Only one NUL ends a prefix; more of them belong to it."""
    events = decode([message(attribute(10, b"x" + bytes(n))) for n in (0, 1, 2, 3, 2, 0)])
    assert [events.sites[i] for i in events.site] == [
        *(b"x", b"x", b"x\0", b"x\0\0", b"x\0", b"x"),
    ]
    assert len(events.sites) == 3


def test_bytes_behind_a_prefix_do_not_tell_it_apart():
    """What fills an attribute up to 4 bytes is no part of it."""
    plain = message(attribute(10, b"x"))
    events = decode([plain, plain[:-3] + b"abc"])
    assert events.site.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("data", "lengths", "received"),
    [(b"1234", [3], 1), (b"1234", [4, 1], 2), (b"1234", [], 0), (b"1234", [4], 2)],
)
def test_lengths_that_do_not_fit_are_refused(data, lengths, received):
    """A chunk whose columns contradict each other is damage, said in one line."""
    with pytest.raises(
        RecordingError, match=r"^chunk of datagrams: .+ do not belong together; .+$"
    ):
        nflog.decode(data, np.array(lengths, np.uint32), np.zeros(received, np.int64))


def test_take_selects_events():
    """Numbers and masks select rows; buffer and prefixes stay."""
    events = decode(REAL)
    assert rows(events.take(np.array([3, 0, 3]))) == [rows(events)[i] for i in (3, 0, 3)]
    assert rows(events.take(events.hook == 1)) == [row for row in rows(events) if row["hook"] == 1]
    assert len(events.take(slice(2, 5))) == 3


KINDS = st.integers(0, 21) | st.integers(0, 0xFFFF)
VALUES = st.binary(max_size=20) | st.sampled_from([bytes(4), bytes(16), b"x" * 127 + b"\0"])
ATTRIBUTES = st.builds(attribute, KINDS, VALUES) | st.builds(
    attribute, KINDS, VALUES, length=st.integers(0, 40)
)
NESTED = st.builds(
    lambda inner: attribute(0x8012, b"".join(inner)), st.lists(ATTRIBUTES, max_size=4)
)
MESSAGES = st.builds(
    lambda parts, kind, length: message(*parts, kind=kind, length=length),
    st.lists(ATTRIBUTES | NESTED, max_size=6),
    st.sampled_from([0x0400, 0x0400, 0x0400, 0x0401, 1, 2, 3]),
    st.none() | st.none() | st.integers(0, 100),
)


@st.composite
def mutated(draw):
    """Return a real datagram with bytes overwritten and perhaps its end cut or continued."""
    datagram = bytearray(draw(st.sampled_from(REAL)))
    for _ in range(draw(st.integers(0, 4))):
        # the headers of the message and of its first attributes are where it hurts
        at = draw(st.integers(0, 60) | st.integers(0, len(datagram) - 1))
        datagram[at] = draw(st.integers(0, 255))
    return bytes(datagram[: draw(st.just(None) | st.integers(0, 300))]) + draw(
        st.just(b"") | st.binary(max_size=40)
    )


@given(
    st.lists(
        st.sampled_from(REAL)
        | mutated()
        | st.builds(b"".join, st.lists(MESSAGES, max_size=4))
        | st.binary(max_size=80),
        max_size=12,
    )
)
def test_chunk_decodes_as_its_datagrams_one_by_one(datagrams):
    """No bytes raise or lead out of the chunk, and lockstep equals the plain loop."""
    assert_as_reference(datagrams)
