"""``-m bpf --bytecode``: a program of classic BPF, run over a packet from its IP header on (xt_bpf.c).

Instructions: include/uapi/linux/filter.h and bpf_common.h. What a load finds beside the packet (SKF_AD_OFF: its
mark, its interface, ...) is not known.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Final, NamedTuple

from iptrec.matching.iptables_bytes import UnknownError, data, known_length

if TYPE_CHECKING:
    from collections.abc import Callable

    from iptrec.matching.facts import Facts

_LD, _LDX, _ST, _STX, _ALU, _JMP, _RET, _MISC = range(8)  # the class: three bits
_IMM, _ABS, _IND, _MEM, _LEN, _MSH = range(0, 0xC0, 0x20)
_SIZES: Final = {0x00: 4, 0x08: 2, 0x10: 1}  # BPF_W, BPF_H, BPF_B
_X, _A = 0x08, 0x10  # BPF_X; BPF_A of a return
_NEGATE, _ALWAYS = 0x80, 0x00
_MOST: Final = 64  # XT_BPF_MAX_NUM_INSTR
_WORDS: Final = 16  # BPF_MEMWORDS
_BESIDE: Final = 0x80000000  # from there on: SKF_AD_OFF and its like, as unsigned numbers
_ALL: Final = 0xFFFFFFFF
_OPERATIONS: Final[dict[int, Callable[[int, int], int]]] = {
    0x00: operator.add, 0x10: operator.sub, 0x20: operator.mul, 0x30: operator.floordiv, 0x40: operator.or_,
    0x50: operator.and_, 0x60: lambda a, by: a << (by & 31), 0x70: lambda a, by: a >> (by & 31),
    0x90: operator.mod, 0xA0: operator.xor,
}  # fmt: skip
_JUMPS: Final[dict[int, Callable[[int, int], bool]]] = {
    0x10: operator.eq, 0x20: operator.gt, 0x30: operator.ge, 0x40: lambda a, by: bool(a & by),
}  # fmt: skip


class _Instruction(NamedTuple):
    code: int
    true: int
    false: int
    k: int


class _OutsideError(Exception):
    """A load behind the packet's end, or a division by zero: the program ends, and 0 is what it gives."""


def accepts(value: str, facts: Facts) -> bool | None:
    """``--bytecode "COUNT,CODE TRUE FALSE K,..."``: whether the program gives anything but 0."""
    try:
        return bool(_Machine(facts).run(_program(value)))
    except UnknownError:
        return None
    except _OutsideError:
        return False


def _program(value: str) -> list[_Instruction]:
    """Raise ValueError or IndexError for what the kernel would not have taken."""
    count, *lines = value.strip('"').strip(",").split(",")
    if int(count) != len(lines) or len(lines) > _MOST:
        raise ValueError(value)
    program = [_Instruction(*map(int, line.split())) for line in lines]
    if any(not 0 <= number <= _ALL for one in program for number in one):
        raise ValueError(value)
    return program


class _Machine:
    """Accumulator, index register and memory of one run."""

    def __init__(self, facts: Facts) -> None:
        self._packet = data(facts)
        self._length = known_length(facts)
        self._a = self._x = 0
        self._memory = [0] * _WORDS

    def run(self, program: list[_Instruction]) -> int:
        """Jumps lead forward alone: each instruction runs once at most."""
        at = 0
        while True:
            one = program[at]
            at += 1
            kind = one.code & 7
            if kind == _RET:
                return self._a if one.code & _A else one.k
            if kind == _JMP:
                at += self._jump(one)
            else:
                self._do(kind, one)

    def _do(self, kind: int, one: _Instruction) -> None:
        if kind == _LD:
            self._a = self._loaded(one)
        elif kind == _LDX:
            self._x = self._loaded(one)
        elif kind == _ST:
            self._memory[one.k] = self._a
        elif kind == _STX:
            self._memory[one.k] = self._x
        elif kind == _ALU:
            self._a = self._reckoned(one)
        elif one.code & 0x80:  # TXA
            self._a = self._x
        else:
            self._x = self._a

    def _loaded(self, one: _Instruction) -> int:
        mode, size = one.code & 0xE0, _SIZES[one.code & 0x18]
        if mode == _IMM:
            return one.k
        if mode == _MEM:
            return self._memory[one.k]
        if mode == _LEN:
            return self._length
        if mode == _MSH:
            return 4 * (self._read(one.k, 1) & 0xF)
        if mode not in (_ABS, _IND) or one.k >= _BESIDE:
            raise UnknownError
        return self._read(one.k + self._x & _ALL if mode == _IND else one.k, size)

    def _read(self, start: int, size: int) -> int:
        if start >= _BESIDE:
            raise UnknownError
        if start + size > self._length:
            raise _OutsideError
        if start + size > len(self._packet):
            raise UnknownError
        return int.from_bytes(self._packet[start : start + size], "big")

    def _reckoned(self, one: _Instruction) -> int:
        operation, by = one.code & 0xF0, self._x if one.code & _X else one.k
        if operation == _NEGATE:
            return -self._a & _ALL
        try:
            return _OPERATIONS[operation](self._a, by) & _ALL
        except ZeroDivisionError:
            raise _OutsideError from None

    def _jump(self, one: _Instruction) -> int:
        operation, by = one.code & 0xF0, self._x if one.code & _X else one.k
        if operation == _ALWAYS:
            return one.k
        return one.true if _JUMPS[operation](self._a, by) else one.false
