"""Targets of decoders.py that are files as a whole, made of what the fuzzer chooses.

Arbitrary bytes would hardly ever pass the first check of such a file, so most of these are sound ones in
which something was changed. What they may take of memory and time are options of libFuzzer (`BOUNDS`).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sqlite3
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import atheris

with atheris.instrument_imports(include=["iptrec"]):
    from views import MEMORY, look, refused_in_one_line

    from iptrec.answers.expectation import check as judge
    from iptrec.answers.packets import Packets
    from iptrec.answers.selection import Selection
    from iptrec.api import Recording
    from iptrec.cli import check
    from iptrec.cli import index as cache
    from iptrec.packets import window
    from iptrec.recording import private
    from iptrec.recording.reader import Reader
    from iptrec.views import packet_json as as_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Seconds for one input, on a busy machine; MB of the process, to which atheris adds up to 200 KB a run.
BOUNDS = ("-timeout=60", "-rss_limit_mb=4096")
SAMPLES = Path(__file__).parents[1] / "samples"
HAIRPIN = SAMPLES / "docker_hairpin.db"
LOOPBACK = SAMPLES / "loopback.db"
NUMBERS = (
    0, 1, -1, 2, 99, 1 << 31, (1 << 32) - 1, 1 << 53, 1 << 62, (1 << 63) - 1, -1 << 63,
)  # fmt: skip


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="iptrec-fuzz-", dir=MEMORY) as directory:
        yield Path(directory)


def losses(data: bytes) -> None:
    """Rows of losses, snapshots and streams with other values, through every view."""
    chance = atheris.FuzzedDataProvider(data)
    with _directory() as directory:
        path = Path(shutil.copy(HAIRPIN, directory / "recording.db"))
        with contextlib.closing(sqlite3.connect(path)) as database:
            for _ in range(chance.ConsumeIntInRange(1, 6)):
                with contextlib.suppress(sqlite3.Error):  # STRICT, or a reference that is not there
                    _change(chance, database)
            database.commit()
        with refused_in_one_line():
            look(path)


def _change(chance: atheris.FuzzedDataProvider, database: sqlite3.Connection) -> None:
    if chance.ConsumeBool():
        row = [1, *(_value(chance) for _ in range(3)), chance.PickValueInList(HOWS)]
        database.execute(
            "INSERT INTO loss (stream, first_ns, last_ns, events, how) VALUES (?, ?, ?, ?, ?)", row
        )
        return
    table, column = chance.PickValueInList(COLUMNS)
    (rows,) = database.execute(f"SELECT max(id) FROM {table}").fetchone()  # noqa: S608
    database.execute(
        f"UPDATE {table} SET {column} = ? WHERE id = ?",  # noqa: S608 - our own names
        (_value(chance), chance.ConsumeIntInRange(1, max(rows or 1, 1))),
    )


COLUMNS = [
    (table, column)
    for table, columns in {
        "loss": "id stream first_ns last_ns events how",
        "stream": "id namespace kind detail",
        "snapshot": "id namespace kind time_ns after_ns source blob",
        "namespace": "id name inode",
        "recording": "started_ns stopped_ns started_monotonic_ns snaplen closed stop_reason",
    }.items()
    for column in columns.split()
]
HOWS = ["sequence", "enobufs", "truncated", "rules-gone", "logger-switched", "\x1b[2J\u202e"]
DETAILS = [
    "{}", '{"slots": -1}', '{"slots": 1e308, "stamps_ns": 1e308}', '{"sequence": false}',
    '{"ring_s": "\\u001b[2J", "ring_bytes": [9223372036854775808]}', '{"stamps_ns": 99999999999999999999}',
    "nflog", "nftrace", "nftables", "rtnetlink", "conntrack", "links", "iptables-save", "nft", "nft-unknown",
]  # fmt: skip


def _value(chance: atheris.FuzzedDataProvider) -> object:
    kind = chance.ConsumeIntInRange(0, 9)
    if kind < 5:  # noqa: PLR2004
        return chance.PickValueInList(list(NUMBERS))
    if kind < 7:  # noqa: PLR2004
        return chance.ConsumeIntInRange(-1 << 63, (1 << 63) - 1)
    if kind < 8:  # noqa: PLR2004
        return chance.PickValueInList(DETAILS)
    return chance.PickValueInList([None, chance.ConsumeUnicodeNoSurrogates(40)])


class _Measured(tempfile.TemporaryDirectory):  # type: ignore[type-arg]
    """Knows the most that any of them held when it was left."""

    most = 0

    def cleanup(self) -> None:
        sizes = [one.stat().st_size for one in Path(self.name).iterdir()]
        _Measured.most = max(_Measured.most, sum(sizes))
        super().cleanup()

    def __exit__(self, *_: object) -> None:
        self.cleanup()


def compressed(data: bytes) -> None:
    """A recording in .gz, .zst or .zip whose headers lie: little of it on the disk, nothing left behind."""
    chance = atheris.FuzzedDataProvider(data)
    inside = bytearray(HAIRPIN.read_bytes()[: chance.PickValueInList([1 << 20, 4096, 100])])
    if chance.ConsumeBool():
        struct.pack_into(">H", inside, 16, chance.PickValueInList([4096, 1, 512, 32768]))
        struct.pack_into(
            ">I", inside, 28, chance.PickValueInList([9, 1 << 14, 1 << 20, (1 << 32) - 1])
        )
    pack = chance.PickValueInList([_gz, _zst, _zip])
    file = bytearray(pack(bytes(inside), chance.ConsumeIntInRange(0, 8192), chance))
    for _ in range(chance.ConsumeIntInRange(0, 6)):
        head = min(len(file), 64)
        at = chance.ConsumeIntInRange(0, head - 1)
        at = at if chance.ConsumeBool() else len(file) - 1 - at
        file[at] = chance.ConsumeIntInRange(0, 255)
    _Measured.most = 0
    with _directory() as directory:
        path = directory / "attachment"
        path.write_bytes(file)
        with refused_in_one_line(), Reader(path) as reader:
            _ = reader.facts, reader.losses
        assert list(directory.iterdir()) == [path]  # noqa: S101
    assert _Measured.most <= (64 << 20) + 128 * len(file), _Measured.most  # noqa: S101


# Whatever is unpacked lies there while it is looked at.
_TEMPORARY = {"TemporaryDirectory": _Measured, "tempdir": MEMORY}
private.tempfile = type("Temporary", (), _TEMPORARY)  # type: ignore[attr-defined]
tempfile.tempdir = MEMORY
_UNIT = 128 << 10  # bytes: what a block of zstd may hold


def _zst(inside: bytes, zeros: int, chance: atheris.FuzzedDataProvider) -> bytes:
    """One frame: blocks as they are, then ``zeros`` blocks that say "this byte so many times" (RFC 8878)."""
    blocks = [inside[at : at + _UNIT] for at in range(0, len(inside), _UNIT)]
    raw = b"".join((len(one) << 3).to_bytes(3, "little") + one for one in blocks)
    run = (_UNIT << 3 | 2).to_bytes(3, "little") + b"\0"
    window = chance.PickValueInList([0x70, 0x38, 0x88, 0xFF])
    frame = b"\x28\xb5\x2f\xfd\0" + bytes([window]) + raw + run * zeros + b"\1\0\0"
    return frame * chance.PickValueInList([1, 1, 2])


def _deflated(inside: bytes, zeros: int) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    head = packer.compress(inside) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + _ZEROS * zeros + b"\x03\0"


def _zeros() -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(bytes(_UNIT)) + packer.flush(zlib.Z_FULL_FLUSH)


_ZEROS = _zeros()


def _gz(inside: bytes, zeros: int, chance: atheris.FuzzedDataProvider) -> bytes:
    length = len(inside) + zeros * _UNIT
    crc = zlib.crc32(inside) if not zeros else 0
    member = b"\x1f\x8b\x08\0\0\0\0\0\0\3" + _deflated(inside, zeros)
    member += struct.pack("<II", crc, length & 0xFFFFFFFF)
    return member * chance.PickValueInList([1, 1, 2])


def _zip(inside: bytes, zeros: int, chance: atheris.FuzzedDataProvider) -> bytes:
    """Members that are stored, but said to be deflated, and said to be as long as the fuzzer likes."""
    size = chance.PickValueInList([len(inside) + zeros * _UNIT, len(inside), (1 << 32) - 1, 0])
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("trace.db", _deflated(inside, zeros))
        for number in range(chance.PickValueInList([0, 0, 0, 1, 3000])):
            archive.writestr(f"{number}/", b"")
    found = bytearray(file.getvalue())
    central = found.index(b"PK\1\2")
    for start, method, length in ((0, 8, 22), (central, 10, 24)):
        struct.pack_into("<H", found, start + method, chance.PickValueInList([8, 8, 0, 14, 12]))
        struct.pack_into("<I", found, start + length, size & 0xFFFFFFFF)
    return bytes(found)


WORDS = [
    "[[expect]]\n", "name = ", "filter = ", "verdict = ", "count = ", "max = ", "iface = ", "since = ", "x = ",
    '"""', '"', "\n", "tcp", " and ", " or ", "not ", "(", ")", "port 53", "portrange 1-65535",
    "net 10.0.0.0/8", "ip[0]", " & 1", " = 0", " + ", "host 10.0.0.1", "protochain 6", "a.", "[", "]", "{", "}",
    ",", "=", "1", "DROP", 'filter = "udp port 53"\n', 'verdict = "DROP"\n',
]  # fmt: skip


