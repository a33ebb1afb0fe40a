"""Recordings as they come from a bug tracker."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import resource
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path

import pytest
import zstandard

from iptrec.errors import RecordingError
from iptrec.recording import compressed, private
from iptrec.recording.reader import Reader

SAMPLE = Path(__file__).parents[2] / "samples" / "loopback.db"


def zipped(*members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return file.getvalue()


PACKED = {
    "gz": gzip.compress,
    "zst": zstandard.ZstdCompressor().compress,
    "zip": lambda data: zipped(("trace/", b""), ("trace/trace.db", data)),
}


def content(path):
    with Reader(path) as reader:
        return (
            reader.facts, reader.streams, list(reader.snapshots()),
            [chunk.data for chunk in reader.chunks()], reader.datagrams,
        )  # fmt: skip


@pytest.mark.parametrize("how", PACKED)
def test_read_as_if_it_were_not_compressed(how, tmp_path, monkeypatch):
    """Whatever its name; and nothing stays in the directory for temporary files, even while it is open."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    path = tmp_path / "attachment"
    path.write_bytes(PACKED[how](SAMPLE.read_bytes()))
    assert content(path) == content(SAMPLE)
    with Reader(path) as reader:
        assert list((tmp_path / "tmp").iterdir()) == []
        assert reader.facts.closed


def test_a_recording_among_other_files(tmp_path):
    """As `iptrec pack` makes it, whatever their names say and whatever they are: nothing else is unpacked."""
    path = tmp_path / "pack.zip"
    others = (("report.html", bytes(1 << 24)), ("../../etc/passwd", b"x"), ("/etc/shadow", b"x"))
    path.write_bytes(zipped(*others, ("../../recording.db", SAMPLE.read_bytes())))
    assert content(path) == content(SAMPLE)
    assert {one.name for one in tmp_path.iterdir()} == {"pack.zip"}


def header(**changes):
    data = bytearray(SAMPLE.read_bytes()[:4096])
    for at, (code, value) in changes.values():
        struct.pack_into(code, data, at, value)
    return bytes(data)


