"""The single file in an empty root: the C library, zlib and busybox, nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

from roots import copied

from iptrec.version import __version__

SAMPLE = Path(__file__).parents[2] / "samples/docker_hairpin.db"


def test_portable(empty_root, made):
    (program,) = made.glob("iptrec-*-x86_64")
    shutil.copy(program, empty_root.path / "iptrec")
    shutil.copy(SAMPLE, empty_root.path / "a.db")
    assert empty_root.run("/iptrec", "--version").stdout == f"iptrec {__version__}\n"
    unpacked = list((empty_root.path / "var/cache/iptrec").iterdir())
    assert "=> DROP" in empty_root.run("/iptrec", "show", "a.db").stdout
    assert "Docker" in empty_root.run("/iptrec", "why", "a.db", "--packet", "1").stdout
    assert (
        list((empty_root.path / "var/cache/iptrec").iterdir()) == unpacked
    )  # once, and nothing beside it
    refused = empty_root.run("/iptrec", "show", "a.db", "tcp port 1", check=False)
    assert refused.returncode == 2
    assert refused.stderr.startswith("iptrec: libpcap: not found")


def test_demo(bases, made, tmp_path):
    """It records, where there is something to record, and unpacks itself nowhere else."""
    with copied(bases("bookworm"), tmp_path) as root:
        root.install("iptables", "nftables", "iproute2", "libpcap0.8")
        (program,) = made.glob("iptrec-*-x86_64")
        shutil.copy(program, root.path / "usr/bin/iptrec")
        assert "=> DROP" in root.run("iptrec", "demo").stdout
        asked = root.run("iptrec", "doctor", check=False)
        assert (asked.returncode in {0, 1}, asked.stderr) == (True, "")
        assert {one.split("/")[2] for one in root.named("iptrec") if one.startswith("var/")} == {
            "iptrec"
        }
