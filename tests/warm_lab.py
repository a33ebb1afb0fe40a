"""A lab whose commands start at once: iptrec is loaded already (tests/warm.py), others need not enter first.

`nsenter` and `env -C` before each command cost more than most of the commands. Here a thread of ours has
entered the lab's namespaces, and what it starts is there from the beginning.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import warm
from rights import installed

from iptrec.demo import lab

_CLONE_FS = 0x200  # linux/sched.h: root and working directory
_libc = ctypes.CDLL(None, use_errno=True)


class Lab(lab.Lab):
    """The lab of the demo and the samples; its processes are children of ours, as with nsenter."""

    _inside = None

    def popen(self, argv, host=None, **options):
        """Enter the namespaces that nsenter would enter, in its order."""
        options = {"env": self._environment, **options}
        if os.geteuid():
            return super().popen(argv, host, **options)
        network = "ns/net" if host is None else f"root/run/netns/{host}"
        files = [f"/proc/{self.pid}/{one}" for one in (network, "ns/mnt")]
        if warm.fits(argv, options):
            child = warm.Popen(argv, namespaces=files, **options)
        else:
            child = self._started(argv, files, options | {"cwd": Path.cwd()})
        self._children.append(child)
        return child

    def restore(self, host, family, ruleset, backend="legacy"):
        """Where there is no iptables, tests of nf_tables alone run."""
        if not installed(f"iptables-{backend}-restore"):
            pytest.skip(f"iptables-{backend}-restore: not found; install the package iptables")
        super().restore(host, family, ruleset, backend)

    def _started(self, argv, files, options):
        network, mounts = files
        if self._inside is None:
            self._inside = ThreadPoolExecutor(1, initializer=_leave, initargs=(mounts,))
        with Path(network).open("rb") as namespace:
            return self._inside.submit(_start, namespace.fileno(), argv, options).result()

    def close(self):
        """The thread keeps the namespaces alive: it goes first."""
        if self._inside is not None:
            self._inside.shutdown()
        super().close()


def _leave(mounts):
    """Let this thread have another root than the others, that of the lab."""
    _done(_libc.unshare(_CLONE_FS))
    with Path(mounts).open("rb") as namespace:
        _done(_libc.setns(namespace.fileno(), 0))


def _start(network, argv, options):
    _done(_libc.setns(network, 0))
    return subprocess.Popen(argv, **options)


def _done(status):
    if status:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
