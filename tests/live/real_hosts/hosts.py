"""The hosts: what each needs, how its rules come to be, and who sits behind it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from real_hosts import counters, network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from iptrec.demo.lab import Lab

_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
RULES = Path(__file__).parent / "rules"
_KUBEADM = Path(__file__).parents[3] / "samples" / "kubeadm-flannel.rules"
_IMAGE = "mkdir -p /run/img/bin && cp $(command -v busybox) /run/img/bin/ && tar -C /run/img -cf /run/img.tar ."
_DOCKERD = (
    "unshare", "--pid", "--fork", "--kill-child", "--mount-proc",
    "dockerd", "--data-root", "/run/dk/data", "--exec-root", "/run/dk/exec", "--pidfile", "/run/dk.pid",
    "--host", "unix:///run/dk.sock", "--storage-driver", "vfs", "--userland-proxy=false",
    "--ipv6", "--fixed-cidr-v6", "fd00:d0c::/64", "--experimental", "--ip6tables",
)  # fmt: skip
_PODMAN = (
    "podman", "--root", "/run/pd/root", "--runroot", "/run/pd/run", "--tmpdir", "/run/pd/tmp",
    "--network-config-dir", "/run/pd/net", "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs",
    "--events-backend", "file", "--network-backend", "netavark", "--runtime", "runc",
)  # fmt: skip
# Its own are higher than what a container of this machine may be granted.
_LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")


@dataclass(frozen=True)
class Host:
    """``start`` makes the rules in a lab and gives the names of the hosts behind it.

    ``rate``: packets a second that a busy machine records without loss.
    """

    backend: str
    start: Callable[[Lab, str], contextlib.AbstractContextManager[list[str]]]
    needs: tuple[str, ...] = ()
    rate: int = 2000

    def missing(self):
        """The programs that are not installed."""
        return [one for one in self.needs if shutil.which(one, path=_PATH) is None]


def _until(condition, what, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@contextlib.contextmanager
def _running(lab, argv, ready):
    """A daemon that has ended when this ends; what it says is in a file, shown where it is not ready."""
    log = Path("/tmp") / f"iptrec-{argv[0]}-{os.getpid()}.log"  # noqa: S108
    with log.open("w") as out:
        daemon = lab.popen(argv, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        try:
            _until(lambda: daemon.poll() is not None or ready(), f"{argv[0]} is not ready")
            assert daemon.poll() is None, f"{argv[0]} ended:\n{log.read_text()[-2000:]}"
            yield daemon
        finally:
            daemon.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(timeout=20)
            daemon.kill()
            log.unlink()


def _says_yes(lab, *argv):
    return lab.run(list(argv), check=False).returncode == 0


@contextlib.contextmanager
def _firewalld(lab, backend) -> Iterator[list[str]]:
    """Zones, policies, sets and rich rules; they stay when firewalld has ended."""
    settings = {"FirewallBackend": {"nft": "nftables", "legacy": "iptables"}[backend]}
    settings |= {"CleanupOnExit": "no", "LogDenied": "unicast"}
    edits = "; ".join(f"s/^{key}=.*/{key}={value}/" for key, value in settings.items())
    lab.run(["sed", "-i", edits, "/etc/firewalld/firewalld.conf"])
    lab.run(["cp", "-r", *map(str, (RULES / "firewalld").iterdir()), "/etc/firewalld"])
    lab.run(["mkdir", "-p", "/run/dbus"])
    bus = ["dbus-daemon", "--system", "--nofork", "--nopidfile", "--nosyslog"]
    behind = _behind(lab)
    with (
        _running(lab, bus, lambda: _says_yes(lab, "test", "-S", "/run/dbus/system_bus_socket")),
        _running(
            lab,
            ["firewalld", "--nofork", "--nopid"],
            lambda: _says_yes(lab, "firewall-cmd", "--state"),
        ),
    ):
        pass
    if backend == "nft":
        counters.add_counters(lab)
    yield behind


def _behind(lab):
    """No containers: a third network with a server, as routers have one."""
    lab.host("dmz")
    lab.link("dmz", "up2", "10.2.0.2/24", "fd02::2/64", peer="eth2")
    for own in ("10.2.0.1/24", "fd02::1/64"):
        lab.ip(None, f"address add {own} dev eth2")
    _route(lab, "dmz", "up2", "10.2.0.1", "fd02::1")
    return ["dmz"]


def _route(lab, host, name, four, six=None):
    lab.ip(host, f"route add default via {four}")
    if six:
        lab.ip(host, f"route add default via {six}")
    network.everything(lab, host, name)


@contextlib.contextmanager
def _ufw(lab, backend) -> Iterator[list[str]]:  # noqa: ARG001 - iptables is of that backend
    lan = _behind(lab)
    for line in (RULES / "ufw.sh").read_text().splitlines():
        if line and line[0] != "#":
            lab.run(["sh", "-c", line])
    for scope in (
        "all",
        "default",
        "eth0",
        "eth1",
        "eth2",
    ):  # ufw switches it on: more dies before the rules
        lab.sysctl(None, f"net/ipv4/conf/{scope}/rp_filter", 0)
    yield lan


@contextlib.contextmanager
def _docker(lab, backend) -> Iterator[list[str]]:  # noqa: ARG001 - iptables is of that backend
    """A default network with IPv6, two more of which one is internal, and published ports."""
    docker = ("docker", "--host", "unix:///run/dk.sock")
    with _running(lab, _DOCKERD, lambda: _says_yes(lab, *docker, "version")):
        lab.run(["sh", "-c", _IMAGE])
        lab.run([*docker, "import", "/run/img.tar", "box"])
        names = []
        try:
            for line in (RULES / "docker.txt").read_text().splitlines():
                words = line.split()
                if words[0] == "network":
                    lab.run([*docker, *words])
                else:
                    names.append(words[words.index("--name") + 1])
                    lab.run([*docker, *words, "box", "/bin/busybox", "sleep", "100000"])
                    pid = lab.run(
                        [*docker, "inspect", "-f", "{{.State.Pid}}", names[-1]]
                    ).stdout.strip()
                    lab.run(["ip", "netns", "attach", names[-1], _outer_pid(pid)])
            _answering(lab, names)
            yield names
        finally:
            lab.run([*docker, "rm", "-f", *names], check=False)


@contextlib.contextmanager
def _podman(lab, backend) -> Iterator[list[str]]:  # noqa: ARG001 - iptables is of that backend
    for family in ("", "6"):  # nobody there loads br_netfilter
        lab.sysctl(None, f"net/bridge/bridge-nf-call-ip{family}tables", 0)
    lab.run(["sh", "-c", _IMAGE])
    lab.run([*_PODMAN, "import", "/run/img.tar", "box"])
    names = []
    try:
        for line in (RULES / "podman.txt").read_text().splitlines():
            words = line.split()
            if words[0] == "network":
                lab.run([*_PODMAN, *words])
            else:
                before = set(_namespaces(lab))
                lab.run([*_PODMAN, *words, *_LIMITS, "box", "/bin/busybox", "sleep", "100000"])
                names += set(_namespaces(lab)) - before
        _answering(lab, names)
        yield names
    finally:
        lab.run([*_PODMAN, "rm", "-f", "-a", "-t", "0"], check=False)


def _namespaces(lab):
    return [one.split()[0] for one in lab.run(["ip", "netns", "list"]).stdout.splitlines()]


def _outer_pid(inner):
    """The number outside of the process that has this one in dockerd's own pid namespace."""
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            line = next(one for one in status.read_text().splitlines() if one.startswith("NSpid:"))
            if line.split()[2:] == [inner, "1"]:
                return status.parts[2]
    raise AssertionError(f"no process {inner} of a container")


