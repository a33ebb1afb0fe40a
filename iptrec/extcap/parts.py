"""What Wireshark gets: a program that captures, a dissector in Lua, a profile."""

from __future__ import annotations

import shlex
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from iptrec.extcap.installed import Wanted
from iptrec.extcap.sentences import INTERFACE
from iptrec.kernel import process

if TYPE_CHECKING:
    from pathlib import Path

    from iptrec.extcap.folders import Folders

_SCRIPT: Final = """\
#!/bin/sh
# Made by iptrec extcap install; iptrec extcap uninstall removes it.
"""


def program() -> Wanted:
    """A script that runs this very iptrec, by the path of its interpreter: Wireshark's PATH is another one."""
    command = shlex.join(process.iptrec("extcap"))
    return Wanted(f'{_SCRIPT}exec {command} "$@"\n'.encode(), 0o755)


def parts(folders: Folders) -> dict[Path, Wanted]:
    """The files, by where they go."""
    shipped = files("iptrec").joinpath("wireshark")
    profile = {
        folders.profiles / "iptrec" / one.name: Wanted(one.read_bytes())
        for one in shipped.joinpath("profile").iterdir()
    }
    return {
        folders.extcap / INTERFACE: program(),
        folders.plugins / "iptrec.lua": Wanted(shipped.joinpath("iptrec.lua").read_bytes()),
        **profile,
    }