def expectations(data: bytes) -> None:
    """A file of expectations: words, some many times, judged of a recording."""
    chance = atheris.FuzzedDataProvider(data)
    parts: list[str] = []
    while chance.remaining_bytes() and len(parts) < 200:  # noqa: PLR2004
        some = [chance.PickValueInList(WORDS) for _ in range(chance.ConsumeIntInRange(1, 3))]
        times = 1 << chance.ConsumeIntInRange(0, 16) if chance.ConsumeIntInRange(0, 3) == 0 else 1
        parts.append("".join(some) * times)
    text = "".join(parts)[: 1 << 20].encode()
    with _directory() as directory, refused_in_one_line(), Recording(Reader(HAIRPIN)) as one:
        path = directory / "expectations.toml"
        path.write_bytes(text or data)
        judge(one.rows, check._read(one, str(path)))  # noqa: SLF001


KEY = "00" * 32


class _Remembered:
    """What a recording answers without bookmarks, and the file of them that it makes."""

    def __init__(self) -> None:
        cache._FEWEST = 1  # noqa: SLF001
        cache._key = lambda _: KEY  # type: ignore[assignment]  # noqa: SLF001
        window.WINDOW_EVENTS = 20  # type: ignore[misc]
        with Reader(LOOPBACK) as reader:
            found = list(Packets(reader))
        self.lines = [as_json.line(one) for one in found]
        self.times = [one.time_ns for one in found]
        with _cache() as file:
            _answer(Selection())
            self.content = file.read_bytes()


