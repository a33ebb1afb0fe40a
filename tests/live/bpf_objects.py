"""The programs of BPF that there are, and whose they are."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

import recorder

from iptrec.libc import libc

_BPF = {"x86_64": 321}.get(os.uname().machine, 280)
_NEXT = {"prog_id": 11, "link_id": 31}  # BPF_PROG_GET_NEXT_ID, BPF_LINK_GET_NEXT_ID


def held(child):
    """Numbers of the programs and links that a process holds, as /proc tells."""
    found = {"prog_id": set(), "link_id": set()}
    for one in Path(f"/proc/{child.pid}/fdinfo").iterdir():
        lines = dict(line.split(":\t", 1) for line in one.read_text().splitlines() if ":\t" in line)
        for name in found.keys() & lines.keys():
            found[name].add(int(lines[name]))
    return found


def every(name):
    """All numbers of the kernel's programs ("prog_id"), or links ("link_id")."""
    found, number = set(), 0
    while True:
        room = ctypes.create_string_buffer(struct.pack("=III", number, 0, 0), 12)
        if libc.syscall(_BPF, _NEXT[name], room, 12):
            return found
        number = struct.unpack_from("=I", room, 4)[0]
        found.add(number)


def until_gone(numbers):
    """Wait until none of what a process held is left."""
    for name, some in numbers.items():
        recorder.until(lambda name=name, some=some: not some & every(name), f"a {name} is left")
