"""Reads the kernel's own description of its types: offsets of fields, values of enums, numbers of types.

Documentation/bpf/btf.rst. Types follow each other in records of different lengths, numbered from 1; all are
walked once (50 ms for 126,000 of them), and only those that are asked for are looked at again.
"""

from __future__ import annotations

import contextlib
import struct
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

import numpy as np

from iptrec.errors import HostError, strerror

if TYPE_CHECKING:
    from collections.abc import Iterator

    from iptrec.names import U32

VMLINUX: Final = Path("/sys/kernel/btf/vmlinux")
_MAGIC: Final = 0xEB9F
_HEADER: Final = struct.Struct("=HBBIIIII")
_STRUCT, _UNION, _ENUM, _TYPEDEF, _FUNC_PROTO = 4, 5, 6, 8, 13
FUNCTION: Final = 12
# Words behind the three of each record: so many, and so many for each of its members.
_FIXED: Final = {1: 1, 3: 3, 14: 1, 17: 1}
_EACH: Final = {4: 3, 5: 3, 6: 2, 13: 2, 15: 3, 19: 3}


class Bits(NamedTuple):
    """Where a field is: bits from the beginning of its structure."""

    offset: int
    size: int  # 0: not a bit field

    @property
    def byte(self) -> int:
        """Offset of its first byte."""
        return self.offset // 8

    @property
    def mask(self) -> int:
        """Of a bit field within its first byte, where the least significant byte comes first."""
        return ((1 << self.size) - 1) << self.offset % 8


class Btf:
    """The types of a kernel. Raises `HostError` for what is not there."""

    _shared: ClassVar[list[Btf] | None] = None

    def __init__(self, data: bytes) -> None:
        try:
            magic, _, _, head, types, types_size, texts, texts_size = _HEADER.unpack_from(data)
        except struct.error:
            magic = 0
        if magic != _MAGIC:
            raise HostError("the kernel's types cannot be read: not BTF of this byte order")
        self._data, self._texts = data[: head + texts + texts_size], head + texts
        self._words = np.frombuffer(data, np.uint32, types_size // 4, head + types)
        self._starts = np.frombuffer(_starts(self._words), np.uint32)
        self._names = self._words[self._starts]
        self._kinds = self._words[self._starts + 1] >> 24 & 31

    @classmethod
    def of_kernel(cls) -> Btf:
        """Those of the running kernel; once while they are `shared`."""
        if cls._shared:
            return cls._shared[0]
        try:
            found = cls(VMLINUX.read_bytes())
        except OSError as error:
            raise HostError(
                f"{VMLINUX}: {strerror(error)}; the kernel needs CONFIG_DEBUG_INFO_BTF"
            ) from None
        if cls._shared is not None:
            cls._shared.append(found)
        return found

    @classmethod
    @contextlib.contextmanager
    def shared(cls) -> Iterator[None]:
        """Read them once for all programs that are made meanwhile."""
        cls._shared = []
        try:
            yield
        finally:
            cls._shared = None

    def number(self, name: str, kind: int = _TYPEDEF) -> int:
        """The number of a type; of a typedef unless another ``kind`` is wanted."""
        at = self._text_at(name)
        found = np.flatnonzero((self._names == at) & (self._kinds == kind))
        if at < 0 or not len(found):
            raise HostError(f"this kernel has no {name}")
        return int(found[0]) + 1

    def parameters(self, typedef: str) -> int:
        """How many parameters the function has that a typedef points to."""
        pointer = self._record(self.number(typedef))[2]
        function = self._record(self._record(pointer)[2])
        return function[1] & 0xFFFF

    def field(self, structure: str, name: str) -> Bits:
        """Where a field is, unnamed structures within included."""
        found = self._field(self.number(structure, _STRUCT), self._text_at(name))
        if found is None:
            raise HostError(f"this kernel's struct {structure} has no {name}")
        return found

    def field_of(self, structure: str, name: str, inner: str) -> Bits:
        """Where a field of a field is, which may be of a structure without a name."""
        at, (outer, of) = self._text_at(inner), self._member(structure, name)
        while self._record(of)[1] >> 24 & 31 == _TYPEDEF:
            of = self._record(of)[2]
        found = self._field(of, at)
        if found is None:
            raise HostError(f"this kernel's struct {structure} has no {name}.{inner}")
        return Bits(outer + found.offset, found.size)

    def _member(self, structure: str, name: str) -> tuple[int, int]:
        """Where a field is, bits, and the number of its type."""
        text = self._text_at(name)
        for at, of, offset in self._members(self.number(structure, _STRUCT), 3):
            if at == text:
                return offset & 0xFFFFFF, of
        raise HostError(f"this kernel's struct {structure} has no {name}")

    def enum(self, name: str) -> dict[int, str]:
        """Value -> name; empty where this kernel has no such enum."""
        try:
            number = self.number(name, _ENUM)
        except HostError:
            return {}
        pairs = self._members(number, 2)
        return {value: self._text(at) for at, value in pairs}

    def _field(self, number: int, name: int) -> Bits | None:
        flag = self._record(number)[1] >> 31
        for at, of, offset in self._members(number, 3):
            bits = Bits(offset & 0xFFFFFF, offset >> 24) if flag else Bits(offset, 0)
            if at == name:
                return bits
            if self._text(at) == "" and self._record(of)[1] >> 24 & 31 in (_STRUCT, _UNION):
                inner = self._field(of, name)
                if inner is not None:
                    return Bits(bits.offset + inner.offset, inner.size)
        return None

    def _record(self, number: int) -> list[int]:
        start = self._starts[number - 1]
        found: list[int] = self._words[start : start + 3].tolist()
        return found

    def _members(self, number: int, size: int) -> Iterator[list[int]]:
        start = int(self._starts[number - 1])
        count = int(self._words[start + 1]) & 0xFFFF
        yield from self._words[start + 3 :][: count * size].reshape(-1, size).tolist()

    def _text_at(self, text: str) -> int:
        """Where a text is among all, -1 if it is not there."""
        at = self._data.find(b"\0" + text.encode() + b"\0", self._texts)
        return at + 1 - self._texts if at >= 0 else -1

    def _text(self, at: int) -> str:
        start = self._texts + at
        return self._data[start : self._data.index(b"\0", start)].decode()


def _starts(words: U32) -> array[int]:
    """Where each record begins."""
    fixed = [3 + _FIXED.get(kind, 0) for kind in range(32)]
    each = [_EACH.get(kind, 0) for kind in range(32)]
    view = memoryview(words.data)
    starts = array("I")
    at, end = 0, len(view)
    while at < end:
        starts.append(at)
        info = view[at + 1]
        kind = info >> 24 & 31
        at += fixed[kind] + each[kind] * (info & 0xFFFF)
    return starts
