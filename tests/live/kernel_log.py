"""TRACE of legacy iptables into the kernel's log, in namespaces of a lab, and what is logged meanwhile."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import threading
from pathlib import Path

import pytest

_ALL = Path("/proc/sys/net/netfilter/nf_log_all_netns")
_KMSG = "/dev/kmsg"


@contextlib.contextmanager
def logged(lab, path, interfaces, *, families=(2, 10)):
    """Let the lab's TRACE rules log, and write to a file what /dev/kmsg says; yields a list of overruns.

    Lines of other interfaces are left out: others on this host may trace as well.
    Skips the test where this user may not: namespaces log nothing unless the host's root says so.
    """
    if os.geteuid() or not os.access(_ALL, os.W_OK) or not os.access(_KMSG, os.R_OK):
        pytest.skip("the kernel logs of namespaces only where root sets nf_log_all_netns")
    with Path("/run/lock/iptrec-tests-kernel-log").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the setting is the whole host's
        before = _ALL.read_text()
        try:
            _ALL.write_text("1")
        except OSError as error:  # of a container, it cannot be written
            pytest.skip(f"{_ALL}: {error.strerror}")
        try:
            for family, name in ((2, "nf_log_ipv4"), (10, "nf_log_ipv6")):
                if family in families:
                    lab.run(["tee", f"/proc/sys/net/netfilter/nf_log/{family}"], stdin=name)
            with _reading(path) as overruns:
                yield overruns
        finally:
            _ALL.write_text(before)
    ours = re.compile(" IN=({0})? OUT=({0})? ".format("|".join(map(re.escape, interfaces))))
    lines = Path(path).read_text().splitlines()
    kept = (  # the numbers of the others stay: none of them is lost
        f"{one.partition(';')[0]};not ours" if " IN=" in one and not ours.search(one) else one
        for one in lines
    )
    Path(path).write_text("".join(f"{one}\n" for one in kept))


@contextlib.contextmanager
def _reading(path):
    descriptor = os.open(_KMSG, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    os.lseek(descriptor, 0, os.SEEK_END)
    overruns, ended = [], threading.Event()

    def read():
        with Path(path).open("wb") as out:
            while True:
                last = ended.is_set()
                try:
                    out.write(os.read(descriptor, 8192))
                    continue
                except BlockingIOError:
                    pass
                except BrokenPipeError:  # overwritten before it was read
                    overruns.append(1)
                    continue
                if last:
                    return
                ended.wait(0.001)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield overruns
    finally:
        ended.set()
        thread.join()
        os.close(descriptor)