_remembered: list[_Remembered] = []


@contextlib.contextmanager
def _cache() -> Iterator[Path]:
    """An empty cache, and where the bookmarks are in it."""
    with _directory() as directory:
        os.environ["XDG_CACHE_HOME"] = str(directory)
        yield directory / "iptrec" / f"{KEY}.json"


def _answer(selection: Selection) -> list[str]:
    """What `show --json` prints."""
    with Reader(LOOPBACK) as reader, cache.remembered(reader) as found:
        return [as_json.line(one) for one in Packets(reader, selection, found)]


def bookmarks(data: bytes) -> None:
    """Any bytes as a recording's bookmarks: every answer is the one that it gives without them."""
    if not _remembered:
        _remembered.append(_Remembered())
    (known,) = _remembered
    chance = atheris.FuzzedDataProvider(data)
    with _cache() as file:
        file.parent.mkdir(mode=0o700)
        file.write_bytes(chance.PickValueInList([_bytes, _numbers, _deep])(chance, known.content))
        file.chmod(0o600)
        number = chance.ConsumeIntInRange(1, len(known.lines))
        assert _answer(Selection(number=number)) == [known.lines[number - 1]]  # noqa: S101
        since = known.times[number - 1]
        expected = [line for line, at in zip(known.lines, known.times, strict=True) if at >= since]
        assert _answer(Selection(since_ns=since)) == expected  # noqa: S101


def _bytes(chance: atheris.FuzzedDataProvider, content: bytes) -> bytes:
    if chance.ConsumeIntInRange(0, 3) == 0:
        return bytes(chance.ConsumeBytes(4096))
    changed = bytearray(content)
    for _ in range(chance.ConsumeIntInRange(1, 4)):
        changed[chance.ConsumeIntInRange(0, len(changed) - 1)] = chance.ConsumeIntInRange(0, 255)
    return bytes(changed[: chance.PickValueInList([1 << 20, 100, len(changed) - 1])])


def _numbers(chance: atheris.FuzzedDataProvider, content: bytes) -> bytes:
    """Well-formed, with other numbers."""
    head, mark, text = content.partition(b"\n")
    value = json.loads(text)
    places = list(_places(value))
    for _ in range(chance.ConsumeIntInRange(1, 3)):
        holder, key = chance.PickValueInList(places)
        old = holder[key]
        if isinstance(old, int) and chance.ConsumeBool():
            holder[key] = old + chance.ConsumeIntInRange(-5, 5)
        else:
            holder[key] = chance.PickValueInList([*NUMBERS, 1e400, 0.5, None, [], "x", 1 << 70])
    return head + mark + json.dumps(value, separators=(",", ":")).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:  # noqa: ANN401 - JSON
    for key in value if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def _deep(chance: atheris.FuzzedDataProvider, content: bytes) -> bytes:
    head, mark, _ = content.rpartition(b"\n")
    return (
        head
        + mark
        + chance.PickValueInList([b"[", b'{"a":']) * (1 << chance.ConsumeIntInRange(0, 18))
    )


TARGETS: tuple[Callable[[bytes], None], ...] = (losses, compressed, expectations, bookmarks)