REFUSED = {
    "text": (gzip.compress(b"hello" * 100), "holds no iptrec recording"),
    "another database": (gzip.compress(header(id=(68, (">I", 1)))), "holds no iptrec recording"),
    "zeros": (gzip.compress(bytes(1 << 20)), "holds no iptrec recording"),
    "cut": (gzip.compress(SAMPLE.read_bytes())[:-2000], "cannot be unpacked"),
    "two": (zipped(("a", b"1"), ("b", b"2")), "holds 2 files"),
    "two recordings": (zipped(("a.db", b"1"), ("b.db", b"2")), "holds 2 recordings"),
    "a pack without": (zipped(("why.md", b""), ("x.db", b"no")), "holds no iptrec recording"),
    "none": (zipped(("a/", b"")), "holds 0 files"),
    "no zip": (b"PK\x03\x04" + bytes(100), "cannot be unpacked"),
    "no zstd": (b"\x28\xb5\x2f\xfd" + b"\xff" * 100, "cannot be unpacked"),
    "more": (gzip.compress(SAMPLE.read_bytes() + b"x"), "holds more than a recording"),
    "nested": (gzip.compress(gzip.compress(SAMPLE.read_bytes())), "holds no iptrec recording"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case, tmp_path):
    """One line that names the file."""
    data, said = REFUSED[case]
    path = tmp_path / "x.db"
    path.write_bytes(data)
    with pytest.raises(RecordingError) as error:
        Reader(path)
    assert said in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def bomb(**changes):
    """A recording's first page and then a GiB of zeros."""
    compressor = zstandard.ZstdCompressor(level=19).compressobj()
    data = compressor.compress(header(**changes))
    zeros = bytes(1 << 24)
    for _ in range(64):
        data += compressor.compress(zeros)
    return data + compressor.flush()


def deflated_bomb():
    """The same by deflate: 128 KiB of zeros packed once, and that again and again."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = packer.compress(header(pages=ENDLESS)) + packer.flush(zlib.Z_FULL_FLUSH)
    zeros = packer.compress(bytes(1 << 17)) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + zeros * 8192 + b"\3\0"


def zipped_bomb():
    """A member that is as small as it needs to be, and said to be deflated."""
    data = bytearray(zipped(("trace.db", b"")))
    packed = deflated_bomb()
    size = struct.pack("<II", len(packed), 1 << 30)
    name = data.index(b"trace.db")
    local, central = (
        data[:name],
        data[name + 10 : data.index(b"PK\5\6")],
    )  # behind 2 bytes of deflate
    local[18:26] = central[20:28] = size
    end = data[data.index(b"PK\5\6") :]
    struct.pack_into("<I", end, 16, len(local) + 8 + len(packed))
    return bytes(local + b"trace.db" + packed + central + end)


ENDLESS = (28, (">I", (1 << 32) - 1))
BOMBS = {
    "honest header": (bomb, "holds more than a recording"),
    "zst": (lambda: bomb(pages=ENDLESS), "claims to hold a recording of 17,592,186,040,320"),
    "gz": (
        lambda: b"\x1f\x8b\x08\0\0\0\0\0\0\3" + deflated_bomb() + bytes(8),
        "claims to hold",
    ),
    "zip": (zipped_bomb, "claims to hold"),
}


@pytest.fixture
def unpacked_bytes(monkeypatch):
    """The sizes of the files that were unpacked, as they were when these went."""
    sizes = []
    nameless = private.nameless

    @contextlib.contextmanager
    def watched():
        with nameless() as file:
            try:
                yield file
            finally:
                file.flush()
                sizes.append(os.fstat(file.fileno()).st_size)

    monkeypatch.setattr(private, "nameless", watched)
    return sizes


@pytest.mark.parametrize("case", BOMBS)
def test_a_bomb_is_noticed_early(case, tmp_path, unpacked_bytes):
    """Whatever size the first page declares: refused with less than a piece on the disk."""
    make, said = BOMBS[case]
    path = tmp_path / "bomb"
    path.write_bytes(make())
    assert path.stat().st_size < 2 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RecordingError, match=said):
        Reader(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10  # KiB
    assert sum(unpacked_bytes) <= 1 << 20


def test_a_plausible_bomb_is_small(tmp_path, unpacked_bytes):
    """One that declares no more than is possible of so few bytes makes no more on the disk than that."""
    path = tmp_path / "bomb"
    path.write_bytes(bomb(pages=(28, (">I", (64 << 20) // 4096))))
    with pytest.raises(RecordingError, match="holds more than a recording"):
        Reader(path)
    assert 63 << 20 < sum(unpacked_bytes) <= 64 << 20


def test_half_of_what_is_free_is_left(tmp_path, monkeypatch):
    """The directory for temporary files may be memory; the message says what can be done."""
    path = tmp_path / "t.gz"
    path.write_bytes(gzip.compress(SAMPLE.read_bytes()))
    free = os.statvfs_result((4096, 4096, 100, 20, 17, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: free)
    with pytest.raises(RecordingError, match=r"has not twice that free: set TMPDIR to a directory"):
        Reader(path)
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((*free[:4], 18, *free[5:])))
    assert content(path) == content(SAMPLE)


def test_recordings_of_equal_packets_are_not_taken_for_bombs():
    """The most that an honest recording was ever compressed, beyond what any file may hold."""
    assert compressed._RATIO > 113.7


def test_several_frames_are_one_recording(tmp_path):
    """As pzstd and `cat a.zst b.zst` make them; members of gzip, too."""
    data = SAMPLE.read_bytes()
    for name in ("zst", "gz"):
        path = tmp_path / name
        path.write_bytes(PACKED[name](data[:5000]) + PACKED[name](data[5000:]))
        assert content(path) == content(SAMPLE)


def long_list():
    """A list of members, most of them directories, that is longer than the recording."""
    return zipped(*((f"{number}/", b"") for number in range(25_000)), ("t.db", SAMPLE.read_bytes()))


def said_size(data, size):
    """What the end of a zip says of its list of members."""
    changed = bytearray(data)
    struct.pack_into("<I", changed, data.rindex(b"PK\5\6") + 12, size)
    return bytes(changed)


def method(data, number):
    changed = bytearray(data)
    local = data.index(b"PK\3\4", 4)  # behind the directory's
    central = data.rindex(b"PK\1\2")
    struct.pack_into("<H", changed, local + 8, number)
    struct.pack_into("<H", changed, central + 10, number)
    return bytes(changed)


def no_text(data):
    """A name that is said to be UTF-8."""
    central = data.rindex(b"PK\1\2")
    changed = bytearray(data)
    changed[central + 9] |= 8
    changed[central + 46] = 0xFF
    return bytes(changed)


def encrypted(data):
    """Said to be; nobody has a password."""
    changed = bytearray(data)
    changed[data.rindex(b"PK\1\2") + 8] |= 1
    return bytes(changed)


def no_name(data):
    """What was its one letter is something extra."""
    central = data.rindex(b"PK\1\2")
    changed = bytearray(data)
    changed[central + 28], changed[central + 30] = 0, 1
    return bytes(changed)


def packed_zip():
    return PACKED["zip"](SAMPLE.read_bytes())


ZIPS = {
    "many members": (long_list, "its list of files is too long"),
    "a list of 4 GB": (lambda: said_size(packed_zip(), (1 << 32) - 2), "cannot be unpacked"),
    "lzma": (lambda: method(packed_zip(), 14), "rare method"),
    "unknown method": (lambda: method(packed_zip(), 77), "rare method"),
    "encrypted": (
        lambda: encrypted(packed_zip()),
        "cannot be unpacked: it is encrypted; unpack it first",
    ),
    "cut": (lambda: packed_zip()[:-30], "cannot be unpacked"),
    "no name": (lambda: no_name(zipped(("a", b"1"))), "cannot be unpacked"),
    "a name that is no text": (lambda: no_text(packed_zip()), "cannot be unpacked"),
}


@pytest.mark.parametrize("case", ZIPS)
def test_zips_that_lie(case, tmp_path):
    """One line, and no memory for what only the list of members says."""
    make, said = ZIPS[case]
    path = tmp_path / "x.zip"
    path.write_bytes(make())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RecordingError) as error:
        Reader(path)
    assert said in str(error.value)
    assert str(error.value).isprintable()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB
