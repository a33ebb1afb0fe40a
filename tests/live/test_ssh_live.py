"""Packets of another host by a real sshd, also by Wireshark's sshdump; what is left when it breaks off."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from command import IPTREC
from recorder import processes, until
from rights import ROOT, installed
from wiresharks import FILTER, RULES, records, send, traced

pytestmark = [pytest.mark.live, pytest.mark.cold, ROOT]
PORT = "2222"
SSHDUMP = Path("/usr/lib/x86_64-linux-gnu/wireshark/extcap/sshdump")
TRACE = f"{' '.join(IPTREC)} trace -q --pcapng - --backend"


class Server:
    """An sshd in the lab, that lets root in with keys of its own."""

    def __init__(self, lab, place):
        for program in ("sshd", "ssh", "ssh-keygen"):
            if not installed(program):
                pytest.skip(f"{program}: not found; install openssh-server")
        self.place, self._lab = place, lab
        self._key("host", "ed25519")
        self._key("key", "rsa", "-m", "PEM")  # libssh's sshdump reads it
        shutil.copy(place / "key.pub", place / "allowed")
        options = {
            "Port": PORT, "ListenAddress": "127.0.0.1", "HostKey": place / "host", "PidFile": "none",
            "UsePAM": "no", "AuthorizedKeysFile": place / "allowed", "StrictModes": "no",
            "PermitRootLogin": "yes",
        }  # fmt: skip
        (place / "conf").write_text("".join(f"{name} {value}\n" for name, value in options.items()))
        # Its directory of privilege separation is made by who starts it, as systemd does.
        start = 'mkdir -p /run/sshd; exec "$@"'
        sshd = shutil.which("sshd", path="/usr/sbin:/sbin")
        self._log = place / "log"
        with self._log.open("w") as log:
            lab.popen(
                ["sh", "-c", start, "sh", sshd, "-D", "-e", "-f", str(place / "conf")], stderr=log
            )
        until(lambda: "Server listening" in self._log.read_text(), self._log.read_text)

    def _key(self, name, kind, *more):
        words = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", self.place / name, *more]
        subprocess.run(words, check=True)

    def ssh(self, command, **options):
        """An ssh that runs a command there."""
        words = [
            "ssh", "-F", "none", "-p", PORT, "-i", self.place / "key", "-o", "StrictHostKeyChecking=no",
            "-o", f"UserKnownHostsFile={self.place / 'known'}", "-o", "LogLevel=ERROR",
            "root@127.0.0.1", command,
        ]  # fmt: skip
        options = {
            "stdin": subprocess.PIPE,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            **options,
        }
        return self._lab.popen(list(map(str, words)), **options)


@pytest.fixture
def server(lab, tmp_path):
    (tmp_path / "ssh").mkdir()
    return Server(lab, tmp_path / "ssh")


def recorders(lab, before):
    return [
        pid for pid in processes(lab) - before if _words(pid) & {b"trace", b"capture", b"export"}
    ]


def _words(pid):
    try:
        return set(Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"))
    except OSError:
        return set()


def begun(lab, child):
    until(lambda: child.poll() is not None or records(lab), "it does not record")
    assert child.poll() is None, child.communicate()


def test_packets_of_another_host(lab, server, backend, tmp_path):
    """A program that reads pcapng sees them as they come; whoever stops it has the statistics."""
    lab.restore(None, "ipv4", RULES, backend)
    before = processes(lab)
    capture = tmp_path / "a.pcapng"
    with capture.open("wb") as file:
        child = server.ssh(f"{TRACE} {backend} '{FILTER}'", stdout=file)
        begun(lab, child)
        send(lab, 9)
        until(lambda: b"DROP by filter/INPUT rule 1" in capture.read_bytes())
        for pid in recorders(lab, before):
            if b"trace" in _words(pid):
                os.kill(pid, signal.SIGINT)
        _, said = child.communicate(timeout=60)
    assert (child.returncode, said) == (0, b"")
    assert b"no event was lost; closed cleanly" in capture.read_bytes()
    assert not traced(lab)


BROKEN = {
    "ssh is killed": lambda child, _: child.kill(),
    "ssh is interrupted": lambda child, _: child.send_signal(signal.SIGINT),
    "who reads ends": lambda child, _: child.stdout.close(),
}


@pytest.mark.parametrize("packets", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("how", BROKEN)
def test_it_is_broken_off(lab, server, backend, how, packets):
    """No terminal, so no SIGHUP: what is there sees that nobody reads, whether a packet comes or not."""
    lab.restore(None, "ipv4", RULES, backend)
    before = processes(lab)
    child = server.ssh(f"{TRACE} {backend} '{FILTER}'")
    begun(lab, child)
    BROKEN[how](child, server)
    if packets or how == "who reads ends":  # ssh itself sees that by writing
        send(lab, 9)
    until(lambda: not traced(lab), "rules are left")
    until(lambda: not recorders(lab, before), "a recorder is left")
    child.communicate(timeout=60)


@pytest.mark.parametrize("end", ["kill", "stdin"])
def test_the_narrow_command(lab, server, end):
    """`extcap capture`, which sudo may allow there: it ends with its stdin as well."""
    before = processes(lab)
    child = server.ssh(f"{' '.join(IPTREC)} extcap capture --filter '{FILTER}'")
    begun(lab, child)
    if end == "kill":
        child.kill()
    else:
        child.stdin.close()
        child.stdin = None
    until(lambda: not traced(lab), "rules are left")
    until(lambda: not recorders(lab, before), "a recorder is left")
    child.communicate(timeout=60)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_sshdump(lab, server, backend, tmp_path, number):
    """Wireshark's own remote capture, with iptrec as its command."""
    if not SSHDUMP.exists():
        pytest.skip(f"{SSHDUMP}: not found; install wireshark-common")
    lab.restore(None, "ipv4", RULES, backend)
    before = processes(lab)
    home, capture = tmp_path / "home", tmp_path / "a.pcapng"
    (home / ".ssh").mkdir(parents=True)
    scan = lab.run(["ssh-keyscan", "-p", PORT, "127.0.0.1"]).stdout
    (home / ".ssh" / "known_hosts").write_text(scan)
    preferences = {
        "remotehost": "127.0.0.1", "remoteport": PORT, "remoteusername": "root", "sshkey": server.place / "key",
        "remotecapturecommand": f"{TRACE} {backend} '{FILTER}'",
    }  # fmt: skip
    child = lab.popen(
        ["tshark", "-Q", "-i", "sshdump", "-w", str(capture),
         *(f"-oextcap.sshdump.{name}:{value}" for name, value in preferences.items())],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=lab._environment | {"HOME": str(home), "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    begun(lab, child)
    send(lab, 9)
    until(lambda: capture.exists() and b"DROP by filter/INPUT rule 1" in capture.read_bytes())
    child.send_signal(number)
    child.communicate(timeout=60)
    if number == signal.SIGKILL:
        send(lab, 9)  # sshdump is not told; it sees by writing that nobody reads
    until(lambda: not traced(lab), "rules are left")
    until(lambda: not recorders(lab, before), "a recorder is left")
