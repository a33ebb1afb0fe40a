"""Filters in tcpdump's language (man 7 pcap-filter), compiled by libpcap for bare IP packets.

One expression has two uses: in the kernel, as the bytecode of ``-m bpf``, and offline, on stored
packets. Both see a packet from its IP header on (DLT_RAW), so it means the same in both.

libpcap resolves names by itself: a host name in an expression asks the DNS, "port http" reads
/etc/services. A numeric expression opens no file and no socket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from iptrec.errors import IFACE, HostError, RecordingError, UsageError
from iptrec.pcap.libpcap import Instruction, Program, libpcap

if TYPE_CHECKING:
    import ctypes
    from collections.abc import Sequence

    import numpy.typing as npt

    from iptrec.names import I64, Family, Mask


MOST_INSTRUCTIONS: Final = 64  # uapi/linux/netfilter/xt_bpf.h, XT_BPF_MAX_NUM_INSTR

# Bytes. libpcap's optimizer takes time and memory by the square of it and more: "port 1 or 2 or 3 ..." of this
# length 40 MB and 3 seconds, of twice the length 140 MB and 20 seconds.
_LONGEST: Final = 2048
_SHOWN: Final = 200  # characters of it in an error message
_DLT_RAW: Final = 12  # pcap/dlt.h, on Linux
_SNAPLEN: Final = 0xFFFF  # the longest IP packet, as nfbpf_compile(8) has it
_OPTIMIZE: Final = 1
_NETMASK_UNKNOWN: Final = 0xFFFFFFFF
_REJECTS_ALL: Final = "expression rejects all packets"  # libpcap's words

_FAMILIES: Final = {"ipv4": "ip", "ipv6": "ip6"}

# uapi/linux/bpf_common.h
_CLASS: Final = 0x07
_LOADS: Final = {0x00, 0x01}  # BPF_LD, BPF_LDX
_MODE: Final = 0xE0
_FROM_PACKET: Final = {0x20, 0x40, 0xA0}  # BPF_ABS, BPF_IND, BPF_MSH
_JUMP_ALWAYS: Final = 0x05  # BPF_JMP | BPF_JA
# uapi/linux/filter.h, SKF_LL_OFF: from here on, Linux gives offsets a meaning outside the packet.
_OUTSIDE: Final = 0xFFE00000

_IPV6_HEADER: Final = 40  # bytes, RFC 8200, section 3
_LENGTH_READABLE: Final = 6  # bytes of an IP header of either version that hold its length


def compile_for_kernel(expression: str, family: Literal["ipv4", "ipv6"]) -> str | None:
    """Return what ``-m bpf --bytecode`` takes, for the packets of one family that can match.

    That is "N,code jt jf k,code jt jf k,..." as nfbpf_compile(8) prints it, or None if the
    expression can match no packet of the family. Raises UsageError for an expression that is empty,
    that libpcap refuses (with its message), that can match nothing at all or that xt_bpf would
    refuse; HostError without libpcap.
    """
    # Alone first: complaints are about what the user wrote, and no parenthesis of it can close ours.
    _compile(expression)
    program = _compiled(f"{_FAMILIES[family]} and ({expression})", expression)
    if program is None:
        return None
    count = len(program)
    if count > MOST_INSTRUCTIONS:
        raise UsageError(
            f"{_named(expression)}: {count} instructions of bytecode, the kernel takes at most "
            f"{MOST_INSTRUCTIONS}; record with a simpler filter, then filter what you show"
        )
    if any(_jumps_back(one, count) for one in program):
        raise UsageError(
            f"{_named(expression)}: protochain makes a loop, and the kernel takes none; "
            "name the protocols without it"
        )
    return ",".join([str(count), *(f"{one.code} {one.jt} {one.jf} {one.k}" for one in program)])


def bytecodes(expression: str, families: Sequence[Family]) -> dict[Family, str | None]:
    """The bytecode for each family of which a packet can match; None for all packets, without expression.

    Raises as `compile_for_kernel`; `UsageError` also where no packet of these families can match.
    """
    if not expression:
        return dict.fromkeys(families)
    compiled = {one: compile_for_kernel(expression, one) for one in families}
    found: dict[Family, str | None] = {one: code for one, code in compiled.items() if code}
    if not found:
        raise UsageError(f'filter "{expression}" can match no {" or ".join(families)} packet')
    return found


class PacketFilter:
    """A filter for stored packets, given from their IP header on.

    Raises UsageError for an expression that is empty, that libpcap refuses (with its message) or
    that can match nothing; HostError without libpcap.

    Stored packets may be cut: what a filter asks beyond the captured bytes does not match, but "len",
    "less" and "greater" compare the length that the IP header gives.
    """

    def __init__(self, expression: str) -> None:
        self._program = _compile(expression)

    def matches(self, packet: bytes, length: int | None = None) -> bool:
        """Tell whether one packet matches; ``length`` is its length on the wire, in bytes."""
        buffer = np.frombuffer(packet, np.uint8)
        captured = np.array([len(packet)], np.int64)
        wire = None if length is None else np.array([length], np.int64)
        return bool(self._run(buffer, np.zeros(1, np.int64), captured, wire)[0])

    def match_many(
        self,
        buffer: npt.NDArray[np.uint8],
        offsets: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int32],
    ) -> Mask:
        """Tell for each packet whether it matches, shape (n,).

        Packet i is ``buffer[offsets[i]:][:lengths[i]]``, both shape (n,), in bytes; a negative
        offset stands for no packet, which never matches. Raises RecordingError when a packet leaves
        the buffer.
        """
        present = np.flatnonzero(offsets >= 0)
        start, captured = offsets[present], lengths[present].astype(np.int64)
        if ((captured < 0) | (start > len(buffer) - captured)).any():
            raise RecordingError(
                "a packet lies outside of the recorded bytes; the recording is damaged, record again"
            )
        found = np.zeros(len(offsets), np.bool_)
        found[present] = self._run(buffer, start, captured)
        return found

    def _run(
        self, buffer: npt.NDArray[np.uint8], start: I64, captured: I64, wire: I64 | None = None
    ) -> Mask:
        buffer = np.ascontiguousarray(buffer)
        if wire is None:
            wire = _wire_lengths(buffer, start, captured)
        run, program = libpcap().bpf_filter, self._program
        columns = (start + buffer.ctypes.data).tolist(), wire.tolist(), captured.tolist()
        accepted = [run(program, at, whole, cut) for at, whole, cut in zip(*columns, strict=True)]
        return np.array(accepted, np.bool_)


def _wire_lengths(buffer: npt.NDArray[np.uint8], start: I64, captured: I64) -> I64:
    """The lengths that the IP headers give, shape (n,); never less than what was captured."""
    readable = np.flatnonzero(captured >= _LENGTH_READABLE)
    at = start[readable]
    ipv6 = buffer[at] >> 4 == 6  # noqa: PLR2004 - the version of IPv6
    field = np.where(ipv6, at + 4, at + 2)
    given = (buffer[field].astype(np.int64) << 8) + buffer[field + 1]
    wire = captured.copy()
    wire[readable] = np.maximum(wire[readable], given + np.where(ipv6, _IPV6_HEADER, 0))
    return wire


def _compile(expression: str) -> ctypes.Array[Instruction]:
    """Compile for DLT_RAW what a user wrote. Raises as `compile_for_kernel`."""
    name = _named(expression)
    if not expression.strip():
        raise UsageError(f"{name}: it is empty; leave it out to take every packet")
    if "\0" in expression:
        raise UsageError(f"{name}: it holds a NUL byte")
    if (length := len(expression.encode("utf-8", "surrogateescape"))) > _LONGEST:
        raise UsageError(
            f"{name}: it has {length:,} bytes, and {_LONGEST:,} is the most that is compiled; "
            "split it, or use net and portrange"
        )
    program = _compiled(expression, expression)
    if program is None:
        raise UsageError(f"{name}: {_REJECTS_ALL}")
    return program


def _compiled(expression: str, written: str) -> ctypes.Array[Instruction] | None:
    """Its program, None where no packet can match; ``written`` is what the user wrote of it."""
    text, name = expression.encode("utf-8", "surrogateescape"), _named(written)
    library = libpcap()
    handle = library.pcap_open_dead(_DLT_RAW, _SNAPLEN)
    if not handle:
        raise HostError("libpcap: out of memory")
    try:
        compiled = Program()
        if library.pcap_compile(handle, compiled, text, _OPTIMIZE, _NETMASK_UNKNOWN):
            message = library.pcap_geterr(handle).decode("utf-8", "backslashreplace").strip()
            if message == _REJECTS_ALL:
                return None
            raise UsageError(f"{name}: {message}")
        instructions = compiled.instructions[: compiled.length]
        program: ctypes.Array[Instruction] = (Instruction * compiled.length)(*instructions)
        library.pcap_freecode(compiled)
    finally:
        library.pcap_close(handle)
    if any(_leaves_the_packet(one) for one in program):
        raise UsageError(
            f"{name}: it asks for something outside of the packet, as inbound, outbound, ifindex "
            "and huge offsets do; for interfaces there is ",
            IFACE,
        )
    return program


def _named(expression: str) -> str:
    """The filter in an error message, which is one line, and not a long one."""
    shown = expression if len(expression) <= _SHOWN else f"{expression[:_SHOWN]}..."
    return f'filter "{shown if shown.isprintable() else ascii(shown)[1:-1]}"'


def _leaves_the_packet(one: Instruction) -> bool:
    """Whether Linux would read something else than the packet's bytes (SKF_AD_OFF and so on)."""
    load = one.code & _CLASS in _LOADS and one.code & _MODE in _FROM_PACKET
    return bool(load and one.k >= _OUTSIDE)


def _jumps_back(one: Instruction, count: int) -> bool:
    """Whether net/core/filter.c, bpf_check_classic, would refuse the jump; k is unsigned there."""
    return bool(one.code == _JUMP_ALWAYS and one.k >= count)
