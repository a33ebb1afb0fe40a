"""The .rpm, in a Debian that has rpm: there are no mirrors of Fedora for a root of its own.

The names of what it depends on are Fedora's and RHEL's, so that rpm must not look for them here.
"""

from __future__ import annotations

import shutil

from roots import copied

from iptrec.version import __version__

# dnf repoquery of Fedora and RHEL: packages of these names, iproute with ip and tc in it
NEEDED = {"glibc", "libpcap", "iproute", "libz.so.1()(64bit)"}
WANTED = {"iptables", "nftables"}


def test_rpm(bases, made, tmp_path):
    with copied(bases("bookworm"), tmp_path) as root:
        root.install("rpm", "libpcap0.8", "iptables", "nftables", "iproute2")
        (package,) = made.glob("iptrec-*.rpm")
        shutil.copy(package, root.path / "root/iptrec.rpm")
        asked = root.run("rpm", "-qp", "--requires", "/root/iptrec.rpm").stdout.splitlines()
        assert {one.split()[0] for one in asked if not one.startswith("rpmlib")} == NEEDED
        assert (
            set(root.run("rpm", "-qp", "--recommends", "/root/iptrec.rpm").stdout.split()) == WANTED
        )
        root.run("rpm", "-i", "--nodeps", "--nosignature", "/root/iptrec.rpm")
        assert root.run("iptrec", "--version").stdout == f"iptrec {__version__}\n"
        assert "=> DROP" in root.run("iptrec", "demo").stdout
        assert "/usr/share/zsh/site-functions/_iptrec" in root.run("rpm", "-ql", "iptrec").stdout
        assert root.run("rpm", "-V", "--nodeps", "iptrec", check=False).stdout == ""
        root.run("rpm", "-e", "iptrec")
        (root.path / "root/iptrec.rpm").unlink()
        assert root.named("iptrec") == set()
