"""Debian's kernels, unpacked beside each other; nothing of them is installed.

apt has its own lists here, of one release each, and checks signatures as ever.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MIRROR = "http://deb.debian.org"
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
META = "linux-image-amd64"
# Debian's release -> where its kernel is, newest place included.
RELEASES = {
    "bullseye": ("debian bullseye", "debian-security bullseye-security"),
    "bookworm": ("debian bookworm", "debian-security bookworm-security"),
    "trixie": ("debian trixie", "debian-security trixie-security"),
    "trixie-backports": ("debian trixie-backports",),
}


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel: its name as `uname -r` gives it, and the directory that stands for /."""

    release: str
    root: Path

    @property
    def image(self) -> Path:
        """What is booted; from 7.2 on Debian has it beside the modules."""
        inside = self.modules / "vmlinuz"
        return inside if inside.exists() else self.root / f"boot/vmlinuz-{self.release}"

    @property
    def modules(self) -> Path:
        """What is to be at /lib/modules/RELEASE; since 6.12 Debian has it below /usr."""
        (found,) = self.root.glob(f"**/lib/modules/{self.release}")
        return found


def kernel(debian: str, cache: Path) -> Kernel:
    """The newest kernel of a release of Debian, downloaded unless it is in the cache."""
    apt = _Apt(debian, cache / "apt" / debian)
    apt.get("update", "-qq")
    packages = apt.parts(META)
    release = packages[0].removeprefix("linux-image-")
    root = cache / release
    if not root.exists():
        _unpack(apt, packages, release, root)
    return Kernel(release, root)


def _unpack(apt: _Apt, packages: list[str], release: str, root: Path) -> None:
    """All of it or nothing: what is cut short is begun anew the next time."""
    parts = root.with_name(f"{root.name}.part")
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir()
    apt.get("download", *packages, cwd=parts)
    for archive in parts.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", archive, parts], check=True)
        archive.unlink()
    (modules,) = parts.glob(f"**/lib/modules/{release}")
    subprocess.run(["/sbin/depmod", "-b", modules.parents[2], release], check=True)
    parts.rename(root)


class _Apt:
    """apt with its own lists, and without a word about what is installed here."""

    def __init__(self, debian: str, state: Path) -> None:
        for directory in ("lists/partial", "archives/partial"):
            (state / directory).mkdir(parents=True, exist_ok=True)
        (state / "status").touch()
        places = RELEASES[debian]
        sources = "".join(
            f"deb [signed-by={KEYS}] {MIRROR}/{archive} {suite} main\n"
            for archive, suite in (place.split() for place in places)
        )
        (state / "sources.list").write_text(sources)
        self._options = [
            "-o", f"Dir::Etc::SourceList={state}/sources.list", "-o", "Dir::Etc::SourceParts=/dev/null",
            "-o", f"Dir::State::Lists={state}/lists", "-o", f"Dir::State::status={state}/status",
            "-o", f"Dir::Cache={state}", "-o", "Acquire::Languages=none",
            "-o", "APT::Sandbox::User=root",
        ]  # fmt: skip

    def get(self, *command: str, cwd: Path | None = None) -> None:
        """Run apt-get."""
        subprocess.run(["apt-get", *self._options, *command], cwd=cwd, check=True)

    def parts(self, meta: str) -> list[str]:
        """The packages that a meta package stands for: the kernel's image first, then its modules."""
        image = self._needed(meta, r"linux-image-\d\S*")
        return [*image, *self._needed(image[0], r"linux-(?:modules|binary)-\d\S*")]

    def _needed(self, package: str, wanted: str) -> list[str]:
        said = subprocess.run(
            ["apt-cache", *self._options, "depends", package],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        return re.findall(rf"Depends: ({wanted})", said)
