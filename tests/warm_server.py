"""Loads the command line once, then forks a sibling for each command; see tests/warm.py.

A sibling (CLONE_PARENT): the child of who asked, who waits for it as for any other. Whatever the command line
does later it does by itself, in `main`.
"""

from __future__ import annotations

import array
import atexit
import ctypes
import errno
import functools
import gc
import importlib
import io
import marshal
import os
import pkgutil
import signal
import socket
import sys
import threading
import time
import types

import typer.main

_CLONE3 = 435  # the same on every architecture
_CLONE_PARENT, _CHILD_CLEARTID, _CHILD_SETTID = 0x8000, 0x200000, 0x1000000  # linux/sched.h
_CLONE_NEWNS, _CLONE_NEWPID = 0x20000, 0x20000000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000  # linux/mount.h
_PR_GET_TID_ADDRESS = 40  # linux/prctl.h
_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")
_OPTIONAL = (
    "iptrec.views.parquet",
    "iptrec.views.arrow",
    "iptrec.views.frames",
)  # they load pyarrow
_MOST = 1 << 18
_UNBUFFERED = sys.stdout.write_through  # PYTHONUNBUFFERED
_libc = ctypes.PyDLL(None, use_errno=True)  # the lock of Python's is held all along


def load():
    """Whatever a command may import."""
    for name in _THREADS:  # as iptrec/__main__.py does it
        os.putenv(name, "1")
    package = importlib.import_module("iptrec")
    for module in pkgutil.walk_packages(package.__path__, "iptrec."):
        if module.name not in _OPTIONAL:
            importlib.import_module(module.name)
    assert "pyarrow" not in sys.modules
    build_commands_once()
    gc.collect()
    gc.freeze()  # a child's collections leave the pages that it shares alone


def build_commands_once():
    """Typer makes all commands of their functions at each call, which is most of `iptrec --version`."""
    typer.main.get_command = functools.cache(typer.main.get_command)
    commands = typer.main.get_command(importlib.import_module("iptrec.cli").app).commands
    list(commands.values())  # each is made when it is first asked for


def fork_sibling():
    """fork(2), but the child is our parent's."""
    flags = _CLONE_PARENT | _CHILD_CLEARTID | _CHILD_SETTID
    # struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal (our own), stack, stack_size, tls
    arguments = array.array("Q", [flags, 0, tid_address(), 0, 0, 0, 0, 0])
    address, length = arguments.buffer_info()
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = _libc.syscall(_CLONE3, ctypes.c_void_p(address), ctypes.c_size_t(8 * length))
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
    else:
        ctypes.pythonapi.PyOS_AfterFork_Parent()
    return pid


def tid_address():
    """Where the C library keeps the number of its thread; 0 if the kernel does not say."""
    found = ctypes.c_void_p()
    _libc.prctl(_PR_GET_TID_ADDRESS, ctypes.byref(found), 0, 0, 0)
    return found.value or 0


def can_fork():
    """Old kernels and some sandboxes lack clone3(2): a size of 0 is wrong for those that have it."""
    _libc.syscall(_CLONE3, ctypes.c_void_p(), ctypes.c_size_t())
    return ctypes.get_errno() == errno.EINVAL and tid_address() != 0


def serve(asked):
    """Fork for each request; returns in a child, with what it is to be, and at the end with nothing."""
    while True:
        data, files, _, _ = socket.recv_fds(asked, _MOST, 8)
        if not data:
            return None
        pid = fork_sibling()
        if pid == 0:
            asked.close()
            return marshal.loads(data), files  # noqa: S302 - of our own
        for descriptor in files:
            os.close(descriptor)
        asked.send(b"%d" % pid)


def become(request, files):
    """What the process of its own would be when Python has started."""
    streams, namespaces = files[:3], files[3:]
    for own, descriptor in enumerate(streams):
        os.dup2(descriptor, own)
    for descriptor in namespaces:
        if _libc.setns(descriptor, 0):
            os._exit(125)
    for descriptor in files:
        os.close(descriptor)
    if request["alone"]:
        sees_its_namespace_alone()
    os.chdir(request["directory"])
    os.umask(request["umask"])
    if request["session"]:
        os.setsid()
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    sys.stdin = sys.__stdin__ = stream(0, "r", sys.stdin.errors)
    sys.stdout = sys.__stdout__ = stream(1, "w", sys.stdout.errors)
    sys.stderr = sys.__stderr__ = stream(2, "w", sys.stderr.errors)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request["script"]:
        return script(*request["arguments"])
    main = sys.modules["iptrec.__main__"]
    sys.argv = [main.__file__, *request["arguments"]]
    sys.path[0] = request["directory"]
    return main.main


def script(text, *arguments):
    """What `python -c TEXT ARGUMENTS` does."""
    sys.argv = ["-c", *arguments]
    sys.path[0] = ""
    sys.modules["__main__"] = module = types.ModuleType("__main__")
    return lambda: exec(compile(text, "<string>", "exec"), vars(module))  # noqa: S102


def sees_its_namespace_alone():
    """What `unshare --pid --fork --mount-proc` does."""
    if _libc.unshare(_CLONE_NEWPID | _CLONE_NEWNS):
        os._exit(125)
    child = os.fork()
    if child:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)
    _libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
    if _libc.mount(b"proc", b"/proc", b"proc", 0, None):
        os._exit(125)


def stream(descriptor, mode, errors):
    """One of Python's standard streams, on what the descriptor is now."""
    unbuffered = mode == "w" and _UNBUFFERED
    made = io.TextIOWrapper(
        open(descriptor, f"{mode}b", 0 if unbuffered else -1, closefd=False),  # noqa: SIM115
        sys.stdin.encoding,
        errors,
        newline="\n" if mode == "w" else None,
        line_buffering=descriptor == 2 or os.isatty(descriptor),
        write_through=unbuffered,
    )
    made.mode = mode
    return made


def end(main):
    """Run ``main`` and end as Python does, but do not take the modules apart, which is half of a short command.

    Whatever is out of the ordinary takes the long way.
    """
    try:
        main()
        status = 0
    except SystemExit as asked:
        if not isinstance(asked.code, int | None):
            raise
        status = asked.code or 0
    threading._shutdown()
    atexit._run_exitfuncs()
    gc.collect()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status & 0xFF)


def run():
    """Returns what a child has to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who asks, and for the children
    load()
    with socket.socket(fileno=int(sys.argv[1])) as asked:
        asked.send(b"+" if can_fork() else b"-")
        return serve(asked)


if __name__ == "__main__":
    command = run()
    if command is not None:
        end(become(*command))
