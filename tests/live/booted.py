"""systemd as the first process of a container: the host's own programs, on a disk and a network of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
HERE = "/opt/iptrec"  # where the container has this tree; what is below /tmp and /home is hidden from a unit
_GROUPS = (
    "/sys/fs/cgroup",
    "/sys/fs/cgroup/unified",
    "/sys/fs/cgroup/systemd",
)  # whichever is there
_NAMESPACES = ("mount", "net", "pid", "uts", "ipc", "cgroup")
# The interpreter may be somebody's own, in /home, which is hidden, too.
_VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
_VENV = f"{HERE}-venv/lib/{_VERSION}/site-packages"
_LAUNCHER = f"""#!{HERE}-venv/bin/python3
import sys
sys.path.insert(0, "{HERE}")
from iptrec.__main__ import main
main()
"""
# A control group of its own: another systemd, of another test, would kill who is in this one's. A disk over the
# host's, which vanishes with the mount namespace; and the unit's program where systemd looks.
_BOOT = (
    """
set -e
for groups in {groups}; do
    [ -e "$groups/cgroup.procs" ] || continue
    mkdir "$groups/$5"
    echo $$ > "$groups/$5/cgroup.procs"
done
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
cd "$1"
mkdir upper work root
mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root
cd root
mkdir -p .{here} .{here}-python .{venv} .{here}-venv/bin etc/iptrec usr/local/bin
echo "home = {here}-python/bin" > .{here}-venv/pyvenv.cfg
ln -s {here}-python/bin/{version} .{here}-venv/bin/python3
cp "$2" usr/local/bin/iptrec
chmod 755 usr/local/bin/iptrec
cp "$3"/packaging/systemd/* etc/systemd/system/
exec systemd-nspawn --quiet --directory=. --machine="$5" --register=no --keep-unit --private-network \
    --capability=all --system-call-filter='bpf perf_event_open' --bind-ro="$3":{here} --bind-ro="$4":{venv} \
    --bind-ro="$6":{here}-python --link-journal=no --console=pipe --boot systemd.unit=basic.target
""".replace("{here}", HERE)
    .replace("{venv}", _VENV)
    .replace("{version}", _VERSION)
    .replace("{groups}", " ".join(_GROUPS))
)


class RefusedError(Exception):
    """There is none here."""


class Booted:
    """A running systemd; a context manager. Raises `RefusedError`."""

    def __init__(self, place: Path) -> None:
        launcher = place / "iptrec"
        launcher.write_text(_LAUNCHER)
        disk = place / "disk"
        disk.mkdir()
        packages, python = sysconfig.get_path("purelib"), sys.base_prefix
        name = f"iptrec{os.getpid()}"
        self._words = [str(disk), str(launcher), str(ROOT), packages, name, python]
        self._said = place / "console"

    def __enter__(self):
        with self._said.open("wb") as said:
            self._nspawn = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", _BOOT, "sh", *self._words],
                stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True,
                env=os.environ | {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while self._nspawn.poll() is None and time.monotonic() < deadline:
            if self._first() and self.run("systemctl", "is-active", "basic.target", check=False):
                return self
            time.sleep(0.05)
        said = self._said.read_text(errors="replace")
        self.__exit__()
        raise RefusedError(f"systemd does not boot here: {said[-2000:]}")

    def __exit__(self, *_):
        if (first := self._first()) is not None:
            os.kill(int(first), signal.SIGKILL)  # and with it everybody in there
        self._nspawn.terminate()
        self._nspawn.wait()
        for groups in _GROUPS:
            made = Path(groups, self._words[4])
            for one in sorted(
                [*made.rglob("*/"), made], key=lambda path: len(path.parts), reverse=True
            ):
                with contextlib.suppress(OSError):
                    one.rmdir()

    def _first(self):
        """The pid of systemd, as seen from here."""
        with contextlib.suppress(OSError, ValueError):
            children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children")
            for pid in children.read_text().split():
                if Path(f"/proc/{pid}/comm").read_text() == "systemd\n":
                    return pid
        return None

    def command(self, *words):
        """To be run in there."""
        inside = [f"--{one}" for one in _NAMESPACES]
        return ["nsenter", f"--target={self._first()}", *inside, "--root", "--wd", *words]

    def run(self, *words, check=True, text=None):
        """What a command prints there; with its status in the place of that where it may fail."""
        done = subprocess.run(
            self.command(*words),
            capture_output=True,
            text=True,
            input=text,
            check=False,
            timeout=60,
        )
        if check and done.returncode:
            raise AssertionError(f"{words}: {done.stderr or done.stdout}")
        return done.stdout if check else done.returncode == 0

    def write(self, path, text):
        """A file in there."""
        self.run("sh", "-c", 'cat > "$1"', "sh", path, text=text)

    def configure(self, instance, text):
        """What an instance of the service records."""
        self.write(f"/etc/iptrec/{instance}.conf", f"{text}\n")


def missing():
    """The program without which there is no such container; None: they are all there."""
    needed = ("systemd-nspawn", "systemctl", "unshare", "nsenter")
    return next((one for one in needed if shutil.which(one) is None), None)
