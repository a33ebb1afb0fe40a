"""Objects that a child process hands to its parent: their arrays lie in memory that both have."""

from __future__ import annotations

import mmap
import os
import pickle
import struct
import weakref
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from typing import BinaryIO

    from iptrec.names import U8

_ALIGNED: Final = 64
_ROOM: Final = 96 << 20  # bytes for the arrays of one object; what is not used is not there
_MOST_HELD: Final = 2  # objects in that memory that the parent may still have
_HEAD: Final = struct.Struct(
    "<QiQ"
)  # bytes of a pickle; in which part of the memory its arrays are, and their bytes


class Memory:
    """Memory for the arrays of so many objects, to be made before the fork."""

    def __init__(self, parts: int) -> None:
        self.parts = parts
        self._whole = mmap.mmap(-1, parts * _ROOM)

    def part(self, number: int, size: int) -> U8:
        """Some bytes of it."""
        return np.frombuffer(self._whole, np.uint8, size, number * _ROOM)


class Sender:
    """The child's end: ``out`` is a pipe to the parent, ``free`` one from it, of numbers of parts."""

    def __init__(self, out: int, free: int, memory: Memory) -> None:
        self._out = out
        self._free = free
        self._memory = memory
        self._unused = [*range(memory.parts)]

    def send(self, thing: object) -> None:
        """Send it, once there is room. Raises OSError when the parent is gone."""
        arrays: list[pickle.PickleBuffer] = []
        pickled = pickle.dumps(thing, 5, buffer_callback=arrays.append)
        views = [one.raw() for one in arrays]
        size = sum(map(_room, views))
        if not 0 < size <= _ROOM:
            pickled = pickle.dumps(thing, 5)
            self._write(_HEAD.pack(len(pickled), -1, 0) + pickled)
            return
        if not self._unused:
            self._wait()
        number = self._unused.pop()
        room, at = self._memory.part(number, size), 0
        for one in views:
            room[at : at + one.nbytes] = np.frombuffer(one, np.uint8)
            at += _room(one)
        sizes = struct.pack(f"<I{len(views)}Q", len(views), *(one.nbytes for one in views))
        self._write(_HEAD.pack(len(sizes) + len(pickled), number, size) + sizes + pickled)

    def finish(self) -> None:
        """Wait until the parent is gone, or has no use for this process."""
        while os.read(self._free, 1):
            pass

    def _wait(self) -> None:
        freed = os.read(self._free, self._memory.parts)
        if not freed:
            raise BrokenPipeError
        self._unused += freed

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._out, view) :]


class _Held(np.ndarray[Any, Any]):
    """Bytes that are free again when nobody has them any more."""


class Receiver:
    """The parent's end: of the pipes, and of the memory."""

    def __init__(self, source: BinaryIO, free: int, memory: Memory) -> None:
        self._source = source
        self._free = free
        self._memory = memory
        self._held = 0

    def receive(self) -> Any:  # noqa: ANN401 - whatever was sent
        """What was sent next. Raises EOFError when the child is gone."""
        length, number, size = _HEAD.unpack(self._exactly(_HEAD.size))
        data = self._exactly(length)
        if number < 0:
            return pickle.loads(data)  # noqa: S301 - of our own fork
        (count,) = struct.unpack_from("<I", data)
        sizes = struct.unpack_from(f"<{count}Q", data, 4)
        whole, at = self._taken(number, size), 0
        arrays: list[Any] = []
        for one in sizes:
            arrays.append(whole[at : at + one])
            at += _room(memoryview(arrays[-1]))
        return pickle.loads(memoryview(data)[4 + 8 * count :], buffers=arrays)  # noqa: S301

    def close(self) -> None:
        """Let go of the pipes."""
        self._source.close()
        if self._free >= 0:
            os.close(self._free)
            self._free = -1

    def _taken(self, number: int, size: int) -> U8:
        """The bytes of a part, which is free when they are gone; or a copy, for who keeps many."""
        bytes_ = self._memory.part(number, size)
        if self._held >= _MOST_HELD:
            whole = bytes_.copy()
            self._held += 1
            self._release(number)
            return whole
        held = bytes_.view(_Held)
        self._held += 1
        weakref.finalize(held, self._release, number).atexit = False
        return held

    def _release(self, number: int) -> None:
        self._held -= 1
        if self._free >= 0:
            os.write(self._free, bytes([number]))

    def _exactly(self, size: int) -> bytes:
        data = self._source.read(size)
        if len(data) < size:
            raise EOFError
        return data


def available() -> bool:
    """Whether a process can be forked here."""
    return hasattr(os, "fork")


def _room(array: memoryview) -> int:
    return -(-array.nbytes // _ALIGNED) * _ALIGNED
