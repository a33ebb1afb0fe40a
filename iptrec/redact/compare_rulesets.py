"""Whether the rules of a redacted recording are those that it was made of, word by word.

Packets tell of the rules that they met alone; here each text of a ruleset is compared, as iptables and as nft
print it.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from iptrec.decode.rulesets import iptables_save, nft_text
from iptrec.errors import RecordingError
from iptrec.redact.compare_json import NftObjects
from iptrec.redact.compare_nft import NftRules
from iptrec.redact.compare_save import SaveRules
from iptrec.redact.save_text import is_saved

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from iptrec.recording.rows import Snapshot
    from iptrec.redact.pairs import Pairs

_SAVED: Final = ("iptables-save", "ip6tables-save", "iptables-nft-save", "ip6tables-nft-save")
_TEXT, _JSON, _MISSED, _RAW = "nft-text", "nft", "nft-missed", "raw-table"
KINDS: Final = (*_SAVED, _TEXT, _JSON, _MISSED, _RAW)
_HANDLE: Final = re.compile(r"# handle (\d+)$")
_KINDS_OF_LISTS: Final = ("table", "chain")


class RuleDifference(NamedTuple):
    """``where``: which rule of which listing. ``field``: what of it differs."""

    where: str
    field: str


class Rulesets:
    """Compares the rulesets of two recordings."""

    def __init__(self, pairs: Pairs) -> None:
        self._saved = SaveRules(pairs)
        self._nft = NftRules(pairs)
        self._objects = NftObjects(pairs)
        self._alike: set[tuple[Any, Any]] = set()
        self.rules = 0  # texts that were compared

    def differences(
        self, before: Iterable[Snapshot], after: Iterable[Snapshot]
    ) -> Iterator[RuleDifference]:
        """Of snapshots of `KINDS`, in their order."""
        known: set[tuple[str, bytes, bytes]] = set()
        for kind, old, new in in_pairs(before, after):
            if old is None:
                yield RuleDifference(f"the {kind} of the recording", "it was not there")
            elif new is None:
                if not _is_unreadable(old):
                    yield RuleDifference(f"the {kind} of the recording", "it is not there")
            elif (both := (kind, old.content, new.content)) not in known:
                known.add(both)
                yield from self._snapshot(*both)

    def _snapshot(self, kind: str, before: bytes, after: bytes) -> Iterator[RuleDifference]:
        try:
            yield from self._of(kind, before, after)
        except (
            RecordingError,
            LookupError,
            TypeError,
            ValueError,
            AttributeError,
            RecursionError,
        ):
            if before != after:
                yield RuleDifference(f"the {kind} of the recording", "it cannot be read")

    def _of(self, kind: str, before: bytes, after: bytes) -> Iterator[RuleDifference]:
        if kind in _SAVED:
            saved = (iptables_save.lines(one, "surrogateescape") for one in (before, after))
            yield from self._lines(kind, *([line for _, line in some] for some in saved))
            return
        if kind == _TEXT:
            texts = (one.decode("utf-8", "surrogateescape") for one in (before, after))
            yield from self._lines(kind, *([*nft_text.lines(one)] for one in texts))
            return
        old, new = json.loads(before), json.loads(after)
        if kind == _RAW:
            lines = ([one.rstrip("\n") for one in some] for some in (old, new))
            is_nft = bool(old) and not is_saved(old[0])
            yield from self._lines(_TEXT if is_nft else kind, *lines)
        elif kind == _JSON:
            yield from self._listing(old["nftables"], new["nftables"])
        else:
            for one in (*_SAVED, _TEXT, _JSON):
                if one in old:
                    contents = (some[one].encode("utf-8", "surrogateescape") for some in (old, new))
                    yield from self._of(one, *contents)

    def _lines(self, kind: str, before: list[str], after: list[str]) -> Iterator[RuleDifference]:
        if len(before) != len(after):
            yield RuleDifference(f"the {kind} of the recording", "the number of lines")
            return
        compare: Callable[[str, str], Iterator[str]]
        compare, place = (
            (self._nft.line, _NftPlace()) if kind == _TEXT else (self._saved.line, _SavePlace())
        )
        for old, new in zip(before, after, strict=True):
            where = place.of(old)
            self.rules += where.startswith("rule ")
            if kind != _TEXT and (old, new) in self._alike:
                continue
            fields = list(compare(old, new))
            if not fields:
                self._alike.add((old, new))
            for field in fields:
                yield RuleDifference(f"{where} ({kind})", field)

    def _listing(self, before: list[Any], after: list[Any]) -> Iterator[RuleDifference]:
        if len(before) != len(after):
            yield RuleDifference("the nft of the recording", "the number of objects")
            return
        for old, new in zip(before, after, strict=True):
            for path in self._objects.object(old, new):
                yield RuleDifference(f"{_named(old)} (nft -j)", ".".join(path) or "its kind")


def in_pairs(
    before: Iterable[Snapshot], after: Iterable[Snapshot]
) -> Iterator[tuple[str, Snapshot | None, Snapshot | None]]:
    """Snapshots of two recordings that are of one kind and time, and the kind; None: the other one has none."""
    made = iter(after)
    new = next(made, None)
    for old in before:
        if new is None or (old.kind, old.time_ns) != (new.kind, new.time_ns):
            yield old.kind, old, None
            continue
        yield old.kind, old, new
        new = next(made, None)
    if new is not None:
        yield new.kind, None, new


class _SavePlace:
    """Which rule a line of iptables-save is."""

    def __init__(self) -> None:
        self._table = ""
        self._numbers: dict[str, int] = {}

    def of(self, line: str) -> str:
        if line.startswith("*"):
            self._table, self._numbers = line[1:], {}
        words = line.partition("-A ")[2].split() if line.startswith(("-A ", "[")) else []
        if not words:
            return f"`{line}` of {self._table}" if line.startswith(":") else f"`{line}`"
        self._numbers[words[0]] = number = self._numbers.get(words[0], 0) + 1
        return f"rule {number} of {'/'.join(filter(None, (self._table, words[0])))}"


class _NftPlace:
    """Which rule a line of nft's listing is."""

    def __init__(self) -> None:
        self._open: list[str] = []

    def of(self, line: str) -> str:
        text = line.strip()
        handle = _HANDLE.search(text)
        if text == "}":
            del self._open[-1:]
        head = text.split("{")[0].split()
        opens = "{" in text and text.split("#")[0].rstrip().endswith("{")
        path = "/".join(self._open)
        if opens:
            self._open.append(" ".join(head[1:] if head[:1] in (["table"], ["chain"]) else head))
        elif handle is not None and self._open:
            return f"rule {path} handle {handle[1]}"
        return f"`{text}`{f' of {path}' if path else ''}"


def _is_unreadable(snapshot: Snapshot) -> bool:
    """What redact takes out: nft 1.0.6 prints broken JSON of some tables."""
    try:
        if snapshot.media == "json":
            json.loads(snapshot.content)
        if snapshot.kind in _SAVED:
            for _ in iptables_save.lines(snapshot.content):
                pass
    except (RecordingError, ValueError):
        return True
    return False


def _named(told: Any) -> str:  # noqa: ANN401 - JSON
    """An object of a listing in words."""
    kind, one = next(iter(told.items()))
    names = (one.get(name) for name in ("family", *_KINDS_OF_LISTS, "name", "handle"))
    found = " ".join(str(name) for name in names if name is not None)
    return f"{kind} {found}"
