"""The rules that recipes.py loads are those that Debian 12's daemons make, where make hosts installed these."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
import recipes
from real_hosts import hosts, network
from rights import IS_ROOT

pytestmark = [pytest.mark.live, pytest.mark.skipif(not IS_ROOT, reason="the daemons need root")]

VERSIONS = {
    "dockerd": "20.10.24",
    "podman": "4.3.1",
    "firewall-offline-cmd": "1.3.3",
}  # of Debian 12
DOCKERD = (*hosts._DOCKERD[: hosts._DOCKERD.index("--userland-proxy=false")],)
PUBLISHED = ("run", "-d", "--name", "web", "-p", "8080:80")
SLEEP = ("box", "/bin/busybox", "sleep", "1000")


@pytest.fixture
def host(lab):
    """A router with one neighbour, /etc and /var that daemons may write, and iptables on nf_tables."""
    recipes.neighbour(lab, "client", "eth0", "192.0.2.10/24", "192.0.2.99/24")
    recipes.forward(lab)
    lab.run(["sh", "-c", network._OVERLAYS])
    for tool in network._TOOLS:
        lab.run(["ln", "-sfn", "/usr/sbin/xtables-nft-multi", f"/etc/alternatives/{tool}"])
    lab.settle()
    return lab


def needs(program, *others):
    """Skip where it is not there, or another version."""
    for one in (program, *others):
        if not shutil.which(one, path=hosts._PATH):
            pytest.skip(f"{one}: not installed")
    said = subprocess.run(
        [program, "--version"], capture_output=True, text=True, check=False
    ).stdout
    if VERSIONS[program] not in said:
        pytest.skip(f"another {program} than Debian 12's: {said.strip()}")


def rules(text):
    """Without counters, comments, and what is another one with each container."""
    text = re.sub(r"\[\d+:\d+\]", "[0:0]", re.sub(r"^# .*\n", "", text, flags=re.MULTILINE))
    return re.sub(r"\b[0-9a-f]{64}\b|(?<=NETAVARK-)[0-9A-F]{13}|(?<=DN-)[0-9A-F]{13}", "ID", text)


def recorded(name):
    return rules((recipes.RULES / name).read_text())


def test_docker(host):
    """`docker run -p 8080:80`."""
    needs("dockerd", "docker", "busybox")
    docker = ("docker", "--host", "unix:///run/dk.sock")
    with hosts._running(host, DOCKERD, lambda: hosts._says_yes(host, *docker, "version")):
        host.run(["sh", "-c", hosts._IMAGE])
        host.run([*docker, "import", "/run/img.tar", "box"])
        try:
            host.run([*docker, *PUBLISHED, *SLEEP])
            assert rules(host.run(["iptables-nft-save"]).stdout) == recorded("docker.rules")
        finally:
            host.run([*docker, "rm", "-f", "web"], check=False)


def test_podman(host):
    """`podman run -p 8080:80`, as root."""
    needs("podman", "runc", "busybox")
    host.run(["sh", "-c", hosts._IMAGE])
    host.run([*hosts._PODMAN, "import", "/run/img.tar", "box"])
    try:
        host.run([*hosts._PODMAN, *PUBLISHED, *hosts._LIMITS, *SLEEP])
        assert rules(host.run(["iptables-nft-save"]).stdout) == recorded("podman.rules")
    finally:
        host.run([*hosts._PODMAN, "rm", "-f", "-a", "-t", "0"], check=False)


def test_firewalld(host):
    """As it is installed, and its answer to what the page types."""
    needs("firewall-offline-cmd", "firewalld", "dbus-daemon", "nft")
    host.run(["mkdir", "-p", "/run/dbus"])
    bus = ["dbus-daemon", "--system", "--nofork", "--nopidfile", "--nosyslog"]
    daemon = ["firewalld", "--nofork", "--nopid"]
    socket = ("test", "-S", "/run/dbus/system_bus_socket")
    with (
        hosts._running(host, bus, lambda: hosts._says_yes(host, *socket)),
        hosts._running(host, daemon, lambda: hosts._says_yes(host, "firewall-cmd", "--state")),
    ):
        listing = ("nft", "-s", "list", "ruleset")
        assert rules(host.run(listing).stdout) == recorded("firewalld.nft")
        for words in (["--permanent", "--zone=public", "--add-port=8080/tcp"], ["--reload"]):
            assert host.run(["firewall-cmd", *words]).stdout == "success\n"
        assert "tcp dport 8080 accept" in host.run(listing).stdout
