"""Clean systems to install into: a small Debian, of which each test sees a copy that it may change."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path

# Its own mounts, processes and network; the copy is its root, so that namespaces have names below /run there.
ENTERED = """\
mount --bind "$0" "$0" && cd "$0" && mkdir -p .outside && pivot_root . .outside
mount -t proc proc /proc; mount -t sysfs sys /sys; mount --rbind .outside/dev /dev; mount -t tmpfs run /run
umount -l .outside; rmdir .outside
exec "$@"
"""
# Typed on a terminal: a TAB has to make "iptrec info .../docker_hairpin.db" of it.
TYPED = """\
{{ sleep 2; printf 'iptrec inf\\t{samples}/docker_hair\\t.db\\n'; sleep 4; printf 'exit\\n'; }} |
    script -qec 'bash -i' /dev/null
"""
ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "TERM": "dumb",
}


class Root:
    """The root directory of a system."""

    def __init__(self, path):
        self.path = path

    def run(self, *command, check=True, online=False, text=None):
        """Run a command there; ``online``: in this host's network, else in one of its own."""
        if online:
            shutil.copy("/etc/resolv.conf", self.path / "etc/resolv.conf")
        unshared = ["unshare", "--mount", "--pid", "--fork", *([] if online else ["--net"])]
        return subprocess.run(
            [*unshared, "sh", "-c", ENTERED, self.path, *command],
            capture_output=True, text=True, check=check, env=ENVIRONMENT, input=text,
        )  # fmt: skip

    def install(self, *packages):
        """What apt-get installs; it needs a mirror of Debian."""
        line = 'apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@"'
        self.run("sh", "-c", line, "sh", *packages, online=True)

    def typed(self, samples):
        """What is on the terminal after a TAB, and what the command says then."""
        return self.run("bash", "-c", TYPED.format(samples=samples)).stdout

    def named(self, word):
        """The files whose paths have this word, but what is apt's and dpkg's."""
        found = (str(one.relative_to(self.path)) for one in self.path.rglob(f"*{word}*"))
        return {
            one for one in found if not one.startswith(("proc/", "sys/", "dev/", "tmp/", "var/log"))
        }


def debian(suite, at):
    """A minimal Debian."""
    subprocess.run(["debootstrap", "--variant=minbase", suite, at], check=True, capture_output=True)
    return at


def installed(root, made):
    """Install the .deb as a user does."""
    (package,) = made.glob("iptrec_*.deb")
    shutil.copy(package, root.path / "root")
    root.install(f"/root/{package.name}")


@contextlib.contextmanager
def copied(base, at):
    """A copy of a system that costs nothing, and goes."""
    merged = at / "root"
    for one in ("changes", "work", "root"):
        (at / one).mkdir()
    options = f"lowerdir={base},upperdir={at / 'changes'},workdir={at / 'work'}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, merged], check=True)
    try:
        yield Root(merged)
    finally:
        subprocess.run(["umount", merged], check=True)


def libraries():
    """The files of the C library and of zlib, as Debian packages them."""
    command = ["dpkg", "-L", "libc6", "zlib1g"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    files = [one for one in map(Path, listed.splitlines()) if ".so" in one.name and one.is_file()]
    return [one for one in files if one.parent.name != "gconv"]
