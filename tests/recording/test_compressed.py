"""Recordings as they come from a bug tracker."""

from __future__ import annotations

import gzip
import io
import resource
import struct
import tempfile
import zipfile
from pathlib import Path

import pytest
import zstandard

from iptrec.errors import RecordingError
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


def test_a_bomb_is_noticed_early(tmp_path):
    """A recording's first page and then zeros without end: refused at the size that the page tells."""
    compressor = zstandard.ZstdCompressor(level=19).compressobj()
    data = compressor.compress(header())
    zeros = bytes(1 << 24)
    for _ in range(64):  # one GiB
        data += compressor.compress(zeros)
    data += compressor.flush()
    path = tmp_path / "bomb"
    path.write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RecordingError, match="more than a recording"):
        Reader(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10  # KiB
