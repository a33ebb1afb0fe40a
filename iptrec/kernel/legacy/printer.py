"""A process in which iptables-save prints tables as they were copied out of the kernel, not as they are now.

iptables-save asks the kernel for a table with two calls of getsockopt(2) (libiptc.c, TC_INIT). A filter of
system calls hands these two to us, and we answer with what was copied (seccomp_unotify(2), from Linux 5.5 on;
with no_new_privs it needs no rights). Whatever else it asks for, the names of sets for one, the kernel tells.
A table that is replaced while it is printed is no trouble then, and one that has gone can still be printed.

Requests and answers are marshal's, on stdin and stdout: a `Request` as a tuple; the exit status, what was
printed, and what was complained.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import marshal
import os
import select
import socket
import struct
import sys
from pathlib import Path
from typing import Final, NamedTuple

from iptrec.errors import strerror
from iptrec.kernel.process import end_with_parent
from iptrec.libc import failure, libc

GET_INFO, GET_ENTRIES = 64, 65  # IPT_SO_, IP6T_SO_
# Of getsockopt(2) and seccomp(2); AUDIT_ARCH_.
_CALLS: Final = {"x86_64": (55, 317, 0xC000003E), "aarch64": (209, 277, 0xC00000B7)}
_PR_SET_NO_NEW_PRIVS: Final = 38
_SET_MODE_FILTER, _NEW_LISTENER = 1, 1 << 3  # linux/seccomp.h
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_RECEIVE, _SEND = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_
_NUMBER, _ARCHITECTURE, _LEVEL, _OPTION = 0, 4, 24, 32  # struct seccomp_data: the halves that count
_CALL: Final = struct.Struct("=QIIiI7Q")  # struct seccomp_notif
_ANSWER: Final = struct.Struct("=QqiI")
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # linux/bpf_common.h, of 32 bits
_IDLE_MS: Final = 2_000
REFUSED: Final = 126  # the exit status of an iptables-save that cannot be answered


class Request(NamedTuple):
    """What to run, and the answers to its two questions: struct ipt_getinfo, struct ipt_get_entries."""

    command: list[str]
    environment: dict[str, str]
    level: int
    info: bytes
    entries: bytes


def main() -> None:
    """Answer requests until there are no more, or none for a while. The argument is the parent's pid."""
    end_with_parent(int(sys.argv[1]))
    asking = select.poll()
    asking.register(sys.stdin, select.POLLIN)
    while asking.poll(_IDLE_MS):
        try:
            request = Request(*marshal.load(sys.stdin.buffer))  # noqa: S302 - of our own parent
        except EOFError:
            return
        marshal.dump(printed(request), sys.stdout.buffer)
        sys.stdout.buffer.flush()


def printed(request: Request) -> tuple[int, bytes, bytes]:
    """The exit status, what was printed, and what was complained."""
    output, errors = os.memfd_create("printed"), os.memfd_create("complained")
    ours, theirs = socket.socketpair()
    with os.fdopen(output, "rb") as printed, os.fdopen(errors, "rb") as complained, ours:
        with theirs:
            child = os.fork()
            if child == 0:
                _become(request, theirs, output, errors)
        _, listeners, *_ = socket.recv_fds(ours, 1, 1)
        answered: set[int] = set()
        for one in listeners:
            with os.fdopen(one, "rb") as listener:
                answered = _answer(listener.fileno(), child, request)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        for file in (printed, complained):  # the child's place in them is ours
            file.seek(0)
        if status == 0 and answered != {GET_INFO, GET_ENTRIES}:
            return REFUSED, b"", b"it asks the kernel in another way"
        return status, printed.read(), complained.read()


def _become(request: Request, theirs: socket.socket, output: int, errors: int) -> None:
    """The life of the child that becomes iptables-save; never returns."""
    try:
        os.dup2(output, 1)
        os.dup2(errors, 2)
        socket.send_fds(theirs, [b"x"], [_filtered(request.level)])
        os.execve(request.command[0], request.command, request.environment)  # noqa: S606 - no shell
    except OSError as error:
        os.write(2, strerror(error).encode())
    finally:
        os._exit(REFUSED)


def _filtered(level: int) -> int:
    """Have the two questions handed over from now on; the descriptor that they come out of. Raises OSError."""
    getsockopt, seccomp, architecture = _CALLS.get(os.uname().machine, (0, 0, 0))
    if not seccomp:
        raise OSError(errno.ENOSYS, f"not known how to call seccomp(2) on {os.uname().machine}")
    asked = [(_ARCHITECTURE, architecture), (_NUMBER, getsockopt), (_LEVEL, level)]
    code = [
        one
        for at, (field, value) in enumerate(asked)
        for one in ((_LOAD, 0, 0, field), (_EQUAL, 0, 2 * (len(asked) - at) + 1, value))
    ]
    code += [
        (_LOAD, 0, 0, _OPTION),
        (_EQUAL, 2, 0, GET_INFO),
        (_EQUAL, 1, 0, GET_ENTRIES),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _NOTIFY),
    ]
    text = b"".join(struct.pack("=HBBI", *one) for one in code)
    room = ctypes.create_string_buffer(text, len(text))
    program = struct.pack("@HP", len(code), ctypes.addressof(room))
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    listener: int = libc.syscall(seccomp, _SET_MODE_FILTER, _NEW_LISTENER, program)
    if listener < 0:
        raise OSError(ctypes.get_errno(), failure())
    return listener


def _answer(listener: int, child: int, request: Request) -> set[int]:
    """Answer the questions of a child until it has ended; which were answered.

    The filter tells of its end from Linux 6.11 on; before, not until it was waited for.
    """
    answered = set()
    answers = {GET_INFO: request.info, GET_ENTRIES: request.entries}
    with os.fdopen(os.pidfd_open(child), "rb") as end:
        asking = select.poll()
        asking.register(listener, select.POLLIN)
        asking.register(end, select.POLLIN)
        while dict(asking.poll()).get(listener, 0) & select.POLLIN:
            call = bytearray(_CALL.size)
            try:
                fcntl.ioctl(listener, _RECEIVE, call)
                number, process, *_, option, where, _, _ = _CALL.unpack(call)
                code = _written(process, where, answers[option])
                fcntl.ioctl(listener, _SEND, _ANSWER.pack(number, 0, code, 0))
            except FileNotFoundError:  # it has ended meanwhile
                continue
            if code == 0:
                answered.add(option)
    return answered


def _written(process: int, where: int, answer: bytes) -> int:
    """Write an answer to where a process wants it; 0, or the number of the error that it gets instead."""
    try:
        with Path(f"/proc/{process}/mem").open("r+b", buffering=0) as memory:
            os.pwrite(memory.fileno(), answer, where)
    except OSError as error:
        return -(error.errno or errno.EFAULT)
    return 0
