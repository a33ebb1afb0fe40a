"""Captures that tshark makes by `iptrec extcap`, in a lab."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command import IPTREC
from recorder import processes, until
from rights import installed

SEND = """\
import socket, sys
heard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
heard.bind(("127.0.0.1", 10))
end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for port in map(int, sys.argv[1:]):
    end.sendto(b"%d" % port, ("127.0.0.1", port))
"""
RULES = "*filter\n-A INPUT -p udp --dport 9 -j DROP\n-A INPUT -p udp --dport 10 -j ACCEPT\nCOMMIT\n"
FILTER = "udp and (dst port 9 or dst port 10)"
PREFERENCE = "extcap.iptrec"


def send(lab, *ports, host=None):
    """A packet to each port: 9 is dropped, 10 arrives."""
    lab.run([sys.executable, "-c", SEND, *map(str, ports)], host)


def traced(lab, host=None):
    """Whether rules of a recorder are there."""
    legacy, nft = (
        lab.run([f"iptables-{kind}-save"], host, check=False).stdout for kind in ("legacy", "nft")
    )
    return "iptrec:" in legacy + nft + lab.run(["nft", "list", "ruleset"], host).stdout


def records(lab, host=None):
    """Whether events are recorded: who reads the recording is started when all rules are in place."""
    path = "ns/net" if host is None else f"root/run/netns/{host}"
    namespace = os.stat(f"/proc/{lab.pid}/{path}").st_ino  # noqa: PTH116
    for link in Path("/proc").glob("[0-9]*/ns/net"):
        with contextlib.suppress(OSError):
            if link.stat().st_ino == namespace:
                words = (link.parents[1] / "cmdline").read_bytes().split(b"\0")
                if b"--follow" in words:
                    return True
    return False


class Home:
    """A user whose Wireshark has iptrec: a home, temporary files of its own, the environment."""

    def __init__(self, path):
        for name in ("tshark", "dumpcap"):
            if not installed(name):
                pytest.skip(f"{name}: not found; install the package tshark")
        self.path = path
        self.temporary = path / "tmp"
        self.temporary.mkdir()
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TZ") if name in os.environ}
        self.environment = {
            **kept, "HOME": str(path), "TMPDIR": str(self.temporary), "XDG_RUNTIME_DIR": str(path),
        }  # fmt: skip
        done = subprocess.run(
            [*IPTREC, "extcap", "install"], env=self.environment, capture_output=True, text=True, check=False
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def asked(self, *arguments):
        """What tshark says that does not capture."""
        done = subprocess.run(
            ["tshark", *arguments], env=self.environment, capture_output=True, text=True, check=False
        )  # fmt: skip
        return done.stdout

    def read(self, path, *fields):
        """These fields of each packet."""
        words = [word for one in fields for word in ("-e", one)]
        told = self.asked("-r", str(path), "-T", "fields", "-E", "separator=|", *words)
        return [line.split("|") for line in told.splitlines()]

    def command(self, *arguments, expression=FILTER, **options):
        """Of a tshark that captures; ``options``: of our interface."""
        preferences = [f"-o{PREFERENCE}.{name}:{value}" for name, value in options.items()]
        chosen = ["-f", expression] if expression else []
        return ["tshark", "-Q", "-i", "iptrec", *chosen, *preferences, *map(str, arguments)]

    def capturing(self, lab, *arguments, host=None, traced_host=None, **options):
        """A tshark whose recorder traces, in the lab's own namespace or on a host."""
        child = lab.popen(
            self.command(*arguments, **options), host,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=self.environment | lab_environment(lab),
        )  # fmt: skip
        until(
            lambda: child.poll() is not None or records(lab, traced_host or host),
            "it does not record",
        )
        assert child.poll() is None, child.communicate()
        return child


def lab_environment(lab):
    """What iptables needs there."""
    return {name: value for name, value in lab._environment.items() if name.startswith("XTABLES")}


@contextlib.contextmanager
def nothing_left(lab, home, host=None):
    """Behind it there is no rule, no process, no file but Wireshark's own."""
    before = processes(lab)
    yield
    until(lambda: not traced(lab, host), "rules are left")
    until(lambda: processes(lab) == before, lambda: f"left: {processes(lab) - before}")
    until(lambda: not ours(home), lambda: f"left: {ours(home)}")


def ours(home):
    return [one for one in Path(home.temporary).iterdir() if one.name.startswith("iptrec")]
