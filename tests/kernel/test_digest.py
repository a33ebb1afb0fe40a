"""What is asked of a table of legacy iptables, where the kernel answers or not."""

from __future__ import annotations

import errno
import os

import pytest

from iptrec.errors import HostError
from iptrec.kernel import host
from iptrec.kernel.legacy.digest import Tables


class Kernel:
    """Knows one extension as soon as a module is loaded."""

    def __init__(self, *, there=True, loads=True):
        self.there, self.loads, self.asked = there, loads, []

    def modprobe(self, module):
        self.asked.append(module)
        self.there = self.there or self.loads
        return self.loads

    def get(self, _option, buffer):
        if not self.there:
            raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))
        if not buffer.startswith(b"TRACE\0"):
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))


@pytest.fixture
def tables(monkeypatch):
    def of(family, kernel):
        monkeypatch.setattr(host, "modprobe", kernel.modprobe)
        monkeypatch.setattr(Tables, "_get", lambda _, *asked: kernel.get(*asked))
        monkeypatch.setattr(Tables, "__init__", lambda self: setattr(self, "_family", family))
        return Tables()

    return of


@pytest.mark.parametrize("there", [True, False])
def test_extensions(tables, there):
    """Where no iptables ran since the host started, its module is loaded first, and once."""
    kernel = Kernel(there=there)
    asked = tables("ipv4", kernel)
    assert (asked.knows("target", "TRACE"), asked.knows("match", "bpf")) == (True, False)
    assert kernel.asked == ([] if there else ["ip_tables"])


def test_a_kernel_without_legacy_iptables(tables):
    kernel = Kernel(there=False, loads=False)
    with pytest.raises(HostError, match="ipv6 table TRACE: Protocol not available"):
        tables("ipv6", kernel).knows("target", "TRACE")
    assert kernel.asked == ["ip6_tables"]
