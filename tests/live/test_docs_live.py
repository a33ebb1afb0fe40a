"""The examples that record, or ask or change a host, as they are printed: in a lab."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import documents
import pytest
from recorder import until

pytestmark = pytest.mark.live

SAMPLES = documents.ROOT / "samples"
WEB = "http://10.0.0.5/"  # of the examples
SERVER = """
import socket
with socket.create_server(("10.0.0.5", 80)) as here:
    while True:
        with here.accept()[0] as one:
            one.recv(4096)
            one.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\n")
"""
# `cleanup` looks into the namespace of each process that it sees: only those of the lab.
ALONE = ("unshare", "--pid", "--fork", "--mount-proc")


@pytest.fixture
def network(lab, tmp_path, monkeypatch):
    """The hosts of the examples: web, a server at 10.0.0.5; the directories of systemd and node_exporter."""
    for host, end, net in (("web", "to-web", "10.0.1"), ("server", "to-server", "10.0.0")):
        lab.host(host)
        lab.link(host, "eth0", f"{net}.5/24", peer=end)
        lab.ip(None, f"address add {net}.1/24 dev {end}")
        lab.ip(host, f"route add default via {net}.1")
    lab.sysctl(None, "net/ipv4/ip_forward", 1)
    lab.restore(None, "ipv4", "*filter\n-A FORWARD -p icmp -j ACCEPT\nCOMMIT\n")
    lab.run(["mount", "-t", "tmpfs", "tmpfs", "/var/lib"])
    lab.run(["mkdir", "-p", "/var/lib/iptrec", "/var/lib/prometheus/node-exporter"])
    monkeypatch.chdir(tmp_path)
    lab.popen(
        [sys.executable, "-c", SERVER], "server",
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until(lambda: lab.run(["curl", "-s", "-o", "/dev/null", WEB], check=False).returncode == 0)
    return lab


def records(lab):
    """Whether our rules are in: the recorder can be stopped then."""
    found = lab.run(["sh", "-c", "iptables-legacy-save -t raw; nft list ruleset"]).stdout
    return "TRACE" in found or "nftrace set 1" in found


@pytest.mark.parametrize("line", documents.lines_that_run("live"), ids=lambda line: line.text)
def test_examples_run(line, network, tmp_path):
    """To their end, or to Ctrl-C once they record: status 0, and the file that they name is there."""
    words = next(command for command in line.commands if command[0] == "iptrec")
    if line.makes != "trace.db":
        (tmp_path / "trace.db").symlink_to(SAMPLES / "nftables.db")
    alone = ALONE if words[1] == "cleanup" else ()
    with network.popen(
        [*alone, "bash", "-o", "pipefail", "-c", line.text],
        env={**os.environ, "PATH": documents.tools(tmp_path / "bin")},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        if words[1] in {"record", "trace"} and "--" not in words:
            until(lambda: records(network) or child.poll() is not None, child.kill)
            child.send_signal(signal.SIGINT)
        stdout, stderr = child.communicate()
    assert "Traceback" not in stderr
    assert child.returncode == (1 if words[1] == "diff" else 0), stderr
    assert stdout or stderr or "-q" in words
    if line.makes:
        assert Path(line.makes).exists() or "%" in line.makes
    assert not records(network)
