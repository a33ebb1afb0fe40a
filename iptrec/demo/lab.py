"""A small network in namespaces of its own, for the demo, the samples and the live tests.

Idea: a holder process sits in fresh mount and network namespaces (without root, inside a fresh user
namespace) with a tmpfs on /run, so that named namespaces and the xtables lock are the lab's own.
Commands join it with nsenter. Nothing has a name outside, so nothing is left when the holder ends.
It ends when its standard input does, and only the Lab holds the other end of that pipe: a killed
parent takes its lab along.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from iptrec.errors import HostError
from iptrec.kernel import process

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_NEEDED = {  # command -> Debian's package
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "mount": "mount",
    "ip": "iproute2",
}

# The kernel tells of a carrier at once, or up to a second later where a virtual interface has the number of its
# peer (net/core/link_watch.c, linkwatch_urgent_event): in their own namespaces both would be the second one.
_FIRST_PEER = 100

_RESTORE = {"ipv4": "iptables-{}-restore", "ipv6": "ip6tables-{}-restore"}

_AS_ROOT = "this root needs CAP_SYS_ADMIN and a writable /proc/sys (docker run --privileged)"
_WITHOUT_ROOT = (
    "run as root, or allow unprivileged user namespaces "
    "(sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns)"
)

# Duplicate address detection keeps an address unusable for a second. It is off only where "all" and
# the interface, which inherits "default", both say so (net/ipv6/addrconf.c, addrconf_dad_begin).
_NO_DETECTION = """
for conf in /proc/sys/net/ipv6/conf/all /proc/sys/net/ipv6/conf/default; do
    [ ! -e $conf ] || echo 0 >$conf/accept_dad || exit
