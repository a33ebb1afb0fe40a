"""Options and fixtures of all tests."""

from __future__ import annotations

import os

import pytest
from rights import IS_ROOT


def pytest_addoption(parser):
    """--update-golden: make test's expectations what the views print now."""
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden")


@pytest.fixture(scope="session")
def lab_refusal():
    """Why no lab can be made here (no rights, no iptables); None if one can."""
    from iptrec.demo.lab import Lab

    return Lab.available()


@pytest.fixture
def lab(lab_refusal):
    """A network of namespaces; the test is skipped where the kernel or the host refuses one."""
    from iptrec.demo.lab import Lab

    if lab_refusal is not None:
        pytest.skip(lab_refusal)
    with Lab() as network:
        network.ip(None, "link set lo up")
        yield network


@pytest.fixture
def behind_sudo(monkeypatch):
    """A function that says who ran sudo; the process is what it was afterwards."""
    groups = os.getgroups()

    def say(uid, gid=None):
        monkeypatch.setenv("SUDO_UID", str(uid))
        monkeypatch.setenv("SUDO_GID", str(uid if gid is None else gid))

    yield say
    if IS_ROOT:
        os.setresuid(-1, -1, 0)
        os.setresgid(-1, -1, 0)
        os.setgroups(groups)
