"""What was put into Wireshark's folders: written once, remembered, and taken away again, and nothing else."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from iptrec.errors import HostError, UsageError, strerror

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_FORMAT: Final = 1
_MOST: Final = 1 << 20  # bytes of a file that could be ours


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file: its bytes, and its mode."""

    content: bytes
    mode: int = 0o644


@dataclass(slots=True)
class Installed:
    """The files that were put somewhere: path -> SHA-256 of what was written; directories made for that.

    ``memory``: the file that has this.
    """

    memory: Path
    files: dict[str, str] = field(default_factory=dict)
    directories: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Installed:
        """What was remembered; nothing in the beginning. Raises `HostError` for what is not ours."""
        try:
            found: Any = json.loads(path.read_bytes())
            files, directories = dict(found["files"]), [*found["directories"]]
            known = found["format"] == _FORMAT
        except FileNotFoundError:
            return cls(path)
        except OSError as error:
            raise HostError(f"cannot read {path}: {strerror(error)}") from None
        except (ValueError, LookupError, TypeError, RecursionError):
            known, files, directories = False, {}, []
        if known and all(isinstance(one, str) for one in (*files, *files.values(), *directories)):
            return cls(path, files, directories)
        raise HostError(f"{path} is not a list that this iptrec wrote; remove it")

    def put(
        self, wanted: Mapping[Path, Wanted], *, force: bool
    ) -> tuple[Collection[Path], Collection[Path]]:
        """Write what is not there yet: which those are, and which were changed since we wrote them and stay.

        Raises `UsageError` before anything is written where a file is somebody else's. ``force``: replace all.
        """
        other = {path: one for path, one in wanted.items() if not _is(path, one)}
        kept = [path for path in other if not (force or self._ours(path))]
        if foreign := [path for path in kept if str(path) not in self.files]:
            raise UsageError(
                f"{foreign[0]} exists, and iptrec did not write it; move it, or replace it by --force"
            )
        changed = {path: one for path, one in other.items() if path not in kept}
        try:
            for path in (self.memory, *wanted):
                self._make_directory(path.parent)
            for path, one in wanted.items():
                if path not in kept:
                    self.files[str(path)] = _digest(one.content)
            self._remember()  # first: what is there in part can be taken away
            for path, one in changed.items():
                _write(path, one)
        except OSError as error:
            raise HostError(f"cannot write {error.filename}: {strerror(error)}") from None
        return changed, kept

    def remove(self, *, force: bool) -> tuple[list[str], list[str]]:
        """Take all of it away: what is gone, and what stays because it was changed, unless ``force``."""
        gone, kept = [], []
        for name in sorted(self.files):
            path = Path(name)
            if not os.path.lexists(path):
                continue
            if force or self._ours(path):
                try:
                    path.unlink()
                except OSError as error:
                    raise HostError(f"cannot remove {path}: {strerror(error)}") from None
                gone.append(name)
            else:
                kept.append(name)
        self.memory.unlink(missing_ok=True)
        for name in reversed(self.directories):
            with contextlib.suppress(OSError):  # others have put something there
                os.rmdir(name)  # noqa: PTH106
        return gone, kept

    def _ours(self, path: Path) -> bool:
        """Whether nothing is there, or what we wrote."""
        if not os.path.lexists(path):
            return True
        return _content(path) is not None and self.files.get(str(path)) == _digest(
            _content(path) or b""
        )

    def _make_directory(self, path: Path) -> None:
        for one in [*reversed(path.parents), path]:
            if not one.is_dir():
                one.mkdir(mode=0o755)
                self.directories.append(str(one))

    def _remember(self) -> None:
        found = {"format": _FORMAT, "files": self.files, "directories": self.directories}
        _write(self.memory, Wanted(json.dumps(found, indent=1).encode() + b"\n"))


def _is(path: Path, wanted: Wanted) -> bool:
    return _content(path) == wanted.content and (path.stat().st_mode & 0o777) == wanted.mode


def _content(path: Path) -> bytes | None:
    """None for what is no regular file, or too long to be ours."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size > _MOST:
        return None
    try:
        return path.read_bytes()
    except OSError:
        return None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write(path: Path, wanted: Wanted) -> None:
    """Whole or not at all; and root's where root writes, while a `files.Draft` is given to who ran sudo."""
    with tempfile.NamedTemporaryFile(
        dir=path.parent, prefix=f".{path.name}-", delete=False
    ) as file:
        try:
            file.write(wanted.content)
            os.fchmod(file.fileno(), wanted.mode)
            file.close()
            os.replace(file.name, path)  # noqa: PTH105
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(file.name)  # noqa: PTH108
            raise
