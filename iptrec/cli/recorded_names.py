"""Names that a recording holds, for completion: what can be told at once, of one that is a plain file.

Each function yields words and remarks as it finds them, and once each. Nothing is told of a compressed file, a
pipe, or what is not a recording. Raises `RecordingError` for a damaged one.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from iptrec.names import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from iptrec.recording.reader import Reader
    from iptrec.rulesets.listed import Chains

    Words = Iterable[tuple[str, str]]  # with a remark, "" for none

_SQLITE: Final = b"SQLite format 3\0"


def chains(paths: Sequence[str], word: str) -> Words:
    """TABLE/CHAIN, and where no table is begun CHAIN."""
    plain: dict[str, str] = {}
    for (table, chain), specs in _listed(paths):
        remark = counted(len(specs), "rule")
        yield f"{table}/{chain}", remark
        if "/" not in word:
            plain.setdefault(chain, "of any table")
    yield from plain.items()


def rules(paths: Sequence[str], word: str) -> Words:
    """TABLE/CHAIN/ first, and behind that the numbers, each with its rule's text."""
    found: Chains = {}
    for key, specs in _listed(paths, every=True):
        found[key] = specs  # the newest
    for (table, chain), specs in found.items():
        place = f"{table}/{chain}/"
        if word.startswith(place):
            yield from ((f"{place}{number}", spec) for number, spec in enumerate(specs, 1))
        elif specs:
            yield place, counted(len(specs), "rule")


def tables(paths: Sequence[str], _: str) -> Words:
    """TABLE."""
    yield from dict.fromkeys((table, "") for (table, _), _ in _listed(paths))


def interfaces(paths: Sequence[str], _: str) -> Words:
    """Those of the lists of interfaces."""
    from iptrec.decode.snapshots import links

    seen = set()
    with _opened(paths) as readers:
        for reader in readers:
            for one in reader.snapshots("links"):
                for _index, name in links(one.content, one.media):
                    if name not in seen:
                        seen.add(name)
                        yield name, ""


def namespaces(paths: Sequence[str], _: str) -> Words:
    """Those that were named when they were recorded."""
    with _opened(paths) as readers:
        for reader in readers:
            yield from dict.fromkeys((one.name, "") for one in reader.namespaces if one.name)


def processes(paths: Sequence[str], _: str) -> Words:
    """Those that held sockets."""
    from iptrec.decode.snapshots import owners

    seen = set()
    with _opened(paths) as readers:
        for reader in readers:
            for one in reader.snapshots("owners"):
                for (_pid, name, _path), _sockets in owners(one.content)[0]:
                    if name not in seen:
                        seen.add(name)
                        yield name, ""


def _listed(
    paths: Sequence[str], *, every: bool = False
) -> Iterator[tuple[tuple[str, str], list[str]]]:
    """Chains with their rules; each chain once, or each time that it was listed."""
    from iptrec.recording.kinds import STREAMS
    from iptrec.rulesets import listed

    seen = set()
    with _opened(paths) as readers:
        for reader in readers:
            kinds = {one.kind for one in reader.streams}
            single = sum(one.events and one.name in kinds for one in STREAMS.values()) <= 1
            for one in reader.snapshots(*listed.KINDS):
                for key, specs in listed.chains(one, single=single).items():
                    if every or key not in seen:
                        seen.add(key)
                        yield key, specs


@contextlib.contextmanager
def _opened(paths: Sequence[str]) -> Iterator[list[Reader]]:
    from iptrec.recording.reader import Reader

    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Reader(path)) for path in paths if _is_plain(path)]


def _is_plain(path: str) -> bool:
    with contextlib.suppress(OSError, ValueError):
        if Path(path).is_file():
            with Path(path).open("rb") as file:
                return file.read(len(_SQLITE)) == _SQLITE
    return False
