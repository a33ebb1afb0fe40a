"""The folders in which Wireshark looks for what others bring."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from iptrec.errors import HostError
from iptrec.kernel import process

_PATIENCE_S: Final = 30.0  # it loads all its plugins before it answers


@dataclass(frozen=True, slots=True)
class Folders:
    """``extcap``: programs that capture. ``plugins``: scripts in Lua. ``profiles``: one directory a profile."""

    extcap: Path
    plugins: Path
    profiles: Path


def personal() -> Folders:
    """This user's, as the Wireshark that is installed says; where there is none, those of a new one."""
    told = _told()
    home = Path.home()
    configuration = Path(
        told.get("Personal configuration")
        or Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config", "wireshark")
    )
    # Before 4.2 it has no name of its own.
    old = configuration / "extcap" if told else home / ".local/lib/wireshark/extcap"
    return Folders(
        Path(told.get("Personal Extcap path") or old),
        Path(told.get("Personal Lua Plugins") or home / ".local/lib/wireshark/plugins"),
        configuration / "profiles",
    )


def system() -> Folders:
    """Those of all users. Raises `HostError` where no Wireshark is installed that could say."""
    told = _told()
    try:
        return Folders(
            Path(told.get("Global Extcap path") or told["Extcap path"]),
            Path(told["Global Lua Plugins"]),
            Path(told["Global configuration"], "profiles"),
        )
    except KeyError as missing:
        raise HostError(
            f"neither tshark nor wireshark says where {missing} is: install one of them, or say --dest DIR"
        ) from None


def _told() -> dict[str, str]:
    """What ``tshark -G folders`` prints: name -> path. Nothing where there is no Wireshark."""
    for name in ("tshark", "wireshark"):
        program = shutil.which(name, path=process.search_path())
        if program is None:
            continue
        try:
            done = subprocess.run(
                [program, "-G", "folders"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_PATIENCE_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        lines = (line.partition(":") for line in os.fsdecode(done.stdout).splitlines())
        if found := {key.strip(): path.strip() for key, _, path in lines if path.strip()}:
            return found
    return {}
