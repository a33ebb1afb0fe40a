"""The zip of a pack, and the manifest that tells what is in it."""

from __future__ import annotations

import hashlib
import json
import time
import zipfile
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from iptrec.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
_LEVEL: Final = 9  # of deflate
_PIECE: Final = 1 << 20
_PRIVATE: Final = 0o600 << 16  # of a file that is unpacked: the upper half is st_mode


@dataclass(frozen=True, slots=True)
class Part:
    """A file of a pack: ``size`` unpacked, ``packed`` in the zip, bytes."""

    name: str
    what: str
    size: int
    packed: int
    sha256: str


class Archive:
    """A zip that is being written; a context manager. ``parts``: what is in it so far."""

    def __init__(self, file: BinaryIO) -> None:
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL)
        self._time = time.gmtime()[:6]
        self.parts: list[Part] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._zip.close()
        else:
            self._zip.fp = None  # else it ends the zip when it is deleted, in a file that is closed

    def add(self, name: str, what: str, source: BinaryIO) -> None:
        """Put a file into it."""
        digest = hashlib.sha256()
        info = zipfile.ZipInfo(name, self._time)
        info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, _PRIVATE
        with self._zip.open(info, "w") as inside:
            while piece := source.read(_PIECE):
                digest.update(piece)
                inside.write(piece)
        self.parts.append(Part(name, what, info.file_size, info.compress_size, digest.hexdigest()))

    def close(self, told: Mapping[str, Any]) -> None:
        """Put the manifest into it, which has what is ``told`` beside the files."""
        manifest = {
            "format": FORMAT,
            "iptrec": __version__,
            **told,
            "files": [asdict(one) for one in self.parts],
        }
        info = zipfile.ZipInfo(MANIFEST, self._time)
        info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, _PRIVATE
        self._zip.writestr(info, json.dumps(manifest, indent=2) + "\n")
