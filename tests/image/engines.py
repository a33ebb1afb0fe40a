"""Docker and podman for the tests of the image: in a lab, with directories of their own."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from pathlib import Path

import documents
from recorder import until

ROOT = Path(__file__).parents[2]
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
NEEDED = ("dockerd", "docker", "podman", "runc", "catatonit", "debootstrap", "busybox", "curl")
_AUTHORITIES = Path(
    "/usr/local/share/ca-certificates"
)  # of this machine: an index may be behind one
_EXCLUDED = "path-exclude /usr/share/doc/*\npath-exclude /usr/share/man/*\npath-exclude /usr/share/locale/*\n"
# Those of the engines are higher than what a container of this machine may be granted.
_LIMITS = '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n'


def missing():
    """The programs that are not installed."""
    return [one for one in NEEDED if shutil.which(one, path=PATH) is None]


class Podman:
    """podman with a storage of its own."""

    def __init__(self, directory):
        self._directory = directory
        directory.mkdir()
        self._settings = directory / "containers.conf"
        self._settings.write_text(_LIMITS)

    def command(self, *words):
        """The words that run it."""
        at = self._directory
        return [
            "env", f"PATH={PATH}", f"CONTAINERS_CONF={self._settings}",
            "podman", "--root", f"{at}/root", "--runroot", f"{at}/run", "--tmpdir", f"{at}/state",
            "--network-config-dir", f"{at}/net", "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs",
            "--events-backend", "file", "--network-backend", "netavark", "--runtime", "runc", *words,
        ]  # fmt: skip

    def run(self, *words, **options):
        """Run it outside of labs; what it prints."""
        return _run(self.command(*words), **options)


def _run(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{command}: {done.stdout[-1000:]}{done.stderr[-2000:]}"
    return done.stdout


def base(podman, directory):
    """debian:bookworm-slim, of what debootstrap makes."""
    root = directory / "base"
    _run(["debootstrap", "--variant=minbase", "bookworm", str(root)])
    shutil.rmtree(root / "usr/share/doc")
    shutil.rmtree(root / "usr/share/man")
    shutil.rmtree(root / "usr/share/locale")
    (root / "etc/dpkg/dpkg.cfg.d/slim").write_text(_EXCLUDED)
    if _AUTHORITIES.is_dir():
        shutil.copytree(_AUTHORITIES, root / str(_AUTHORITIES)[1:])
    for one in (*root.glob("var/cache/apt/*"), *root.glob("var/lib/apt/lists/*")):
        if one.is_dir():
            shutil.rmtree(one)
        else:
            one.unlink()
    _run(["tar", "-C", str(root), "-cf", str(directory / "base.tar"), "."])
    podman.run("import", str(directory / "base.tar"), "localhost/base")
    shutil.rmtree(root)


def lines(*parts):
    """The lines of docs/image.md that have all of these."""
    page = [one.text for one in documents.lines() if one.where.startswith("docs/image.md")]
    found = [one for one in page if all(part in one for part in parts)]
    assert found, parts
    return found


class Docker:
    """dockerd in a lab, with one backend of iptables. A line of the page is run by `typed`."""

    def __init__(self, lab, directory, backend):
        self._lab = lab
        self._directory = directory
        self._backend = backend

    @contextlib.contextmanager
    def running(self):
        """From the first to the last answer; nothing of it runs afterwards."""
        tools = self._directory / "bin"
        tools.mkdir()
        for one in ("iptables", "ip6tables"):
            for kind in ("", "-save", "-restore"):
                (tools / f"{one}{kind}").symlink_to(f"/usr/sbin/{one}-{self._backend}{kind}")
        with (self._directory / "log").open("w") as log:
            daemon = self._lab.popen(
                ["env", f"PATH={tools}:{PATH}", "dockerd", "--data-root", f"{self._directory}/data",
                 "--exec-root", "/run/dk", "--pidfile", "/run/dk.pid", "--host", "unix:///run/dk.sock",
                 "--storage-driver", "overlay2", "--userland-proxy=false"],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip
            try:
                until(lambda: daemon.poll() is not None or self._answers(), "dockerd is not ready")
                assert daemon.poll() is None, (self._directory / "log").read_text()[-2000:]
                yield self
            finally:
                self.typed("docker rm -f $(docker ps -aq)", check=False)
                daemon.terminate()
                daemon.wait(timeout=30)
                self._lab.run(["umount", f"{self._directory}/data"], check=False)
                shutil.rmtree(self._directory / "data", ignore_errors=True)

    def _answers(self):
        return (
            self._lab.run(
                ["docker", "-H", "unix:///run/dk.sock", "version"], check=False
            ).returncode
            == 0
        )

    def typed(self, line, directory=None, check=True):
        """Run a line by a shell, where the user is 1000, as a Docker of this age understands it."""
        says = self._lab.run(["dockerd", "--version"]).stdout
        if int(re.search(r"version (\d+)", says)[1]) < 26:  # "Which right is for what" of the page
            line = line.replace("--cap-add BPF --cap-add PERFMON", "--cap-add SYS_ADMIN")
        script = (
            f'cd {directory or self._directory}; sudo() {{ "$@"; }}; id() {{ echo 1000; }}\n'
            'docker() { command docker -H unix:///run/dk.sock "$@"; }\n' + line
        )
        done = self._lab.run(["env", f"PATH={PATH}", "sh", "-c", script], check=False)
        assert not check or done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done

    def record(self, line, directory):
        """Start what the page starts in a terminal, and wait until it records."""
        line = line.replace("docker run --rm -it", "docker run -d --name rec")
        self.typed(f"docker rm -f rec; {line}", directory)
        until(lambda: "recording to" in self.said(), self.said)

    def said(self):
        """What the recorder has said."""
        done = self.typed("docker logs rec")
        return done.stdout + done.stderr

    def inside(self, name):
        """The number of a container's process."""
        return self.typed(f"docker inspect -f '{{{{.State.Pid}}}}' {name}").stdout.strip()

    def asks(self, name, url):
        """Ask from a container, with this machine's program: busybox's crashes."""
        command = [
            "nsenter",
            f"--net=/proc/{self.inside(name)}/ns/net",
            "curl",
            "-s",
            "-m",
            "2",
            url,
        ]
        return self._lab.run(command, check=False)

    def counters(self):
        """The rules with what hit them."""
        return self._lab.run([f"iptables-{self._backend}-save", "-c"]).stdout
