"""What a file is, by its first bytes or lines, and the source that it makes."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
from itertools import chain
from typing import IO, TYPE_CHECKING, Final, NamedTuple

from iptrec.errors import RecordingError, strerror
from iptrec.names import counted
from iptrec.pasted.kernel_log import KernelLog
from iptrec.pasted.lines import lines
from iptrec.pasted.nft_traces import NftMonitor, XtablesMonitor
from iptrec.pasted.sources import Given
from iptrec.pcap.capture import Capture, open_to_read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from iptrec.pasted.sources import Source, Text

TEXTS: Final[tuple[Text, ...]] = (KernelLog(), NftMonitor(), XtablesMonitor())
CAPTURE: Final = "capture"
KINDS: Final = (CAPTURE, *(one.name for one in TEXTS))
_HEAD: Final = 8  # bytes
_COPIED: Final = 1 << 16  # bytes at once
# The first bytes of pcap, in both byte orders, of its variants, and of pcapng
_CAPTURES: Final = tuple(
    bytes.fromhex(one)
    for one in ("a1b2c3d4", "d4c3b2a1", "a1b23c4d", "4d3cb2a1", "a1b2cd34", "34cdb2a1", "0a0d0d0a")
)
# What people have in a file of such a name, and what to do with it
_OTHERS: Final = {
    b"SQLite f": "is a SQLite database; iptrec show reads it if it is a recording",
    b"\x1f\x8b": "is compressed; give it to zcat: zcat FILE | iptrec import -",
    b"\x28\xb5\x2f\xfd": "is compressed; give it to zstdcat: zstdcat FILE | iptrec import -",
    b"\xfd7zXZ": "is compressed; give it to xzcat: xzcat FILE | iptrec import -",
    b"LPKSHHRH": "is a journal; journalctl reads it: journalctl --file FILE -k | iptrec import -",
}
_MARKS: Final = (
    b"TRACE: ",
    b"PACKET: ",
    b"trace id ",
)  # of a kind of text; few other lines have one
_NO_EVENTS: Final = (
    "holds no TRACE line of the kernel, and no line of nft monitor trace or xtables-monitor --trace; was it"
    " written while TRACE rules of iptables-legacy matched? TRACE of iptables-nft and nftrace are never logged:"
    " record with iptrec, or trace with nft monitor trace"
)


class Opened(NamedTuple):
    """What a file is; ``others``: phrases for the user about lines of other kinds in it, once it is read."""

    source: Source
    others: Callable[[], Sequence[str]] = list


class _OneKind:
    """Lines of a text, of which those of another kind are counted: one file is read as one kind."""

    def __init__(self, lines: Iterable[bytes], text: Text) -> None:
        self._lines = lines
        self._text = text
        self._count = dict.fromkeys(TEXTS, 0)

    def __iter__(self) -> Iterator[bytes]:
        others = [one for one in TEXTS if one is not self._text]
        for line in self._lines:
            if any(one in line for one in _MARKS) and not self._text.is_line(line):
                for text in others:
                    if text.is_line(line):
                        self._count[text] += 1
                        break
            yield line

    def others(self) -> list[str]:
        """How many there were."""
        return [
            f"{counted(count, 'line')} of another kind left out: {text.title} (--from {text.name})"
            for text, count in self._count.items()
            if count
        ]


@contextlib.contextmanager
def opened(
    path: str, kind: str | None, links: Mapping[str, int], rulesets: Mapping[str, bytes]
) -> Iterator[Opened]:
    """The source that a file is; "-" is stdin.

    ``kind``: of `KINDS`, None to find it out. ``links``: indexes of interfaces by name. ``rulesets``: contents
    by their kinds of snapshot. Raises `RecordingError` for what cannot be read, and what is none of them.
    """
    try:
        descriptor = os.dup(0) if path == "-" else open_to_read(path)
    except ValueError:  # a NUL byte
        raise RecordingError(f"cannot open {path!r}: that is not a file name") from None
    except OSError as error:
        raise RecordingError(f"cannot read {path}: {strerror(error)}") from None
    with contextlib.ExitStack() as left:
        try:
            head, descriptor = _peeked(descriptor)
            if kind == CAPTURE or (kind is None and head.startswith(_CAPTURES)):
                yield Opened(left.enter_context(Capture(path, descriptor)))
                return
            _check(path, head, descriptor)
            changed_ns = _changed_ns(descriptor)
            file = left.enter_context(os.fdopen(descriptor, "rb"))
            yield _text(path, file, kind, Given(links, rulesets, changed_ns))
        except OSError as error:
            raise RecordingError(f"cannot read {path}: {strerror(error)}") from None


def _text(path: str, file: IO[bytes], kind: str | None, given: Given) -> Opened:
    """What reads a text, by the first line that one of them recognises, which is its first one."""
    found = lines(file)
    if kind is not None:
        text = next(one for one in TEXTS if one.name == kind)
        first = next((line for line in found if text.is_line(line)), None)
        if first is None:
            raise RecordingError(f"{path} holds no {text.title}")
        return _opened(text, chain([first], found), given)
    for line in found:
        for text in TEXTS:
            if text.is_line(line):
                return _opened(text, chain([line], found), given)
    raise RecordingError(f"{path} {_NO_EVENTS}")


def _opened(text: Text, found: Iterator[bytes], given: Given) -> Opened:
    watched = _OneKind(found, text)
    return Opened(text.read(watched, given), watched.others)


def _check(path: str, head: bytes, descriptor: int) -> None:
    if not head and stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        raise RecordingError(f"{path} is a pipe to which nobody writes; start who writes first")
    if not head:
        raise RecordingError(f"{path} is empty")
    for magic, fact in _OTHERS.items():
        if head.startswith(magic):
            raise RecordingError(f"{path} {fact.replace('FILE', path)}")


def _peeked(descriptor: int) -> tuple[bytes, int]:
    """The first bytes, and a descriptor where they are still to be read."""
    try:
        return os.pread(descriptor, _HEAD, os.lseek(descriptor, 0, os.SEEK_CUR)), descriptor
    except OSError:  # a pipe
        pass
    head = b""
    while len(head) < _HEAD and (more := os.read(descriptor, _HEAD - len(head))):
        head += more
    if not head:
        return head, descriptor
    reads, writes = os.pipe()
    threading.Thread(target=_pump, args=(head, descriptor, writes), daemon=True).start()
    return head, reads


def _pump(head: bytes, source: int, target: int) -> None:
    """Write to a pipe what was read of another one, and what is still in that."""
    with contextlib.suppress(OSError), os.fdopen(target, "wb", buffering=0) as out:
        while head:
            out.write(head)
            head = os.read(source, _COPIED)
    os.close(source)


def _changed_ns(descriptor: int) -> int:
    status = os.fstat(descriptor)
    return status.st_mtime_ns if stat.S_ISREG(status.st_mode) else time.time_ns()
