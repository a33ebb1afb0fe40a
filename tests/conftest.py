"""Options and fixtures of all tests."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import signal
import time
from pathlib import Path

import again
import pytest
import warm
from hypothesis import settings
from rights import IS_ROOT, installed

# What a test runs can be interrupted, also where a shell's "&" or nohup had us ignore it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Times that people read are local: everywhere an hour, in summer two, ahead of UTC. POSIX.1, without tzdata.
os.environ["TZ"] = "CET-1CEST,M3.5.0,M10.5.0/3"
time.tzset()
# Nothing fails for being slow: the machine may be shared.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
TESTS = Path(__file__).parent
_turns = []  # the lock that this process has for its test, if any


def pytest_addoption(parser):
    """--update-golden: make test's expectations what the views print now."""
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden")


def pytest_configure(config):
    """Tests are tried once more where they fail."""
    config.pluginmanager.register(again)


def pytest_collection_finish():
    """What thousands of tests consist of stays: no collection of garbage need look at it again."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items):
    """Tests that run alone are the first, in a row: the others wait once, and for nothing that is under way."""
    items.sort(key=lambda one: not _is_alone(one))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    """A test that is marked "alone" runs while no other process of pytest's runs one.

    "cold": its commands are not forked from what is loaded already (`warm`).
    """
    cold = item.get_closest_marker("cold") is not None
    with _turn(item, nextitem), warm.cold(cold):
        return (yield)


def _is_alone(item):
    return item.get_closest_marker("alone") is not None


@contextlib.contextmanager
def _turn(item, following):
    """Who runs alone waits for the others, and lets nobody begin before a test that need not."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        yield
        return
    if not _turns:
        how = fcntl.LOCK_EX if _is_alone(item) else fcntl.LOCK_SH
        _turns.append(contextlib.ExitStack())
        _turns[0].enter_context(_locked(TESTS / "live", how, behind=TESTS))
    try:
        yield
    finally:
        if not (_is_alone(item) and following is not None and _is_alone(following)):
            _turns.pop().close()


@contextlib.contextmanager
def _locked(path, how, behind=None):
    """flock(2) of a directory; ``behind``: in a queue, so that nobody comes in before who waits."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with _locked(behind, fcntl.LOCK_EX) if behind else contextlib.nullcontext():
            fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)


def _refused():
    """Why no lab can be made here, with legacy iptables where that is installed; None if one can (one was)."""
    from iptrec.demo.lab import Lab
    from iptrec.errors import HostError

    try:
        with Lab() as lab:
            for family in ("ipv4", "ipv6") if installed("iptables-legacy-restore") else ():
                lab.restore(None, family, "*raw\nCOMMIT\n")
    except HostError as refusal:
        return str(refusal)
    return None


@pytest.fixture(scope="session")
def labs():
    """Labs can be made here; else tests are skipped, or fail where IPTREC_REQUIRE_LIVE=1 has root make them."""
    refusal = _refused()
    required = IS_ROOT and os.environ.get("IPTREC_REQUIRE_LIVE") == "1"
    if refusal is None and required and not installed("iptables-legacy-restore"):
        refusal = "iptables-legacy-restore: not found; install the package iptables"
    if refusal is not None:
        if required:
            pytest.fail(f"IPTREC_REQUIRE_LIVE=1, and no lab can be made: {refusal}", pytrace=False)
        pytest.skip(refusal)


@pytest.fixture
def lab(labs):  # noqa: ARG001 - skips
    """A network of namespaces; the test is skipped where the kernel or the host refuses one."""
    from warm_lab import Lab

    with Lab() as network:
        yield network


@pytest.fixture(params=["legacy", "nft"])
def backend(request):
    """Each way to record: a test of what both can do asks for it."""
    return request.param


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
