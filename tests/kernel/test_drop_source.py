"""The program for kfree_skb: offsets out of types, instructions, and the ring that it writes."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from iptrec.errors import HostError
from iptrec.kernel.bpf import bpf, btf, ring
from iptrec.kernel.bpf.btf import Btf
from iptrec.kernel.drops.program import LAYOUT
from iptrec.kernel.drops.source import DropSource

TEXTS = b"\0skb\0len\0bits\0inner\0reason\0NO\0YES\0int\0deep\0btf_trace_kfree_skb\0"


def name(text):
    return TEXTS.index(b"\0" + text.encode() + b"\0") + 1 if text else 0


def made(*types):
    """Types as the kernel has them: the first is number 1."""
    data = b"".join(struct.pack(f"<{len(one)}I", *one) for one in types)
    head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(data), len(data), len(TEXTS))
    return Btf(head + data + TEXTS)


INT = (name("int"), 1 << 24, 4, 32)
STRUCT, UNION, ENUM, FLAG = 4 << 24, 5 << 24, 6 << 24, 1 << 31


def test_fields():
    """Also of unnamed structures within, and single bits."""
    types = made(
        INT,
        (0, STRUCT | FLAG | 2, 8, name("deep"), 1, 32, name("bits"), 1, 1 << 24 | 13),
        (0, UNION | 1, 8, 0, 2, 0),
        (name("skb"), STRUCT | 2, 24, name("len"), 1, 64, 0, 3, 128),
    )
    assert types.field("skb", "len").byte == 8
    assert types.field("skb", "deep").byte == 20
    bits = types.field("skb", "bits")
    assert (bits.byte, bits.mask) == (17, 1 << 5)
    with pytest.raises(HostError, match="struct skb has no reason"):
        types.field("skb", "reason")
    with pytest.raises(HostError, match="has no len"):
        types.field("len", "len")


def test_enums():
    types = made((name("reason"), ENUM | 2, 4, name("NO"), 0, name("YES"), 7))
    assert types.enum("reason") == {0: "NO", 7: "YES"}
    assert types.enum("skb") == types.enum("nowhere") == {}


@pytest.mark.parametrize("data", [b"", bytes(24), b"\xeb\x9f" + bytes(22)])
def test_what_is_not_types(data):
    with pytest.raises(HostError, match="not BTF"):
        Btf(data)


def test_types_that_nobody_knows_yet_are_a_refusal(monkeypatch, tmp_path):
    """A newer kernel keeps nobody from recording."""
    monkeypatch.setattr(btf, "VMLINUX", tmp_path / "vmlinux")
    for types in (b"", b"\xff" * 90, struct.pack("<4I", 1, 31 << 24 | 9, 0, 0)):
        head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(TEXTS))
        (tmp_path / "vmlinux").write_bytes(head + types + TEXTS)
        with pytest.raises(HostError):
            DropSource(1, 64)
    (tmp_path / "vmlinux").unlink()
    with pytest.raises(HostError, match="the kernel needs CONFIG_DEBUG_INFO_BTF"):
        DropSource(1, 64)


def test_a_kernel_without_reasons_is_not_asked_for_maps(monkeypatch):
    """Before 5.17; before 5.11 it would refuse maps, and rights would be blamed."""
    types = made(
        INT,
        (0, 13 << 24 | 3, 0, 0, 1, 0, 1, 0, 1),
        (0, 2 << 24, 2),
        (name("btf_trace_kfree_skb"), 8 << 24, 3),
    )
    monkeypatch.setattr(Btf, "of_kernel", lambda: types)
    monkeypatch.setattr(bpf, "new_map", lambda *_, **__: pytest.fail("a map"))
    with pytest.raises(HostError, match=r"no reasons of drops: Linux 5\.17"):
        DropSource(1, 64)


def test_jumps():
    """Forward, over instructions of two words, to the next one."""
    code = bpf.assembled(
        [(bpf.EQUAL, 1, 0, "end"), bpf.map_itself(1, 5), (bpf.ALWAYS, 0, 0, "end"), "end", bpf.EXIT]
    )
    offsets = [struct.unpack_from("<h", code, 8 * at + 2)[0] for at in (0, 3)]
    assert offsets == [3, 0]
    assert len(code) == 5 * 8


# ---- the ring, as the kernel writes it

STRIDE, ROOM = 8 + 64 + 64 + 64, 8
RING = STRIDE * ROOM + 40  # a record lies across its end


def numbers():
    return memoryview(bytearray(8)).cast("Q")


class Ring:
    """A source without a kernel."""

    def __init__(self):
        self.bytes = np.zeros(RING + STRIDE, np.uint8)
        self.written = numbers()
        self.lost = np.zeros(1, np.int64)
        self.made = DropSource.__new__(DropSource)
        records = ring.Ring.__new__(ring.Ring)
        for whose, field, value in (
            (self.made, "_snaplen", 64), (self.made, "_secret", np.uint64(0)), (self.made, "_places", {}),
            (self.made, "_told", 0), (self.made, "_lost", self.lost), (self.made, "_records", records),
            (records, "_size", RING), (records, "stride", STRIDE), (records, "bytes", self.bytes),
            (records, "_read_to", numbers()), (records, "_written_to", self.written),
        ):  # fmt: skip
            setattr(whose, field, value)

    def write(self, *, captured=3, place=100, symbol=b"", flags=0, busy=False, taken_back=False):
        head = np.zeros(1, LAYOUT)
        head["captured"], head["place"], head["flags"] = captured, place, flags
        record = struct.pack("<II", busy << 31 | taken_back << 30 | STRIDE - 8, 0) + head.tobytes()
        record += b"p" * 64 + symbol.ljust(64, b"\0")
        at = (self.written[0] + np.arange(STRIDE)) % RING
        self.bytes[at] = np.frombuffer(record, np.uint8)
        self.bytes[RING:] = self.bytes[:STRIDE]  # the first ones once more
        self.written[0] += STRIDE


@pytest.fixture
def filled():
    return Ring()


def test_records_are_cut_to_what_was_captured(filled):
    """Behind it is what was there before, of other packets."""
    filled.write(captured=3)
    filled.write(captured=0)
    found = filled.made.receive()
    assert found.lengths.tolist() == [67, 64]
    assert found.data[64:67] == b"ppp"
    assert len(found.data) == 67 + 64
    assert filled.made.receive() is None


def test_round_and_round(filled):
    """Where the ring begins again, too."""
    seen = 0
    for number in range(5 * ROOM):
        filled.write(captured=number % 60)
        if number % 3 == 2:
            seen += len(filled.made.receive().lengths)
    assert seen == 5 * ROOM - 5 * ROOM % 3


def test_what_is_being_written_is_waited_for(filled):
    filled.write()
    filled.write(busy=True)
    filled.write()
    assert len(filled.made.receive().lengths) == 1
    assert filled.made.receive() is None


def test_what_was_taken_back_is_left_out(filled):
    for taken_back in (True, False, True, True, False, True):
        filled.write(taken_back=taken_back)
    assert len(filled.made.receive().lengths) == 2
    assert filled.made.receive() is None


def test_places_get_numbers(filled):
    """Where they are in the kernel does not leave the host; their symbols do, once."""
    filled.write(place=0xFFFFFFFF81000000, symbol=b"ip_error+0x94/0x2b0", flags=1)
    filled.write(place=0xFFFFFFFF82000000, symbol=b"nft_do+0x1/0x2 [nf_tables]", flags=1)
    filled.write(place=0xFFFFFFFF81000000)
    found = filled.made.receive()
    assert found.places == {1: "ip_error+0x94", 2: "nft_do+0x1 [nf_tables]"}
    places = np.frombuffer(found.data, np.uint8).reshape(3, -1)[:, :64].copy().view(LAYOUT)["place"]
    assert places.ravel().tolist() == [1, 2, 1]


def test_what_found_no_room_is_told_once(filled):
    filled.lost[0] = 5
    assert filled.made.receive().lost == 5
    assert filled.made.receive() is None
