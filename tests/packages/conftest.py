"""The packages that tools/packages made, in $IPTREC_PACKAGES, and clean systems (root, a mirror of Debian)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from roots import Root, copied, debian, libraries


@pytest.fixture(scope="session")
def made():
    """The directory with the packages."""
    return Path(os.environ["IPTREC_PACKAGES"]).absolute()


@pytest.fixture(scope="session")
def bases(tmp_path_factory):
    """Suite -> a minimal system of it; $IPTREC_ROOTS has those that are there already."""
    kept, known = os.environ.get("IPTREC_ROOTS"), {}

    def base(suite):
        if suite not in known:
            at = Path(kept or tmp_path_factory.mktemp("roots")).absolute() / suite
            known[suite] = at if at.is_dir() else debian(suite, at)
        return known[suite]

    return base


@pytest.fixture(params=["bookworm", "trixie"])
def debian_root(request, bases, tmp_path):
    """A minimal Debian to change."""
    with copied(bases(request.param), tmp_path) as root:
        root.suite = request.param
        yield root


@pytest.fixture
def empty_root(tmp_path):
    """A system of the C library and zlib; busybox is sh, tar, gzip and what else the single file needs."""
    at = tmp_path / "root"
    for one in ("bin", "tmp", "root", "proc", "sys", "dev", "run", "etc"):
        (at / one).mkdir(parents=True)
    busybox = at / "bin/busybox"
    shutil.copy("/bin/busybox", busybox)
    for name in (
        "sh",
        "ls",
        "tar",
        "gzip",
        "tail",
        "mkdir",
        "mktemp",
        "mv",
        "chmod",
        "rm",
        "id",
        "mount",
        "umount",
        "rmdir",
    ):
        (at / "bin" / name).symlink_to("busybox")
    for library in libraries():
        target = at / str(library).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library.resolve(), target)
    return Root(at)
