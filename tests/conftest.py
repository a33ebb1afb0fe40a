"""Options and fixtures of all tests."""

from __future__ import annotations

import pytest


def pytest_addoption(parser):
    """--update-golden: make test's expectations what the views print now."""
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden")


@pytest.fixture(scope="session")
def lab_refusal():
    """Why no lab can be made here (no rights, no iptables); None if one can."""
    from iptrec.kernel.lab import Lab

    return Lab.available()


@pytest.fixture
def lab(lab_refusal):
    """A network of namespaces; the test is skipped where the kernel or the host refuses one."""
    from iptrec.kernel.lab import Lab

    if lab_refusal is not None:
        pytest.skip(lab_refusal)
    with Lab() as network:
        network.ip(None, "link set lo up")
        yield network