done
"""

_NEW_NAMESPACE = f"""
ip link set lo up || exit
{_NO_DETECTION}
"""

# The lab's own namespace gets a name too: so one loop finds everybody who is still inside.
_HOLDER = f"""
mount -t tmpfs tmpfs /run || exit
printf 'link set lo up\nnetns attach lab %s\n' $$ | ip -batch - || exit
{_NO_DETECTION}
echo ready
read -r _
for process in /proc/[0-9]*; do
    for name in /run/netns/*; do
        [ "$process/ns/net" -ef "$name" ] && [ "$process" != /proc/$$ ] && kill -KILL "${{process#/proc/}}"
    done
done 2>/dev/null
"""


class Lab:
    """A network of namespaces that vanishes with the ``with`` block, or with this process.

    ``host=None`` is everywhere the lab's own namespace (a Docker host, a node, a router); other
    hosts are network namespaces with a name, made by `host`. All of them share one mount namespace,
    where /run/netns/NAME is the namespace of host NAME. Raises HostError where a command is missing
    or the kernel forbids namespaces.
    """

    def __init__(self) -> None:
        self._environment = os.environ | {"PATH": process.search_path()}
        self._hosts: list[str | None] = [None]
        self._children: list[subprocess.Popen[Any]] = []
        self._peers = itertools.count(_FIRST_PEER)
        for command, package in _NEEDED.items():
            self._require(command, package)
        self._unprivileged = os.geteuid() != 0
        # Two steps: a network namespace made together with its user namespace belongs to nobody
        # yet, and its /proc/net/ip_tables_names stays unreadable even for the root that is mapped.
        user = ["unshare", "--user", "--map-root-user"] if self._unprivileged else []
        self._holder = subprocess.Popen(
            [*user, "unshare", "--mount", "--net", "sh", "-c", _HOLDER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self._environment,
            start_new_session=True,  # Ctrl-C is for the commands; the holder goes last
        )
        self.pid = self._holder.pid  # unshare and sh exec: the same process all along
        if _pipe(self._holder.stdout).readline() != "ready\n":
            complaint = _last_line(_pipe(self._holder.stderr).read())
            self.close()
            remedy = _WITHOUT_ROOT if self._unprivileged else _AS_ROOT
            raise HostError(f"cannot make namespaces: {complaint}; {remedy}")

    def _require(self, command: str, package: str) -> None:
        if shutil.which(command, path=self._environment["PATH"]) is None:
            raise HostError(f"{command}: not found; install the package {package}")

    def __enter__(self) -> Self:
        """Nothing more to do: the lab stands since it was made."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close, whatever went wrong in between."""
        self.close()

    def close(self) -> None:
        """Kill what still runs in the lab, and wait until holder and namespaces are gone."""
        for child in self._children:
            with child:  # closes its pipes, too
                child.kill()
        _pipe(self._holder.stdin).close()
        self._holder.wait()
        _pipe(self._holder.stdout).close()
        _pipe(self._holder.stderr).close()

    def popen(
        self,
        argv: Sequence[str],
        host: str | None = None,
        **options: Any,  # noqa: ANN401 - Popen's own, a dozen of types
    ) -> subprocess.Popen[Any]:
        """Start a command on a host, in the caller's working directory; ``options`` as for Popen.

        Every step execs the next, so that the process is the command itself: its pid, its signals.
        """
        child = subprocess.Popen(
            [*self._enter(host), "env", "-C", str(Path.cwd()), *argv],
            **{"env": self._environment, **options},
        )
        self._children.append(child)
        return child

    def run(
        self,
        argv: Sequence[str],
        host: str | None = None,
        *,
        check: bool = True,
        stdin: str = "",
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host to its end (``timeout`` seconds at most) and take its output.

        Raises HostError with the last line that it complained if its status is not 0, unless
        ``check`` is off.
        """
        pipe = subprocess.PIPE
        with self.popen(argv, host, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as child:
            try:
                stdout, stderr = child.communicate(stdin, timeout)
            except subprocess.TimeoutExpired:
                child.kill()
                raise HostError(f"{argv[0]}: no end after {timeout} s, on {_name(host)}") from None
            finally:
                self._children.remove(child)
        if check and child.returncode:
            raise HostError(f"{' '.join(argv)}: {_last_line(stderr)} (on {_name(host)})")
        return subprocess.CompletedProcess(list(argv), child.returncode, stdout, stderr)

    def host(self, name: str) -> None:
        """Add a host: a network namespace with this name and its loopback up."""
        self.run(["ip", "netns", "add", name])
        self._hosts.append(name)
        self.run(["sh", "-c", _NEW_NAMESPACE], name)

    def ip(self, host: str | None, commands: str) -> None:
        """Run commands of iproute2 on a host, one a line, without the word "ip"."""
        self.run(["ip", "-batch", "-"], host, stdin=commands)

    def link(
        self, host: str, name: str, *addresses: str, peer: str, bridge: str | None = None
    ) -> None:
        """Plug a host in: its interface ``name``, whose other end is ``peer`` in the lab's own.

        ``addresses`` (with prefix length) are the host's; ``peer`` becomes a port of ``bridge``.
        """
        made = f"link add {peer} index {next(self._peers)} type veth peer name {name} netns {host}"
        member = [] if bridge is None else [f"link set {peer} master {bridge}"]
        self.ip(None, "\n".join([made, *member, f"link set {peer} up"]))
        for address in addresses:  # one batch cannot have both families
            self.ip(host, f"address add {address} dev {name}")
        self.ip(host, f"link set {name} up")

    def sysctl(self, host: str | None, key: str, value: int) -> None:
        """Set a kernel setting of a host, ``net/ipv4/ip_forward``."""
        self.run(["tee", f"/proc/sys/{key}"], host, stdin=str(value))

    def restore(self, host: str | None, family: str, ruleset: str, backend: str = "legacy") -> None:
        """Load iptables-save text; ``family`` is "ipv4" or "ipv6", ``backend`` "legacy" or "nft"."""
        command = _RESTORE[family].format(backend)
        self._require(command, "iptables")
        self.run([command, "-w", "10"], host, stdin=ruleset)

    def settle(self, seconds: float = 10) -> None:
        """Wait until every interface that was set up carries and no address is tentative.

        Raises HostError that names the interface after ``seconds``.
        """
        deadline = time.monotonic() + seconds
        while waiting := next(self._unsettled(), None):
            if time.monotonic() > deadline:
                raise HostError(f"{waiting}: still not up after {seconds} s")
            time.sleep(0.005)

    def _unsettled(self) -> Iterator[str]:
        for host in self._hosts:
            for link in json.loads(self.run(["ip", "-json", "address"], host).stdout):
                carries = link["operstate"] in {"UP", "UNKNOWN"}  # lo does not say
                tentative = any(address.get("tentative") for address in link["addr_info"])
                if "UP" in link["flags"] and (tentative or not carries):
                    yield f"{link['ifname']} on {_name(host)}"

    def _enter(self, host: str | None) -> list[str]:
        user = ["--user", "--preserve-credentials"] if self._unprivileged else []
        net = "--net" if host is None else f"--net=/proc/{self.pid}/root/run/netns/{host}"
        return ["nsenter", f"--target={self.pid}", *user, "--mount", net]


def _name(host: str | None) -> str:
    return host or "the lab's own host"


def _last_line(complaint: str) -> str:
    lines = complaint.strip().splitlines()
    return lines[-1].strip() if lines else "failed without a word"


def _pipe(pipe: IO[str] | None) -> IO[str]:
    """One of the holder's pipes; Popen's type does not know that all three were asked for."""
    assert pipe is not None  # noqa: S101 - for the type checker
    return pipe
