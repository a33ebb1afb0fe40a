"""A user without rights, with real sudo and polkit that know it, in a mount namespace of its own."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
UID, GROUP = 45623, 45624
NAME = "iptrec-user"
PROGRAM = "/usr/local/sbin/iptrec"  # where administrators put theirs; sudo's secure_path has it
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SUDOERS = f'Defaults env_reset\nDefaults use_pty\nDefaults secure_path="{PATH}"\n'
_REPLACED = ("passwd", "group", "shadow", "sudoers")
_BUS = """\
mkdir -p /run/dbus
mount -t tmpfs none /run/dbus
mount --bind {place}/actions /usr/share/polkit-1/actions
mount --bind {place}/rules /etc/polkit-1/rules.d
dbus-daemon --system --nofork --nopidfile 2>{place}/dbus.log &
until [ -S /run/dbus/system_bus_socket ]; do sleep 0.05; done
/usr/lib/polkit-1/polkitd >{place}/polkit.log 2>&1 &
until grep -q Acquired {place}/polkit.log; do sleep 0.05; done
"""


class User:
    """``place``: an empty directory, that the user sees as /mnt; its home is in it.

    ``sudoers``: rules of sudo. ``rule``: one of polkit, whose daemon runs then.
    """

    home = "/mnt/home"

    def __init__(self, place, sudoers="", rule=None):
        self.place = place
        (place / "home").mkdir()
        os.chown(place / "home", UID, UID)
        place.chmod(0o755)
        words = {
            "passwd": f"{NAME}:x:{UID}:{UID}::{self.home}:/bin/sh\n",
            "group": f"{NAME}:x:{UID}:\nwireshark:x:{GROUP}:{NAME}\n",
            "shadow": f"{NAME}:*:19000:0:99999:7:::\n",
        }
        for name in _REPLACED[:3]:
            there = Path("/etc", name).read_text().splitlines(keepends=True)
            kept = "".join(line for line in there if not line.startswith("wireshark:"))
            (place / name).write_text(kept + words[name])
        (place / "sudoers").write_text(SUDOERS + sudoers)
        (place / "sudoers").chmod(0o440)
        (place / "shadow").chmod(0o640)
        program = Path(sys.executable).parent / "iptrec"
        (place / "iptrec").write_text(f'#!/bin/sh\nexec {program} "$@"\n')
        (place / "iptrec").chmod(0o755)
        self._rule = rule
        self._script = "".join(self._lines())

    def command(self, *words):
        """Of a process that is the user's, in namespaces of its own that end with it."""
        return [
            "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
            "sh", "-ec", self._script, "sh", *map(str, words),
        ]  # fmt: skip

    def _lines(self):
        place = shlex.quote(str(self.place))
        for name in _REPLACED:
            yield f"mount --bind {place}/{name} /etc/{name}\n"
        yield "mount -t tmpfs -o mode=755 none /usr/local/sbin\n"
        yield f"cp {place}/iptrec {PROGRAM}\n"
        if self._rule is not None:
            self._write_policy()
            yield _BUS.format(place=place)
        yield f"mount --bind {place} /mnt\n"
        yield from _reachable()
        yield "cd /mnt/home\n"
        # Not exec: pkexec wants a parent that is not the first process.
        yield (
            f"setpriv --reuid {UID} --regid {UID} --groups {GROUP} --inh-caps=-all env -i"
            f' HOME={self.home} TMPDIR={self.home} PATH={PATH} LC_ALL=C.UTF-8 "$@"\n'
        )

    def _write_policy(self):
        for name in ("actions", "rules"):
            (self.place / name).mkdir(mode=0o755)
        for one in Path("/usr/share/polkit-1/actions").iterdir():
            (self.place / "actions" / one.name).write_bytes(one.read_bytes())
        policy = ROOT / "packaging" / "polkit" / "org.iptrec.capture.policy"
        text = policy.read_text().replace("/usr/bin/iptrec", PROGRAM)
        (self.place / "actions" / policy.name).write_text(text)
        (self.place / "rules" / "50-iptrec.rules").write_text(self._rule)


def _reachable():
    """The interpreter, and what it imports, for somebody who may not enter root's home."""
    paths = {Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), ROOT.resolve()}
    closed = {path: _closed(path) for path in sorted(paths) if _closed(path)}
    for number, path in enumerate(closed):
        yield f"mkdir -p /mnt/kept{number}\nmount --bind {path} /mnt/kept{number}\n"
    for one in sorted(set(closed.values())):
        yield f"mount -t tmpfs -o mode=755 none {one}\n"
    for number, path in enumerate(closed):
        yield f"mkdir -p {path}\nmount --bind /mnt/kept{number} {path}\n"


def _closed(path):
    """The first directory on the way to it that others may not enter."""
    for one in [*reversed(path.parents), path]:
        if not one.stat().st_mode & 0o001:
            return one
    return None