def _answering(lab, names):
    """Containers take all that is sent to them, as the others do."""
    for name in names:
        for link in network.addresses(lab, name):
            network.everything(lab, name, link)


@contextlib.contextmanager
def _pods(lab, load) -> Iterator[list[str]]:
    """Three pods behind a bridge, as a node of a cluster has them."""
    lab.ip(None, "link add cni0 type bridge\nlink set cni0 up")
    for own in ("10.244.0.1/24", "fd00:10:244::1/64"):
        lab.ip(None, f"address add {own} dev cni0")
    names = []
    for number in (2, 3, 9):
        names.append(f"pod{number}")
        own = f"10.244.0.{number}/24", f"fd00:10:244::{number}/64"
        lab.host(names[-1])
        lab.link(names[-1], "eth0", *own, peer=f"veth{number}", bridge="cni0")
        lab.run(["bridge", "link", "set", "dev", f"veth{number}", "hairpin", "on"])
        _route(lab, names[-1], "eth0", "10.244.0.1", "fd00:10:244::1")
    load()
    yield names


def _kubeadm(lab, backend):
    text = _KUBEADM.read_text().replace("172.31.7.91", "192.0.2.1")  # the node's own address
    six = (RULES / "kubeadm6.rules").read_text()

    def load():
        lab.restore(None, "ipv4", text, backend)
        lab.restore(None, "ipv6", six, backend)

    return _pods(lab, load)


def _kube_proxy(lab, backend):  # noqa: ARG001 - nf_tables alone
    def load():
        for name in ("kube-proxy.nft", "kube-proxy6.nft"):
            lab.run(["nft", "-f", "-"], stdin=(RULES / name).read_text())
        counters.add_counters(lab)

    return _pods(lab, load)


@contextlib.contextmanager
def _fw4(lab, backend) -> Iterator[list[str]]:  # noqa: ARG001 - nf_tables alone
    lan = _behind(lab)
    lab.run(["nft", "-f", "-"], stdin=(RULES / "fw4.nft").read_text())
    counters.add_counters(lab)
    yield lan


HOSTS = {
    "firewalld, nftables": Host("nft", _firewalld, ("firewalld", "dbus-daemon", "nft"), rate=1000),
    "firewalld, iptables": Host(
        "legacy", _firewalld, ("firewalld", "dbus-daemon", "ipset"), rate=600
    ),  # a hundred events a packet
    "ufw, legacy": Host("legacy", _ufw, ("ufw",)),
    "ufw, iptables-nft": Host("nft", _ufw, ("ufw",)),
    "dockerd, legacy": Host("legacy", _docker, ("dockerd", "docker", "busybox")),
    "dockerd, iptables-nft": Host("nft", _docker, ("dockerd", "docker", "busybox")),
    "podman, legacy": Host("legacy", _podman, ("podman", "runc", "busybox")),
    "podman, iptables-nft": Host("nft", _podman, ("podman", "runc", "busybox")),
    "kube-proxy, nftables": Host("nft", _kube_proxy, ("nft",)),
    "fw4": Host("nft", _fw4, ("nft",)),
    "kubeadm, legacy": Host("legacy", _kubeadm),
    "kubeadm, iptables-nft": Host("nft", _kubeadm),
}
